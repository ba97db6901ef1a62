"""Signals that ask a program to stop: it finishes what it is at, keeps what is done, and exits with a code of its own.

A second signal ends the program at once.
"""

import contextlib
import os
import signal
import sys
import threading
import time

import util

SAME_REQUEST_S = 1.0  # a signal that comes twice within this time was sent to the program and to its process group

_asked = None  # the signal that asked this process to stop
_asked_at = 0.0
_num_waiting = 0  # blocks of `deferred` that this process is in


@contextlib.contextmanager
def listening():
    """In the block the signals of util.EXIT_CODES raise util.Stopped, where `deferred` does not hold it back.

    Signals that the caller of the program had ignored stay ignored. Outside the main thread nothing is changed.
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in util.EXIT_CODES}
    _asked = None
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _hear)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _hear(number, _frame):
    global _asked, _asked_at
    now = time.monotonic()
    if _asked is not None:
        if now - _asked_at > SAME_REQUEST_S:
            os.write(sys.__stderr__.fileno(), b"\nstopped at once by a second signal\n")
            os._exit(util.EXIT_CODES[number])
        return
    _asked, _asked_at = signal.Signals(number), now
    if not _num_waiting:
        raise util.Stopped(_asked)


@contextlib.contextmanager
def deferred(kept=""):
    """In the block a signal changes `asked()` and nothing else; at its end it raises util.Stopped(signal, kept)."""
    global _num_waiting
    _num_waiting += 1
    try:
        yield
    finally:
        _num_waiting -= 1
    if _asked and not _num_waiting:
        raise util.Stopped(_asked, kept)


def asked():
    """The signal that asked this process to stop, a signal.Signals; None so far."""
    return _asked


def leave_to(parent):
    """Let a process that works for `parent`, a process id, end when that one says so, whatever signals others send to it.

    A terminal and a batch system send signals to all processes of a program, of which the first one knows what to do.
    """
    for number in util.EXIT_CODES:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_wait_for_end, args=(parent,), daemon=True).start()


def _wait_for_end(parent):
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)


def wait_for(process, kept=""):
    """The exit code of a subprocess.Popen. A signal is passed on to it, and raises util.Stopped when it has ended.

    It is raised too where the process alone was stopped by a signal. kept: see util.Stopped
    """
    passed_on = False
    with deferred(kept):
        while process.poll() is None:
            if _asked and not passed_on:
                process.send_signal(_asked)
                passed_on = True
            time.sleep(0.05)
    for number, code in util.EXIT_CODES.items():
        if process.returncode in (code, -number):
            raise util.Stopped(number, kept)
    return process.returncode
