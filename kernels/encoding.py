"""Positional encoding of points: phi reads sines and cosines of the coordinates beside the coordinates themselves."""

import math
from typing import NamedTuple

import torch

MAX_OCTAVES = 16  # in float32, points of a unit scene have no finer digits


class Encoding(NamedTuple):
    """x -> (x, sin 2^k pi x / r, cos 2^k pi x / r), k < L, for a scene of radius r. With L = 0 it is the identity.

    Tancik et al., Fourier Features Let Networks Learn High Frequency Functions in Low Dimensional Domains, NeurIPS 2020.
    """

    num_octaves: int = 0
    radius: float = 1.0

    @property
    def width(self):
        """Numbers per point: 3 + 6 L."""
        return 3 + 6 * self.num_octaves

    @property
    def frequency(self):
        """Of the first octave, in radians per world unit."""
        return math.pi / self.radius

    def __call__(self, points):
        """World-space points (..., 3) -> (..., 3 + 6 L): x, then sin and cos of each octave, three axes each."""
        if not self.num_octaves:
            return points
        octaves = 2 ** torch.arange(self.num_octaves, device=points.device, dtype=points.dtype)
        angles = points.unsqueeze(-2) * (self.frequency * octaves).unsqueeze(-1)  # (..., L, 3)
        waves = torch.stack([angles.sin(), angles.cos()], dim=-2)  # (..., L, 2, 3)
        return torch.cat([points, waves.flatten(-3)], dim=-1)
