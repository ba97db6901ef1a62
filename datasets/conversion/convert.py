"""`make_dataset.py convert`: posed images in transforms.json (NeRF, Blender, instant-ngp, nerfstudio) or COLMAP models.

Both have pixel centres at + 0.5, so the class folders written here have pixel_center 0.5. An instance has one pinhole
camera; images from other cameras are resampled to it. An instance folder gets its name when it is complete.
"""

import contextlib
import json
from dataclasses import asdict, replace
from pathlib import Path

from tqdm import tqdm

import data_util
import util
from datasets.conversion import colmap, export, new_instance, source_views, transforms_json
from datasets.making import atomic_folders, viewpoints
from options import folder_name, positive_float

SETTINGS = data_util.DatasetSettings(pixel_center=0.5, blend_alpha=True)
NOT_WITH_TO = ("obj_name", "split", "name", "masks", "labels", "classes", "unlabelled", "recentre")


def add_options(parser):
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder with transforms.json or a COLMAP model, or of such folders; or a .json file")
    add("--out", required=True, help="parent of the class folder <out>/<obj_name>; with --to, the folder to write")
    add("--to", choices=export.FORMS, help="convert SOURCE, an instance or a split of a data set, to this form")
    add("--obj_name", type=folder_name, help="name of the class, such as Mug; required unless --to is given")
    add("--split", type=folder_name, help="split for the instances (default: as transforms_<split>.json says, else train)")
    add("--name", type=folder_name, help="name of the instance (default: that of its folder)")
    add("--masks", metavar="DIR", help="masks named as the images; black becomes transparent")
    add("--labels", metavar="DIR", help="label maps named as the images: .npy, grey or palette PNG")
    add("--classes", metavar="FILE", help="class list for --labels: a line per class, the integer id first")
    add("--unlabelled", type=int, metavar="ID", help="value in the label maps that means no label, such as 255")
    add("--recentre", action="store_true", help="move the point that the cameras look at to the origin and scale")
    distance = {"type": positive_float, "default": viewpoints.DISTANCE}
    add("--camera_distance", **distance, help="with --recentre: mean distance of the cameras from the origin")
    add("--overwrite", action="store_true", help="replace existing instances")
    add("--skip_broken", action="store_true", help="list broken views and instances and leave them out, instead of stopping")


def make(options):
    """Converts SOURCE to instances of a class folder or, with --to, the other way."""
    if options.to is None:
        convert(options)
        return
    unused = [name for name in NOT_WITH_TO if getattr(options, name) not in (None, False)]
    if unused:
        raise util.InputError(f"--{unused[0]} has no effect with --to; remove one of them")
    export.export(options)


def convert(options):
    if options.obj_name is None:
        raise util.InputError("--obj_name is missing; give the name of the class, such as Mug, or --to to convert a data set")
    for name in ("masks", "labels"):
        folder = getattr(options, name)
        if folder is not None and not Path(folder).is_dir():
            raise util.InputError(f"--{name} {folder}: no such folder")
    class_folder = Path(options.out) / options.obj_name
    class_names = check_class_folder(options, class_folder)
    sources = find_sources(Path(options.source), options.split, options.name)
    pairs = [(split, name) for name, poses in sources.items() for split in poses]
    folders = {(split, name): class_folder / f"{options.obj_name}.{split}" / name for split, name in pairs}
    for target in folders.values():
        atomic_folders.check_target(target, options.overwrite)
        source_views.check_apart(target, (options.source, options.masks, options.labels))

    faults = source_views.Faults(options.skip_broken)
    objects = []
    for name, poses in sources.items():
        with faults.of(name):
            of_views = replace(faults, instance=name) if len(sources) > 1 else faults  # in the same list
            views = {folders[split, name]: read(path, of_views) for split, path in poses.items()}
            objects.append(new_instance.plan(options, name, views, len(class_names or ()), of_views))
    faults.expect_some(objects, f"{options.source}: nothing could be converted")
    check_labels(options, objects)
    written = write(options, class_folder, objects, faults)
    folder = written[0].folder if len(written) == 1 else class_folder
    faults.report(folder, len(written), sum(instance.num_written for instance in written))


def write(options, class_folder, objects, faults):
    """Writes the lists of NewInstances, one list per object; returns the NewInstances that were written."""
    written = []
    num_views = sum(len(instance.views) for instances in objects for instance in instances)
    with tqdm(total=num_views, unit="view", desc=options.obj_name) as progress:
        for instances in objects:
            with faults.of(instances[0].name), contextlib.ExitStack() as stack:  # all splits of an object, or none
                for instance in instances:
                    folder = stack.enter_context(atomic_folders.unfinished_folder(instance.folder, options.overwrite))
                    instance.num_written = new_instance.write(folder, instance, progress)
                write_class_files(options, class_folder)
                written += instances
    faults.expect_some(written, f"{options.source}: nothing could be converted")
    return written


def read(path, faults):
    """The views of a .json file or of a COLMAP model's folder, in order."""
    library = transforms_json if path.suffix == ".json" else colmap
    return source_views.in_order(library.read(path, faults))


def check_class_folder(options, class_folder):
    """The class names by id, or None. An InputError if the class folder has other settings or another class list."""
    if (class_folder / "dataset.json").exists() or any(class_folder.glob(f"{options.obj_name}.*/*/rgb")):
        settings = data_util.load_dataset_settings(class_folder)
        if settings != SETTINGS:
            found = f"pixel_center {settings.pixel_center:g} and blend_alpha {str(settings.blend_alpha).lower()}"
            raise util.InputError(f"{class_folder}: dataset.json has {found}, expected 0.5 and true; choose another --out")
    own_list = class_folder / f"{options.obj_name}-level-1.txt"
    class_names = data_util.load_class_names(own_list) if own_list.exists() else None
    if options.classes is not None:
        given = data_util.load_class_names(options.classes)
        if class_names not in (None, given):
            raise util.InputError(f"--classes {options.classes}: differs from the class list {own_list}; expected the same")
        class_names = given
    if options.labels is not None and class_names is None:
        raise util.InputError("--labels needs --classes FILE, the class list: a line per class, the integer id first")
    return class_names


def find_sources(source, split, name):
    """{instance name: {split: .json file or folder of a COLMAP model}} in SOURCE, given --split and --name."""
    if source.is_file() and source.suffix == ".json":
        found = {source.resolve().parent.name: {None: source}}
    elif not source.is_dir():
        raise util.InputError(f"{source}: no such folder or .json file; expected posed images")
    elif poses := _poses_in(source):
        model = poses.get(None)
        folder = colmap.images_folder(model).parent if model and model.is_dir() else source.resolve()
        found = {folder.name: poses}
    else:
        found = _sources_below(source)
    if name is not None:
        if len(found) > 1:
            raise util.InputError(f"--name {name}: {source} has {len(found)} instances, named by their folders; omit --name")
        found = {name: poses for poses in found.values()}
    return {name: _in_splits(source, poses, split) for name, poses in found.items()}


def _sources_below(source):
    """{folder name: poses} of the folders in a folder that have any."""
    folders = sorted(folder for folder in source.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    found = {folder.name: poses for folder in folders if (poses := _poses_in(folder))}
    if not found:
        found = "no transforms.json and no COLMAP model (cameras and images as .txt or .bin)"
        raise util.InputError(f"{source}: {found} in it, in sparse/0 or in its folders; give another SOURCE")
    others = [folder.name for folder in folders if folder.name not in found]
    if others:
        print(f"note: {source}: {len(others)} folders have no transforms.json and no COLMAP model: {', '.join(others)}")
    return found


def _poses_in(folder):
    model = colmap.find(folder)
    return transforms_json.find(folder) or ({None: model} if model else {})


def _in_splits(source, poses, split):
    if None in poses:
        return {split or "train": poses[None]}
    if split is not None and split not in poses:
        found = f"{source} has transforms_<split>.json for {', '.join(poses)}"
        raise util.InputError(f"--split {split}: {found}; name one of these, or give a .json file as SOURCE")
    return poses if split is None else {split: poses[split]}


def check_labels(options, objects):
    """Prints the label maps that belong to no view; an InputError if none belongs to one."""
    if options.labels is None:
        return
    used = {view.labels for instances in objects for instance in instances for view in instance.views}
    if used == {None}:
        expected = "expected <name of the image>.npy or .png, with several instances in a folder for each"
        raise util.InputError(f"--labels {options.labels}: no label map is named as a view; {expected}")
    label_maps = (path for path in Path(options.labels).rglob("*") if path.suffix in source_views.LABEL_MAPS)
    unused = sorted(path for path in label_maps if path not in used)
    if unused:
        names = ", ".join(str(path.relative_to(options.labels)) for path in unused[:3])
        print(f"note: {len(unused)} label maps belong to no converted view: {names}{' ...' if unused[3:] else ''}")


def write_class_files(options, class_folder):
    """Writes dataset.json and the class list, unless the class folder has them."""
    texts = {"dataset.json": json.dumps(asdict(SETTINGS) | {"maker": "convert"}, indent=2) + "\n"}
    if options.classes is not None:
        texts[f"{options.obj_name}-level-1.txt"] = Path(options.classes).read_text(encoding="utf-8")
    for name, text in texts.items():
        if not (class_folder / name).exists():
            with util.replacing(class_folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
