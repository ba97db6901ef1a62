"""Building blocks: fully connected layers with layer norm, and the LSTM ray marcher.

Module and attribute names are part of the checkpoint format: they give the published state-dict keys.
"""

import functools

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import geometry
from kernels import fused

INITIAL_DEPTH = 0.05  # of every ray, in world units
AIMED_WEIGHT_SCALE = 0.1  # on the initial step lengths' dependence on the features, see RayMarcher.aim_at
GRADIENT_LIMIT = 10.0  # on the marcher's hidden state


def init_linear(module):
    """Kaiming-normal weights for every linear layer (fan-in, ReLU gain); biases keep PyTorch's default."""
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


class FCLayer(nn.Module):
    """Linear, layer norm with learned scale and shift, ReLU. (..., in_features) -> (..., out_features)."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(in_features, out_features), nn.LayerNorm(out_features), nn.ReLU(inplace=True))

    def forward(self, x):
        return self.net(x)


class FCBlock(nn.Module):
    """`num_hidden_layers` FCLayers of one width, then a plain linear layer to `out_features`.

    Without `out_features` the block ends with its last hidden layer.
    """

    def __init__(self, in_features, hidden_features, num_hidden_layers, out_features=None):
        super().__init__()
        widths = [in_features] + [hidden_features] * num_hidden_layers
        layers = [FCLayer(*pair) for pair in zip(widths, widths[1:])]
        if out_features is not None:
            layers.append(nn.Linear(hidden_features, out_features))
        self.net = nn.Sequential(*layers)
        self.num_hidden_layers, self.width = num_hidden_layers, hidden_features
        self.apply(init_linear)

    def stack(self):
        """The hidden layers, for `fused`."""
        hidden = [layer.net for layer in self.net[: self.num_hidden_layers]]
        return [(linear.weight, linear.bias, norm.weight, norm.bias) for linear, norm, _ in hidden]

    def forward(self, x):
        if not fused.suits(x, self.width):
            return self.net(x)
        hidden = fused.layers(x.reshape(1, -1, x.shape[-1]), self.stack()).view(*x.shape[:-1], self.width)
        return self.net[self.num_hidden_layers :](hidden)


class RayMarcher(nn.Module):
    """Finds the surface along each ray: an LSTM reads phi at the current point and predicts the next step.

    SRN paper, section 3.2, algorithm 1. One LSTM state per ray, shared weights.
    """

    def __init__(self, feature_channels, hidden_channels=16, num_steps=10):
        super().__init__()
        self.num_steps = num_steps
        self.initial_depth_std = 0.0  # SRN 2019 trained with 5e-4; see `march`
        self.checkpoint_steps = False  # keep no activations of a step, compute them again when gradients need them
        self.lstm = nn.LSTMCell(feature_channels, hidden_channels)
        self.out_layer = nn.Linear(hidden_channels, 1)

        init_linear(self.out_layer)
        input_gate_end, forget_gate_end = hidden_channels, 2 * hidden_channels
        with torch.no_grad():
            self.lstm.bias_ih[input_gate_end:forget_gate_end] = 1
            self.lstm.bias_hh[input_gate_end:forget_gate_end] = 1

    def aim_at(self, distance):
        """Start training with rays that end at about this distance, in world units.

        The published initialisation leaves them near the camera, where phi has nothing to learn from several views,
        and training spends its first thousands of steps on a plateau.
        """
        with torch.no_grad():
            self.out_layer.weight *= AIMED_WEIGHT_SCALE
            self.out_layer.bias.fill_((distance - INITIAL_DEPTH) / self.num_steps)

    def forward(self, phi, uv, cam2world, intrinsics, initial_depth=None):
        """March the rays through pixels, see `march`. uv (B, R, 2), cam2world (B, 4, 4), intrinsics (B, 3, 3)."""
        return self.march(phi, geometry.cast(uv, cam2world, intrinsics), initial_depth)

    def march(self, phi, rays, initial_depth=None):
        """March `num_steps` steps from depth 0.05; in training, from about there where `initial_depth_std` is set.

        phi:    callable, (B, R, 3) world-space points -> (B, R, C) features
        rays:   geometry.Rays of B x R rays
        initial_depth: (B, R, 1), to start from depths of one's own
        returns points (B, R, 3) in world space, and the depth after each step (S, B, R, 1)
        """
        if initial_depth is None:
            initial_depth = self.draw_initial_depth(rays.depth_per_length)
        distance = initial_depth / rays.depth_per_length  # (B, R, 1) along the ray
        if self.is_fused(phi, rays, distance):
            distances = fused.march(rays, distance, phi.stack(), self.lstm, self.out_layer, self.num_steps, GRADIENT_LIMIT)
            return rays.at(distances[-1]), distances * rays.depth_per_length
        hidden = cell = distance.new_zeros(distance.numel(), self.lstm.hidden_size)
        step = self.step
        if self.checkpoint_steps and torch.is_grad_enabled():
            step = functools.partial(checkpoint, self.step, use_reentrant=False)
        depths = []
        for _ in range(self.num_steps):
            distance, hidden, cell = step(phi, rays, distance, hidden, cell)
            depths.append(distance * rays.depth_per_length)
        return rays.at(distance), torch.stack(depths)

    def is_fused(self, phi, rays, distance):
        """Whether `fused` is to march: it has to know phi from the inside, and it keeps all activations."""
        needs_gradient = any(x.requires_grad for x in (*rays, distance))
        keeps_too_much = self.checkpoint_steps and torch.is_grad_enabled()
        return (
            hasattr(phi, "stack")
            and not needs_gradient
            and not keeps_too_much
            and fused.suits(distance, phi.width, self.lstm.hidden_size)
        )

    def draw_initial_depth(self, like):
        """Depths, in the shape of `like`, at which rays start: 0.05 and, in training, the noise of `initial_depth_std`."""
        depth = torch.full_like(like, INITIAL_DEPTH)
        if self.training and self.initial_depth_std:
            depth = depth + self.initial_depth_std * torch.randn_like(depth)
        return depth

    def step(self, phi, rays, distance, hidden, cell):
        """One step of every ray. distance (B, R, 1), LSTM state hidden, cell (B * R, H) each -> the same after the step."""
        features = phi(rays.at(distance))
        with without_autocast(features):  # the state adds up over the steps, and so do its rounding errors
            hidden, cell = self.lstm(features.flatten(0, 1).to(hidden), (hidden, cell))
            hidden = LimitGradient.apply(hidden)
            return distance + self.out_layer(hidden).view_as(distance), hidden, cell


class LimitGradient(torch.autograd.Function):
    """The identity; the gradient that comes back is clamped."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return limit_gradient(gradient)


def limit_gradient(gradient):
    return gradient.clamp(-GRADIENT_LIMIT, GRADIENT_LIMIT)


def without_autocast(x):
    """A context without autocast on the device of x, for what lower precision would spoil."""
    return torch.autocast(x.device.type, enabled=False)
