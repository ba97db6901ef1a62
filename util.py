"""The ground: user errors, devices, safe writing of files, image reshaping."""

import contextlib
import ctypes
import errno
import functools
import importlib
import json
import os
import platform
import re
import signal
import sys
import time
import uuid
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX, M_ARENA_MAX = -1, -2, -4, -8  # of mallopt(3)
SECONDS_UNTIL_ENDED = 10  # within which torchrun ends the other processes when one has failed
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGUSR1: 75}  # of a program that a signal has stopped
UNLABELLED = -1  # the class of pixels without a label: left out of the segmentation loss and of every score


class InputError(Exception):
    """A user's mistake, in one sentence: what was found where, what was expected, what to do."""


class Stopped(KeyboardInterrupt):
    """A signal asked the program to stop, and it has kept what was done. kept: that, and how to go on; a clause"""

    def __init__(self, number, kept=""):
        super().__init__(number, kept)
        self.number, self.kept = signal.Signals(number), kept


def sentence_of(error):
    """The sentence of an InputError, which a data loader's worker wraps in its traceback."""
    return str(error).rsplit("InputError: ", 1)[-1].strip()


def command(main):
    """Decorates a `main(argv=None)`: an InputError becomes one line on stderr and exit code 2, a signal one of EXIT_CODES."""

    @functools.wraps(main)
    def wrapped(argv=None):
        try:
            return main(argv)
        except InputError as error:
            sentence = sentence_of(error)
        except BrokenProcessPool:
            sentence = "a process was ended from outside, perhaps for lack of memory; rerun with a smaller --num_workers"
        except KeyboardInterrupt as error:
            stop = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
            if is_first_process():
                kept = f"; {stop.kept}" if stop.kept else ""
                print(f"{Path(sys.argv[0]).name}: stopped by {stop.number.name}{kept}", file=sys.stderr)
            sys.exit(EXIT_CODES[stop.number])
        print(f"{Path(sys.argv[0]).name}: error: {sentence}", file=sys.stderr)
        sys.exit(2)

    return wrapped


def launched_by_torchrun():
    """Whether this is one of several processes."""
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def is_first_process():
    """Whether this process has rank 0, known before the processes have joined."""
    return not launched_by_torchrun() or os.environ.get("RANK", "0") == "0"


def let_first_process_fail():
    """Wait before reporting an error that rank 0 reports too: torchrun ends this process meanwhile, so it is seen once."""
    if not is_first_process():
        time.sleep(SECONDS_UNTIL_ENDED)


def expect_one_process(program):
    """Raise InputError if torchrun has started several processes of a program that runs in one."""
    if launched_by_torchrun():
        let_first_process_fail()
        found = f"WORLD_SIZE {os.environ['WORLD_SIZE']} in the environment"
        raise InputError(f"{program} runs in one process, found {found}; start it without torchrun")


def pick_device(name):
    """torch.device for "auto" (CUDA if there is a GPU), "cpu", "cuda" or "cuda:N"."""
    import torch  # here, since it takes two seconds and programs such as compare_results.py do without

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu(:0)?|cuda(:\d+)?", name):
        raise InputError(f"--device {name}: no such device; use auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {name}: this PyTorch sees no CUDA device; use --device cpu or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices, counted from 0")
    return device


def keep_freed_memory():
    """Make glibc keep freed memory for the tensors of the next step. Returns whether it does; no other C library is changed.

    By default, glibc returns large blocks to the system; mapping and clearing them again can take longer than the
    computation. All threads share one arena, since the arenas of threads cannot hold blocks above 64 MiB.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    wanted = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1, M_TOP_PAD: 2**26, M_ARENA_MAX: 1}
    return all([mallopt(name, value) for name, value in wanted.items()])


@contextlib.contextmanager
def replacing(path, is_durable=False):
    """Yields a temporary path beside `path`; renamed to it when the block succeeds, deleted when it fails.

    Nothing half-written is ever found under the final name. The folder is made if necessary.

    is_durable: wait until the disk holds the file and its name, so that a loss of power does not leave an empty file
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield temporary
        if is_durable:
            flush(temporary)
        temporary.replace(path)
        if is_durable:
            flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path):
    """Wait until the disk holds a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system on which folders cannot be flushed
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder):
    """Delete the temporary files of `replacing` in a folder, which killed programs left."""
    for path in Path(folder).glob(".*"):
        if re.fullmatch(r"\..*\.[0-9a-f]{32}(\.\w+)?", path.name) and not path.is_dir():
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def reading(path, what, *errors, advice=""):
    """These errors in the block become an InputError that `path` cannot be read as `what`, with the advice at its end."""
    try:
        yield
    except errors as error:
        raise InputError(f"{path}: cannot be read as {what} ({' '.join(str(error).split())}){advice}") from None


def load_json(path, advice):
    """The contents of a JSON file. Raises an InputError that ends with `advice`."""
    with reading(path, "JSON", OSError, ValueError, RecursionError, advice=f"; {advice}"):
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))


def load_library(module, purpose):
    """A module that is, or imports, a package of requirements/data.txt. Raises InputError, led by `purpose`, without it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{purpose} needs {module} ({error}); run `pip install -r requirements/data.txt`") from None


def as_image(per_ray):
    """(B, R, C) values per ray of whole square images to (B, C, S, S)."""
    side = round(per_ray.shape[1] ** 0.5)
    return per_ray.transpose(1, 2).unflatten(2, (side, side))


def as_rays(image):
    """(B, C, S, S) to (B, R, C), the inverse of `as_image`."""
    return image.flatten(2).transpose(1, 2)
