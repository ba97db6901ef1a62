"""Converts posed images between our layout and transforms.json (NeRF, Blender, instant-ngp, nerfstudio) or COLMAP.

The centre of a pixel is at + 0.5 in both, so class folders made here have pixel_center 0.5. An instance of our
layout has one pinhole camera: pictures by other cameras are resampled to one. An instance is built beside its place
and renamed when it is whole.
"""

import contextlib
import json
from pathlib import Path

from tqdm import tqdm

import data_util
import util
from datasets.conversion import colmap, export, new_instance, source_views, transforms_json
from datasets.making import atomic_folders, viewpoints
from options import folder_name, positive_float

SETTINGS = data_util.DatasetSettings(pixel_center=0.5, blend_alpha=True)
TO_OUR_LAYOUT = ("obj_name", "split", "name", "masks", "labels", "classes", "unlabelled", "recentre")  # has no use with --to


def add_options(maker):
    maker.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder with transforms.json or a COLMAP model and images/, a folder of such folders, one for "
        "each instance, or a .json file; with --to, an instance or a split of our layout",
    )
    maker.add_argument(
        "--out",
        required=True,
        help="folder in which the class folder <out>/<obj_name> is made or added to; with --to, what is made",
    )
    maker.add_argument("--to", choices=export.FORMS, help="convert from our layout to this")
    maker.add_argument("--obj_name", type=folder_name, help="name of the class, such as Mug")
    maker.add_argument(
        "--split",
        type=folder_name,
        help="split that the instances go to (train, where transforms_train.json and its like do not say)",
    )
    maker.add_argument("--name", type=folder_name, help="name of the instance (that of its folder)")
    maker.add_argument(
        "--masks",
        metavar="DIR",
        help="pictures of the outlines, named as the views (of several instances: in a folder for each); "
        "what is black becomes transparent",
    )
    maker.add_argument(
        "--labels",
        metavar="DIR",
        help="label maps named as the views, .npy or PNG (grey or palette), of all views or of some",
    )
    maker.add_argument("--classes", metavar="FILE", help="class list of the labels: a line per class, the integer id first")
    maker.add_argument("--unlabelled", type=int, metavar="ID", help="value that means no label in them, such as 255")
    maker.add_argument(
        "--recentre",
        action="store_true",
        help="move the point that the cameras look at to the origin, and scale to --camera_distance",
    )
    maker.add_argument(
        "--camera_distance",
        type=positive_float,
        default=viewpoints.DISTANCE,
        help="mean distance of the cameras from the origin after --recentre",
    )
    maker.add_argument("--overwrite", action="store_true", help="replace instances that exist")
    maker.add_argument(
        "--skip_broken",
        action="store_true",
        help="leave out broken views and instances, name and count them, instead of stopping",
    )


def make(options):
    if options.to is None:
        convert(options)
        return
    useless = [name for name in TO_OUR_LAYOUT if getattr(options, name) not in (None, False)]
    if useless:
        raise util.InputError(f"--{useless[0]} has no use with --to, which converts from our layout; leave it away")
    export.export(options)


def convert(options):
    """Convert the SOURCE of the options to instances of our layout."""
    if options.obj_name is None:
        raise util.InputError("--obj_name is missing: the name of the class, such as Mug (--to converts from our layout)")
    for name in ("masks", "labels"):
        folder = getattr(options, name)
        if folder is not None and not Path(folder).is_dir():
            raise util.InputError(f"--{name} {folder}: no such folder")
    class_folder = Path(options.out) / options.obj_name
    class_names = check_class_folder(options, class_folder)
    sources = find_sources(Path(options.source), options.split, options.name)
    targets = [instance_folder(class_folder, split, name) for name, poses in sources.items() for split in poses]
    for target in targets:
        atomic_folders.check_target(target, options.overwrite)
        source_views.check_apart(target, (options.source, options.masks, options.labels))

    faults = source_views.Faults(options.skip_broken)
    objects = []
    for name, poses in sources.items():
        with faults.of(name):
            own_faults = faults.within(name) if len(sources) > 1 else faults
            views = {split: read(path, own_faults) for split, path in poses.items()}
            folders = {split: instance_folder(class_folder, split, name) for split in poses}
            objects.append(
                new_instance.plan(
                    options, name, views, folders, len(class_names or ()), own_faults, within=name if len(sources) > 1 else ""
                )
            )
    if not objects:
        raise util.InputError(f"{options.source}: nothing could be converted: {faults.found[-1][1]}")
    check_labels(options, objects)
    new = [
        path
        for path in (*targets, *{target.parent for target in targets}, class_folder, class_folder.parent)
        if not path.exists()
    ]
    written = []
    try:
        num_views = sum(len(instance.views) for instances in objects for instance in instances)
        with tqdm(total=num_views, unit="view", desc=options.obj_name) as progress:
            for instances in objects:
                with faults.of(instances[0].name), contextlib.ExitStack() as stack:
                    for instance in instances:
                        folder = stack.enter_context(atomic_folders.unfinished_folder(instance.folder, options.overwrite))
                        instance.num_written = new_instance.write(folder, instance, progress)
                    write_class_files(options, class_folder)
                    written += instances
        if not written:
            raise util.InputError(f"{options.source}: nothing could be converted: {faults.found[-1][1]}")
    finally:
        for path in new:
            with contextlib.suppress(OSError):
                path.rmdir()  # where nothing came into it
    faults.report(written[0].folder if len(written) == 1 else class_folder, len(written), sum(i.num_written for i in written))


def read(path, faults):
    """The views of a .json file or the folder of a COLMAP model, in order."""
    library = transforms_json if path.suffix == ".json" else colmap
    return source_views.in_order(library.read(path, faults))


def check_class_folder(options, class_folder):
    """The class names by id, or None, after checking that what is in the class folder goes with what comes into it."""
    if (class_folder / "dataset.json").exists() or any(class_folder.glob(f"{options.obj_name}.*/*/rgb")):
        settings = data_util.load_dataset_settings(class_folder)
        if settings != SETTINGS:
            raise util.InputError(
                f"{class_folder}: its images have pixel_center {settings.pixel_center:g} and blend_alpha "
                f"{str(settings.blend_alpha).lower()} (dataset.json), but converted ones 0.5 and true; choose another --out"
            )
    own_list = class_folder / f"{options.obj_name}-level-1.txt"
    class_names = data_util.load_class_names(own_list) if own_list.exists() else None
    if options.classes is not None:
        given = data_util.load_class_names(options.classes)
        if class_names not in (None, given):
            raise util.InputError(f"--classes {options.classes}: not the class list that {own_list} has; use one of them")
        class_names = given
    if options.labels is not None and class_names is None:
        raise util.InputError("--labels needs --classes FILE, the class list: a line per class, the integer id first")
    return class_names


def find_sources(source, split, name):
    """{instance name: {split: .json file or folder of a COLMAP model}} of a SOURCE."""
    if source.is_file() and source.suffix == ".json":
        found = {source.resolve().parent.name: {None: source}}
    elif not source.is_dir():
        raise util.InputError(f"{source}: no such folder or .json file; expected posed images")
    elif poses := _poses_in(source):
        model = poses.get(None)
        folder = colmap.images_folder(model).parent if model and model.is_dir() else source.resolve()
        found = {folder.name: poses}
    else:
        folders = sorted(folder for folder in source.iterdir() if folder.is_dir() and not folder.name.startswith("."))
        found = {folder.name: poses for folder in folders if (poses := _poses_in(folder))}
        others = [folder.name for folder in folders if folder.name not in found]
        if not found:
            raise util.InputError(
                f"{source}: no transforms.json, no COLMAP model (cameras and images as .txt or .bin, there or in sparse/0), "
                "and no folders with such"
            )
        if others:
            print(f"note: {source}: {len(others)} folders have no transforms.json and no COLMAP model: {', '.join(others)}")
    if name is not None:
        if len(found) > 1:
            raise util.InputError(f"--name {name}: {source} holds {len(found)} instances, which are named as their folders")
        found = {name: poses for poses in found.values()}
    return {name: _in_splits(source, poses, split) for name, poses in found.items()}


def _poses_in(folder):
    poses = transforms_json.find(folder)
    model = None if poses else colmap.find(folder)
    return {None: model} if model else poses


def _in_splits(source, poses, split):
    if None in poses:
        return {split or "train": poses[None]}
    if split is not None and split not in poses:
        raise util.InputError(
            f"--split {split}: {source} has transforms_<split>.json for {', '.join(poses)}; name one of these, or give a "
            ".json file as SOURCE"
        )
    return poses if split is None else {split: poses[split]}


def instance_folder(class_folder, split, name):
    return class_folder / f"{class_folder.name}.{split}" / name


def check_labels(options, objects):
    """Name the label maps that belong to no view; an InputError where none belongs to any."""
    if options.labels is None:
        return
    used = {path for instances in objects for instance in instances for path in instance.labels.values()}
    if not used:
        raise util.InputError(
            f"--labels {options.labels}: no label map there is named as a view; expected such as "
            f"{Path(options.labels) / '<name of the image>'}.npy or .png, with several instances in a folder for each"
        )
    label_maps = (path for path in Path(options.labels).rglob("*") if path.suffix in source_views.LABEL_MAPS)
    unused = sorted(path for path in label_maps if path not in used)
    if unused:
        names = ", ".join(str(path.relative_to(options.labels)) for path in unused[:3])
        print(f"note: {len(unused)} label maps belong to no view that is converted: {names}{' ...' if unused[3:] else ''}")


def write_class_files(options, class_folder):
    """dataset.json and the class list, where the class folder does not have them."""
    settings = {"pixel_center": SETTINGS.pixel_center, "blend_alpha": SETTINGS.blend_alpha, "maker": "convert"}
    texts = {"dataset.json": json.dumps(settings, indent=2) + "\n"}
    if options.classes is not None:
        texts[f"{options.obj_name}-level-1.txt"] = Path(options.classes).read_text(encoding="utf-8")
    for name, text in texts.items():
        if not (class_folder / name).exists():
            with util.replacing(class_folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8")
