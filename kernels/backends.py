"""The two functions that the model calls, `layers` and `march`, and the choice of the backend that computes them.

A backend is a module with both functions, differentiable. `pytorch` serves everything, and `c` what `_c_serves` and `march`
say. Another backend, for a GPU say, needs a module, a name in `select` and a condition beside `_c_serves`.

A stack is a list of layers of one width C, each a tuple (weight, bias, scale, shift): linear, layer norm, ReLU.
    weights of M instances:  weight (M, C, I), bias (M, 1, C), scale and shift None
    weights of all rays:     weight (C, I), bias (C,), scale and shift (C,)
"""

import contextlib
import subprocess
import threading

import torch
from torch import nn

import util
from kernels import c, compiler, pytorch

step = pytorch.step  # of the march: what torch.compile gets


class _Thread(threading.local):
    is_serial = False


_thread = _Thread()
_library, _all_serial = None, False  # the compiled C code; whether every thread is serial


def select(choice="auto", device="cpu", precision="float32", num_threads=None):
    """Choose the backends of this process. returns the sentence to print.

    choice:      "c": C, or an error; "torch": PyTorch only; "auto": C where it can be compiled
    precision:   see rendering.precision.PRECISIONS
    num_threads: that PyTorch uses for an operation outside `serial` (default: as PyTorch says)
    raises       util.InputError where C is chosen and cannot be compiled
    """
    global _library, _all_serial
    _library, _all_serial = None, (num_threads or torch.get_num_threads()) == 1
    note = ""
    if choice != "torch" and torch.device(device).type == "cpu" and precision == "float32":
        try:
            _library = compiler.load(c.SOURCE)
        except (OSError, subprocess.CalledProcessError) as error:
            reason = " ".join((getattr(error, "stderr", None) or str(error)).split())
            if choice == "c":
                raise util.InputError(
                    f"--fused on: {c.SOURCE.name} could not be compiled ({reason}); install gcc or clang, or name another "
                    f"compiler in CC, or leave the option out"
                ) from None
            note = f", since {c.SOURCE.name} could not be compiled ({reason})"
    if _library is None:
        return f"kernels: PyTorch on {device}{note}"
    return f"kernels: C for float32 layers whose width is a multiple of {c.WIDTHS}, PyTorch for the rest"


@contextlib.contextmanager
def serial():
    """A context in which this thread's operations run on one thread each, so that C, which is serial, is the fastest."""
    before, _thread.is_serial = _thread.is_serial, True
    try:
        yield
    finally:
        _thread.is_serial = before


def layers(x, stack, reads_points=False):
    """x (..., I) -> (..., C); with weights of M instances (B, R, I) -> (B, R, C), where B is M, or anything if M is 1.

    reads_points: x are points, which the first layer reads in float32 whatever the precision
    """
    if _library is not None and _c_serves(x, stack):
        return c.layers(_library, x, stack)
    return pytorch.layers(x, stack, reads_points)


def march(phi, rays, start, marcher):
    """March all steps of SRN paper, section 3.2, algorithm 1.

    phi:     callable, (B, R, 3) world-space points -> (B, R, C) features; if it consists of layers, with a method `stack` and
             an encoding.Encoding of the points, `encoding`
    rays:    geometry.Rays of B x R rays
    start:   (B, R, 1) distances from the rays' origins
    marcher: custom_layers.RayMarcher, which turns features into steps
    returns  (S, B, R, 1) the distance after each step
    """
    if _library is not None and hasattr(phi, "stack"):
        stack, keeps_nothing = phi.stack(), marcher.checkpoint_steps and torch.is_grad_enabled()
        rays_learn = any(x.requires_grad for x in (*rays, start))  # C gives no gradient to rays
        if not keeps_nothing and not rays_learn and _c_serves(start, stack, marcher.lstm.hidden_size):
            return c.march(_library, stack, phi.encoding, rays, start, marcher)
    return pytorch.march(phi, rays, start, marcher)


def _c_serves(x, stack, *widths):
    """Whether C computes with x: float32 on a CPU in a serial thread. Multithreaded PyTorch is faster than serial C.

    Subclasses of tensors, such as the stand-ins of tracing, have no memory that C could read.
    """
    return (
        (_all_serial or _thread.is_serial)
        and type(x) in (torch.Tensor, nn.Parameter)
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and len(stack) <= c.MAX_LAYERS
        and all(width % c.WIDTHS == 0 for width in (stack[0][0].shape[-2], *widths))
    )
