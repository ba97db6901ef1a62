"""The layers and the march in plain PyTorch, for every device and precision. Other backends compute the same.

See `backends` for the arguments.
"""

import functools

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint


def layers(x, stack, reads_points=False):
    if stack[0][0].dim() == 3 and len(stack[0][0]) == 1:  # one matrix product for all views, with the bias in the same kernel
        stack = [(weight[0], bias[0, 0], scale, shift) for weight, bias, scale, shift in stack]
    if reads_points:
        with torch.autocast(x.device.type, enabled=False):  # bfloat16 is too coarse for coordinates
            x = _layer(x, *stack[0])
        stack = stack[1:]
    for tensors in stack:
        x = _layer(x, *tensors)
    return x


def _layer(x, weight, bias, scale, shift):
    x = torch.baddbmm(bias, x, weight.transpose(1, 2)) if weight.dim() == 3 else F.linear(x, weight, bias)
    return F.relu(F.layer_norm(x, x.shape[-1:], scale, shift), inplace=True)


def march(phi, rays, start, marcher):
    hidden = cell = start.new_zeros(start.numel(), marcher.lstm.hidden_size)
    one_step = marcher.compiled_step or step
    if marcher.checkpoint_steps and torch.is_grad_enabled():
        one_step = functools.partial(checkpoint, one_step, use_reentrant=False)
    distance, distances = start, []
    for _ in range(marcher.num_steps):
        distance, hidden, cell = one_step(
            phi, rays, marcher.lstm, marcher.out_layer, marcher.gradient_limit, distance, hidden, cell
        )
        distances.append(distance)
    return torch.stack(distances)


def step(phi, rays, lstm, out_layer, gradient_limit, distance, hidden, cell):
    """One step of every ray: distance (B, R, 1), LSTM state hidden, cell (B * R, H) each -> the same after the step."""
    features = phi(rays.at(distance))
    with torch.autocast(features.device.type, enabled=False):  # the state sums up rounding errors over the steps
        hidden, cell = lstm(features.flatten(0, 1).to(hidden), (hidden, cell))
        hidden = LimitGradient.apply(hidden, gradient_limit)
        return distance + out_layer(hidden).view_as(distance), hidden, cell


class LimitGradient(torch.autograd.Function):
    """The identity, whose gradient is clamped to [-limit, limit]."""

    @staticmethod
    def forward(ctx, x, limit):
        ctx.limit = limit
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.clamp(-ctx.limit, ctx.limit), None
