"""Cameras for rendering: random views of a part of the sphere, spirals, circles, poses from files.

All but the last look at the origin from the same distance. Elevations count from the horizon up, in degrees.
"""

from pathlib import Path

import numpy as np
import torch

import data_util
import geometry
import util

RIGID_TOLERANCE = 1e-3  # largest deviation of the rotation in a pose from an orthonormal matrix
FOCAL = 1.025  # focal length per side of the image, as in the published ShapeNet renders: 131.25 at 128 pixels
DISTANCE = 1.15  # of the cameras from the origin, so that an object with a diagonal of 1 just fits the image

BAND_DEG = (-10.0, 60.0)  # as people see furniture in a room
ELEVATION_DEG = {  # lowest and highest of each kind of views
    "band": BAND_DEG,
    "sphere": (-90.0, 90.0),
    "hemisphere": (0.0, 90.0),
    "spiral": BAND_DEG,
    "orbit": (25.0, 25.0),
}

FRONT_VIEW = 65  # the view of a spiral that one-shot reconstruction starts from
FRONT_AZIMUTH_DEG, FRONT_ELEVATION_DEG = 35.0, 25.0
SPIRAL_TURNS = 7  # keeps the views further apart than other numbers of turns


def cameras(kind, num_views, rng, elevation_deg=None, distance=DISTANCE):
    """cam2world (V, 4, 4) float32. kind: one of ELEVATION_DEG, or the path of a folder of pose files.

    elevation_deg: (lowest, highest) instead of the kind's own; an orbit runs halfway between them
    """
    if kind not in ELEVATION_DEG:
        return from_files(kind)
    elevation_deg = elevation_deg or ELEVATION_DEG[kind]
    if kind == "spiral":
        return spiral(num_views, elevation_deg, distance)
    if kind == "orbit":
        level_deg = np.full(num_views, sum(elevation_deg) / 2)
        return _looking_at_origin(np.arange(num_views) * 360 / num_views, level_deg, distance)
    return scattered(num_views, rng, elevation_deg, distance)


def scattered(num_views, rng, elevation_deg=BAND_DEG, distance=DISTANCE):
    """Random poses (V, 4, 4), uniform over the area of the sphere between two elevations."""
    low, high = np.sin(np.deg2rad(elevation_deg))
    elevation_deg = np.rad2deg(np.arcsin(rng.uniform(low, high, num_views)))
    return _looking_at_origin(rng.uniform(0, 360, num_views), elevation_deg, distance)


def spiral(num_views, elevation_deg=BAND_DEG, distance=DISTANCE):
    """Poses (V, 4, 4) on a closed spiral that rises and falls between two elevations, evenly by area.

    View FRONT_VIEW shows the object from the right of its front, slightly from above, for any number of views.
    """
    front = np.clip(FRONT_ELEVATION_DEG, *elevation_deg)
    low, high, front = np.sin(np.deg2rad([*elevation_deg, front]))
    progress = (np.arange(num_views) - FRONT_VIEW) / num_views
    share = (front - low) / (high - low) if high > low else 0.5
    phase = (progress + share / 2) % 1  # up in the first half, down in the second
    height = low + (high - low) * (1 - np.abs(2 * phase - 1))
    azimuth_deg = FRONT_AZIMUTH_DEG + 360 * SPIRAL_TURNS * progress
    return _looking_at_origin(azimuth_deg, np.rad2deg(np.arcsin(height)), distance)


def _looking_at_origin(azimuth_deg, elevation_deg, distance):
    azimuth_deg, elevation_deg = (torch.tensor(x, dtype=torch.float32) for x in (azimuth_deg, elevation_deg))
    return geometry.look_at(geometry.on_sphere(azimuth_deg, elevation_deg, distance))


def from_files(folder):
    """cam2world (V, 4, 4) of the pose files in a folder, such as pose/ of an instance, in sorted order."""
    paths = sorted(Path(folder).glob("*.txt"))
    if not paths:
        kinds = ", ".join(ELEVATION_DEG)
        raise util.InputError(f"{folder}: expected a kind of views ({kinds}) or a folder with pose files (000000.txt ...)")
    poses = data_util.load_poses(paths)
    for path, pose in zip(paths, poses):
        check_rigid(pose, path)
    return torch.from_numpy(poses)


def focal_of(fov_deg):
    """Focal length per side of a square image with this field of view."""
    return float(0.5 / np.tan(np.deg2rad(fov_deg) / 2))


def intrinsics_of(sidelength, focal=FOCAL):
    """(3, 3) float32 of a square image; `focal` is the focal length per side."""
    focal, centre = focal * sidelength, sidelength / 2
    return torch.tensor([[focal, 0, centre], [0, focal, centre], [0, 0, 1]], dtype=torch.float32)


def check_rigid(cam2world, source):
    """An InputError that names `source` unless the (4, 4) pose is a rotation and a translation, to RIGID_TOLERANCE."""
    rotation = cam2world[:3, :3]
    if not np.isfinite(cam2world).all():
        raise util.InputError(f"{source}: the pose holds a number that is not finite; correct the pose or remove the view")
    error = max(np.abs(rotation @ rotation.T - np.eye(3)).max(), np.abs(cam2world[3] - [0, 0, 0, 1]).max())
    if error > RIGID_TOLERANCE:
        expected = "expected orthogonal axes of length 1 in the first three columns and 0 0 0 1 as the last row"
        raise util.InputError(f"{source}: the pose is not rigid; {expected}")
    if np.linalg.det(rotation) < 0:
        raise util.InputError(f"{source}: the pose mirrors the scene (determinant -1); expected a rotation")
