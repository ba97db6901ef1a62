"""Compiles a C source to a shared library, kept in a folder that only the user can write, and loads it."""

import ctypes
import hashlib
import os
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path

import torch

import util

FLAGS = ["-O3", "-ffp-contract=fast", "-shared", "-fPIC"]
FLAGS_OF_CAPABILITY = {"AVX2": ["-mavx2", "-mfma"], "AVX512": ["-mavx512f", "-mfma", "-DLANES=16"]}


def load(source):
    """The library of a source, as ctypes.CDLL, compiled if the cache has none that is intact.

    raises OSError or subprocess.CalledProcessError if it cannot be compiled or loaded
    """
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("gcc", "clang", "cc")), None)
    if compiler is None:
        raise FileNotFoundError("no gcc, clang or cc was found")
    compiler = shlex.split(compiler)
    version = subprocess.run([*compiler, "--version"], check=True, capture_output=True).stdout
    command = [*compiler, *FLAGS, *FLAGS_OF_CAPABILITY.get(torch.backends.cpu.get_cpu_capability(), [])]
    made_of = _digest(repr(command).encode() + version + source.read_bytes())
    folder = private_folder()
    if folder is not None:
        return _cached(folder / f"{source.stem}-{made_of[:16]}.so", command, source)
    with tempfile.TemporaryDirectory() as folder:  # a loaded library outlives its file
        return _cached(Path(folder) / f"{source.stem}.so", command, source)


def private_folder():
    """The cache folder, made if necessary; None unless it can be made and only this user can write to it."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "semantic_srn" / "kernels"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except (OSError, RuntimeError):  # RuntimeError: this user has no home
        return None
    is_private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if is_private else None


def _cached(path, command, source):
    """The library at `path`, compiled unless the digest beside it is that of the file."""
    digest = path.with_suffix(".sha256")
    if not (path.exists() and digest.exists() and digest.read_text() == _digest(path.read_bytes())):
        with util.replacing(path) as library, util.replacing(digest) as written:
            subprocess.run([*command, "-o", library, source, "-lm"], check=True, capture_output=True, text=True)
            written.write_text(_digest(library.read_bytes()))
    return ctypes.CDLL(str(path))


def _digest(content):
    return hashlib.sha256(content).hexdigest()
