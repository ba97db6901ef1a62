"""`make_dataset.py meshes`: data sets rendered from mesh files, with the parts that PartNet or the files' names tell.

Where labels come from follows from the options: --class_list, PartNet folders; --parts, the names of objects, groups
or materials; neither, there are none.
"""

import functools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

import util
from datasets.making import render_options
from datasets.making.class_folder import Instance
from datasets.meshes import collection, triangle_mesh

AXES = {sign + name: (-1 if sign else 1) * np.eye(3)[i] for i, name in enumerate("xyz") for sign in ("", "-")}
BAKED_PER_PIXEL = 2  # coloured triangles along a pixel of the image


def add_options(maker):
    maker.add_argument("source", metavar="SOURCE", help="folder of meshes: a file or a folder per object")
    render_options.add_options(maker, views=50, sidelength=128)
    maker.add_argument(
        "--class_list",
        metavar="FILE",
        help="SOURCE holds PartNet v0 folders; the classes, such as Chair-level-1.txt, a line per class, the id first",
    )
    maker.add_argument(
        "--shapenet",
        metavar="DIR",
        help="with --class_list: ShapeNet v2, for the colours of the models that PartNet has labelled",
    )
    maker.add_argument("--parts", metavar="FILE", help="YAML file that maps the names of parts to classes, see DATA.md")
    maker.add_argument("--up", choices=AXES, default="y", help="axis of the files that points up")
    maker.add_argument(
        "--front",
        choices=AXES,
        default=None,
        help="axis of the files towards the front; where it is not given, z as in glTF, with --class_list -z as in ShapeNet",
    )
    maker.add_argument(
        "--keep_size",
        action="store_true",
        help="keep size and place of the objects: do not centre "
        "their bounding boxes and scale the diagonals to 1; --radius is then in the files' units",
    )
    maker.add_argument(
        "--splits",
        metavar="FILE",
        help="YAML or JSON: {train: [names], val: [...], test: [...]}, or a "
        "folder with PartNet's <obj_name>.train.json ...; objects not named are left out",
    )
    maker.add_argument("--val_instances", type=render_options.whole(0), default=0, help="so many random objects go to val")
    maker.add_argument("--test_instances", type=render_options.whole(0), default=0, help="so many random objects go to test")


def make(options):
    class_names, sources, kind = find_sources(options)
    rotation = rotation_to_canonical(options.up, options.front or ("-z" if kind == "partnet" else "z"))
    by_name = {source.name: source for source in sources}
    instances = []
    for split, names in splits(sorted(by_name), options).items():
        for i, name in enumerate(names):
            load = functools.partial(load_canonical, by_name[name].load, rotation, options.keep_size)
            instances.append(Instance(split, name, load, render_options.cameras(options, split, i)))
    description = {
        "source": Path(options.source).name,
        "labels": kind,
        "up": options.up,
        "front": options.front,
        "keep_size": options.keep_size,
    }
    render_options.write(options, class_names, instances, description, identity=identity_of(options))


def find_sources(options):
    """What is in SOURCE: class names (None without labels), the instances of collection.py, where labels come from."""
    if options.class_list and options.parts:
        raise util.InputError("--class_list is for PartNet folders, --parts for other files: give one of them")
    if options.shapenet and not options.class_list:
        raise util.InputError("--shapenet gives colours to PartNet folders: give their --class_list too")
    if options.class_list:
        resolution = BAKED_PER_PIXEL * options.sidelength
        return *collection.list_partnet(options.source, options.class_list, options.shapenet, resolution), "partnet"
    if options.parts:
        return *collection.list_with_parts(options.source, options.parts), "parts"
    return None, collection.list_unlabelled(options.source), "none"


def identity_of(options):
    """What objects depend on beside the description, by path and, of the small files, by content."""
    folders = [path and str(Path(path).resolve()) for path in (options.source, options.shapenet)]
    return folders + [path and Path(path).read_text(errors="replace") for path in (options.parts, options.class_list)]


def rotation_to_canonical(up, front):
    """(3, 3) rotation that turns the axis `up` to z and `front` to -y, as datasets/meshes/triangle_mesh.py has it."""
    up_axis, front_axis = AXES[up], AXES[front]
    if up_axis @ front_axis != 0:
        raise util.InputError(f"--up {up} and --front {front} lie on one axis; give two different ones")
    return np.stack([np.cross(up_axis, front_axis), -front_axis, up_axis])


def load_canonical(load, rotation, keep_size):
    """What `load` gives, turned into the canonical pose and, unless its size is to be kept, scaled to it."""
    loaded = load()
    mesh = triangle_mesh.turned(loaded.mesh, rotation)
    return replace(loaded, mesh=mesh if keep_size else triangle_mesh.to_unit_diagonal(mesh))


# ---------------------------------------------------------------------------------------------------- splits


def splits(names, options):
    """{split: names} for sorted names, as --splits says or by lot; train_val has the names of train."""
    if options.splits and (options.val_instances or options.test_instances):
        raise util.InputError("--splits names the objects of val and test: leave --val_instances and --test_instances out")
    if options.splits:
        parted = read_splits(Path(options.splits), options.obj_name, set(names))
    else:
        wanted = options.val_instances + options.test_instances
        if wanted >= len(names):
            raise util.InputError(
                f"--val_instances and --test_instances ask for {wanted} objects, but {options.source} has {len(names)}; "
                f"at least one is for training"
            )
        order = np.random.default_rng([options.seed, render_options.OBJECTS]).permutation(names).tolist()
        val, test, train = np.split(order, [options.val_instances, wanted])
        parted = {"train": sorted(train.tolist()), "val": sorted(val.tolist()), "test": sorted(test.tolist())}
    return parted | {"train_val": parted["train"]}


def read_splits(path, obj_name, known):
    """{"train": names, "val": names, "test": names} of a file, or of PartNet's three; only names in `known`.

    An entry of PartNet's files is a dict with the `model_id` and the `anno_id` of a folder.
    """
    if path.is_dir():
        listed = {split: _load_yaml(path / f"{obj_name}.{split}.json") for split in ("train", "val", "test")}
    else:
        listed = _load_yaml(path)
    if (
        not isinstance(listed, dict)
        or not set(listed) <= {"train", "val", "test"}
        or not all(isinstance(names, list) for names in listed.values())
    ):
        raise util.InputError(f"{path}: expected {{train: [names], val: [names], test: [names]}}")
    parted, missing = {"train": [], "val": [], "test": []}, []
    for split, entries in listed.items():
        for entry in entries:
            names = [str(entry.get(key)) for key in ("model_id", "anno_id")] if isinstance(entry, dict) else [str(entry)]
            found = [name for name in names if name in known]
            parted[split] += found[:1]
            missing += names[:1] if not found else []
    doubled = sorted({name for split in parted for name in parted[split] if sum(name in parted[s] for s in parted) > 1})
    if doubled:
        raise util.InputError(f"{path}: {doubled[0]} is in more than one split; an object may be in one")
    if not parted["train"]:
        raise util.InputError(f"{path}: names no training object that is there; the first names missing: {missing[:3]}")
    if missing:
        print(f"note: {len(missing)} objects that {path} names are not there, such as {missing[0]}")
    left = len(known) - sum(map(len, parted.values()))
    if left:
        print(f"note: {left} objects are in none of the splits of {path}, and left out")
    return {split: sorted(set(names)) for split, names in parted.items()}


def _load_yaml(path):
    try:
        return json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = str(error).splitlines()[0]
        raise util.InputError(f"{path}: cannot be read as a list of splits ({reason})") from None
