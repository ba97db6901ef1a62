"""Work spread over forked processes, results in order: threads of one interpreter do not decode files any faster."""

import ctypes
import multiprocessing
import os
import signal
from concurrent.futures import ProcessPoolExecutor

from runs import stopping

PR_SET_PDEATHSIG = 1  # of prctl(2)

_function = None  # of a worker: inherited by the fork, so that it need not be pickled


def ordered(function, count, num_processes, chunksize=16):
    """Yields function(0), ..., function(count - 1), computed in num_processes forked processes, or in this one for 0 or 1.

    Only the results are sent between processes. An error raised in a worker is raised here. Arrays that the function
    fills must be in shared memory.
    """
    if num_processes <= 1 or count <= 1 or multiprocessing.current_process().daemon:  # the worker of a pool may not fork
        yield from map(function, range(count))
        return
    fork = multiprocessing.get_context("fork")
    arguments = (function, os.getpid())
    with ProcessPoolExecutor(min(num_processes, count), fork, initializer=_start_worker, initargs=arguments) as pool:
        try:
            yield from pool.map(_call, range(count), chunksize=chunksize)
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(function, parent):
    global _function
    _function = function
    stopping.leave_to(parent)
    # Linux ends this process when its parent dies. It would otherwise keep the locks that it was forked with.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(1)


def _call(index):
    return _function(index)
