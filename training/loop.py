"""The one training loop, what surrounds it, and the learning-rate schedule.

Stages differ in what they train and in their loss, so that is what they pass in.
"""

import math
import sys
import time

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import dataio
import util
from training import distributed, summaries
from training import losses as loss_terms

SECONDS_PER_REPORT = 0.5  # how often losses are read for the progress bar and tensorboard's scalars


def fit(losses_of, batches, optimizers, run, start_step=0, learning_rate=None, seed=None):
    """Train until `batches` ends. Nothing is read back from the device within a step.

    losses_of:     callable, batch -> dict of weighted scalar losses
    learning_rate: step -> factor on every optimizer's own rate, or None
    seed:          if given, what a step draws (dropout, start depths) depends on it and the step alone, so that a
                   resumed run draws what a run-through draws
    raises         FloatingPointError when the loss is no longer finite; no weight has been moved by such a step
    """
    base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    watch = FiniteWatch()
    for step, batch in enumerate(dataio.prefetched(batches), start=start_step + 1):
        if learning_rate is not None:
            set_learning_rates(optimizers, base_rates, learning_rate(step))
        batch = run.to_device(batch)
        if seed is not None:
            torch.manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0]) + distributed.rank())
        losses = losses_of(batch)
        total = sum(losses.values())
        losses = everywhere(losses)
        watch.look(step, losses)

        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        total.backward()
        for optimizer in optimizers:
            optimizer.found_inf = watch.not_finite  # where it is 1, an optimizer leaves everything as it is
            optimizer.step()

        run.after_step(step, losses, batch)
    watch.check()


def everywhere(losses):
    """The losses (a dict of ()) summed over all processes, without their graph."""
    values = torch.stack([loss.detach() for loss in losses.values()])
    return dict(zip(losses, distributed.sum_over_processes(values)))


class FiniteWatch:
    """Sees to it that the loss is finite: at once on a CPU; a GPU is asked now and then, as each question stops it.

    not_finite: () float, 1 where no optimizer is to move anything; None on a CPU
    """

    STEPS_PER_CHECK = 100

    def __init__(self):
        self.not_finite, self.first = None, None

    def look(self, step, losses):
        """losses: a dict of (). raises FloatingPointError if their sum is not finite, or was not at a step before"""
        total = sum(losses.values())
        if is_cheap_to_read(total):
            if not torch.isfinite(total):
                raise FloatingPointError(f"loss is {total} at step {step}: { {k: v.item() for k, v in losses.items()} }")
            return
        bad = ~torch.isfinite(total)
        before = torch.zeros_like(bad, dtype=torch.long) if self.first is None else self.first
        self.first = torch.where((before == 0) & bad, step, before)
        self.not_finite = (self.first > 0).float()
        if step % self.STEPS_PER_CHECK == 0:
            self.check()

    def check(self):
        if self.first is not None and self.first.item():
            raise FloatingPointError(f"the loss was not finite at step {self.first.item()}; nothing was trained since")


def is_cheap_to_read(tensor):
    """Whether nothing has to be waited for to read a tensor."""
    return tensor.device.type == "cpu"


def set_learning_rates(optimizers, base_rates, factor):
    for optimizer, rates in zip(optimizers, base_rates):
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = factor * rate


def warmup_and_decay(num_steps, warmup_steps=0, decay_fraction=0.0):
    """Learning-rate factor by step (from 1): linear warm-up, constant, cosine to 0 over the last decay_fraction."""

    def factor(step):
        decay_steps = decay_fraction * num_steps
        progress = (step - (num_steps - decay_steps)) / decay_steps if decay_steps else 0
        decay = 0.5 * (1 + math.cos(math.pi * min(max(progress, 0), 1)))
        return min(1, step / warmup_steps) * decay if warmup_steps else decay

    return factor


def schedule(options):
    """The multi-resolution schedule: (sidelength, batch size, first step, end step) per image side."""
    ends = np.cumsum(options.max_steps_per_img_sidelength).tolist()
    return list(zip(options.img_sidelengths, options.batch_size_per_img_sidelength, [0, *ends], ends))


def steps_to_go(options, start_step):
    """The last step of the schedule; an InputError where it has been done."""
    num_steps = schedule(options)[-1][-1]
    if start_step >= num_steps:
        raise util.InputError(
            f"nothing left to train: step {start_step} of {num_steps} in --max_steps_per_img_sidelength; --start_step 0 "
            f"counts anew"
        )
    return num_steps


def scheduled_batches(options, start_step, batches_of_stage):
    """Chain the batches of all sides that lie after start_step; a side's data are opened when its turn comes."""
    for sidelength, batch_size, first, end in schedule(options):
        if end > start_step:
            yield from batches_of_stage(sidelength, batch_size, max(first, start_step), end)


class Run:
    """A run while it goes on: its folder, device, progress bar, tensorboard scalars, and what happens at intervals.

    Of several processes the main one alone shows and does things; the others only take part in what all have to.

    folder:   where `events/` go
    num_steps, start_step: the last step, and the number of steps already done
    image_weight: that of the loss term "distortion", from which PSNR is told
    module:   what is trained; its batch norms agree with those of other processes before anything looks at them
    every:    list of (interval in steps, function of the step), to be filled; all are called at the last step too
    """

    def __init__(self, folder, device, num_steps, start_step=0, description="train", image_weight=0.0, module=None):
        self.device, self.module = device, module
        self.image_weight = image_weight
        self.num_steps = num_steps
        self.every = []
        self.shown = {}
        self.is_main = distributed.is_main()
        self.writer = None
        if self.is_main:
            self.writer = SummaryWriter(folder / "events", purge_step=start_step + 1 if start_step else None)
        self.bar = tqdm(
            total=num_steps,
            initial=start_step,
            desc=description,
            unit="step",
            dynamic_ncols=True,
            disable=not self.is_main,
            mininterval=SECONDS_PER_REPORT if sys.stderr.isatty() else 30,
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

    def after_step(self, step, losses, batch):
        """Bookkeeping of a step that is done; reads losses back from the device only now and then."""
        self.bar.update()
        self.rays_since += batch["uv"][..., 0].numel() if "uv" in batch else batch["seg_labels"].numel()
        seconds = time.perf_counter() - self.reported_at
        if self.is_main and (seconds > SECONDS_PER_REPORT or step == self.num_steps):
            self.report(step, losses, self.rays_since * distributed.world_size() / seconds)
            self.reported_at, self.rays_since = time.perf_counter(), 0
        due = [function for interval, function in self.every if step % interval == 0 or step == self.num_steps]
        if due and self.module is not None:
            distributed.average_statistics(self.module)
        for function in due if self.is_main else ():
            function(step)

    def report(self, step, losses, rays_per_second):
        scalars = dict(zip(losses, torch.stack(list(losses.values())).tolist()))  # the device is read once
        summaries.write_losses(self.writer, scalars, step)
        self.shown |= {"loss": f"{sum(scalars.values()):.3f}", "rays/s": f"{rays_per_second:,.0f}"}
        if scalars.get("distortion") and self.image_weight:
            self.shown["psnr"] = f"{loss_terms.psnr_of(scalars['distortion'] / self.image_weight):.2f}"
        self.bar.set_postfix(self.shown, refresh=False)
