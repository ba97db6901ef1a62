"""Batches of a data set: in which order observations come, which rays are drawn, and how items are collated.

The order and the draws depend on the seed and the step alone, so a resumed run sees what an uninterrupted run sees.
"""

import os
import resource
from collections import deque
from multiprocessing.pool import ThreadPool
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate

import util
from runs import stopping

FILES, FILES_PER_WORKER = 100, 30  # open at once: each tensor of a batch that waits is one


class RayDraw(NamedTuple):
    """A request for random rays of observation `index`; the same `seed` draws the same rays."""

    index: int
    seed: tuple


class BatchOrder:
    """Batches of RayDraws for steps start_step .. end_step - 1: shuffled epochs, one after the other, no remainder.

    A batch may contain the end of one epoch and the start of the next. A data set smaller than a batch repeats, each
    time with other rays.

    num_shards: for several processes: the observations are divided into this many shards, each of which contributes the
                same number of observations to every batch, in epochs of its own
    shards:     the shards whose part of each batch is returned (default: all); the other parts do not change with it
    shard_of:   (num_observations,) the shard of each observation, if there are several
    """

    def __init__(self, num_observations, batch_size, start_step, end_step, seed, num_shards=1, shards=None, shard_of=None):
        if batch_size % num_shards:
            found = f"{batch_size} images cannot be dealt evenly to {num_shards} processes"
            advice = f"choose a multiple of {num_shards}, or start another number of processes"
            raise util.InputError(f"--batch_size_per_img_sidelength: {found}; {advice}")
        shard_of = np.zeros(num_observations, dtype=int) if shard_of is None else np.asarray(shard_of)
        self.members = [np.flatnonzero(shard_of == shard) for shard in range(num_shards)]
        if not all(map(len, self.members)):
            found = f"only {sum(len(members) > 0 for members in self.members)} of {num_shards} processes"
            advice = "start fewer processes, or use more instances"
            raise util.InputError(f"{found} would have instances to train on; {advice}")
        self.batch_size, self.num_shards = batch_size, num_shards
        self.shards = range(num_shards) if shards is None else shards
        self.steps, self.seed = range(start_step, end_step), seed

    def __len__(self):
        return len(self.steps)

    def __iter__(self):
        share = self.batch_size // self.num_shards
        orders = {}  # shard: its epoch, and the order of its observations in that epoch
        for step in self.steps:
            batch = []
            for shard in self.shards:
                members = self.members[shard]
                for place in range(share):
                    epoch, position = divmod(step * share + place, len(members))
                    if orders.get(shard, (None,))[0] != epoch:
                        # a trailing zero does not change a seed: one shard alone is shuffled by (seed, epoch)
                        shuffled = np.random.default_rng((self.seed, epoch, shard)).permutation(len(members))
                        orders[shard] = epoch, members[shuffled]
                    ray_seed = self.seed, step * self.batch_size + shard * share + place
                    batch.append(RayDraw(int(orders[shard][1][position]), ray_seed))
            yield batch


def shard_of_instance(num_instances, num_shards):
    """The shard of each instance, (N,) int: 0, 1, ..., num_shards - 1, 0, 1, ..."""
    return np.arange(num_instances) % num_shards


def training_batches(dataset, batch_size, start_step, end_step, seed=0, num_workers=0, num_shards=1, shards=None):
    """A loader of collated batches (dicts of tensors with a leading B) for steps start_step .. end_step - 1.

    Instances are divided by `shard_of_instance`. With `shards`, a process gets its part of each batch; the parts of all
    processes together are the batch that a process without `shards` gets. See BatchOrder and `collate`.
    """
    num_views = [len(instance.views) for instance in dataset.instances]
    shard_of = np.repeat(shard_of_instance(len(num_views), num_shards), num_views)
    order = BatchOrder(len(dataset), batch_size, start_step, end_step, seed, num_shards, shards, shard_of)
    return DataLoader(
        dataset,
        batch_sampler=order,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # not the global one, from which dropout draws
        **_workers(num_workers),
    )


def collate(items):
    """Items of a data set as a batch: a dict of tensors with a leading B, sorted by instance, plus two entries.

    instances    (M,) int64, the distinct instance_idx of the batch, ascending: M scene functions serve B observations
    instance_of  (B,) int64, the place of each observation's instance in `instances`
    """
    batch = default_collate(sorted(items, key=lambda item: item["instance_idx"]))
    instances, instance_of = torch.unique(batch["instance_idx"], return_inverse=True)
    return batch | {"instances": instances, "instance_of": instance_of}


def with_rows(batch, rows):
    """The batch with instance_idx and `instances` replaced by rows of a latent table, which may repeat in any order.

    rows: (N,) int64, the row of each instance of the data set
    """
    rows = rows.to(batch["instance_idx"].device)
    return batch | {name: rows[batch[name]] for name in ("instance_idx", "instances")}


def ordered_batches(dataset, batch_size, num_workers=0):
    """A loader of all observations in order, whole images, for validation and rendering. It can be iterated repeatedly.

    The worker processes live on between iterations. Observations are numbered by instance, so `collate` keeps their order.
    """
    return DataLoader(
        dataset, batch_size=batch_size, collate_fn=collate, persistent_workers=num_workers > 0, **_workers(num_workers)
    )


def prefetched(batches, depth=2):
    """The same batches; a thread prepares the next `depth` while one is in use. Its errors are raised here."""
    # not a ThreadPoolExecutor: a process that one of its threads forks, such as a DataLoader's worker, ends with an error
    iterator, end, pool = iter(batches), object(), ThreadPool(1)
    try:
        waiting = deque(pool.apply_async(next, (iterator, end)) for _ in range(depth))
        while (batch := waiting.popleft().get()) is not end:
            waiting.append(pool.apply_async(next, (iterator, end)))
            yield batch
    finally:
        pool.terminate()


def _workers(num_workers):
    if num_workers:
        _expect_files(num_workers)
    # forked workers share preloaded images; workers started in another way would each get a copy
    return dict(
        num_workers=num_workers, worker_init_fn=_start_worker, multiprocessing_context="fork" if num_workers else None
    )


def _expect_files(num_workers):
    """Raise the limit of open files as far as allowed; an InputError if that is not enough. Short of them, workers hang."""
    needed = FILES + FILES_PER_WORKER * num_workers
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if needed > allowed:
        allowed = max(needed, most) if most == resource.RLIM_INFINITY else most
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, most))
    if needed > allowed:
        found = f"needs up to {needed} open files, {allowed} are allowed"
        raise util.InputError(f"--num_workers {num_workers}: {found}; raise that with `ulimit -n`, or use fewer workers")


def _start_worker(_worker):
    stopping.leave_to(os.getppid())  # which reads on to the end of its step
