"""`make_dataset.py meshes`: data sets rendered from mesh files.

With --class_list the labels come from PartNet's folders, with --parts from the names of objects, groups or materials.
Without either there are no labels.
"""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np

import util
from datasets.making import render_options
from datasets.meshes import collection, part_maps, triangle_mesh
from options import at_least

AXES = {sign + name: (-1 if sign else 1) * np.eye(3)[i] for i, name in enumerate("xyz") for sign in ("", "-")}
BAKED_PER_PIXEL = 2  # coloured triangles along a pixel of the image
SPLITS = ("train", "val", "test")


def add_options(parser):
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder of meshes: a file or a folder per object")
    render_options.add_options(parser, views=50, sidelength=128)
    add("--class_list", metavar="FILE", help="class list of PartNet v0, such as Chair-level-1.txt, for PartNet's folders")
    add("--shapenet", metavar="DIR", help="with --class_list: folder of ShapeNet v2, to colour PartNet's models")
    add("--parts", metavar="FILE", help="YAML file that maps names of parts to classes; see docs/data.md")
    add("--up", choices=AXES, default="y", help="axis of the files that points up")
    add("--front", choices=AXES, help="axis of the files that points to the front (default: z; with --class_list -z)")
    add("--keep_size", action="store_true", help="neither centre objects nor scale them; --radius is in units of the files")
    add("--splits", metavar="FILE", help="YAML or JSON file {train: [names], val: [...], test: [...]}, or PartNet's folder")
    add("--val_instances", type=at_least(0), default=0, help="number of random objects for val")
    add("--test_instances", type=at_least(0), default=0, help="number of random objects for test")


def make(options):
    """Makes the class folder that the options describe."""
    class_names, by_name, kind = find_sources(options)
    rotation = rotation_to_canonical(options.up, options.front or ("-z" if kind == "partnet" else "z"))
    loads = {
        split: {name: functools.partial(load_canonical, by_name[name], rotation, options.keep_size) for name in names}
        for split, names in splits(sorted(by_name), options).items()
    }
    description = {"source": Path(options.source).name, "labels": kind}
    description |= {"up": options.up, "front": options.front, "keep_size": options.keep_size}
    render_options.write(options, class_names, loads, description, identity=identity_of(options))


def find_sources(options):
    """Class names by id (None without labels), {name: load} of collection.py, and the kind of labels."""
    if options.class_list and options.parts:
        raise util.InputError("--class_list is for PartNet folders, --parts for other files; give one of them")
    if options.shapenet and not options.class_list:
        raise util.InputError("--shapenet gives colours to PartNet folders; give their --class_list too")
    if options.class_list:
        resolution = BAKED_PER_PIXEL * options.sidelength
        return *collection.list_partnet(options.source, options.class_list, options.shapenet, resolution), "partnet"
    if options.parts:
        part_map = part_maps.load(options.parts)
        return part_map.class_names, collection.list_files(options.source, part_map), "parts"
    return None, collection.list_files(options.source), "none"


def identity_of(options):
    """What the objects depend on beside the description: folders by path, small files by content."""
    folders = [path and str(Path(path).resolve()) for path in (options.source, options.shapenet)]
    return folders + [path and Path(path).read_text(errors="replace") for path in (options.parts, options.class_list)]


def rotation_to_canonical(up, front):
    """(3, 3) rotation to the canonical pose of datasets/meshes/triangle_mesh.py: axis `up` to z, `front` to -y."""
    up_axis, front_axis = AXES[up], AXES[front]
    if up_axis @ front_axis != 0:
        raise util.InputError(f"--up {up} and --front {front} lie on one axis; give two different axes")
    return np.stack([np.cross(up_axis, front_axis), -front_axis, up_axis])


def load_canonical(load, rotation, keep_size):
    """The Mesh of `load`, rotated and, unless keep_size is set, scaled to the canonical pose."""
    mesh = load()
    mesh = replace(mesh, vertices=mesh.vertices @ rotation.T)
    return mesh if keep_size else triangle_mesh.to_unit_diagonal(mesh)


def splits(names, options):
    """{"train": names, "val": names, "test": names} of sorted names, as --splits says or at random."""
    if options.splits and (options.val_instances or options.test_instances):
        raise util.InputError("--splits lists the objects of val and test; remove --val_instances and --test_instances")
    if options.splits:
        return read_splits(Path(options.splits), options.obj_name, set(names))
    num_held_out = options.val_instances + options.test_instances
    if num_held_out >= len(names):
        found = f"{num_held_out} objects, but {options.source} has {len(names)}"
        raise util.InputError(f"--val_instances and --test_instances ask for {found}; leave at least one for training")
    order = np.random.default_rng([options.seed, render_options.OBJECTS]).permutation(names)
    val, test, train = (sorted(part.tolist()) for part in np.split(order, [options.val_instances, num_held_out]))
    return {"train": train, "val": val, "test": test}


def read_splits(path, obj_name, known):
    """{"train": names, "val": names, "test": names} from a file or PartNet's three files; only names in `known`.

    An entry of PartNet's files is a dict with the `model_id` and the `anno_id` of a folder.
    """
    expected = "expected {train: [names], val: [names], test: [names]}"
    if path.is_dir():
        advice = f"expected the list of {obj_name} from PartNet"
        listed = {split: util.load_json(path / f"{obj_name}.{split}.json", advice) for split in SPLITS}
    elif path.suffix == ".json":
        listed = util.load_json(path, expected)
    else:
        listed = part_maps.load_yaml(path, expected)
    is_dict = isinstance(listed, dict) and set(listed) <= set(SPLITS)
    if not is_dict or not all(isinstance(names, list) for names in listed.values()):
        raise util.InputError(f"{path}: {expected}")
    split_of, missing = {}, []
    for split, entries in listed.items():
        for entry in entries:
            names = [str(entry.get(key)) for key in ("model_id", "anno_id")] if isinstance(entry, dict) else [str(entry)]
            name = next((name for name in names if name in known), None)
            if name is None:
                missing.append(names[0])
            elif split_of.setdefault(name, split) != split:
                raise util.InputError(f"{path}: {name} is in more than one split; expected it in one")
    parted = {split: sorted(name for name in split_of if split_of[name] == split) for split in SPLITS}
    if not parted["train"]:
        raise util.InputError(f"{path}: none of its training objects exists; the first missing ones: {missing[:3]}")
    if missing:
        print(f"note: {len(missing)} objects listed in {path} do not exist, such as {missing[0]}")
    if len(split_of) < len(known):
        print(f"note: {len(known) - len(split_of)} objects are in none of the splits of {path} and are left out")
    return parted
