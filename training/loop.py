"""The training loop that all stages share, the learning-rate schedule, and what surrounds a step."""

import math
import sys
import time

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import dataio
from training import distributed, losses, row_adam

SECONDS_PER_REPORT = 0.5  # between two readings of the losses for the progress bar and tensorboard's scalars
SECONDS_PER_LOG_LINE = 30  # of the progress bar where its output is no terminal


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


class Run:
    """A run in progress: its folder, device, progress bar, tensorboard scalars, and what happens at intervals.

    Of several processes rank 0 alone shows and writes; the others only take part in what all have to do.

    folder:       where `events/` is made
    num_steps:    the last step; start_step: the number of steps already done
    image_weight: weight of the loss term "distortion", from which PSNR is computed
    module:       what is trained; its batch norms are averaged over processes before anything looks at them
    every:        list of (interval in steps, function of the step), to be filled; all are called at the last step too
    shows_bar:    whether there is a progress bar
    """

    def __init__(self, folder, device, num_steps, start_step=0, image_weight=0.0, module=None, shows_bar=True):
        self.folder, self.device, self.module = folder, device, module
        self.num_steps, self.image_weight = num_steps, image_weight
        self.every, self.shown = [], {}
        self.is_main = distributed.is_main()
        self.writer = None
        if self.is_main:
            self.writer = SummaryWriter(folder / "events", purge_step=start_step + 1 if start_step else None)
        self.bar = tqdm(
            total=num_steps,
            initial=start_step,
            desc=folder.name,
            unit="step",
            dynamic_ncols=True,
            disable=not (self.is_main and shows_bar),
            mininterval=SECONDS_PER_REPORT if sys.stderr.isatty() else SECONDS_PER_LOG_LINE,
        )
        self.reported_at, self.rays_since = time.perf_counter(), 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()
        if self.writer is not None:
            self.writer.close()

    def to_device(self, batch):
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def end_at(self, step):
        """Let the run end at this step, before the last one that was planned."""
        self.num_steps = self.bar.total = step

    def after_step(self, step, terms, num_rays):
        """Bookkeeping after a step. terms: loss terms, a dict of (), read from the device only now and then."""
        self.bar.update()
        self.rays_since += num_rays
        seconds = time.perf_counter() - self.reported_at
        if self.is_main and (seconds > SECONDS_PER_REPORT or step == self.num_steps):
            self.report(step, terms, self.rays_since * distributed.world_size() / seconds)
            self.reported_at, self.rays_since = time.perf_counter(), 0
        due = [function for interval, function in self.every if step % interval == 0 or step == self.num_steps]
        if due and self.module is not None:
            distributed.average_statistics(self.module)
        for function in due if self.is_main else ():
            function(step)

    def report(self, step, terms, rays_per_second):
        values = dict(zip(terms, torch.stack(list(terms.values())).tolist()))  # one read from the device
        total = sum(values.values())
        for name, value in values.items():
            self.writer.add_scalar(f"scaled_{name}_loss", value, step)
        self.writer.add_scalar("total_loss", total, step)
        self.shown |= {"loss": f"{total:.3f}", "rays/s": f"{rays_per_second:,.0f}"}
        if values.get("distortion") and self.image_weight:
            self.shown["psnr"] = f"{losses.psnr_of(values['distortion'] / self.image_weight):.2f}"
        self.bar.set_postfix(self.shown, refresh=False)
