"""The folder of a run, `<logging_root>/<log_dir>`: who may write it, and what becomes of an earlier run in it."""

import contextlib
import itertools
import os
import shutil
from pathlib import Path

import util
from runs import locks, record, stopping

PARAMS = "params.txt"  # the options of a run, one per line; marks a folder as a run's
LOCK = ".lock"
OF_LOCK = (LOCK, locks.substitute_of(LOCK))


def path_of(options):
    """The folder of the run of these options."""
    return Path(options.logging_root) / options.log_dir


def has_run(folder):
    return (Path(folder) / PARAMS).exists()


def check(options):
    """An InputError where the options name a folder that no run may have, or that a live run has."""
    path, root = path_of(options), Path(options.logging_root)
    if options.log_dir and path.resolve() in (root.resolve(), *root.resolve().parents):
        found = f"--log_dir {options.log_dir}: is {root} itself or above it"
        raise util.InputError(f"{found}; name a folder of this run below --logging_root, such as {Path.cwd().name}")
    if has_run(path):
        _lock(path).release()


def _lock(path):
    try:
        return locks.Lock(path / LOCK)
    except locks.Held as held:
        advice = "wait until it ends, or give this run a folder of its own with --log_dir"
        raise util.InputError(f"{path}: this run is being written by {held}; {advice}") from None
    except OSError as error:
        raise util.InputError(f"--logging_root, --log_dir: {path} cannot be written ({error.strerror})") from None


def start(options, program, continues=False, inputs=None):
    """Make the folder of a run, with params.txt and run.json in it. returns an OwnFolder.

    An earlier run's folder of that name is renamed to `<log_dir>.1`, `.2`, ..., so that nothing of it is lost or
    mixed in, unless this run continues it.

    program: such as "train.py"; inputs: {option: digest of what it names}
    """
    check(options)
    path = path_of(options)
    if not options.log_dir and has_run(path) and not continues:
        raise util.InputError(f"--logging_root {path}: holds a run itself already; give this one a folder with --log_dir")
    return OwnFolder(path, options, program, continues and has_run(path), inputs)


class RunFolder:
    """The folder of a run, which another process writes. Use it in a `with` statement."""

    def __init__(self, path):
        self.path, self.is_kept, self.signals = Path(path), False, contextlib.ExitStack()
        self.defers = False

    def defer(self):
        """From now on signals wait: whoever holds the folder looks at stopping.asked(), and they count when it is left."""
        if not self.defers:
            self.signals.enter_context(stopping.deferred(f"the run in {self.path} had ended by then"))
        self.defers = True

    def keep(self):
        """From now on the folder holds something that is worth keeping."""
        self.is_kept = True

    def close(self, error):
        """What happens on leaving, after an error or None."""

    def __enter__(self):
        return self

    def __exit__(self, error_type, error, traceback):
        try:
            self.close(error)
        finally:
            self.signals.__exit__(error_type, error, traceback)


class OwnFolder(RunFolder):
    """The folder of a run that this process writes, locked.

    Until `keep` is called, an error undoes everything: the folder is as it was, and the earlier run has its name.
    """

    def __init__(self, path, options, program, continues, inputs):
        super().__init__(path)
        self.aside, self.is_kept = None, continues
        try:
            self.new_parents = [parent for parent in (path, *path.parents) if not parent.exists()]
            path.mkdir(parents=True, exist_ok=True)
            self.lock = _lock(path)
            if has_run(path) and not continues:
                self._move_aside()
            self.there_before = set(os.listdir(path)) - {*OF_LOCK}
            util.remove_leftovers(path)
            lines = [f"{name}: {value}\n" for name, value in sorted(vars(options).items())]
            with util.replacing(path / PARAMS) as temporary:
                temporary.write_text("".join(lines))
        except OSError as error:
            raise util.InputError(f"--logging_root, --log_dir: {path} cannot be written ({error.strerror})") from None
        self.record = record.Record(path, options, program, inputs or {}, record.read(path) if continues else None)
        self.record.update()

    def _move_aside(self):
        path = self.path
        self.aside = next(to for i in itertools.count(1) if not (to := path.with_name(f"{path.name}.{i}")).exists())
        path.rename(self.aside)
        for name in OF_LOCK:
            (self.aside / name).unlink(missing_ok=True)
        self.lock.release()
        path.mkdir()
        self.lock = _lock(path)
        print(f"note: the earlier run in {path} is now {self.aside}")

    def after_part(self, num_done, num_parts):
        """After a part of the run, such as a batch of views: from the first on the run is kept; a signal ends it here."""
        self.keep()
        self.defer()
        self.record.update(record.SECONDS_PER_UPDATE, step=num_done, steps=num_parts, unit="view")
        if stopping.asked() and num_done < num_parts:
            kept = f"{num_done} of {num_parts} views are in {self.path}"
            raise util.Stopped(stopping.asked(), f"{kept}; the same command with --resume auto renders them again")

    def close(self, error):
        try:
            if error is None:
                self.record.end(record.FINISHED)
            elif self.is_kept:
                is_stop = isinstance(error, KeyboardInterrupt)
                message = getattr(error, "kept", "") if is_stop else util.sentence_of(error) or type(error).__name__
                self.record.end(record.STOPPED if is_stop else record.FAILED, message)
            else:
                self._undo()
        finally:
            self.lock.release()

    def _undo(self):
        for name in set(os.listdir(self.path)) - self.there_before:
            child = self.path / name
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
        if self.aside is not None:
            self.path.rmdir()
            self.aside.rename(self.path)
            print(f"note: the earlier run is {self.path} again")
        for parent in self.new_parents:
            if not any(parent.iterdir()):
                parent.rmdir()
