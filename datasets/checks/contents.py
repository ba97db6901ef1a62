"""What is wrong with a data set: every file of it, instance by instance. check_dataset.py prints what is found here.

A broken file never stops a check: it becomes a Fault, and the files beside it are looked at as if it were not there.
The training stages use `quick`, which looks at the cameras of instances that have been indexed and at no file.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

import data_util
import dataio
import util
from datasets.checks import camera_checks
from datasets.checks.camera_checks import Fault
from datasets.storage import headers

IMAGE_MODES = {"L", "LA", "RGB", "RGBA", "P"}  # of PIL: 8 bits a channel
KINDS = {"rgb": "images", "pose": "poses", "seg": "label maps", "params": "latent vectors"}
SUFFIXES = {"rgb": ".png", "pose": ".txt", "seg": ".npy", "params": ".txt"}
UNREADABLE = "unreadable folder"
MAX_CLASSES = 2**15  # where no class list says how many there are
_SHOWN = 5  # names in a sentence


@dataclass
class Report:
    """What an instance folder holds. `poses` and `views` are those of the readable pose files."""

    name: str
    folder: Path
    views: tuple = ()
    poses: np.ndarray = field(default_factory=lambda: np.zeros((0, 4, 4), np.float32))
    intrinsics: data_util.Intrinsics = None
    num_images: int = 0
    num_label_maps: int = 0
    sides: set = field(default_factory=set)  # (height, width) of the images; of label maps where there are no images
    pixels: Counter = field(default_factory=Counter)  # by class; util.UNLABELLED for those without a label
    num_blank: int = 0  # images that show nothing
    faults: list = field(default_factory=list)

    @property
    def num_views(self):
        return self.num_images or self.num_label_maps or len(self.views)


def quick(instances):
    """Faults of the cameras of instances, a list of Fault; see camera_checks. No file is read."""
    return camera_checks.faults_of(instances)


def expect_sound_cameras(instances, root, go_on=False):
    """An InputError on the first of the `quick` faults of a split; a note instead with `go_on`, or where all may be meant."""
    faults = sorted(quick(instances), key=lambda fault: fault.kind == camera_checks.BESIDE)  # those come last
    if not faults:
        return
    further = f" ({len(faults) - 1} further faults of cameras)" if len(faults) > 1 else ""
    may_be_meant = faults[0].kind == camera_checks.BESIDE
    if not go_on and not may_be_meant:
        raise util.InputError(
            f"{faults[0]}{further}; run check_dataset.py {root} for all, or train on them nonetheless with --no_check"
        )
    why = f"as it may be meant; check_dataset.py {root} tells all" if may_be_meant else "as --no_check says"
    print(f"note: {faults[0]}{further}; training goes on, {why}")


def is_instance(folder):
    """Whether a folder holds what an instance folder holds, or some of it."""
    return any(os.path.exists(folder / name) for name in ("intrinsics.txt", "rgb", "pose", "seg"))


def find_splits(root):
    """The split folders of a class folder, in sorted order, or the split itself."""
    root = Path(root)
    if not os.path.isdir(root):
        raise util.InputError(f"{root}: no such folder; expected a split such as Chair/Chair.train, or a class folder")
    inside = subfolders(root)
    if is_instance(root):
        raise util.InputError(f"{root}: this is one instance; give the split that it lies in, {root.parent}")
    if any(is_instance(folder) for folder in inside):
        return [root]
    splits = [folder for folder in inside if any(is_instance(instance) for instance in subfolders(folder))]
    if not splits:
        raise util.InputError(
            f"{root}: neither a split nor a class folder; expected {root}/<instance>/rgb, pose and intrinsics.txt, or "
            f"split folders of such instances"
        )
    return splits


def empty_splits(root, splits, obj_name=None):
    """A Fault for each folder of a class folder that is named like a split, such as Chair.val, and holds no instance."""
    root = Path(root)
    classes = {obj_name or root.resolve().name} | {split.name.split(".")[0] for split in splits}
    return [
        Fault("empty split", folder, "holds no instances; fill the folder or remove it")
        for folder in ([] if root in splits else subfolders(root))
        if folder not in splits and "." in folder.name and folder.name.split(".")[0] in classes
    ]


def subfolders(folder):
    """The folders in a folder, sorted, without hidden ones; InputError where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / item.name for item in entries if item.is_dir() and not item.name.startswith("."))
    except OSError as error:
        raise util.InputError(f"{folder}: cannot be read ({error.strerror}); expected a folder of folders") from None


def list_files(folder, suffix=""):
    """Paths of the files of a folder with that suffix, sorted, without hidden ones; InputError where it cannot be read."""
    try:
        names = os.listdir(os.path.join(folder, "."))  # with the dot it must be possible to open what is in there, too
    except OSError as error:
        raise util.InputError(f"{folder}: cannot be read ({error.strerror}); expected a folder") from None
    return [folder / name for name in sorted(names) if name.endswith(suffix) and not name.startswith(".")]


def check_folder(folder, num_classes=None, decode=True):
    """Check all files of an instance folder; returns a Report. Where the cameras look is left to `quick`.

    num_classes: K of the class list; None if there is none, when every class id is right
    decode:      decode images and read label maps and point clouds; otherwise only their names and headers are read
    """
    folder = Path(folder)
    report = Report(folder.name, folder)
    names = [path.name for path in attempt(report, UNREADABLE, list_files, folder) or ()]
    found = {kind: [] for kind in SUFFIXES}
    for kind in [kind for kind in found if kind in names]:
        found[kind] = attempt(report, UNREADABLE, list_files, folder / kind, SUFFIXES[kind]) or []
    report.num_images, report.num_label_maps = len(found["rgb"]), len(found["seg"])
    if report.faults and not names:
        return report
    if not any(found.values()) and not report.faults and "intrinsics.txt" not in names:
        report.faults.append(
            Fault("empty instance", folder, ("holds no images, poses or intrinsics.txt; fill the folder or remove it"))
        )
        return report
    if not report.faults:
        check_counts(report, found)
    check_cameras(report, found["pose"])
    shapes = check_images(report, found["rgb"], decode)
    check_labels(report, found["seg"], shapes, num_classes, decode)
    if found["params"]:
        attempt(report, "latent vectors", data_util.load_latent_vectors, found["params"])
    if decode:
        attempt(report, "point cloud", data_util.load_labelled_cloud, folder, num_classes or MAX_CLASSES)
    return report


def attempt(report, kind, read, *arguments):
    """What a reader returns, or None where it refuses; then the report has a fault more."""
    try:
        return read(*arguments)
    except util.InputError as error:
        report.faults.append(fault_of(error, kind))
    except OSError as error:
        report.faults.append(Fault(kind, Path(error.filename or report.folder), f"cannot be read ({error.strerror})"))


def fault_of(error, kind):
    """The Fault that a reader's InputError, "<path>: <sentence>", tells."""
    path, _, sentence = str(error).partition(": ")
    return Fault(kind, Path(path), sentence)


def check_counts(report, found):
    """Each view has an image, a pose and, where there are any, a label map and a latent vector."""
    if not found["rgb"] and not found["seg"]:
        others = Counter(path.suffix for path in (report.folder / "rgb").glob("[!.]*.*"))
        has = ", ".join(f"{count} {suffix} files" for suffix, count in others.items())
        report.faults.append(
            Fault(
                "no images",
                report.folder,
                (f"no images; expected {report.folder / 'rgb'}/*.png{f', found {has}' if has else ''}"),
            )
        )
        return
    stems = {kind: {path.stem for path in paths} for kind, paths in found.items() if paths or kind == "pose"}
    every = set().union(*stems.values())
    lacking = {KINDS[kind]: sorted(every - has) for kind, has in stems.items() if every - has}
    if lacking:
        counts = ", ".join(f"{len(has)} {KINDS[kind]}" for kind, has in stems.items())
        told = "; ".join(
            f"no {what} of {', '.join(views[:_SHOWN])}{', ...' * (len(views) > _SHOWN)}" for what, views in lacking.items()
        )
        report.faults.append(Fault("unequal counts", report.folder, f"{counts}; {told}; each view needs all of them"))


def check_for_images(reports):
    """A fault for each instance of a split without images where others have some: all are of use, or none."""
    if any(report.num_images for report in reports):
        for report in reports:
            has_been_told = report.folder / "rgb" in [fault.path for fault in report.faults]
            if report.num_label_maps and not report.num_images and not has_been_told:
                report.faults.append(
                    Fault(
                        "no images",
                        report.folder,
                        (f"no images, though other instances of the split have some; expected {report.folder / 'rgb'}/*.png"),
                    )
                )


def check_cameras(report, paths):
    """Reads intrinsics.txt and the poses, as far as they can be read."""
    report.intrinsics = attempt(report, "intrinsics", data_util.load_intrinsics, report.folder / "intrinsics.txt")
    is_world2cam = report.intrinsics is not None and report.intrinsics.poses_are_world2cam
    poses = {path.stem: attempt(report, "unreadable pose", data_util.load_pose, path, is_world2cam) for path in paths}
    poses = {view: pose for view, pose in poses.items() if pose is not None}
    if poses:
        report.views, report.poses = tuple(poses), np.stack(list(poses.values()))
    if len(poses) > 2 and len(np.unique(report.poses, axis=0)) < len(poses) / 2:
        report.faults.append(
            Fault(
                "equal poses",
                report.folder / "pose",
                (
                    f"the {len(poses)} views have {len(np.unique(report.poses, axis=0))} different poses; expected "
                    f"one for each view"
                ),
            )
        )


def check_images(report, paths, decode):
    """Reads the images; returns {view: (height, width)}."""
    shapes = {}
    for path in paths:
        image = attempt(report, "unreadable image", read_image, path, decode)
        if image is None:
            continue
        shape, is_blank = image
        shapes[path.stem] = shape
        report.sides.add(shape)
        report.num_blank += is_blank
        camera = report.intrinsics
        # An image of another size and the same shape is right: the stages scale the intrinsics to the side they use.
        if camera is not None and abs(shape[1] - camera.width * shape[0] / camera.height) > 1:
            report.faults.append(
                Fault(
                    "image size",
                    path,
                    (
                        f"the image is {shape[1]} x {shape[0]} pixels, but intrinsics.txt is for {camera.width} x "
                        f"{camera.height}; "
                        f"its fourth line is the height, then the width"
                    ),
                )
            )
    return shapes


def read_image(path, decode=True):
    """((height, width) of an image file, whether it shows nothing). InputError where data_util.load_image would raise one."""
    headers.check_png(path)
    try:
        with Image.open(path) as image:
            mode, shape = image.mode, (image.height, image.width)
            if decode:
                extremes = (image.convert("RGBA") if mode == "P" else image).getextrema()  # of all pixels, so all are decoded
    except Exception as error:  # PIL raises whatever its decoder does
        raise util.InputError(f"{path}: cannot be read as an image ({error})") from None
    if min(shape) < 2:
        raise util.InputError(f"{path}: is {shape[1]} x {shape[0]} pixels, smaller than 2 x 2; render it again")
    if mode not in IMAGE_MODES:
        raise util.InputError(f"{path}: expected an 8-bit grey, RGB or RGBA image, found one of PIL's mode {mode}")
    if not decode:
        return shape, False
    channels = np.array(extremes).reshape(-1, 2)  # lowest and highest of each channel
    has_alpha = len(channels) in (2, 4)
    is_blank = has_alpha and channels[-1, 1] == 0 or channels[: 3 if len(channels) > 2 else 1, 0].min() == 255
    return shape, bool(is_blank)


def check_labels(report, paths, shapes, num_classes, decode):
    """Reads the label maps, whose shapes must be those of the images, and counts pixels by class."""
    for path in paths:
        seg_labels = attempt(report, "unreadable label map", data_util.open_seg_labels, path, None if decode else "r")
        if seg_labels is None:
            continue
        if not shapes:
            report.sides.add(seg_labels.shape)
        shape = shapes.get(path.stem, seg_labels.shape)
        if seg_labels.shape != shape:
            (height, width), (image_height, image_width) = seg_labels.shape, shape
            report.faults.append(
                Fault(
                    "label map size",
                    path,
                    (
                        f"the label map is {width} x {height} pixels, its image {image_width} x {image_height}; make "
                        f"them the same"
                    ),
                )
            )
        if decode:
            count_pixels(report, path, seg_labels, num_classes)


def count_pixels(report, path, seg_labels, num_classes):
    last = (num_classes or MAX_CLASSES) - 1
    low, high = (int(seg_labels.min()), int(seg_labels.max())) if seg_labels.size else (0, 0)
    if low < util.UNLABELLED or high > last:
        report.faults.append(
            Fault(
                "labels outside the class list",
                path,
                (
                    f"labels from {low} to {high}, but "
                    + (f"the class list ends at {last}" if num_classes else f"class ids are 0 to {last}")
                    + "; add the class to the list or mend the label map"
                ),
            )
        )
        seg_labels = seg_labels[(seg_labels >= util.UNLABELLED) & (seg_labels <= last)]
    counts = np.bincount(seg_labels.ravel().astype(np.int64) - util.UNLABELLED)
    for i in np.flatnonzero(counts).tolist():
        report.pixels[i + util.UNLABELLED] += int(counts[i])


def find_class_list(split, obj_name=None):
    """Path of the class list of a split, or None: of the class `obj_name`, or of the one that its folders are named after."""
    if obj_name:
        return dataio.find_class_list(split, obj_name)
    split = Path(split).resolve()
    paths = [dataio.find_class_list(split, name) for name in (split.name.split(".")[0], split.parent.name)]
    return next((path for path in paths if os.path.exists(path)), None)
