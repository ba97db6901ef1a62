"""Several processes that train together, each with instances of its own. In a single process nothing here does anything.

torchrun starts the processes and tells each its place in environment variables; when one of them fails, torchrun ends the
others. Every function below that communicates must be called by all processes, in the same order.
"""

import contextlib
import datetime
import os

import torch
import torch.distributed as dist
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

import util

OF_TORCHRUN = ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
PATIENCE = datetime.timedelta(minutes=30)  # of processes that wait, as while the main one validates or writes pictures


# Starting and stopping


def start(device_name):
    """Join the other processes, if there are any. returns the torch.device of this one.

    device_name: as for util.pick_device; of several processes, each takes the CUDA device of its local rank, or the CPU
    """
    device = util.pick_device(device_name)
    if not util.launched_by_torchrun():
        return device
    missing = [name for name in OF_TORCHRUN if name not in os.environ]
    if missing:
        raise util.InputError(
            f"the environment sets WORLD_SIZE to {os.environ['WORLD_SIZE']} but not {', '.join(missing)}; start several "
            f"processes with torchrun, or unset WORLD_SIZE for one"
        )
    if device.index is not None:
        raise util.InputError(
            f"--device {device_name}: each of the {os.environ['WORLD_SIZE']} processes takes a device of its own; give "
            f"--device {device.type}"
        )
    if device.type == "cuda":
        processes_here, devices_here = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if processes_here > devices_here:
            raise util.InputError(
                f"--device {device_name}: {processes_here} processes on this machine, but it has {devices_here} CUDA "
                f"devices; give torchrun --nproc_per_node {devices_here}, or --device cpu"
            )
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # with gloo at its side, tensors on the CPU can be summed too
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return device


def stop():
    """Leave, when all have come here. For a good end only: nobody should wait for a process that has failed."""
    if dist.is_initialized():
        barrier()
        dist.destroy_process_group()


@contextlib.contextmanager
def running(device_name):
    """`start`, yielding the device, and `stop` at a good end; an exception ends the process, and torchrun the others."""
    yield start(device_name)
    stop()


@contextlib.contextmanager
def quiet_unless_main():
    """What is printed in the block is seen once, whether before or after `start`, and so is what all processes fail at.

    stderr stays as it is: what one process alone has to complain about is seen, a little later.
    """
    if util.is_first_process():
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            yield
        except Exception:
            util.let_first_process_fail()
            raise


# Who and how many


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main():
    return rank() == 0


# Communication


def barrier():
    """Wait until every process is here: the host waits, not the CUDA device alone."""
    sum_over_processes(torch.zeros(1))


def sum_over_processes(tensor):
    """Adds up a tensor over the processes, in place. (...) -> (...), of the same shape everywhere."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def gather_rows(rows, values, limit=None):
    """What every process has to say about rows of a table, one process after the other.

    rows:    (R,) int64, values (R, D), on one device; R may differ between processes
    limit:   L, at least every process's R, and the same in all. None: the largest R, for which the host has to wait
    returns  (P * L,) int64 and (P * L, D) for P processes; where one has fewer than L rows, -1 and zeros
    """
    if world_size() == 1:
        return rows, values
    if limit is None:
        most = torch.tensor(len(rows), device=rows.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        limit = int(most)
        if limit == 0:
            return rows, values
    missing = limit - len(rows)
    if missing < 0:
        raise ValueError(f"{len(rows)} rows, but at most {limit} were announced")
    return _concatenated(F.pad(rows, (0, missing), value=-1)), _concatenated(F.pad(values, (0, 0, 0, missing)))


def _concatenated(tensor):
    """(L, ...) of every process -> (P * L, ...)."""
    everyone = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(everyone, tensor)
    return torch.cat(everyone)


# Modules


def wrap(module, ignored_parameters=(), **options):
    """The module such that its gradients are summed over the processes while they are computed.

    Summed, not averaged: each process divides its loss by the count of the whole batch, so that a gradient on its way
    through the module is what it is in a single process, and so is what clamps it.

    ignored_parameters: those whose gradients stay as they are, such as the latent codes, which row_adam gathers
    options: of DistributedDataParallel, such as find_unused_parameters

    All start with the main process's values, those of ignored parameters too. Call what is returned, in training, and
    the module itself for everything else. A single process, or a module of which nothing learns, is returned as it is.

    Each process normalises its own images in batch norm, and keeps its own running statistics; see `average_statistics`.
    """
    if world_size() == 1:
        return module
    ignored = {id(parameter) for parameter in ignored_parameters}
    for parameter in module.parameters():
        if id(parameter) in ignored:
            dist.broadcast(parameter.detach(), src=0)
    if not any(p.requires_grad and id(p) not in ignored for p in module.parameters()):
        return module
    names = [name for name, parameter in module.named_parameters() if id(parameter) in ignored]
    names += [name for name, _ in module.named_buffers()]
    # DistributedDataParallel knows a tensor by "submodule.name", and one of the outermost module also by ".name"
    names += [f".{name}" for name in names if "." not in name]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)
    wrapped = DistributedDataParallel(module, gradient_as_bucket_view=True, **options)
    wrapped.register_comm_hook(None, _sum_gradients)
    return wrapped


def _sum_gradients(_state, bucket):
    summing = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return summing.then(lambda future: future.value()[0])


@torch.no_grad()
def average_statistics(module):
    """Running means and variances of batch norm, averaged over the processes; to be called before eval mode or saving.

    They are moving averages, so that averaging them early or late, once or often, comes to the same in the end.
    """
    for part in module.modules():
        if isinstance(part, _BatchNorm) and part.track_running_stats:
            for statistics in (part.running_mean, part.running_var):
                sum_over_processes(statistics).div_(world_size())
