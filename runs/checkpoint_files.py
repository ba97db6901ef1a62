"""Files of checkpoints: written whole, found by their steps, pruned, and told from damaged ones."""

import pickle
import re
import zipfile
import zlib
from pathlib import Path

import torch

import util

ALL = -1  # of --keep_checkpoints


def save(path, contents):
    """Write a file that holds all of `contents`, on the disk when this returns. raises util.InputError"""
    try:
        with util.replacing(path, is_durable=True) as temporary, open(temporary, "wb") as file:
            torch.save(contents, file)
    except (OSError, RuntimeError) as error:  # torch raises an error of its own while it handles that of the disk
        cause = util.cause_of(error.__context__ if isinstance(error.__context__, OSError) else error)
        if cause is None:
            raise
        raise util.InputError(f"{path}: not written, {cause}") from None


def not_finite(state):
    """The names of the tensors of a state dict that hold NaN or infinity."""
    return [key for key, tensor in state.items() if tensor.is_floating_point() and not torch.isfinite(tensor).all()]


def prune(folder, newest, keep, stage_ends):
    """Delete checkpoints of a run that are older than the `keep` last ones, unless their step is one of stage_ends.

    newest: the file that was written last; files of later steps are another run's; keep: a count, or ALL
    """
    if keep == ALL:
        return
    last = steps_in_name(newest)
    older = [path for path in folder.glob("epoch_*_iter_*.pth") if 0 <= steps_in_name(path) < last]
    older.sort(key=steps_in_name, reverse=True)
    for path in older[keep - 1 :]:
        if steps_in_name(path) not in stage_ends:
            path.unlink()


def file_name(epoch, step):
    return f"epoch_{epoch:04d}_iter_{step:06d}.pth"


def find(path):
    """Path of the file, or of the checkpoint with the most steps in a folder or in its `checkpoints` folder."""
    return find_all(path)[0]


def find_all(path):
    """[path] of a file; of a folder the checkpoints in it or in its `checkpoints` folder, those with the most steps first."""
    path = Path(path)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise util.InputError(f"{path}: no such checkpoint; expected a .pth file or a folder that holds some")
    files = files_in(path)
    if not files:
        earlier = [folder for folder in path.parent.glob(f"{path.name}.[0-9]*") if files_in(folder)]
        advice = f"; an earlier run is in {max(earlier, key=lambda folder: folder.stat().st_mtime)}" if earlier else ""
        raise util.InputError(f"{path}: found no .pth file in this folder or in its checkpoints folder{advice}")
    return sorted(files, key=lambda file: (steps_in_name(file), file.stat().st_mtime), reverse=True)


def files_in(folder):
    return list(folder.glob("[!.]*.pth")) or list(folder.glob("checkpoints/[!.]*.pth"))


def steps_in_name(path):
    found = re.search(r"iter_(\d+)", path.name)
    return int(found.group(1)) if found else -1


def read(path):
    """The contents of a file, with its `path`. raises util.InputError"""
    expect_undamaged(path)
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        reason = "it is damaged, or holds other things than tensors, numbers, text, lists and dicts"
        raise util.InputError(f"{path}: cannot be read as a checkpoint ({reason})") from None
    except Exception as error:  # torch raises whatever zip, pickle or its own checks do
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise util.InputError(f"{path}: cannot be read as a checkpoint ({reason})") from None
    return contents


def expect_undamaged(path):
    """An InputError if the checksum of an entry is wrong: torch writes them, and does not look. Older files have none."""
    if not zipfile.is_zipfile(path):
        return
    with util.reading(path, "a checkpoint", OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    if damaged is not None:
        raise util.InputError(f"{path}: is damaged, the checksum of {damaged} in it is wrong; use another checkpoint")


def digest(path):
    """A short text that differs between checkpoints of other contents: of the checksums in the file, which is not read."""
    path = Path(path)
    if not zipfile.is_zipfile(path):
        return f"{path.stat().st_size} bytes"
    with zipfile.ZipFile(path) as archive:
        entries = [(entry.filename.partition("/")[2], entry.CRC) for entry in archive.infolist()]
    sums = sorted(f"{name} {crc:08x}" for name, crc in entries if not name.startswith("."))  # those are the file's own
    return f"{zlib.crc32(' '.join(sums).encode()):08x}"
