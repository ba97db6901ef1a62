"""Folders that get their final name when they are complete."""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path

import util
from runs import locks

PLAN, LOCK = "plan.json", "lock"  # files of an unfinished folder


def check_target(path, overwrite):
    """An InputError if `path` exists and may not be replaced."""
    if Path(path).exists() and not overwrite:
        raise util.InputError(f"{path} already exists; pass --overwrite to replace it, or choose another --out")


@contextlib.contextmanager
def unfinished_folder(path, overwrite=False, plan=None, is_worth_keeping=None):
    """Yields the folder .<name>.unfinished beside `path`, and renames it to `path` when the block succeeds.

    It is deleted when the block fails, with the empty parents that it was made in, unless is_worth_keeping(folder). A
    later call with the same plan gets the kept folder; a call with another plan is an InputError, or with `overwrite`
    starts anew. Without is_worth_keeping nothing is kept. One process at a time may hold the folder.

    plan: anything that JSON can hold
    """
    path = Path(path)
    check_target(path, overwrite)
    folder = path.with_name(f".{path.name}.unfinished")
    new_parents = [parent for parent in folder.parents if not parent.exists()]
    with _locked(folder):
        _start_or_resume(folder, json.dumps(plan, indent=1), overwrite, can_resume=is_worth_keeping is not None)
        try:
            yield folder
        except BaseException as error:
            if is_worth_keeping is not None and is_worth_keeping(folder):
                if isinstance(error, util.Stopped):
                    error.kept = f"what is done is kept in {folder}; the same command goes on from there"
            else:
                shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):  # raised by the first that is not empty
                    for parent in new_parents:
                        parent.rmdir()
            raise
        for name in (PLAN, LOCK, locks.substitute_of(LOCK)):
            (folder / name).unlink(missing_ok=True)
        replaced = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        if path.exists():
            path.rename(replaced / path.name)
        folder.rename(path)
        shutil.rmtree(replaced)


@contextlib.contextmanager
def _locked(folder):
    """Makes the folder and locks it; an InputError if another process holds it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = locks.Lock(folder / LOCK)
    except OSError as error:
        raise util.InputError(f"cannot write to {folder.parent}: {error.strerror}; choose another --out") from None
    except locks.Held as held:
        raise util.InputError(f"{folder}: this data set is being written by {held}; wait until it ends") from None
    try:
        yield
    finally:
        lock.release()


def _start_or_resume(folder, plan, overwrite, can_resume):
    """Empties the folder, unless it was left by a run with the same plan."""
    found = (folder / PLAN).read_text() if (folder / PLAN).exists() else None
    if found not in (None, plan) and not overwrite:
        advice = "rerun with those, or pass --overwrite to start over"
        raise util.InputError(f"{folder}: holds an unfinished data set made with other options; {advice}")
    if found != plan or not can_resume:
        for child in folder.iterdir():
            if child.is_dir():
                shutil.rmtree(child)
            elif child.name not in (LOCK, locks.substitute_of(LOCK)):
                child.unlink()
    with util.replacing(folder / PLAN) as temporary:
        temporary.write_text(plan)
