"""Which folders of a data set are splits and instances."""

import os
from pathlib import Path

import dataio
import util
from datasets.checks.camera_checks import Fault


def is_instance(folder):
    """Whether a folder contains any of the files and subfolders of an instance."""
    return any(os.path.exists(folder / name) for name in ("intrinsics.txt", "rgb", "pose", "seg"))


def find_splits(root):
    """The split folders of a class folder, sorted; [root] if it is a split itself."""
    root = Path(root)
    inside = dataio.subfolders(root)
    if is_instance(root):
        raise util.InputError(f"{root}: this is one instance; expected its split, {root.parent}")
    if any(is_instance(folder) for folder in inside):
        return [root]
    splits = [folder for folder in inside if any(is_instance(instance) for instance in dataio.subfolders(folder))]
    if not splits:
        expected = f"{root}/<instance>/rgb, pose and intrinsics.txt, or split folders of such instances"
        raise util.InputError(f"{root}: neither a split nor a class folder; expected {expected}")
    return splits


def empty_splits(root, splits, obj_name=None):
    """A Fault for each folder of a class folder that is named like a split, such as Chair.val, but holds no instance."""
    root = Path(root)
    classes = {obj_name or root.resolve().name} | {split.name.split(".")[0] for split in splits}
    return [
        Fault("empty split", folder, "holds no instances; fill the folder or remove it")
        for folder in ([] if root in splits else dataio.subfolders(root))
        if folder not in splits and "." in folder.name and folder.name.split(".")[0] in classes
    ]


def find_class_list(split, obj_name=None):
    """Path of the class list of a split: of class `obj_name`, else of a class named like its folders, or None."""
    if obj_name:
        return dataio.find_class_list(split, obj_name)
    split = Path(split).resolve()
    paths = [dataio.find_class_list(split, name) for name in (split.name.split(".")[0], split.parent.name)]
    return next((path for path in paths if os.path.exists(path)), None)
