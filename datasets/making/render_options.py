"""What all makers of data sets by rendering share: their options, the views of an instance, writing the class folder."""

import argparse
import os

import numpy as np
import torch

import util
from datasets.making import class_folder, viewpoints
from datasets.meshes import raycasting

SPLITS = ("train", "train_val", "val", "test")
OBJECTS, VIEWS, VARIANTS = range(3)  # what a random generator is for
MAY_BE_NEGATIVE = ("--up", "--front", "--elevation_deg", "--light")
MIN_TEST_VIEWS = 70  # observation 65 is what one-shot reconstruction starts from


def add_options(maker, views, sidelength, obj_names=None):
    """Options of every such maker. obj_names: the classes it can make, None: any."""
    kinds = ", ".join(viewpoints.ELEVATION_DEG)
    maker.add_argument("--obj_name", choices=obj_names, type=folder_name, required=True, help="what to make")
    maker.add_argument("--out", required=True, help="folder in which the class folder <out>/<obj_name> is made")
    maker.add_argument("--views", type=whole(1), default=views, help="views per training object")
    maker.add_argument(
        "--train_val_views",
        type=whole(0),
        default=10,
        help="views per object of train_val (the training objects again) and val; 0: no train_val",
    )
    maker.add_argument(
        "--test_views", type=whole(MIN_TEST_VIEWS), default=100, help=f"views per test object, at least {MIN_TEST_VIEWS}"
    )
    maker.add_argument(
        "--cameras",
        default="band",
        help=f"where objects are seen from, all but test objects: one of {kinds}, or a folder of pose files "
        "(there is no train_val then, and --views, --radius and --elevation_deg do not count)",
    )
    maker.add_argument("--test_cameras", default="spiral", help="where test objects are seen from, the same for all")
    maker.add_argument(
        "--elevation_deg",
        type=degrees,
        default=None,
        metavar="LOW,HIGH",
        help="between which elevations, in place of the kind's own: -10,60 for band and spiral",
    )
    maker.add_argument(
        "--radius",
        type=positive,
        default=viewpoints.DISTANCE,
        help="distance of the cameras from the centre of the object, whose bounding box has a diagonal of 1",
    )
    maker.add_argument("--fov_deg", type=field_of_view, default=None, help="field of view; where it is not given, 52.0")
    maker.add_argument("--sidelength", type=whole(8), default=sidelength, help="side of the images, in pixels")
    maker.add_argument(
        "--light",
        type=direction,
        default=",".join(map(str, raycasting.LIGHT_FROM)),
        metavar="X,Y,Z",
        help="direction towards the light (x right, y back, z up), or none for colours without shading",
    )
    maker.add_argument(
        "--depth",
        action="store_true",
        help="write depth/ (along the camera's z axis, 0 beside the object) and normals/ as .npy too",
    )
    maker.add_argument("--seed", type=whole(0), default=0, help="the same seed gives the same bytes")
    maker.add_argument("--num_workers", type=whole(1), default=os.cpu_count() or 1, help="number of processes")
    maker.add_argument("--overwrite", action="store_true", help="replace an existing class folder")
    maker.add_argument(
        "--skip_broken", action="store_true", help="leave out what is broken, name it and count it, instead of stopping"
    )


def with_negative_values(arguments):
    """The arguments with `--front -z` and `--elevation_deg -10,60` as argparse understands them: `--front=-z`."""
    joined = []
    for argument in arguments:
        if joined and joined[-1] in MAY_BE_NEGATIVE and argument.startswith("-"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def whole(least):
    """An argparse type: a whole number that is at least `least`."""

    def parse(text):
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < least:
            raise argparse.ArgumentTypeError(f"{text!r} given, expected a whole number of at least {least}")
        return number

    return parse


def positive(text):
    """An argparse type: a number above 0."""
    number = _numbers(text, 1, "a number above 0")[0]
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected a number above 0")
    return number


def field_of_view(text):
    """An argparse type: an angle in degrees, of a pinhole camera."""
    angle = positive(text)
    if angle >= 180:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected an angle below 180 degrees")
    return angle


def degrees(text):
    """An argparse type: LOW,HIGH elevations."""
    low, high = _numbers(text, 2, "two elevations LOW,HIGH")
    if not -90 <= low <= high <= 90:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected LOW,HIGH from -90 to 90 degrees, LOW first")
    return low, high


def direction(text):
    """An argparse type: X,Y,Z as a unit vector (3,), a tuple; "none" as None."""
    if text == "none":
        return None
    vector = np.array(_numbers(text, 3, "three numbers X,Y,Z or none"))
    if not vector.any():
        raise argparse.ArgumentTypeError(f"{text!r} given, expected a direction; for no shading, none")
    return tuple((vector / np.linalg.norm(vector)).tolist())


def _numbers(text, count, expected):
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise argparse.ArgumentTypeError(f"{text!r} given, expected {expected}")
    return numbers


def folder_name(text):
    """An argparse type: a name that is one folder's, and not a hidden one."""
    if not text or text.startswith(".") or "/" in text:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected a name such as Chair")
    return text


def cameras(options, split, index):
    """Poses (V, 4, 4) of the views of the `index`-th object of a split; none where the split is not to be made."""
    if split == "test":
        kind, num_views = options.test_cameras, options.test_views
    else:
        kind, num_views = options.cameras, options.views if split == "train" else options.train_val_views
    if num_views == 0 or split == "train_val" and kind not in viewpoints.ELEVATION_DEG:
        return torch.zeros(0, 4, 4)  # given poses are those of train already
    rng = np.random.default_rng([options.seed, VIEWS, SPLITS.index(split), index])
    return viewpoints.cameras(kind, num_views, rng, options.elevation_deg, options.radius)


def write(options, class_names, instances, description=None, texts=None, identity=None):
    """Renders the instances that have views into the class folder that the options name, and says what came out.

    class_names: by id, background first; None for data without labels
    identity:    see class_folder.write_class
    """
    if options.radius <= 0.5 and not getattr(options, "keep_size", False):
        raise util.InputError(
            f"--radius {options.radius:g}: the cameras would be inside the object, whose diagonal is 1; "
            f"expected more than 0.5"
        )
    style = class_folder.Style(
        sidelength=options.sidelength,
        focal=viewpoints.focal_of(options.fov_deg) if options.fov_deg else viewpoints.FOCAL,
        light=options.light,
        with_labels=class_names is not None,
        with_depth=options.depth,
    )
    description = {
        "maker": options.maker,
        "seed": options.seed,
        **(description or {}),
        "cameras": options.cameras,
        "test_cameras": options.test_cameras,
    }
    if options.cameras in viewpoints.ELEVATION_DEG:  # of given ones the poses tell
        description["elevation_deg"] = options.elevation_deg or viewpoints.ELEVATION_DEG[options.cameras]
        description["camera_distance"] = options.radius
    outcomes = class_folder.write_class(
        options.out,
        options.obj_name,
        class_names,
        [i for i in instances if len(i.cam2world)],
        style,
        description,
        num_workers=options.num_workers,
        overwrite=options.overwrite,
        skip_broken=options.skip_broken,
        texts=texts,
        identity=identity,
    )
    written = [outcome for outcome in outcomes if outcome.views]
    folder = os.path.join(options.out, options.obj_name)
    print(f"wrote {folder}: {len(written)} instances, {sum(outcome.views for outcome in written)} views")
    if any(outcome.faults for outcome in outcomes):
        missing = {outcome.name for outcome in outcomes if not outcome.views}
        mended = {outcome.name for outcome in written if outcome.faults}
        print(
            f"left out {len(missing)} objects, and parts of {len(mended)} others; see "
            f"{os.path.join(folder, class_folder.LEFT_OUT)}"
        )
