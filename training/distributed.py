"""Training in several processes, each with its own instances. In a single process these functions do nothing.

torchrun starts the processes, sets environment variables in each, and ends all of them when one fails. Every function below
that communicates must be called by all processes in the same order.
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
PATIENCE = datetime.timedelta(minutes=30)  # how long processes wait, for example while rank 0 validates


# Starting and stopping


def start(device_name):
    """Join the other processes, if there are any. returns the torch.device of this process.

    device_name: as for util.pick_device; each of several processes uses the CUDA device of its local rank, or the CPU
    """
    device = util.pick_device(device_name)
    if not util.launched_by_torchrun():
        return device
    count = os.environ["WORLD_SIZE"]
    if missing := ", ".join(name for name in OF_TORCHRUN if name not in os.environ):
        raise util.InputError(f"WORLD_SIZE={count} is set, but not {missing}; start with torchrun, or unset WORLD_SIZE")
    if device.index is not None:
        given, expected = f"--device {device_name}", f"--device {device.type}"
        raise util.InputError(f"{given}: each of the {count} processes uses its own device; give {expected}")
    if device.type == "cuda":
        processes_here, devices_here = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if processes_here > devices_here:
            raise util.InputError(
                f"--device {device_name}: {processes_here} processes on a machine with {devices_here} CUDA devices; "
                f"give torchrun --nproc_per_node {devices_here}, or --device cpu"
            )
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # gloo sums tensors on the CPU, such as the one of `barrier`
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return device


@contextlib.contextmanager
def running(device_name):
    """Yields the device of `start`, then waits for all processes and leaves.

    After an exception nothing is awaited: torchrun ends the other processes.
    """
    yield start(device_name)
    if dist.is_initialized():
        barrier()
        dist.destroy_process_group()


@contextlib.contextmanager
def quiet_unless_main():
    """In the block only rank 0 prints, and only rank 0 reports an error that all processes have.

    An error of another process alone is reported too, after a delay in which torchrun would have ended it.
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


# Ranks


def rank():
    return dist.get_rank() if dist.is_initialized() else 0


def world_size():
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main():
    return rank() == 0


# Communication


def barrier():
    """Wait until every process is here. The host waits, not only the CUDA device."""
    sum_over_processes(torch.zeros(1))


def sum_over_processes(tensor):
    """Sum a tensor over the processes, in place. (...) -> (...), the same shape in all processes."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor


def largest(number, device="cpu"):
    """The largest of the integers of all processes. device: whose processors compare them"""
    found = torch.tensor(number, device=device)
    if world_size() > 1:
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def gather_rows(rows, values, limit=None):
    """Rows and values of all processes, in the order of their ranks.

    rows:   (R,) int64 and values (R, D) on one device; R may differ between processes
    limit:  L >= R, the same in all processes. None: the largest R, which makes the host wait
    returns (P * L,) int64 and (P * L, D) for P processes, filled up with -1 and zeros where a process has fewer rows
    """
    if world_size() == 1:
        return rows, values
    if limit is None:
        limit = largest(len(rows), rows.device)
        if limit == 0:
            return rows, values
    missing = limit - len(rows)
    if missing < 0:
        raise ValueError(f"{len(rows)} rows, expected at most {limit}")
    return _concatenated(F.pad(rows, (0, missing), value=-1)), _concatenated(F.pad(values, (0, 0, 0, missing)))


def _concatenated(tensor):
    """(L, ...) of every process -> (P * L, ...)."""
    everyone = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(everyone, tensor)
    return torch.cat(everyone)


# Modules


def wrap(module, ignored_parameters=(), **options):
    """The module with its gradients summed over the processes in the backward pass.

    They are summed, not averaged: each process divides its loss by the count of the whole batch, so that gradients inside
    the module, and the clamping of them, are those of a single process.

    ignored_parameters: their gradients are not summed; those of latent codes are gathered by row_adam
    options: of DistributedDataParallel, such as find_unused_parameters

    All processes start with the values of rank 0. Call the result to train, and the module itself for everything else. In a
    single process, or where nothing learns, the module is returned unchanged.

    Batch norm uses the images of each process, and its running statistics differ; see `average_statistics`.
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
    # DistributedDataParallel names a tensor "submodule.name", and one of the outermost module ".name" as well
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
    """Average the running means and variances of batch norm over the processes, before eval mode or saving.

    Moving averages are linear, so it makes no difference when or how often they are averaged.
    """
    for part in module.modules():
        if isinstance(part, _BatchNorm) and part.track_running_stats:
            for statistics in (part.running_mean, part.running_var):
                sum_over_processes(statistics).div_(world_size())
