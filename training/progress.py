"""A training run in progress: what is shown, written and asked after a step."""

import sys
import time

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

import util
from runs import record, stopping
from training import distributed, losses

SECONDS_PER_REPORT = 0.5  # between two readings of the losses for the progress bar and tensorboard's scalars
SECONDS_PER_LOG_LINE = 30  # of the progress bar where its output is no terminal
STEPS_PER_AGREEMENT = 10  # of several processes on whether to stop or to save


class Run:
    """A run in progress: its folder, device, progress bar, tensorboard scalars, and what happens at intervals.

    Of several processes rank 0 alone shows and writes; the others only take part in what all have to do.

    folder:       folders.RunFolder, where `events/` is made
    num_steps:    the last step; start_step: the number of steps already done
    image_weight: weight of the loss term "distortion", from which PSNR is computed
    shows_bar:    whether there is a progress bar

    To be filled, see run_folder.attach_saver and watch.attach:
    every:        list of (interval in steps, function of the step); all are called at the last step too
    together:     functions that all processes call before any of `every`
    write:        function of the step that writes a checkpoint and returns its path, or None
    minutes_til_ckpt: minutes between checkpoints, beside those at intervals of steps; 0: none
    check:        raises an error where the steps so far must not be saved

    A signal ends the run after the step, which is saved. So is the last good step when something fails.
    """

    def __init__(self, folder, device, num_steps, start_step=0, image_weight=0.0, shows_bar=True):
        self.folder, self.device = folder, device
        self.num_steps, self.image_weight = num_steps, image_weight
        self.every, self.together, self.shown = [], [], {}
        self.write, self.minutes_til_ckpt, self.check = None, 0, None
        self.step = self.saved_step = self.reported_step = start_step
        self.is_whole = True  # between steps, where the weights are those of `step`
        self.is_main = distributed.is_main()
        self.writer = None
        if self.is_main:
            self.writer = SummaryWriter(folder.path / "events", purge_step=start_step + 1)
            folder.record.update(step=start_step, steps=num_steps)
        self.bar = tqdm(
            total=num_steps,
            initial=start_step,
            desc=folder.path.name,
            unit="step",
            dynamic_ncols=True,
            disable=not (self.is_main and shows_bar),
            mininterval=SECONDS_PER_REPORT if sys.stderr.isatty() else SECONDS_PER_LOG_LINE,
        )
        self.reported_at = self.saved_at = time.monotonic()
        self.rays_since = 0

    def __enter__(self):
        return self

    def __exit__(self, error_type, error, traceback):
        if isinstance(error, Exception) and self.is_main and self.write is not None:
            self.save_before_ending(error)
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
        self.step, self.is_whole = step, True
        self.folder.defer()
        self.bar.update()
        self.rays_since += num_rays
        seconds = time.monotonic() - self.reported_at
        if self.is_main and (seconds > SECONDS_PER_REPORT or step == self.num_steps):
            self.report(step, terms, seconds)
        signal, is_late = self.agreed(step)
        due = [function for interval, function in self.every if step % interval == 0 or step == self.num_steps]
        if (signal or is_late) and self.write is not None and self.save not in due:
            due.insert(0, self.save)
        if due:
            for function in self.together:
                function()
        for function in due if self.is_main else ():
            function(step)
        if signal and step != self.num_steps:
            distributed.barrier()  # an earlier end of one process would make torchrun end the one that saves
            raise util.Stopped(signal, self.how_to_go_on())

    def agreed(self, step):
        """The signal that asks the run to stop, or 0, and whether a checkpoint is late: the same in all processes."""
        is_late = self.minutes_til_ckpt and time.monotonic() - self.saved_at > 60 * self.minutes_til_ckpt
        wish = stopping.asked() or int(bool(is_late and self.is_main))  # every signal is more than 1
        if distributed.world_size() > 1:
            if step % STEPS_PER_AGREEMENT and step != self.num_steps:
                return 0, False
            wish = distributed.largest(int(wish), torch.device("cpu"))
        return (wish, False) if wish > 1 else (0, wish == 1)

    def report(self, step, terms, seconds):
        values = dict(zip(terms, torch.stack(list(terms.values())).tolist()))  # one read from the device
        total = sum(values.values())
        for name, value in values.items():
            self.writer.add_scalar(f"scaled_{name}_loss", value, step)
        self.writer.add_scalar("total_loss", total, step)
        rays_per_second = self.rays_since * distributed.world_size() / seconds
        self.shown |= {"loss": f"{total:.3f}", "rays/s": f"{rays_per_second:,.0f}"}
        if values.get("distortion") and self.image_weight:
            self.shown["psnr"] = f"{losses.psnr_of(values['distortion'] / self.image_weight):.2f}"
        self.bar.set_postfix(self.shown, refresh=False)
        rate = (step - self.reported_step) / seconds
        eta_s = (self.num_steps - step) / rate if rate else None
        self.folder.record.update(record.SECONDS_PER_UPDATE, step=step, steps=self.num_steps, rate=rate, eta_s=eta_s)
        self.reported_at, self.reported_step, self.rays_since = time.monotonic(), step, 0

    def add_scores(self, scores):
        """Scores of a validation, a dict of floats, for run.json."""
        self.folder.record.update(scores=scores)

    def count_skipped(self, count, first):
        """Show how many steps were skipped, the first of them at the step `first`."""
        if self.is_main:
            self.shown |= {"skipped": count}
            self.folder.record.update(skipped=count, first_skipped=first)

    # Checkpoints

    def save(self, step):
        """Write the checkpoint of a step."""
        if self.check is not None:
            self.check()
        self.is_whole = False  # if this fails, it is not tried again
        path = self.write(step)
        self.is_whole, self.saved_step, self.saved_at = True, step, time.monotonic()
        self.folder.keep()
        self.folder.record.update(step=step, checkpoint=str(path))

    def save_before_ending(self, error):
        """Save the last good step because of an error, and let a user's error say how to go on."""
        step = getattr(error, "last_good_step", self.step)
        if self.is_whole and step > self.saved_step:
            self.check = None
            try:
                self.save(step)
            except Exception as second:
                print(f"note: step {step} could not be saved ({second})")
        if isinstance(error, util.InputError) and self.saved_step:
            error.args = (f"{util.sentence_of(error)}; {self.how_to_go_on()}",)

    def how_to_go_on(self):
        where = f"step {self.saved_step} of {self.num_steps} is in {self.folder.path}"
        return f"{where}: the same command with --resume auto goes on from there"
