"""One object in one split: from posed images to an instance folder."""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch

import data_util
import geometry
import util
from datasets.conversion import lenses, source_views


@dataclass
class NewInstance:
    """The views of one object in one split, and the instance folder they are to become."""

    options: Namespace  # of the command
    name: str
    folder: Path
    views: list  # of source_views.SourceView, in order
    faults: source_views.Faults
    num_classes: int
    camera: data_util.Intrinsics
    moved: str  # how the views' world was moved, or None
    num_written: int = 0  # views


def plan(options, name, views, num_classes, faults):
    """The NewInstances of an object, one for each of its splits that has views.

    views: {path of the instance folder: list of source_views.SourceView}; they get their masks, labels and, with
           --recentre, other poses
    """
    all_views = [view for of_split in views.values() for view in of_split]
    faults.expect_some(all_views, f"{name}: no view can be used")
    moved = None
    if options.recentre:
        centre, scale = recentring(np.stack([view.cam2world for view in all_views]), options.camera_distance, name)
        for view in all_views:
            view.cam2world[:3, 3] = scale * (view.cam2world[:3, 3] - centre)
        x, y, z = centre.tolist()
        moved = f"the point {x!r} {y!r} {z!r} of the source was moved to the origin, then the scene scaled by {scale!r}"
    by_file_name = len({Path(view.name).stem for view in all_views}) == len(all_views)
    for view in all_views:
        if options.masks is not None:
            masks = Path(options.masks, faults.instance)
            view.mask = source_views.find_beside(masks, view.name, source_views.PICTURES, by_file_name)
        if options.labels is not None:
            labels = Path(options.labels, faults.instance)
            view.labels = source_views.find_beside(labels, view.name, source_views.LABEL_MAPS, by_file_name)
    instances = []
    for folder, of_split in views.items():
        if not of_split:
            continue
        camera = lenses.common_camera([view.lens for view in of_split])
        resampled = sum(lenses.needs_resampling(view.lens, camera) for view in of_split)
        if resampled:
            facts = f"f {camera.focal:.2f}, centre {camera.cx:.2f} {camera.cy:.2f}"
            size = f"{camera.width} x {camera.height} pixels (width x height)"
            print(f"{name}: {resampled} of {len(of_split)} views are resampled to one pinhole camera, {facts}, {size}")
        instances.append(NewInstance(options, name, folder, of_split, faults, num_classes, camera, moved))
    return instances


def recentring(cam2world, distance, name):
    """The point (3,) that cameras (V, 4, 4) look at, and the scale that makes their mean distance from it `distance`."""
    cameras = torch.from_numpy(cam2world)
    centre, spread = geometry.nearest_to_axes(cameras)
    depth = geometry.world_to_camera(centre.expand(len(cameras), 1, 3), cameras)[..., 2]
    if spread < 1e-4 or depth.median() <= 0:
        reason = "their axes are parallel or point away from each other"
        raise util.InputError(f"--recentre: the cameras of {name} do not look at one point ({reason}); remove --recentre")
    return centre.numpy(), distance / geometry.viewing_distance(cameras)


def write(folder, instance, progress):
    """Writes the views of a NewInstance into `folder`; returns the number of views written."""
    with_labels = any(view.labels for view in instance.views)
    for kind in ["rgb", "pose"] + ["seg"] * with_labels:
        (folder / kind).mkdir()
    camera, names = instance.camera, []
    for view in instance.views:
        with instance.faults.of(view.name):
            image, seg_labels = load(view, instance, with_labels)
            file_name = f"{len(names):06d}"
            iio.imwrite(folder / "rgb" / f"{file_name}.png", image, compress_level=1)
            if with_labels:
                np.save(folder / "seg" / f"{file_name}.npy", seg_labels)
            np.savetxt(folder / "pose" / f"{file_name}.txt", view.cam2world, fmt="%.17g")
            names.append(view.name)
        progress.update()
    instance.faults.expect_some(names, f"{instance.name}: no view can be used")
    facts = f"{camera.focal!r} {camera.cx!r} {camera.cy!r} 0.\n0. 0. 0.\n1.\n{camera.height} {camera.width}\n"
    (folder / "intrinsics.txt").write_text(facts)
    source_views.write_names(folder, names, instance.moved)
    return len(names)


def load(view, instance, with_labels):
    """The image (H, W, 3 or 4) uint8 of a view and its seg_labels (H, W) int16, None unless with_labels."""
    image, seg_labels = source_views.load_picture(view.path), None
    if instance.options.masks is not None:
        if view.mask is None:
            raise util.InputError(f"{view.path}: --masks has no mask named {Path(view.name).stem}; add it or remove the view")
        mask = source_views.load_mask(view.mask)
        source_views.check_size(view.mask, mask.shape, image.shape[:2], "its image")
        alpha = image[..., 3] if image.shape[2] == 4 else np.full(mask.shape, 255, np.uint8)
        image = np.dstack([image[..., :3], np.where(mask, alpha, np.uint8(0))])
    if with_labels:
        seg_labels = np.full(image.shape[:2], util.UNLABELLED, np.int16)
        if view.labels is not None:
            seg_labels = source_views.load_labels(view.labels, instance.num_classes, instance.options.unlabelled)
            source_views.check_size(view.labels, seg_labels.shape, image.shape[:2], "its image")
    if lenses.needs_resampling(view.lens, instance.camera):
        image = lenses.resample_image(image, view.lens, instance.camera)
        seg_labels = lenses.resample_labels(seg_labels, view.lens, instance.camera) if with_labels else None
    return image, seg_labels
