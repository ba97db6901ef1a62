"""Run a function of a test module in several joined processes on the CPU."""

import contextlib
import os
import socket

import torch

from training import distributed


def run(function, folder, num_processes=2, joins=True):
    """Call `function()`, which must be at the top level of a module; returns a list of its results by rank.

    joins: whether the processes join before the call; a program's main joins them itself
    """
    port = free_port()
    # fork saves the imports, but backward passes fail in a fork of a process that uses CUDA
    method = "spawn" if torch.cuda.is_available() else "fork"
    arguments = function, folder, num_processes, port, joins
    torch.multiprocessing.start_processes(_join, arguments, nprocs=num_processes, start_method=method)
    return [torch.load(folder / f"{rank}.pth") for rank in range(num_processes)]


def free_port():
    """A port of this machine that nothing listens on."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def _join(rank, function, folder, num_processes, port, joins):
    torch.set_num_threads(1)
    os.environ |= environment(rank, num_processes) | {"MASTER_PORT": str(port)}
    with distributed.running("cpu") if joins else contextlib.nullcontext():
        torch.save(function(), folder / f"{rank}.pth")


def environment(rank=0, num_processes=2):
    """The environment variables that torchrun sets."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": "0",
    }
