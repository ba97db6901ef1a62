"""`make_dataset.py convert --to`: instances to images and transforms.json, or to images and a COLMAP model."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data_util
import dataio
from datasets.conversion import colmap, source_views, transforms_json
from datasets.making import atomic_folders, viewpoints

FORMS = ("transforms", "colmap-text", "colmap-binary")


def export(options):
    """Converts an instance, or each instance of a split, to the form `options.to`."""
    source, out = Path(options.source), Path(options.out)
    single = (source / "intrinsics.txt").exists()
    folders = [source] if single else dataio.instance_folders(source)
    targets = [out] if single else [out / folder.name for folder in folders]
    source_views.check_apart(source, [out])
    for target in targets:
        source_views.check_apart(target, [source])
        atomic_folders.check_target(target, options.overwrite)
    pixel_center = dataio.dataset_settings(source.resolve().parent if single else source).pixel_center
    faults, num_views = source_views.Faults(options.skip_broken), []
    for folder, target in zip(tqdm(folders, unit="instance"), targets):
        with faults.of(folder.name), atomic_folders.unfinished_folder(target, options.overwrite) as temporary:
            num_views.append(export_instance(folder, temporary, options.to, pixel_center))
    faults.expect_some(num_views, f"{source}: nothing could be converted")
    faults.report(out, len(num_views), sum(num_views))


def export_instance(folder, target, form, pixel_center):
    """Writes images/, the cameras and, if there are labels, labels/ and classes.txt; returns the number of views."""
    with_labels = any((folder / "seg").glob("*.npy"))
    instance = dataio.index_split(folder.parent, specific_ins=[folder.name], with_labels=with_labels, cached=False)[0]
    intrinsics = instance.intrinsics
    pose_paths = [instance.path("pose", view) for view in range(len(instance.views))]
    poses = data_util.load_poses(pose_paths, intrinsics.poses_are_world2cam, np.float64)
    names = source_views.read_names(folder, instance.views, blanks=form == "transforms")  # COLMAP's text format has none
    size = intrinsics.height, intrinsics.width
    for view, name in enumerate(names):
        viewpoints.check_rigid(poses[view], pose_paths[view])
        path = instance.path("rgb", view)
        source_views.check_size(path, source_views.picture_size(path), size, "but intrinsics.txt says")
        _copy(path, target / "images" / name)
        if with_labels:
            _copy(instance.path("seg", view), target / "labels" / f"{os.path.splitext(name)[0]}.npy")
    split = folder.resolve().parent
    class_list = dataio.find_class_list(split, split.parent.name)
    if with_labels and class_list.exists():
        _copy(class_list, target / "classes.txt")

    shift = 0.5 - pixel_center  # these formats have pixel centres at + 0.5
    camera = replace(intrinsics, cx=intrinsics.cx + shift, cy=intrinsics.cy + shift)
    if form == "transforms":
        transforms_json.write(target, names, poses, camera)
    else:
        colmap.write(target, names, poses, camera, binary=form == "colmap-binary")
    return len(names)


def _copy(path, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)
