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
import shutil
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


SPACE = "free some, or give another folder: --logging_root, --out or --cache"
MEMORY = (
    "use a smaller --rays_per_block, --batch_size or --batch_size_per_img_sidelength, a smaller --num_workers, no --preload"
)
SHARED_MEMORY = "too little shared memory for the processes that read images; use --num_workers 0, or enlarge /dev/shm"
OF_SYSTEM = {  # errors of the operating system: what to say and do
    errno.ENOSPC: f"the disk is full; {SPACE}",
    errno.EDQUOT: f"the quota of the disk is used up; {SPACE}",
    errno.EFBIG: f"the file would be larger than is allowed; {SPACE}, or raise the limit, see `ulimit -f`",
    errno.EROFS: "the disk may only be read; give another folder: --logging_root, --out or --cache",
    errno.EACCES: "this user has no right to it; change that, or give another folder",
    errno.EPERM: "this user has no right to it; change that, or give another folder",
    errno.EMFILE: "too many files are open; raise the limit, such as `ulimit -n 4096`, or use a smaller --num_workers",
    errno.ENFILE: "too many files are open on this machine; use a smaller --num_workers",
    errno.ENOMEM: f"out of memory; {MEMORY}",
    errno.ENOENT: "it is gone, though it was there before; was it deleted or moved meanwhile?",
    errno.ESTALE: "it is gone, though it was there before; was it deleted or moved meanwhile?",
    errno.EIO: "the disk cannot be read or written; look at the machine's log",
}
IN_TEXTS = {  # parts of messages that libraries raise as a RuntimeError
    r"can't allocate memory|out of memory": f"out of memory; {MEMORY}",
    r"unable to (?:allocate|open|write|mmap).*shared memory|/torch_\d+|bus error": SHARED_MEMORY,
    r"DataLoader worker.*(?:killed by signal|exited unexpectedly)": (
        "a process that reads images was ended, perhaps for lack of memory; use a smaller --num_workers, no --preload"
    ),
    r"Too many open files|received 0 items of ancdata": OF_SYSTEM[errno.EMFILE],
}


def cause_of(error):
    """A sentence for an error that lies in the surroundings, with what to change; None for any other error."""
    if isinstance(error, BrokenProcessPool):
        return "a process was ended from outside, perhaps for lack of memory; rerun with a smaller --num_workers"
    if isinstance(error, (EOFError, ConnectionError)):
        return "the connection to a process that reads images broke; use a smaller --num_workers, or raise `ulimit -n`"
    if isinstance(error, MemoryError):
        return f"out of memory; {MEMORY}"
    if isinstance(error, OSError) and error.errno in OF_SYSTEM:
        where = f"{error.filename}: " if error.filename else ""
        if error.errno == errno.ENOSPC and not where and shutil.disk_usage("/dev/shm").free < 2**20:
            return SHARED_MEMORY
        return where + OF_SYSTEM[error.errno]
    if isinstance(error, (RuntimeError, OSError)):
        text = str(error)
        return next(
            (sentence for part, sentence in IN_TEXTS.items() if re.search(part, text, re.IGNORECASE | re.DOTALL)), None
        )
    return None


def command(main):
    """Decorates a `main(argv=None)`: an InputError becomes one line on stderr and exit code 2, a signal one of EXIT_CODES."""

    @functools.wraps(main)
    def wrapped(argv=None):
        try:
            return main(argv)
        except InputError as error:
            sentence = sentence_of(error)
        except KeyboardInterrupt as error:
            stop = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
            if is_first_process():
                kept = f"; {stop.kept}" if stop.kept else ""
                print(f"{Path(sys.argv[0]).name}: stopped by {stop.number.name}{kept}", file=sys.stderr)
            sys.exit(EXIT_CODES[stop.number])
        except Exception as error:
            sentence = cause_of(error)
            if sentence is None:
                raise
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
