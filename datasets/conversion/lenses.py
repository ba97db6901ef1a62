"""Cameras with lens distortion, and resampling of their images to a pinhole camera.

Photographs may have distortion, two focal lengths, or a camera per view; an instance folder has one pinhole camera for
all views. Pixel centres are at (column + 0.5, row + 0.5).
"""

import functools
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

import data_util
import util

TOLERANCE = 0.01  # pixels; images that would move by less are not resampled


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
        """Factor by which the radial distortion moves points away from the axis."""
        r2 = squared_radius
        numerator = 1 + r2 * (self.k1 + r2 * (self.k2 + r2 * self.k3))
        return numerator / (1 + r2 * (self.k4 + r2 * (self.k5 + r2 * self.k6)))

    def project(self, x, y):
        """Pixel coordinates u, v of points (x, y, 1) in camera space; x and y are arrays of one shape."""
        r2 = x * x + y * y
        stretch = self.stretch(r2)
        u = self.fl_x * (x * stretch + 2 * self.p1 * x * y + self.p2 * (r2 + 2 * x * x)) + self.cx
        v = self.fl_y * (y * stretch + self.p1 * (r2 + 2 * y * y) + 2 * self.p2 * x * y) + self.cy
        return u, v

    def largest_radius(self, limit):
        """Distance from the axis, at most `limit`, where the radial distortion stops growing: beyond it images fold back."""
        radius = np.linspace(0, limit, 1000)
        with np.errstate(all="ignore"):
            folds = np.flatnonzero(~(np.diff(radius * self.stretch(radius**2)) > 0))
        return radius[folds[0]] if len(folds) else limit


def common_camera(lenses):
    """data_util.Intrinsics of the pinhole camera for the images of a list of lenses.

    Equal lenses without distortion are kept. Otherwise the camera has the median focal length, the largest height and
    width, and the median offset of the principal point from the image centre.
    """
    first = lenses[0]
    camera = data_util.Intrinsics(first.fl_x, first.cx, first.cy, first.height, first.width)
    if not any(needs_resampling(lens, camera) for lens in set(lenses)):
        return camera
    height, width = max(lens.height for lens in lenses), max(lens.width for lens in lenses)
    focal = float(np.median([(lens.fl_x + lens.fl_y) / 2 for lens in lenses]))
    cx = width / 2 + float(np.median([lens.cx - lens.width / 2 for lens in lenses]))
    cy = height / 2 + float(np.median([lens.cy - lens.height / 2 for lens in lenses]))
    return data_util.Intrinsics(focal, cx, cy, height, width)


def needs_resampling(lens, camera):
    """Whether `lens` and the pinhole `camera` differ by more than TOLERANCE anywhere in the image."""
    if (lens.height, lens.width) != (camera.height, camera.width):
        return True
    v, u = np.meshgrid(np.linspace(0, camera.height, 17), np.linspace(0, camera.width, 17), indexing="ij")
    source_u, source_v = lens.project(*_on_unit_plane(u, v, camera))
    return not max(np.abs(source_u - u).max(), np.abs(source_v - v).max()) <= TOLERANCE


def resample_image(image, lens, camera):
    """Resamples an image taken through `lens` to the pinhole `camera`.

    image:   (H, W, C) uint8, C is 3, or 4 with alpha
    returns  (camera.height, camera.width, C) uint8. Pixels that the lens did not see are transparent; C is 4 if there are
             such pixels
    """
    image = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255  # (1, C, H, W)
    alpha = image[:, 3:] if image.shape[1] == 4 else torch.ones_like(image[:, :1])
    source = torch.cat([image[:, :3] * alpha, alpha], dim=1)  # transparent pixels have no colour to blend
    finer = max(1, math.ceil(max(lens.fl_x, lens.fl_y) / camera.focal - 0.1))  # several rays a pixel if the image shrinks
    steps = [(step + 0.5) / finer for step in range(finer)]
    total = 0
    for offset in itertools.product(steps, steps):
        u, v, inside = _positions(lens, camera, offset)
        grid = np.stack([2 * u / lens.width - 1, 2 * v / lens.height - 1], axis=-1).astype(np.float32)
        # 2.6 times as fast as scipy's map_coordinates at 3000 x 2000 on two cores
        found = F.grid_sample(source, torch.from_numpy(grid)[None], padding_mode="border", align_corners=False)
        total = total + found[0] * torch.from_numpy(inside)
    colour, alpha = total[:3], total[3:] / finer**2
    colour = colour / total[3:].clamp_min(1e-6)
    opaque = image.shape[1] == 3 and bool((alpha > 1 - 1e-4).all())
    result = colour if opaque else torch.cat([colour, alpha])
    return (255 * result.clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0).numpy()


def resample_labels(labels, lens, camera):
    """Resamples a label map (H, W) by nearest neighbour; pixels that the lens did not see become util.UNLABELLED."""
    u, v, inside = _positions(lens, camera, (0.5, 0.5))
    columns = np.clip(np.floor(u), 0, lens.width - 1).astype(int)
    rows = np.clip(np.floor(v), 0, lens.height - 1).astype(int)
    return np.where(inside, labels[rows, columns], util.UNLABELLED)


@functools.lru_cache(maxsize=1)  # consecutive views mostly share their lens
def _positions(lens, camera, offset):
    """u, v in pixels of the image taken through `lens`, for each pixel of the camera, and whether they lie in the image.

    offset: position in the camera's pixels, from 0 to 1 along u and v
    returns three arrays (camera.height, camera.width)
    """
    v, u = np.meshgrid(np.arange(camera.height) + offset[1], np.arange(camera.width) + offset[0], indexing="ij")
    x, y = _on_unit_plane(u, v, camera)
    radius = np.hypot(x, y)
    within = radius <= lens.largest_radius(radius.max() * (1 + 1e-6))
    u, v = lens.project(x, y)
    inside = within & (u >= 0) & (u <= lens.width) & (v >= 0) & (v <= lens.height)
    return np.where(inside, u, 0), np.where(inside, v, 0), inside


def _on_unit_plane(u, v, camera):
    return (u - camera.cx) / camera.focal, (v - camera.cy) / camera.focal
