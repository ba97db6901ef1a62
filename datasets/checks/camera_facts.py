"""What is known of the cameras of an instance, as numbers and as text."""

import numpy as np
import torch

import geometry


def distances_of(poses):
    """Distances (V,) of cameras (V, 4, 4) from the point they look at."""
    return np.linalg.norm(poses[:, :3, 3] - target_of(poses), axis=1)


def target_of(poses):
    return geometry.viewing_target(torch.as_tensor(poses)).numpy()


def field_of_view(intrinsics):
    """The field of view of the whole image as text: one angle, or that of its width and that of its height."""
    sides = dict.fromkeys((intrinsics.width, intrinsics.height))
    return " x ".join(f"{np.rad2deg(2 * np.arctan(side / 2 / intrinsics.focal)):.1f}" for side in sides) + " degrees"


def facts_of(poses, intrinsics, pixel_center):
    """Pairs (quantity, value) of text on the cameras (V, 4, 4) of an instance, for `sheet`."""
    distances = distances_of(poses)
    low, mean, high = (f"{x:.3g}" for x in (distances.min(), distances.mean(), distances.max()))
    return [
        ("image", f"{intrinsics.width} x {intrinsics.height} pixels"),
        ("focal length", f"{intrinsics.focal:.4g} pixels"),
        ("field of view", field_of_view(intrinsics)),
        ("principal point", f"({intrinsics.cx:.4g}, {intrinsics.cy:.4g})"),
        ("camera to object", (mean if low == high else f"{mean} on average, {low} to {high}") + " world units"),
        ("rays go through", "(column + 0.5, row + 0.5)" if pixel_center else "(column, row), the published rule"),
    ]
