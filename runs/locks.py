"""Locks that one process holds at a time. The system releases them when the process dies.

The file of a lock names the process that holds it. On file systems without locks, a second file beside it is the lock: its
process is looked for, so that a file that a killed process left is recognised on the same machine.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import time
from pathlib import Path

import util

UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
LARGEST = 2**12  # bytes of a lock file
_held = set()  # descriptors of the locks that this process holds


class Held(Exception):
    """Another process holds the lock. str: that process, and what to do where it has ended."""


class Lock:
    """A lock that this process holds until `release`. raises Held, OSError, or util.InputError if `path` is not a lock's"""

    def __init__(self, path):
        self.path, self.substitute = Path(path), None
        is_ours = False
        while not is_ours:
            self.descriptor = _open(self.path)
            try:
                self._acquire()
                is_ours = self._has_its_name()
            finally:
                if not is_ours:  # another process has it, or has just given it up and deleted the file
                    os.close(self.descriptor)
        _held.add(self.descriptor)

    def _acquire(self):
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Held(_describe(_read(self.descriptor))) from None
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
            self.substitute = _take_substitute(self.path)
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, _own_facts(), 0)

    def _has_its_name(self):
        try:
            return os.path.samestat(os.fstat(self.descriptor), os.lstat(self.path))
        except FileNotFoundError:
            return False

    def release(self):
        """Give the lock up, and delete its files."""
        if self.descriptor in _held:
            _held.discard(self.descriptor)
            for path in filter(None, (self.path, self.substitute)):
                path.unlink(missing_ok=True)
            os.close(self.descriptor)


@contextlib.contextmanager
def held(path):
    """Holds a Lock in the block."""
    lock = Lock(path)
    try:
        yield lock
    finally:
        lock.release()


@contextlib.contextmanager
def held_in_turn(path, note, poll_s=1.0):
    """Holds a Lock in the block, after any other process. note: printed, with that process, if it must wait"""
    lock, is_told = None, False
    while lock is None:
        try:
            lock = Lock(path)
        except Held as held:
            if not is_told:
                print(f"{note} ({held})")
            is_told = True
            time.sleep(poll_s)
    try:
        yield lock
    finally:
        lock.release()


def substitute_of(name):
    """Name of the file that is the lock where the system has none for the file `name`."""
    return f"{name}.pid"


def _open(path):
    """The descriptor of a lock's file, made if necessary. Links are not followed, and nothing else is touched."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise util.InputError(f"{path}: expected a lock file, found something else; remove or rename it") from None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_size and not _read(descriptor):
        os.close(descriptor)
        raise util.InputError(f"{path}: expected a lock file, found something else; remove or rename it")
    return descriptor


def _own_facts():
    return (json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": time.time()}) + "\n").encode()


def _read(descriptor):
    """What the holder of a lock wrote about itself, a dict; an empty one if that is not what the file holds."""
    with contextlib.suppress(ValueError, RecursionError):
        facts = json.loads(os.pread(descriptor, LARGEST, 0))
        if isinstance(facts, dict) and isinstance(facts.get("process"), int) and isinstance(facts.get("host"), str):
            return facts
    return {}


def _describe(facts):
    return f"process {facts['process']} on {facts['host']!r}" if facts else "another process"


def _take_substitute(path):
    """A file that only one process can make. raises Held"""
    substitute = path.with_name(substitute_of(path.name))
    for _ in range(2):
        try:
            descriptor = os.open(substitute, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            descriptor = os.open(substitute, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            facts = _read(descriptor)
            os.close(descriptor)
            if not has_ended(facts):
                raise Held(f"{_describe(facts)}; if that has ended, delete {substitute}") from None
            substitute.unlink(missing_ok=True)
            continue
        os.write(descriptor, _own_facts())
        os.close(descriptor)
        return substitute
    raise Held(f"another process; if that has ended, delete {substitute}")


def has_ended(facts):
    """Whether a process, a dict with "process" and "host", is known to have ended: on this machine nothing has its number."""
    if not isinstance(facts.get("process"), int) or facts.get("host") != socket.gethostname():
        return False
    try:
        os.kill(facts["process"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return facts["process"] == os.getpid()  # an earlier process with this number


def _forget_in_fork():
    """A process that this one forks, such as a worker that reads images, must not keep its locks alive."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_fork)
