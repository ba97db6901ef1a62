"""Work spread over forked processes, in order: for files, which threads of one interpreter do not read any faster."""

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor

PARENT_POLL_S = 0.5

_function = None  # of a worker: inherited when it is forked, so that nothing of it is pickled


def available():
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def can_fork():
    """Whether this process may have forked children: not on every system, and not in a pool's own worker."""
    return "fork" in multiprocessing.get_all_start_methods() and not multiprocessing.current_process().daemon


def ordered(function, count, num_processes, chunksize=16):
    """Yields function(0), function(1), ..., function(count - 1), computed by so many forked processes (up to 1: here).

    Only the results travel between processes, and an error raised in one is raised here. Arrays that are to be filled
    have to lie in shared memory.
    """
    if num_processes <= 1 or count <= 1 or not can_fork():
        yield from map(function, range(count))
        return
    fork = multiprocessing.get_context("fork")
    mine = (function, os.getpid())
    with ProcessPoolExecutor(min(num_processes, count), fork, initializer=_start_worker, initargs=mine) as pool:
        try:
            yield from pool.map(_call, range(count), chunksize=chunksize)
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(function, parent):
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which then ends the workers
    end_with(parent)


def end_with(parent):
    """Ends this process when `parent`, a process id, is killed: it would live on, with the locks it was forked with."""

    def watch():
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_S)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _call(index):
    return _function(index)
