"""The training loop that all stages share, and the learning-rate schedule."""

import math

import numpy as np
import torch

import dataio
from training import distributed, row_adam


def fit(objective, batches, optimizers, run, start_step=0, rate_factor=None, seed=None):
    """Train until `batches` ends. Nothing is read back from the device within a step.

    objective:   batch -> dict of weighted scalar loss terms
    rate_factor: step -> factor on every optimizer's own learning rate, or None
    seed:        if given, the random numbers of a step (dropout, start depths) depend on it and the step alone, so that a
                 resumed run draws the same ones as an uninterrupted run
    raises       FloatingPointError when the loss is not finite; no weight has been moved by such a step
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    base_rates = [group["lr"] for group in groups]
    finite = FiniteCheck()
    for step, batch in enumerate(dataio.prefetched(batches), start=start_step + 1):
        if rate_factor is not None:
            for group, rate in zip(groups, base_rates):
                group["lr"] = rate_factor(step) * rate
        if seed is not None:
            seed_step(seed, step)
        batch = run.to_device(batch)

        terms = objective(batch)
        total = sum(terms.values())
        summed = distributed.sum_over_processes(torch.stack([term.detach() for term in terms.values()]))
        terms = dict(zip(terms, summed))
        finite.look(step, terms)

        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        total.backward()
        for optimizer in optimizers:
            if finite.skip is not None and can_skip(optimizer):
                optimizer.found_inf = finite.skip
            optimizer.step()
        run.after_step(step, terms, num_rays_of(batch))
    finite.check()


def seed_step(seed, step):
    """Seed PyTorch's random numbers for one step of this process."""
    (state,) = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)
    torch.manual_seed(int(state) + distributed.rank())


def num_rays_of(batch):
    """Rays in a batch of images, or of rays that a head reads; 0 of anything else."""
    if "uv" in batch:
        return batch["uv"][..., 0].numel()
    return batch["seg_labels"].numel() if "seg_labels" in batch else 0


class FiniteCheck:
    """Stops training when the loss is not finite: at once on a CPU. A GPU is asked now and then, since that waits for it.

    skip: () float, 1 from the first such step on: optimizers must leave everything as it is; None on a CPU
    """

    STEPS_PER_CHECK = 100

    def __init__(self):
        self.skip, self.first = None, None

    def look(self, step, terms):
        """terms: a dict of (). raises FloatingPointError if their sum is not finite, or was not at an earlier step"""
        total = sum(terms.values())
        if is_cheap_to_read(total):
            if not torch.isfinite(total):
                found = {name: term.item() for name, term in terms.items()}
                raise FloatingPointError(f"loss is {total} at step {step}: {found}")
            return
        is_bad = ~torch.isfinite(total)
        before = torch.zeros_like(is_bad, dtype=torch.long) if self.first is None else self.first
        self.first = torch.where((before == 0) & is_bad, step, before)
        self.skip = (self.first > 0).float()
        if step % self.STEPS_PER_CHECK == 0:
            self.check()

    def check(self):
        if self.first is not None and self.first.item():
            raise FloatingPointError(f"the loss was not finite at step {self.first.item()}; nothing was trained since")


def is_cheap_to_read(tensor):
    """Whether reading the tensor does not wait for a device."""
    return tensor.device.type == "cpu"


def can_skip(optimizer):
    """Whether an optimizer leaves everything as it is where its attribute `found_inf` is 1."""
    return isinstance(optimizer, row_adam.RowAdam) or bool(optimizer.defaults.get("fused"))


def warmup_and_decay(num_steps, warmup_steps=0, decay_fraction=0.0):
    """Learning-rate factor by step (from 1): linear warm-up, constant, cosine to 0 over the last decay_fraction."""

    def factor(step):
        decay_steps = decay_fraction * num_steps
        progress = (step - (num_steps - decay_steps)) / decay_steps if decay_steps else 0
        decay = 0.5 * (1 + math.cos(math.pi * min(max(progress, 0), 1)))
        return min(1, step / warmup_steps) * decay if warmup_steps else decay

    return factor


def fit_on_schedule(objective, schedule, batches_of_part, optimizers, run, start_step):
    """`fit` on all image sides of a plan.Schedule after start_step; the data of a side are opened when its turn comes.

    batches_of_part: (sidelength, batch size, first step, end step) -> iterable of batches
    """

    def batches():
        for sidelength, batch_size, first, end in schedule.parts():
            if end > start_step:
                yield from batches_of_part(sidelength, batch_size, max(first, start_step), end)

    rate_factor = warmup_and_decay(run.num_steps, schedule.lr_warmup_steps, schedule.lr_decay_fraction)
    fit(objective, batches(), optimizers, run, start_step, rate_factor, schedule.seed)
