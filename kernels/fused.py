"""The layers that every ray goes through, and the march through them, in C for the CPU: see `fused.c`, which this compiles.

Nothing here says what is computed: hyperlayers.Phi, custom_layers.FCBlock and custom_layers.RayMarcher do, and compute it
themselves wherever `suits` is False. The two agree but for rounding.

A stack is a list of layers of one width, each a tuple (weight, bias, scale, shift): linear, layer norm, ReLU.
    weight (M, C, I), bias (M, 1, C) for M instances, scale and shift None; or weight (C, I), bias, scale, shift (C,)
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import torch
from torch.autograd.function import once_differentiable

import util

SOURCE = Path(__file__).with_name("fused.c")
FLAGS = ["-O3", "-ffp-contract=fast", "-shared", "-fPIC"]
FLAGS_OF_CAPABILITY = {"AVX2": ["-mavx2", "-mfma"], "AVX512": ["-mavx512f", "-mfma"]}
WIDTHS = 16  # every width is a multiple of it
NUM_OWN = 6  # tensors of the marcher itself

_library = None


def use(how="auto", device="cpu"):
    """Whether from now on this process computes in C what suits it. how: "auto" (where it can be compiled), "on", "off".

    raises util.InputError where it is "on" and cannot be compiled
    """
    global _library
    _library = None
    if how != "off" and torch.device(device).type == "cpu":
        try:
            _library = _load()
        except (OSError, subprocess.CalledProcessError) as error:
            reason = " ".join((getattr(error, "stderr", None) or str(error)).split())
            if how == "on":
                raise util.InputError(
                    f"--fused on: {SOURCE.name} could not be compiled ({reason}); install gcc or clang, or "
                    f"name another in CC, or leave the option out"
                ) from None
            print(f"note: {SOURCE.name} could not be compiled ({reason}), so PyTorch does its work, which takes longer")
    return _library is not None


def _load():
    """The compiled library. It is kept in the user's cache, under a name that says what it was made of."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("gcc", "clang", "cc")), None)
    if compiler is None:
        raise FileNotFoundError("no gcc, clang or cc was found")
    command = [*shlex.split(compiler), *FLAGS, *FLAGS_OF_CAPABILITY.get(torch.backends.cpu.get_cpu_capability(), [])]
    made_of = repr(command).encode() + SOURCE.read_bytes()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "semantic_srn"
    path = folder / f"fused-{hashlib.sha256(made_of).hexdigest()[:16]}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with util.replacing(path) as temporary:
            subprocess.run([*command, "-o", temporary, SOURCE, "-lm"], check=True, capture_output=True, text=True)
    return ctypes.CDLL(str(path))


def suits(x, *widths):
    """Whether the C code is to compute with the tensor x and layers of these widths.

    It does so on a CPU, in float32, in a thread of its own: where PyTorch has several threads for one operation, it makes
    better use of them. It has to find numbers, so stand-ins for tensors are not for it.
    """
    return (
        _library is not None
        and type(x) in (torch.Tensor, torch.nn.Parameter)
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and torch.get_num_threads() == 1
        and all(width % WIDTHS == 0 for width in widths)
    )


def layers(x, stack):
    """x (B, R, I) -> (B, R, C). B is the number of instances, or anything where there is only one."""
    rows, tensors = _by_instance(x, stack).contiguous(), _tensors(stack)
    y = _Layers.apply(rows, _needs_gradient(rows, *tensors), len(stack), *tensors)
    return y.view(*x.shape[:2], y.shape[-1])


def march(rays, start, stack, lstm, out_layer, num_steps, limit):
    """The march of custom_layers.RayMarcher, all steps. Neither rays nor start get a gradient.

    rays:   geometry.Rays of B x R rays; B as in `layers`
    start:  (B, R, 1) distances from the rays' origins
    limit:  on the gradient of the LSTM's state
    returns (S, B, R, 1) the distance after each step
    """
    origin, direction, begin = (
        _by_instance(x.expand(*start.shape[:2], -1), stack).contiguous() for x in (rays.origin, rays.direction, start)
    )
    own = [lstm.weight_ih, lstm.weight_hh, lstm.bias_ih, lstm.bias_hh, out_layer.weight, out_layer.bias]
    tensors = [*own, *_tensors(stack)]
    settings = num_steps, limit, _needs_gradient(*tensors), len(stack)
    return _March.apply(origin, direction, begin.squeeze(-1), settings, *tensors).view(num_steps, *start.shape)


def _needs_gradient(*tensors):
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _by_instance(x, stack):
    """(B, R, c) with all rows of one instance together, where there is only one."""
    weight = stack[0][0]
    return x.flatten(0, 1)[None] if weight.dim() == 2 or len(weight) == 1 else x


class _Layers(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, needs_gradient, num_layers, *tensors):
        stack = _Stack(x.shape[-1], tensors, num_layers)
        kept = stack.keep(x, *x.shape[:2]) if needs_gradient else ()
        y = x.new_empty(*x.shape[:2], stack.width)
        _call(_library.layers_forward, stack, *x.shape[:2], x, y)
        ctx.num_layers, ctx.num_kept = num_layers, len(kept)
        ctx.save_for_backward(x, *kept, *tensors)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, y_gradient):
        x, *saved = ctx.saved_tensors
        kept, tensors = saved[: ctx.num_kept], saved[ctx.num_kept :]
        stack = _Stack(x.shape[-1], tensors, ctx.num_layers)
        stack.put_kept(*kept)
        gradients = stack.put_gradients(ctx.needs_input_grad[3:])
        x_gradient = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        _call(_library.layers_backward, stack, *x.shape[:2], x, y_gradient.contiguous(), x_gradient)
        return x_gradient, None, None, *gradients


class _March(torch.autograd.Function):
    @staticmethod
    def forward(ctx, origin, direction, start, settings, *tensors):
        num_steps, limit, needs_gradient, num_layers = ctx.settings = settings
        own, tensors = tensors[:NUM_OWN], tensors[NUM_OWN:]
        stack, marcher = _Stack(3, tensors, num_layers), _Marcher.of(own, num_steps, limit)
        kept = ()
        if needs_gradient:
            sizes = num_steps, *start.shape
            kept = *stack.keep(start, *sizes), *marcher.keep(start, *sizes)
        distance = start.new_empty(num_steps, *start.shape)
        _call(_library.march_forward, stack, marcher, *start.shape, origin, direction, start, distance)
        ctx.save_for_backward(origin, direction, start, distance, *kept, *own, *tensors)
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx, distance_gradient):
        num_steps, limit, _, num_layers = ctx.settings
        origin, direction, start, distance, *saved = ctx.saved_tensors
        (normalised, inverse, *state), own, tensors = saved[:5], saved[5 : 5 + NUM_OWN], saved[5 + NUM_OWN :]
        stack, marcher = _Stack(3, tensors, num_layers), _Marcher.of(own, num_steps, limit)
        stack.put_kept(normalised, inverse)
        marcher.put_kept(*state)
        wanted = ctx.needs_input_grad[4:]
        own_gradients = marcher.put_gradients(own, wanted[:NUM_OWN])
        gradients = stack.put_gradients(wanted[NUM_OWN:])
        _call(
            _library.march_backward,
            stack,
            marcher,
            *start.shape,
            origin,
            direction,
            start,
            distance,
            distance_gradient.contiguous(),
        )
        return None, None, None, None, *own_gradients, *gradients


def _tensors(stack):
    """The tensors of a stack, those of a kind one after the other; no scales and shifts where there are none."""
    return [tensor for kind in zip(*stack) for tensor in kind if tensor is not None]


class _Layer(ctypes.Structure):
    """As in fused.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        *((name, ctypes.c_long) for name in ("weight_step", "bias_step")),
        *((name, ctypes.c_void_p) for name in ("scale", "shift", "normalised", "inverse")),
        *((f"{name}_gradient", ctypes.c_void_p) for name in ("weight", "bias", "scale", "shift")),
    ]


class _Stack(ctypes.Structure):
    """As in fused.c. tensors: see `_tensors`"""

    _fields_ = [*((name, ctypes.c_long) for name in ("inputs", "width", "num_layers")), ("layers", ctypes.POINTER(_Layer))]

    KINDS = ("weight", "bias", "scale", "shift")

    def __init__(self, inputs, tensors, num_layers):
        self.tensors = [_rows_in_order(tensor) for tensor in tensors]
        self.each = (_Layer * num_layers)()
        super().__init__(inputs, tensors[0].shape[-2], num_layers, self.each)
        self.put("", self.tensors)
        for kind in ("weight", "bias"):
            for layer, tensor in zip(self.each, self.of_kind(self.tensors, kind)):
                setattr(layer, f"{kind}_step", tensor.stride(0) if tensors[0].dim() == 3 else 0)

    def of_kind(self, tensors, kind):
        first = self.KINDS.index(kind) * self.num_layers
        return tensors[first : first + self.num_layers]

    def put(self, suffix, tensors):
        for i, tensor in enumerate(tensors):
            setattr(self.each[i % self.num_layers], self.KINDS[i // self.num_layers] + suffix, _pointer(tensor))

    def keep(self, like, *places):
        """Room for what the backward pass needs, of `places` rows."""
        kept = like.new_empty(self.num_layers, *places, self.width), like.new_empty(self.num_layers, *places)
        self.put_kept(*kept)
        return kept

    def put_kept(self, normalised, inverse):
        for layer, *of_layer in zip(self.each, normalised, inverse):
            layer.normalised, layer.inverse = map(_pointer, of_layer)

    def put_gradients(self, wanted):
        """Room for the gradients, None of what does not want any. C writes to all layers, or to none: weights and biases
        whole, and to scales and shifts it adds."""
        if not any(wanted):
            return [None] * len(wanted)
        gradients = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in self.tensors]
        for added_to in (*self.of_kind(gradients, "scale"), *self.of_kind(gradients, "shift")):
            added_to.zero_()
        self.put("_gradient", gradients)
        return [gradient if is_wanted else None for gradient, is_wanted in zip(gradients, wanted)]


class _Marcher(ctypes.Structure):
    """As in fused.c."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("hidden", "steps")),
        *((name, ctypes.c_void_p) for name in ("input_weight", "state_weight", "input_bias", "state_bias")),
        *((name, ctypes.c_void_p) for name in ("out_weight", "out_bias", "gates", "cell", "state")),
        *((f"{name}_gradient", ctypes.c_void_p) for name in ("input_weight", "state_weight", "bias")),
        *((f"{name}_gradient", ctypes.c_void_p) for name in ("out_weight", "out_bias")),
        ("limit", ctypes.c_float),
    ]

    @classmethod
    def of(cls, own, num_steps, limit):
        marcher = cls(own[1].shape[1], num_steps, *map(_pointer, own))
        marcher.limit = limit
        return marcher

    def keep(self, like, *places):
        kept = [like.new_empty(*places, size * self.hidden) for size in (4, 1, 1)]
        self.put_kept(*kept)
        return kept

    def put_kept(self, *kept):
        self.gates, self.cell, self.state = map(_pointer, kept)

    def put_gradients(self, own, wanted):
        if not any(wanted):
            return [None] * len(wanted)
        gradients = [torch.zeros_like(tensor) for tensor in own]
        input_weight, state_weight, bias, _, out_weight, out_bias = map(_pointer, gradients)
        self.input_weight_gradient, self.state_weight_gradient, self.bias_gradient = input_weight, state_weight, bias
        self.out_weight_gradient, self.out_bias_gradient = out_weight, out_bias
        gradients[3] = gradients[2]  # the biases are added up before they are used
        return [gradient if is_wanted else None for gradient, is_wanted in zip(gradients, wanted)]


def _pointer(tensor):
    return None if tensor is None else tensor.data_ptr()


def _rows_in_order(tensor):
    """The tensor with its rows one after the other, as C reads them; instances may be anything apart."""
    inner = tensor[0] if tensor.dim() == 3 else tensor
    return tensor if inner.is_contiguous() else tensor.contiguous()


def _call(function, *arguments):
    """raises MemoryError. The interpreter is free for other threads meanwhile."""
    converted = []
    for argument in arguments:
        if isinstance(argument, ctypes.Structure):
            converted.append(ctypes.byref(argument))
        else:
            converted.append(ctypes.c_long(argument) if isinstance(argument, int) else ctypes.c_void_p(_pointer(argument)))
    if function(*converted):
        raise MemoryError(f"no memory for {SOURCE.name}")
