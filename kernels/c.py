"""The layers and the march in C, for one thread of a CPU in float32: calls `kernels.c`. See `backends` for the arguments."""

import ctypes
from pathlib import Path

import torch
from torch.autograd.function import once_differentiable

from kernels.encoding import Encoding

SOURCE = Path(__file__).with_name("kernels.c")
WIDTHS = 16  # every width is a multiple of it
MAX_LAYERS = 16  # as in kernels.c
COLUMNS = 32  # of the widest tile that kernels.c writes
NUM_OWN = 4  # tensors of the marcher itself


def layers(library, x, stack):
    rows, tensors = _by_instance(x, stack).contiguous(), _tensors(stack)
    y = _Layers.apply(library, rows, _needs_gradient(rows, *tensors), len(stack), *tensors)
    return y.view(*x.shape[:-1], y.shape[-1])


def march(library, stack, encoding, rays, start, marcher):
    origin, direction, begin = (
        _by_instance(x.expand(*start.shape[:2], -1), stack).contiguous() for x in (rays.origin, rays.direction, start)
    )
    lstm, out_layer = marcher.lstm, marcher.out_layer
    weight = torch.cat([lstm.weight_ih, lstm.weight_hh], dim=1)
    tensors = [weight, lstm.bias_ih + lstm.bias_hh, out_layer.weight, out_layer.bias, *_tensors(stack)]
    settings = library, marcher.num_steps, marcher.gradient_limit, _needs_gradient(*tensors), len(stack), encoding
    distances = _March.apply(origin, direction, begin.squeeze(-1), settings, *tensors)
    return distances.view(marcher.num_steps, *start.shape)


def _needs_gradient(*tensors):
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _by_instance(x, stack):
    """x as (instances, rows, channels): one instance unless there are weights of several."""
    weight = stack[0][0]
    return x.reshape(1, -1, x.shape[-1]) if weight.dim() == 2 or len(weight) == 1 else x


def _tensors(stack):
    """The tensors of a stack: all weights, all biases, then scales and shifts if there are any."""
    return [tensor for kind in zip(*stack) for tensor in kind if tensor is not None]


class _Layers(torch.autograd.Function):
    @staticmethod
    def forward(ctx, library, x, needs_gradient, num_layers, *tensors):
        stack = _Stack(x.shape[-1], tensors, num_layers)
        kept = stack.keep(x, *x.shape[:2]) if needs_gradient else ()
        y = x.new_empty(*x.shape[:2], stack.width)
        _call(library.layers_forward, stack, *x.shape[:2], x, y)
        ctx.library, ctx.num_layers, ctx.num_kept = library, num_layers, len(kept)
        ctx.save_for_backward(x, *kept, *tensors)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, y_gradient):
        x, *saved = ctx.saved_tensors
        kept, tensors = saved[: ctx.num_kept], saved[ctx.num_kept :]
        stack = _Stack(x.shape[-1], tensors, ctx.num_layers)
        stack.put_kept(*kept)
        gradients = stack.put_gradients(ctx.needs_input_grad[4:])
        x_gradient = torch.empty_like(x) if ctx.needs_input_grad[1] else None
        _call(ctx.library.layers_backward, stack, *x.shape[:2], x, y_gradient.contiguous(), x_gradient)
        return None, x_gradient, None, None, *gradients


class _March(torch.autograd.Function):
    @staticmethod
    def forward(ctx, origin, direction, start, settings, *tensors):
        library, num_steps, limit, needs_gradient, num_layers, encoding = ctx.settings = settings
        own, tensors = tensors[:NUM_OWN], tensors[NUM_OWN:]
        marcher = _Marcher(own, num_steps, limit)
        stack = _Stack(encoding.width, tensors, num_layers, marcher.hidden, encoding)
        kept = ()
        if needs_gradient:
            sizes = num_steps, *start.shape
            kept = *stack.keep(start, *sizes), *marcher.keep(start, *sizes)
        distance = start.new_empty(num_steps, *start.shape)
        _call(library.march_forward, stack, marcher, *start.shape, origin, direction, start, distance)
        ctx.save_for_backward(origin, direction, start, distance, *kept, *own, *tensors)
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx, distance_gradient):
        library, num_steps, limit, _, num_layers, encoding = ctx.settings
        origin, direction, start, distance, *saved = ctx.saved_tensors
        (normalised, inverse, *state), own, tensors = saved[:4], saved[4 : 4 + NUM_OWN], saved[4 + NUM_OWN :]
        marcher = _Marcher(own, num_steps, limit)
        stack = _Stack(encoding.width, tensors, num_layers, marcher.hidden, encoding)
        stack.put_kept(normalised, inverse)
        marcher.put_kept(*state)
        wanted = ctx.needs_input_grad[4:]
        own_gradients = marcher.put_gradients(wanted[:NUM_OWN], stack.line)
        gradients = stack.put_gradients(wanted[NUM_OWN:])
        rays = origin, direction, start, distance, distance_gradient.contiguous()
        _call(library.march_backward, stack, marcher, *start.shape, *rays)
        return None, None, None, None, *own_gradients, *gradients


class _Layer(ctypes.Structure):
    """As in kernels.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "bias")),
        *((name, ctypes.c_long) for name in ("inputs", "weight_step", "bias_step")),
        *((name, ctypes.c_void_p) for name in ("scale", "shift", "normalised", "inverse")),
        *((f"{name}_gradient", ctypes.c_void_p) for name in ("weight", "bias", "scale", "shift")),
    ]


class _Stack(ctypes.Structure):
    """As in kernels.c. tensors: see `_tensors`; num_beside: columns that C keeps beside the features of a row."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("width", "num_layers", "line")),
        ("layers", ctypes.POINTER(_Layer)),
        ("octaves", ctypes.c_long),
        ("frequency", ctypes.c_float),
    ]

    KINDS = ("weight", "bias", "scale", "shift")

    def __init__(self, inputs, tensors, num_layers, num_beside=0, encoding=Encoding()):
        self.tensors = [_rows_in_order(tensor) for tensor in tensors]
        self.each = (_Layer * num_layers)()
        width = tensors[0].shape[-2]
        columns = -max(inputs, width + num_beside) // COLUMNS * -COLUMNS
        super().__init__(width, num_layers, columns + COLUMNS // 2, self.each, encoding.num_octaves, encoding.frequency)
        self.put("", self.tensors)
        for i, layer in enumerate(self.each):
            layer.inputs = width if i else inputs
        for i, tensor in enumerate(self.tensors[: 2 * num_layers] if tensors[0].dim() == 3 else ()):
            setattr(self.each[i % num_layers], f"{self.KINDS[i // num_layers]}_step", tensor.stride(0))

    def put(self, suffix, tensors):
        for i, tensor in enumerate(tensors):
            setattr(self.each[i % self.num_layers], self.KINDS[i // self.num_layers] + suffix, tensor.data_ptr())

    def keep(self, like, *places):
        """Room for what the backward pass needs, of `places` rows."""
        kept = like.new_empty(self.num_layers, *places, self.width), like.new_empty(self.num_layers, *places)
        self.put_kept(*kept)
        return kept

    def put_kept(self, normalised, inverse):
        for layer, of_layer, inverse_of_layer in zip(self.each, normalised, inverse):
            layer.normalised, layer.inverse = of_layer.data_ptr(), inverse_of_layer.data_ptr()

    def put_gradients(self, wanted):
        """Zeros that C adds gradients to, None if not wanted. C computes those of all tensors or of none."""
        if not any(wanted):
            return [None] * len(wanted)
        weights, others = self.tensors[: self.num_layers], self.tensors[self.num_layers :]
        gradients = [_gradient_of(weight, self.line) for weight in weights]
        gradients += [torch.zeros_like(tensor, memory_format=torch.contiguous_format) for tensor in others]
        self.put("_gradient", gradients)
        return [gradient if is_wanted else None for gradient, is_wanted in zip(gradients, wanted)]


class _Marcher(ctypes.Structure):
    """As in kernels.c. own: weight and bias of the gates, weight and bias of the length of a step."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("hidden", "steps")),
        ("limit", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "out_weight", "out_bias", "gates", "cell")),
        *((f"{name}_gradient", ctypes.c_void_p) for name in ("weight", "bias", "out_weight", "out_bias")),
    ]

    def __init__(self, own, num_steps, limit):
        self.own = own
        super().__init__(own[2].shape[1], num_steps, limit, *(tensor.data_ptr() for tensor in own))

    def keep(self, like, *places):
        kept = like.new_empty(*places, 4 * self.hidden), like.new_empty(*places, self.hidden)
        self.put_kept(*kept)
        return kept

    def put_kept(self, gates, cell):
        self.gates, self.cell = gates.data_ptr(), cell.data_ptr()

    def put_gradients(self, wanted, line):
        if not any(wanted):
            return [None] * len(wanted)
        gradients = [_gradient_of(self.own[0], line), *(torch.zeros_like(tensor) for tensor in self.own[1:])]
        for name, gradient in zip(("weight", "bias", "out_weight", "out_bias"), gradients):
            setattr(self, f"{name}_gradient", gradient.data_ptr())
        return [gradient if is_wanted else None for gradient, is_wanted in zip(gradients, wanted)]


def _gradient_of(weight, line):
    """Zeros in the shape of a weight, whose rows are `line` apart: C writes whole tiles."""
    return weight.new_zeros(*weight.shape[:-1], line)[..., : weight.shape[-1]]


def _rows_in_order(tensor):
    """The tensor with contiguous instances, as C reads them; the instances may be any distance apart."""
    inner = tensor[0] if tensor.dim() == 3 else tensor
    return tensor if inner.is_contiguous() else tensor.contiguous()


def _call(function, *arguments):
    """Call C, without the interpreter's lock. raises MemoryError"""
    converted = []
    for argument in arguments:
        if isinstance(argument, ctypes.Structure):
            converted.append(ctypes.byref(argument))
        elif isinstance(argument, int):
            converted.append(ctypes.c_long(argument))
        else:
            converted.append(ctypes.c_void_p(None if argument is None else argument.data_ptr()))
    if function(*converted):
        raise MemoryError(f"no memory for {SOURCE.name}")
