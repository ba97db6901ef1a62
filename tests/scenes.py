"""Writes a tiny class folder: shaded balls of several sizes and colours on a transparent background."""

import json
import math
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch

import data_util
import geometry

SIDE = 16  # of the images; the segmentation U-Net needs a multiple of 16
CLASS_LIST = "0 background\n1 upper half\n2 lower half\n"
DISTANCE, FOCAL = 1.3, 1.2  # of the cameras from the ball's centre; in units of the image side


def composed_image(path, sidelength=None, blend_alpha=False):
    """An image file as the models see it: rgba (S, S, 4) float32 in [-1, 1], and its foreground (S, S) bool."""
    rgba, foreground = data_util.load_image(path, sidelength, blend_alpha)
    return data_util.compose(rgba, blend_alpha) if rgba.dtype == np.uint8 else rgba, foreground


def camera_to_world(points, cam2world):
    """Camera-space points (..., R, 3) to world space, given cam2world (..., 4, 4)."""
    return geometry.transform(points, cam2world[..., :3, :3]) + geometry.camera_centre(cam2world)


def load_pose(path, is_world2cam=False):
    """One pose file as cam2world (4, 4) float32."""
    return data_util.load_poses([path], is_world2cam)[0]


def paths_of(instance, kind):
    """The files of all views of a dataio.Instance. kind: such as "rgb"."""
    return [Path(instance.path(kind, view)) for view in range(len(instance.views))]


def write_split(root, names=("ball_a", "ball_b"), num_views=4, side=SIDE, pixel_center=0.5, first_view=0):
    """Write the instances `names` into a split folder, with the class list and dataset.json beside it.

    first_view: shifts the views around the ball, so that another value gives other views of the same objects
    returns the split folder
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    (root.parent / f"{root.parent.name}-level-1.txt").write_text(CLASS_LIST)
    (root.parent / "dataset.json").write_text(json.dumps({"pixel_center": pixel_center}))
    for name in names:
        for kind in ("rgb", "seg", "pose"):
            (root / name / kind).mkdir(parents=True)
        focal, centre = FOCAL * side, side / 2
        (root / name / "intrinsics.txt").write_text(f"{focal} {centre} {centre} 0.\n0. 0. 0.\n1.\n{side} {side}\n")
        for view in range(num_views):
            azimuth_deg, elevation_deg = 137.5 * (first_view + view), 60.0 * math.sin(1 + first_view + view)
            cam2world = geometry.look_at(geometry.on_sphere(torch.tensor(azimuth_deg), torch.tensor(elevation_deg), DISTANCE))
            rgba, seg_labels = ball(cam2world, side, pixel_center, seed=sum(map(ord, name)))
            iio.imwrite(root / name / "rgb" / f"{view:06d}.png", rgba)
            np.save(root / name / "seg" / f"{view:06d}.npy", seg_labels)
            np.savetxt(root / name / "pose" / f"{view:06d}.txt", cam2world.numpy())
    return root


def ball(cam2world, side, pixel_center, seed):
    """One view of a ball at the origin: (side, side, 4) uint8 and (side, side) uint8 labels."""
    rng = np.random.default_rng(seed)
    radius, colour = rng.uniform(0.3, 0.45), rng.uniform(0.3, 1, size=3)
    intrinsics = torch.tensor([[FOCAL * side, 0, side / 2], [0, FOCAL * side, side / 2], [0, 0, 1]])
    directions, _ = geometry.rays(geometry.pixel_grid(side, side, pixel_center), cam2world, intrinsics)
    eye, directions = cam2world[:3, 3].numpy(), directions.numpy()
    along = -directions @ eye
    inside = radius**2 - (eye @ eye - along**2)
    hit = inside > 0
    normals = (eye + (along - np.sqrt(inside.clip(0)))[:, None] * directions) / radius
    rgb = (0.6 + 0.4 * normals[:, 2:]) * colour * hit[:, None]
    rgba = np.concatenate([rgb, hit[:, None]], axis=1)
    seg_labels = np.where(hit, np.where(normals[:, 2] > 0, 1, 2), 0)
    return (rgba * 255).round().astype(np.uint8).reshape(side, side, 4), seg_labels.astype(np.uint8).reshape(side, side)


def train_options(split, logging_root, log_dir, **options):
    """Arguments of train.main: two steps of a tiny SRN. `options` override these; None omits an option, True is a flag."""
    options = {
        "data_root": split,
        "obj_name": "Ball",
        "logging_root": logging_root,
        "log_dir": log_dir,
        "device": "cpu",
        "img_sidelengths": SIDE,
        "max_steps_per_img_sidelength": 2,
        "batch_size_per_img_sidelength": 2,
        "embedding_size": 8,
        "hidden_features": 16,
        "tracing_steps": 3,
    } | options
    return as_arguments(options)


def test_options(split, logging_root, log_dir, checkpoint=None, **options):
    """Arguments of test.main that match `train_options`."""
    options = {
        "data_root": split,
        "obj_name": "Ball",
        "logging_root": logging_root,
        "log_dir": log_dir,
        "checkpoint_path": checkpoint,
        "device": "cpu",
        "img_sidelength": SIDE,
    } | options
    return as_arguments(options)


def as_arguments(options):
    arguments = []
    for name, value in options.items():
        if value is not None:
            arguments += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return arguments
