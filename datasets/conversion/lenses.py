"""Cameras with lens distortion, and the pictures they would have taken without it.

A set of photographs may come with distortion, with two focal lengths, or with a camera per view; our layout has one
pinhole camera for all views of an instance. Here centres of pixels are at (column + 0.5, row + 0.5).
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

import data_util
import util

TOLERANCE = 0.01  # pixels: where a camera without distortion differs by less, pictures are left as they are


@dataclass(frozen=True)
class Lens:
    """A perspective camera with OpenCV's distortion, in pixels of a height x width image."""

    fl_x: float
    fl_y: float
    cx: float
    cy: float
    height: int
    width: int
    k1: float = 0.0  # k: radial, k4 to k6 in the denominator; p: tangential
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0
    k3: float = 0.0
    k4: float = 0.0
    k5: float = 0.0
    k6: float = 0.0

    def stretch(self, squared_radius):
        """By how much the lens moves points away from the axis, a factor."""
        r2 = squared_radius
        numerator = 1 + r2 * (self.k1 + r2 * (self.k2 + r2 * self.k3))
        return numerator / (1 + r2 * (self.k4 + r2 * (self.k5 + r2 * self.k6)))

    def project(self, x, y):
        """Points (x, y, 1) in front of the camera, arrays of one shape, to u and v in pixels."""
        r2 = x * x + y * y
        stretch = self.stretch(r2)
        u = self.fl_x * (x * stretch + 2 * self.p1 * x * y + self.p2 * (r2 + 2 * x * x)) + self.cx
        v = self.fl_y * (y * stretch + self.p1 * (r2 + 2 * y * y) + 2 * self.p2 * x * y) + self.cy
        return u, v

    def largest_radius(self, limit):
        """Up to which distance from the axis, at most `limit`, the polynomial is a lens: beyond it folds back."""
        radius = np.linspace(0, limit, 1000)
        with np.errstate(all="ignore"):
            folds = np.flatnonzero(~(np.diff(radius * self.stretch(radius**2)) > 0))
        return radius[folds[0]] if len(folds) else limit


def common_camera(lenses):
    """data_util.Intrinsics of the pinhole camera that pictures through these lenses are resampled to.

    It is the lens itself where all are the same one without distortion. Otherwise it has the median focal length, the
    largest height and width, and the median offset of the principal point from the middle.
    """
    lenses = list(lenses)
    first = lenses[0]
    camera = data_util.Intrinsics(first.fl_x, first.cx, first.cy, first.height, first.width)
    if not any(needs_resampling(lens, camera) for lens in set(lenses)):
        return camera
    height, width = max(lens.height for lens in lenses), max(lens.width for lens in lenses)
    return data_util.Intrinsics(
        focal=float(np.median([(lens.fl_x + lens.fl_y) / 2 for lens in lenses])),
        cx=width / 2 + float(np.median([lens.cx - lens.width / 2 for lens in lenses])),
        cy=height / 2 + float(np.median([lens.cy - lens.height / 2 for lens in lenses])),
        height=height,
        width=width,
    )


def needs_resampling(lens, camera):
    """Whether a picture through `lens` differs from one by the pinhole `camera` by more than TOLERANCE anywhere."""
    if (lens.height, lens.width) != (camera.height, camera.width):
        return True
    v, u = np.meshgrid(np.linspace(0, camera.height, 17), np.linspace(0, camera.width, 17), indexing="ij")
    source_u, source_v = lens.project(*_on_unit_plane(u, v, camera))
    return not max(np.abs(source_u - u).max(), np.abs(source_v - v).max()) <= TOLERANCE


def resample_image(image, lens, camera):
    """The picture that the pinhole `camera` would have taken, given one through `lens`.

    image: (H, W, C) uint8, C = 3, or 4 with alpha; returns (camera.height, camera.width, C) uint8. What the lens did
    not see becomes transparent: where there is such a pixel, C is 4.
    """
    image = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255  # (1, C, H, W)
    alpha = image[:, 3:] if image.shape[1] == 4 else torch.ones_like(image[:, :1])
    source = torch.cat([image[:, :3] * alpha, alpha], dim=1)
    finer = max(1, math.ceil(max(lens.fl_x, lens.fl_y) / camera.focal - 0.1))  # several rays a pixel where it shrinks
    steps = [(step + 0.5) / finer for step in range(finer)]
    total = 0
    for offset in [(along_u, along_v) for along_v in steps for along_u in steps]:
        u, v, inside = _positions(lens, camera, offset)
        grid = np.stack([2 * u / lens.width - 1, 2 * v / lens.height - 1], axis=-1).astype(np.float32)
        found = F.grid_sample(source, torch.from_numpy(grid)[None], padding_mode="border", align_corners=False)
        total = total + found[0] * torch.from_numpy(inside)
    colour, alpha = total[:3], total[3:] / finer**2
    colour = colour / total[3:].clamp_min(1e-6)
    opaque = image.shape[1] == 3 and bool((alpha > 1 - 1e-4).all())
    result = colour if opaque else torch.cat([colour, alpha])
    return (255 * result.clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0).numpy()


def resample_labels(labels, lens, camera):
    """The same of a label map (H, W), nearest neighbour; what the lens did not see becomes util.UNLABELLED."""
    u, v, inside = _positions(lens, camera, (0.5, 0.5))
    columns = np.clip(np.floor(u), 0, lens.width - 1).astype(int)
    rows = np.clip(np.floor(v), 0, lens.height - 1).astype(int)
    return np.where(inside, labels[rows, columns], util.UNLABELLED)


@functools.lru_cache(maxsize=1)  # views in a row mostly share their lens
def _positions(lens, camera, offset):
    """Where the rays of the camera's pixels meet the picture through `lens`: u, v in pixels, and whether they do at all.

    offset: of the rays within their pixels, from 0 to 1 along u and v. All three are (camera.height, camera.width).
    """
    v, u = np.meshgrid(np.arange(camera.height) + offset[1], np.arange(camera.width) + offset[0], indexing="ij")
    x, y = _on_unit_plane(u, v, camera)
    radius = np.hypot(x, y)
    reach = radius.max() * (1 + 1e-6)
    within = radius <= lens.largest_radius(reach)
    u, v = lens.project(x, y)
    inside = within & (u >= 0) & (u <= lens.width) & (v >= 0) & (v <= lens.height)
    return np.where(inside, u, 0), np.where(inside, v, 0), inside


def _on_unit_plane(u, v, camera):
    return (u - camera.cx) / camera.focal, (v - camera.cy) / camera.focal
