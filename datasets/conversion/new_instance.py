"""One object in one split: from posed images to an instance folder."""

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

    name: str
    folder: Path
    views: list  # of source_views.SourceView, in order
    faults: source_views.Faults
    masks: dict  # {view name: file}; None without --masks
    labels: dict  # {view name: file}; if empty, the instance gets no seg/
    num_classes: int
    unlabelled: int  # value in the label maps that means no label, or None
    camera: data_util.Intrinsics
    moved: str  # how the views' world was moved, or None
    num_written: int = 0  # views


def plan(options, name, views, folders, num_classes, faults, within=""):
    """The NewInstances of an object, one for each of its splits that has views.

    views:   {split: list of source_views.SourceView}, whose cameras --recentre moves
    folders: {split: path of the instance folder}
    within:  subfolder of --masks and --labels
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

    def beside(folder, of_split, suffixes):
        return source_views.find_beside(Path(folder) / within, of_split, suffixes, by_file_name)

    instances = []
    for split, of_split in views.items():
        if not of_split:
            continue
        camera = lenses.common_camera([view.lens for view in of_split])
        resampled = sum(lenses.needs_resampling(view.lens, camera) for view in of_split)
        if resampled:
            facts = f"f {camera.focal:.2f}, centre {camera.cx:.2f} {camera.cy:.2f}"
            size = f"{camera.width} x {camera.height} pixels (width x height)"
            print(f"{name}: {resampled} of {len(of_split)} views are resampled to one pinhole camera, {facts}, {size}")
        masks = None if options.masks is None else beside(options.masks, of_split, source_views.PICTURES)
        labels = {} if options.labels is None else beside(options.labels, of_split, source_views.LABEL_MAPS)
        instances.append(
            NewInstance(name, folders[split], of_split, faults, masks, labels, num_classes, options.unlabelled, camera, moved)
        )
    return instances


def recentring(cam2world, distance, name):
    """The point (3,) that cameras (V, 4, 4) look at, and the scale that makes their mean distance from it `distance`."""
    cameras = torch.from_numpy(cam2world)
    centre = geometry.viewing_target(cameras)
    axes = cam2world[:, :3, 2]
    spread = np.linalg.eigvalsh((np.eye(3) - axes[:, :, None] * axes[:, None]).mean(axis=0))
    depth = geometry.depth_of(centre.expand(len(cameras), 1, 3), cameras)
    if spread[0] < 1e-4 or depth.median() <= 0:
        reason = "their axes are parallel or point away from each other"
        raise util.InputError(f"--recentre: the cameras of {name} do not look at one point ({reason}); remove --recentre")
    return centre.numpy(), distance / geometry.viewing_distance(cameras)


def write(folder, instance, progress):
    """Writes the views of a NewInstance into `folder`; returns the number of views written."""
    for kind in ("rgb", "pose", *(["seg"] if instance.labels else [])):
        (folder / kind).mkdir()
    camera, names = instance.camera, []
    for view in instance.views:
        with instance.faults.of(view.name):
            image, seg_labels = load(view, instance)
            file_name = f"{len(names):06d}"
            iio.imwrite(folder / "rgb" / f"{file_name}.png", image, compress_level=1)
            if seg_labels is not None:
                np.save(folder / "seg" / f"{file_name}.npy", seg_labels)
            np.savetxt(folder / "pose" / f"{file_name}.txt", view.cam2world, fmt="%.17g")
            names.append(view.name)
        progress.update()
    instance.faults.expect_some(names, f"{instance.name}: no view can be used")
    facts = f"{camera.focal!r} {camera.cx!r} {camera.cy!r} 0.\n0. 0. 0.\n1.\n{camera.height} {camera.width}\n"
    (folder / "intrinsics.txt").write_text(facts)
    source_views.write_names(folder, names, instance.moved)
    return len(names)


def load(view, instance):
    """The image (H, W, 3 or 4) uint8 of a view and its seg_labels (H, W), None for an instance without labels."""
    image, seg_labels = source_views.load_picture(view.path), None
    if instance.masks is not None:
        path = instance.masks.get(view.name)
        if path is None:
            raise util.InputError(f"{view.path}: --masks has no mask named {Path(view.name).stem}; add it or remove the view")
        mask = source_views.load_mask(path)
        source_views.check_size(path, mask.shape, image.shape[:2], "its image")
        alpha = image[..., 3] if image.shape[2] == 4 else np.full(mask.shape, 255, np.uint8)
        image = np.dstack([image[..., :3], np.where(mask, alpha, np.uint8(0))])
    if instance.labels:
        seg_labels = np.full(image.shape[:2], util.UNLABELLED)
        if view.name in instance.labels:
            path = instance.labels[view.name]
            seg_labels = source_views.load_labels(path, instance.num_classes, instance.unlabelled)
            source_views.check_size(path, seg_labels.shape, image.shape[:2], "its image")
    if lenses.needs_resampling(view.lens, instance.camera):
        image = lenses.resample_image(image, view.lens, instance.camera)
        seg_labels = None if seg_labels is None else lenses.resample_labels(seg_labels, view.lens, instance.camera)
    return image, None if seg_labels is None else seg_labels.astype(np.int16)
