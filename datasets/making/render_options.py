"""What the makers that render meshes share: their options, the views of each instance, writing the class folder."""

import os
from pathlib import Path

import numpy as np
import torch

import util
from datasets.making import class_folder, viewpoints
from datasets.meshes import raycasting
from options import at_least, direction, elevations, field_of_view, folder_name, positive_float, positive_int

SPLITS = ("train", "train_val", "val", "test")
OBJECTS, VIEWS, VARIANTS, KINDS = range(4)  # second part of a seed: what the random numbers are for
MIN_TEST_VIEWS = 70  # one-shot reconstruction starts from observation 65


def add_options(parser, views, sidelength, obj_names=None):
    """Adds the options of every such maker. obj_names: the classes it can make; None for any."""
    add = parser.add_argument
    add("--obj_name", choices=obj_names, type=folder_name, required=True, help="name of the class, such as Chair")
    add("--out", required=True, help="parent of the class folder <out>/<obj_name>")
    add = parser.add_argument_group("views").add_argument
    add("--views", type=positive_int, default=views, help="views per training object")
    add("--train_val_views", type=at_least(0), default=10, help="views per object of train_val and of val; 0: neither split")
    add("--test_views", type=at_least(MIN_TEST_VIEWS), default=100, help=f"views per test object, {MIN_TEST_VIEWS} or more")
    kinds = ", ".join(viewpoints.ELEVATION_DEG)
    add("--cameras", default="band", help=f"cameras of train, train_val and val: {kinds}, or a folder of pose files")
    add("--test_cameras", default="spiral", help="cameras of test, the same for each object; values as for --cameras")
    by_kind = ", ".join(f"{low:g},{high:g} for {kind}" for kind, (low, high) in viewpoints.ELEVATION_DEG.items())
    range_help = f"range of elevations in degrees (default: {by_kind})"
    add("--elevation_deg", type=elevations, metavar="LOW,HIGH", help=range_help)
    add("--radius", type=positive_float, default=viewpoints.DISTANCE, help="distance of the cameras from the origin")
    add = parser.add_argument_group("images").add_argument
    add("--fov_deg", type=field_of_view, help="field of view in degrees (default: 52.0)")
    add("--sidelength", type=at_least(8), default=sidelength, help="side of the images in pixels")
    light = {"type": direction, "default": ",".join(map(str, raycasting.LIGHT_FROM)), "metavar": "X,Y,Z"}
    add("--light", **light, help="direction towards the light, x right, y back, z up; none: colours without shading")
    add("--depth", action="store_true", help="also write depth/ (along the camera's z axis, 0 for background) and normals/")
    add = parser.add_argument_group("run").add_argument
    add("--seed", type=at_least(0), default=0, help="equal seeds give equal files")
    add("--num_workers", type=positive_int, default=os.cpu_count() or 1, help="number of processes that render")
    add("--overwrite", action="store_true", help="replace an existing class folder")
    add("--skip_broken", action="store_true", help="list broken objects and leave them out, instead of stopping")


def cameras(options, split, index):
    """cam2world (V, 4, 4) of the `index`-th object of a split; V is 0 if the split is not to be made."""
    if split == "test":
        kind, num_views = options.test_cameras, options.test_views
    else:
        kind, num_views = options.cameras, options.views if split == "train" else options.train_val_views
    if num_views == 0 or split == "train_val" and kind not in viewpoints.ELEVATION_DEG:
        return torch.zeros(0, 4, 4)  # poses from a folder are those of train already
    rng = np.random.default_rng([options.seed, VIEWS, SPLITS.index(split), index])
    return viewpoints.cameras(kind, num_views, rng, options.elevation_deg, options.radius)


def write(options, class_names, loads, description=None, texts=None, identity=None):
    """Renders the class folder <out>/<obj_name> and prints what was written.

    class_names: by id, background first; None for data without labels
    loads:       {"train": {instance name: function that returns its Mesh}, "val": ..., "test": ...}
    description, texts, identity: as in class_folder.write_class
    """
    if options.radius <= 0.5 and not getattr(options, "keep_size", False):
        reason = "puts the cameras inside the object, whose diagonal is 1; expected more than 0.5"
        raise util.InputError(f"--radius {options.radius:g}: {reason}")
    jobs = []
    for split in SPLITS:
        for i, (name, load) in enumerate(loads["train" if split == "train_val" else split].items()):
            jobs.append(class_folder.RenderJob(split, name, load, cameras(options, split, i)))
    jobs = [job for job in jobs if len(job.cam2world)]
    description = {"maker": options.maker, "seed": options.seed, **(description or {})}
    description |= {"cameras": options.cameras, "test_cameras": options.test_cameras}
    if options.cameras in viewpoints.ELEVATION_DEG:
        description["elevation_deg"] = options.elevation_deg or viewpoints.ELEVATION_DEG[options.cameras]
        description["camera_distance"] = options.radius
    focal = viewpoints.focal_of(options.fov_deg) if options.fov_deg else viewpoints.FOCAL
    style = class_folder.Style(options.sidelength, focal, options.light, class_names is not None, options.depth)
    folder = Path(options.out) / options.obj_name
    run = options.num_workers, options.overwrite, options.skip_broken
    outcomes = class_folder.write_class(folder, class_names, jobs, style, description, *run, texts, identity)
    written = [outcome for outcome in outcomes if outcome.views]
    print(f"wrote {folder}: {len(written)} instances, {sum(outcome.views for outcome in written)} views")
    if any(outcome.faults for outcome in outcomes):
        missing = {outcome.name for outcome in outcomes if not outcome.views}
        incomplete = {outcome.name for outcome in written if outcome.faults}
        print(f"left out {len(missing)} objects, and parts of {len(incomplete)} others; see {folder / class_folder.LEFT_OUT}")
