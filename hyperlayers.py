"""Hypernetworks: from a latent code to the weights of phi, one small MLP for each of phi's layers.

Module and attribute names are part of the checkpoint format: they give the published state-dict keys.
"""

import torch
from torch import nn

import custom_layers
from kernels import backends
from kernels.encoding import Encoding

OUTPUT_SCALE = 0.1  # on the initial weights of a hypernetwork's last layer


class Phi:
    """The scene function of M instances, R^3 -> R^C: linear, layer norm without scale and shift, ReLU, repeated.

    layers:   list of (weight (M, out, in), bias (M, 1, out))
    encoding: of the points that the first layer reads
    """

    def __init__(self, layers, encoding=Encoding()):
        self.layers, self.encoding = layers, encoding

    def __call__(self, points):
        """World-space points (B, R, 3) -> features (B, R, C). B is M, or anything where M is 1."""
        return backends.layers(self.encoding(points), self.stack(), reads_points=True)

    def all_layers(self, points):
        """As `__call__`, of every layer: a list of (B, R, C), the features last."""
        return custom_layers.all_layers(self.encoding(points), self.stack())

    def __len__(self):
        return len(self.layers[0][0])

    def stack(self):
        """The layers' tensors, see kernels.backends."""
        return [(weight, bias, None, None) for weight, bias in self.layers]

    def part(self, views):
        """Phi of a slice of the views, where B is M; itself where M is 1."""
        return self if len(self) == 1 else self.with_layers([(weight[views], bias[views]) for weight, bias in self.layers])

    def of_views(self, instance_of):
        """Phi with one instance per view: view i shows instance_of[i]. (B,) ascending, every instance occurs."""
        if len(self) in (1, len(instance_of)):
            return self
        # index_select sums gradients in the order of the views; with `[]` the order would vary
        return self.with_layers([[tensor.index_select(0, instance_of) for tensor in layer] for layer in self.layers])

    def with_layers(self, layers):
        """Phi with other layers and the same encoding."""
        return Phi(layers, self.encoding)


class HyperLinear(nn.Module):
    """Predicts weight and bias of one linear layer from a latent code, with an MLP of two hidden layers."""

    def __init__(self, latent_dim, hyper_features, in_features, out_features):
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        num_predicted = in_features * out_features + out_features
        self.hypo_params = custom_layers.FCBlock(latent_dim, hyper_features, 2, num_predicted)
        with torch.no_grad():
            self.hypo_params.net[-1].weight *= OUTPUT_SCALE

    def forward(self, z):
        """z (B, D) -> weight (B, out, in), bias (B, 1, out)."""
        predicted = self.hypo_params(z)
        weight, bias = predicted.split([self.in_features * self.out_features, self.out_features], dim=-1)
        return weight.unflatten(-1, (self.out_features, self.in_features)), bias.unsqueeze(1)


class HyperPhi(nn.Module):
    """The hypernetwork: latent code -> phi (SRN paper, section 3.3)."""

    def __init__(self, latent_dim=256, hyper_features=256, hidden_features=256, num_layers=4, encoding=Encoding()):
        super().__init__()
        self.encoding = encoding
        widths = [encoding.width] + [hidden_features] * num_layers
        hyper_linears = (HyperLinear(latent_dim, hyper_features, *pair) for pair in zip(widths, widths[1:]))
        self.layers = nn.ModuleList(nn.ModuleDict({"hyper_linear": hyper_linear}) for hyper_linear in hyper_linears)

    def forward(self, z):
        """z (B, D) -> Phi of B instances."""
        return Phi([layer.hyper_linear(z) for layer in self.layers], self.encoding)
