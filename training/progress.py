"""A training run in progress: what is shown and written after a step."""

import sys
import time

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training import distributed, losses

SECONDS_PER_REPORT = 0.5  # between two readings of the losses for the progress bar and tensorboard's scalars
SECONDS_PER_LOG_LINE = 30  # of the progress bar where its output is no terminal


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
