"""Folders that take their name when they are complete: nothing half-written is ever found under a final name."""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
from pathlib import Path

import util

PLAN, LOCK = "plan.json", "lock"  # files of a folder that is not finished


def check_target(path, overwrite):
    """An InputError where `path` exists and may not be replaced."""
    if Path(path).exists() and not overwrite:
        raise util.InputError(f"{path} exists already; choose another --out, or pass --overwrite to replace it")


@contextlib.contextmanager
def unfinished_folder(path, plan, is_worth_keeping, overwrite=False):
    """Yields a folder beside `path` that takes this name when the block succeeds; else it stays, to be gone on with.

    A folder that an earlier call left is yielded again if its plan, anything that JSON can hold, is the same. With
    another plan it is refused, or with `overwrite` begun anew. One process at a time may hold it. After a failure it goes
    away too, unless is_worth_keeping(folder).
    """
    path = Path(path)
    check_target(path, overwrite)
    folder = path.with_name(f".{path.name}.unfinished")
    plan = json.dumps(plan, indent=1)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK, "w")
    except OSError as error:
        raise util.InputError(f"cannot write to {path.parent}: {error.strerror}; choose another --out") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise util.InputError(f"{folder}: another process is making this data set; wait for it to end") from None
        if (folder / PLAN).exists() and (folder / PLAN).read_text() != plan:
            if not overwrite:
                raise util.InputError(
                    f"{folder}: an unfinished data set made with other options; finish it with these, or "
                    f"begin anew with --overwrite"
                )
            _empty(folder, but=LOCK)
        with util.replacing(folder / PLAN) as temporary:
            temporary.write_text(plan)
        try:
            yield folder
        except BaseException:
            if not is_worth_keeping(folder):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        for name in (PLAN, LOCK):
            (folder / name).unlink()
        _take_place(folder, path)


def _empty(folder, but):
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != but:
            path.unlink()


@contextlib.contextmanager
def new_folder(path, overwrite=False):
    """Yields a temporary folder beside `path`; it takes that name when the block succeeds, and else goes away."""
    path = Path(path)
    check_target(path, overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise util.InputError(f"cannot write to {path.parent}: {error.strerror}; choose another --out") from None
    try:
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        yield temporary
        _take_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_place(folder, path):
    """Renames a finished folder to `path`; what was there goes away only afterwards."""
    if path.exists():
        replaced = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        path.rename(replaced / path.name)
        folder.rename(path)
        shutil.rmtree(replaced)
    else:
        folder.rename(path)
