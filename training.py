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

import losses as loss_terms
import summaries
import util

SECONDS_PER_REPORT = 0.5  # how often losses are read for the progress bar and tensorboard's scalars


def fit(model, batches, loss_fn, optimizers, run, start_step=0, learning_rate=None, seed=None):
    """Train until `batches` ends.

    model:         callable, batch -> dict of outputs
    loss_fn:       (outputs, batch) -> dict of weighted scalar losses
    learning_rate: step -> factor on every optimizer's own rate, or None
    seed:          if given, what a step draws (dropout, start depths) depends on it and the step alone, so that a
                   resumed run draws what a run-through draws
    raises         FloatingPointError when the loss is no longer finite
    """
    base_rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    for step, batch in enumerate(batches, start=start_step + 1):
        if learning_rate is not None:
            set_learning_rates(optimizers, base_rates, learning_rate(step))
        batch = run.to_device(batch)
        if seed is not None:
            torch.manual_seed(int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0]))
        outputs = model(batch)
        losses = loss_fn(outputs, batch)
        total = sum(losses.values())
        if not torch.isfinite(total):
            raise FloatingPointError(f"loss is {total.item()} at step {step}: { {k: v.item() for k, v in losses.items()} }")

        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        total.backward()
        for optimizer in optimizers:
            optimizer.step()

        run.after_step(step, losses, outputs, batch)


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

    folder:   where `events/` go
    num_steps, start_step: the last step, and the number of steps already done
    every:    list of (interval in steps, function of the step), to be filled; all are called at the last step too
    """

    def __init__(self, folder, device, num_steps, start_step=0, description="train"):
        self.device = device
        self.num_steps = num_steps
        self.every = []
        self.shown = {}
        self.writer = SummaryWriter(folder / "events", purge_step=start_step + 1 if start_step else None)
        self.bar = tqdm(
            total=num_steps,
            initial=start_step,
            desc=description,
            unit="step",
            dynamic_ncols=True,
            mininterval=SECONDS_PER_REPORT if sys.stderr.isatty() else 30,
        )
        self.reported_at, self.rays_since = time.perf_counter(), 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()
        self.writer.close()

    def to_device(self, batch):
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}

    def after_step(self, step, losses, outputs, batch):
        """Bookkeeping of a step that is done; reads losses back from the device only now and then."""
        self.bar.update()
        self.rays_since += batch["uv"][..., 0].numel() if "uv" in batch else batch["seg_labels"].numel()
        seconds = time.perf_counter() - self.reported_at
        if seconds > SECONDS_PER_REPORT or step == self.num_steps:
            self.report(step, losses, outputs, batch, self.rays_since / seconds)
            self.reported_at, self.rays_since = time.perf_counter(), 0
        for interval, function in self.every:
            if step % interval == 0 or step == self.num_steps:
                function(step)

    def report(self, step, losses, outputs, batch, rays_per_second):
        scalars = {name: loss.item() for name, loss in losses.items()}
        summaries.write_losses(self.writer, scalars, step)
        self.shown |= {"loss": f"{sum(scalars.values()):.3f}", "rays/s": f"{rays_per_second:,.0f}"}
        if "rgb" in outputs and "rgb" in batch:
            rgb = outputs["rgb"].detach()
            self.shown["psnr"] = f"{loss_terms.psnr_of(loss_terms.image_loss(rgb, batch['rgb'][..., : rgb.shape[-1]])):.2f}"
        self.bar.set_postfix(self.shown, refresh=False)
