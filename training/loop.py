"""The training loop that all stages share, and the learning-rate schedule."""

import collections
import math

import numpy as np
import torch

import dataio
import util
from training import distributed, row_adam


def fit(objective, batches, optimizers, run, start_step=0, rate_factor=None, seed=None, on_nan="stop"):
    """Train until `batches` ends. Nothing is read back from the device within a step.

    objective:   batch -> dict of weighted scalar loss terms
    rate_factor: step -> factor on every optimizer's own learning rate, or None
    seed:        if given, the random numbers of a step (dropout, start depths) depend on it and the step alone, so that a
                 resumed run draws the same ones as an uninterrupted run
    on_nan:      "skip": a step whose loss or gradient is not finite is counted, and moves nothing; "stop": it ends training
    raises       Diverged where such a step ends training; no weight has been moved by it
    """
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    base_rates = [group["lr"] for group in groups]
    finite = FiniteCheck(run, skips=on_nan == "skip")
    for step, batch in enumerate(dataio.prefetched(batches), start=start_step + 1):
        if rate_factor is not None:
            for group, rate in zip(groups, base_rates):
                group["lr"] = rate_factor(step) * rate
        if seed is not None:
            seed_step(seed, step)
        shown = batch.get("observation_idx")
        batch = run.to_device(batch)

        terms = objective(batch)
        total = sum(terms.values())
        summed = distributed.sum_over_processes(torch.stack([term.detach() for term in terms.values()]))
        terms = dict(zip(terms, summed))

        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        total.backward()
        finite.look(step, terms, gradients_of(optimizers), shown)
        run.is_whole = False
        for optimizer in optimizers:
            finite.move(optimizer)
        run.after_step(step, terms, num_rays_of(batch))
    finite.check()


def gradients_of(optimizers):
    """The gradients of all parameters of the optimizers, a list of tensors; of a sparse one its values."""
    parameters = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    return [p.grad._values() if p.grad.is_sparse else p.grad for p in parameters if p.grad is not None]


def seed_step(seed, step):
    """Seed PyTorch's random numbers for one step of this process."""
    (state,) = np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)
    torch.manual_seed(int(state) + distributed.rank())


def num_rays_of(batch):
    """Rays in a batch of images, or of rays that a head reads; 0 of anything else."""
    if "uv" in batch:
        return batch["uv"][..., 0].numel()
    return batch["seg_labels"].numel() if "seg_labels" in batch else 0


class Diverged(util.InputError):
    """The loss or a gradient is not finite. last_good_step: the last step before"""

    def __init__(self, sentence, last_good_step):
        super().__init__(sentence)
        self.last_good_step = last_good_step


class FiniteCheck:
    """Looks whether losses and gradients are finite: at once on a CPU. A GPU is asked now and then, since that waits for it.

    Without `skips` the first step that is not finite raises Diverged, and nothing is trained from that step on.
    """

    STEPS_PER_CHECK = 100

    def __init__(self, run, skips=False):
        self.run, self.skips = run, skips
        self.skip = None  # () float on a GPU, 1 where optimizers must leave everything as it is; on a CPU a bool
        self.first, self.count = 0, 0  # the step that was not finite first, or 0; how many were not. On a GPU, tensors
        self.seen = collections.deque(maxlen=self.STEPS_PER_CHECK + 1)  # (step, observations of its batch)
        run.check = self.check

    def look(self, step, terms, gradients, shown):
        """terms: a dict of (); gradients: a list of tensors; shown: (B,) observations of the batch, or None"""
        self.seen.append((step, shown))
        total, size = sum(terms.values()), torch.nn.utils.get_total_norm(gradients)
        is_bad = ~(torch.isfinite(total) & torch.isfinite(size).to(total.device))
        if distributed.world_size() > 1:  # latent codes have gradients of their own in each process
            is_bad = distributed.sum_over_processes(is_bad.long()) > 0
        if is_cheap_to_read(total):
            self.skip = bool(is_bad)
            self.count += self.skip
            self.first = self.first or step * self.skip
            if self.skip and not self.skips:
                found = ", ".join(f"{name} {term.item():.3g}" for name, term in terms.items())
                raise self.error(f"{found}; size of the gradient {size.item():.3g}")
        else:
            self.first = torch.where(is_bad & (torch.as_tensor(self.first) == 0), step, self.first)
            self.count = self.count + is_bad.long()
            self.skip = (is_bad if self.skips else self.first > 0).float()
        if step % self.STEPS_PER_CHECK == 0:
            self.check()

    def move(self, optimizer):
        """A step of the optimizer, unless it must leave everything as it is."""
        if isinstance(self.skip, torch.Tensor) and can_skip(optimizer):
            optimizer.found_inf = self.skip
        if self.skip is not True:
            optimizer.step()

    def check(self):
        """Raise Diverged if a step was not finite, or say how many have been skipped."""
        first = int(self.first)
        if first and not self.skips:
            raise self.error("seen later, and nothing was trained since")
        if first:
            self.run.count_skipped(int(self.count), first)

    def error(self, details):
        first = int(self.first)
        shown = next((shown for step, shown in self.seen if step == first), None)
        names = getattr(self.run, "observations", [])
        views = "" if shown is None or not names else f", whose batch shows {some([names[i] for i in shown.tolist()])}"
        advice = "a smaller --lr usually helps, and --checkpoint_path goes on from here; --on_nan skip skips such steps"
        return Diverged(f"the loss or a gradient is not finite at step {first}{views} ({details}); {advice}", first - 1)


def some(names, most=8):
    """The first of the distinct names, as text."""
    names = list(dict.fromkeys(names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


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
    fit(objective, batches(), optimizers, run, start_step, rate_factor, schedule.seed, schedule.on_nan)
