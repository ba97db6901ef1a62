"""Building blocks: fully connected layers with layer norm, and the LSTM ray marcher.

Module and attribute names are part of the checkpoint format: they give the published state-dict keys.
"""

import torch
from torch import nn

from kernels import backends

INITIAL_DEPTH = 0.05  # of every ray, in world units
AIMED_WEIGHT_SCALE = 0.1  # factor on the initial weights of the step length, see RayMarcher.aim_at
GRADIENT_LIMIT = 10.0  # on the gradient of the marcher's hidden state


def init_linear(module):
    """Kaiming-normal weights for every linear layer (fan-in, ReLU gain); biases keep PyTorch's default."""
    if isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


class FCLayer(nn.Module):
    """The parameters of one hidden layer: linear, layer norm with learned scale and shift, ReLU."""

    def __init__(self, in_features, out_features):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(in_features, out_features), nn.LayerNorm(out_features), nn.ReLU(inplace=True))

    def tensors(self):
        """weight (out, in), bias (out,), and scale and shift (out,) of the layer norm."""
        linear, norm, _ = self.net
        return linear.weight, linear.bias, norm.weight, norm.bias


class FCBlock(nn.Module):
    """Hidden layers of one width, then a linear layer: (..., in_features) -> (..., out_features).

    Without `out_features` the block ends with its last hidden layer.
    encoding: the block reads points with this encoding, in place of `in_features` numbers, as phi does
    """

    def __init__(self, in_features, hidden_features, num_hidden_layers, out_features=None, encoding=None):
        super().__init__()
        self.encoding = encoding
        if encoding is not None:
            in_features = encoding.width
        widths = [in_features] + [hidden_features] * num_hidden_layers
        layers = [FCLayer(*pair) for pair in zip(widths, widths[1:])]
        if out_features is not None:
            layers.append(nn.Linear(hidden_features, out_features))
        self.net = nn.Sequential(*layers)
        self.num_hidden_layers = num_hidden_layers
        self.apply(init_linear)

    def stack(self):
        """The tensors of the hidden layers, see kernels.backends."""
        return [layer.tensors() for layer in self.net[: self.num_hidden_layers]]

    def forward(self, x):
        reads_points = self.encoding is not None
        hidden = backends.layers(self.encoding(x) if reads_points else x, self.stack(), reads_points)
        return self.net[self.num_hidden_layers :](hidden)

    def all_layers(self, points):
        """Of points (..., 3), the features of every hidden layer, a list of (..., C)."""
        return all_layers(self.encoding(points), self.stack())


def all_layers(x, stack):
    """What each layer of a stack that reads encoded points x (..., I) computes: a list of (..., C). See kernels.backends."""
    found = []
    for layer in stack:
        x = backends.layers(x, [layer], reads_points=not found)
        found.append(x)
    return found


class RayMarcher(nn.Module):
    """Finds the surface along each ray: an LSTM reads phi at the current point and predicts the length of the next step.

    SRN paper, section 3.2, algorithm 1. Each ray has an LSTM state of its own; the weights are shared.
    """

    def __init__(self, feature_channels, hidden_channels=16, num_steps=10):
        super().__init__()
        self.num_steps = num_steps
        self.gradient_limit = GRADIENT_LIMIT
        self.initial_depth_std = 0.0  # SRN 2019 trained with 5e-4; see `march`
        self.checkpoint_steps = False  # keep no activations of a step, compute them again in the backward pass
        self.compiled_step = None  # see `compile_step`
        self.lstm = nn.LSTMCell(feature_channels, hidden_channels)
        self.out_layer = nn.Linear(hidden_channels, 1)

        init_linear(self.out_layer)
        input_gate_end, forget_gate_end = hidden_channels, 2 * hidden_channels
        with torch.no_grad():
            self.lstm.bias_ih[input_gate_end:forget_gate_end] = 1
            self.lstm.bias_hh[input_gate_end:forget_gate_end] = 1

    def aim_at(self, distance):
        """Let rays of an untrained model end at about this distance, in world units.

        The published initialisation leaves them near the camera, where several views give phi nothing to learn from, and
        training spends its first thousands of steps on a plateau.
        """
        with torch.no_grad():
            self.out_layer.weight *= AIMED_WEIGHT_SCALE
            self.out_layer.bias.fill_((distance - INITIAL_DEPTH) / self.num_steps)

    def march(self, phi, rays, initial_depth=None):
        """March `num_steps` steps from a depth of 0.05, with noise in training if `initial_depth_std` is set.

        phi:    callable, (B, R, 3) world-space points -> (B, R, C) features
        rays:   geometry.Rays of B x R rays
        initial_depth: (B, R, 1) starts from these depths instead
        returns points (B, R, 3) in world space, and the depth after each step (S, B, R, 1)
        """
        if initial_depth is None:
            initial_depth = self.draw_initial_depth(rays.depth_per_length)
        distance = initial_depth / rays.depth_per_length  # (B, R, 1) along the ray
        distances = backends.march(phi, rays, distance, self)
        return rays.at(distances[-1]), distances * rays.depth_per_length

    def compile_step(self):
        """Have torch.compile fuse the operations of a step. Results and state dict stay the same."""
        self.compiled_step = torch.compile(backends.step)

    def draw_initial_depth(self, like):
        """Start depths, in the shape of `like`: 0.05 plus, in training, noise of `initial_depth_std`."""
        depth = torch.full_like(like, INITIAL_DEPTH)
        if self.training and self.initial_depth_std:
            depth = depth + self.initial_depth_std * torch.randn_like(depth)
        return depth
