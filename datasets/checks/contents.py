"""Faults of a data set, found by reading every file of it, instance by instance. check_dataset.py prints them.

An unreadable file does not stop a check: it becomes a Fault, and the other files are checked as if it did not exist.
The training stages use `expect_sound_cameras` alone, which reads no file.
"""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import data_util
import util
from datasets.checks import camera_checks
from datasets.checks.camera_checks import Fault
from datasets.storage import headers
from datasets.storage.split_index import FILES

UNREADABLE = "unreadable folder"
MAX_CLASSES = data_util.MAX_CLASS_ID + 1  # without a class list
_SHOWN = 5  # names in a sentence


@dataclass
class Report:
    """What an instance folder contains. `poses` and `views` are those of the readable pose files."""

    name: str
    folder: Path
    views: tuple = ()
    poses: np.ndarray = field(default_factory=lambda: np.zeros((0, 4, 4), np.float32))
    intrinsics: data_util.Intrinsics = None
    num_images: int = 0
    num_label_maps: int = 0
    sides: set = field(default_factory=set)  # (height, width) of the images, or of label maps if there are no images
    pixels: Counter = field(default_factory=Counter)  # by class; util.UNLABELLED for pixels without a label
    num_blank: int = 0  # images of nothing but background
    faults: list = field(default_factory=list)

    @property
    def num_views(self):
        return self.num_images or self.num_label_maps or len(self.views)

    def add(self, kind, path, sentence):
        self.faults.append(Fault(kind, path, sentence))

    def attempt(self, kind, read, *arguments):
        """What a reader returns; None if it raises an error, which becomes a fault."""
        try:
            return read(*arguments)
        except util.InputError as error:
            self.faults.append(fault_of(error, kind))
        except OSError as error:
            self.add(kind, Path(error.filename or self.folder), f"cannot be read ({error.strerror})")


def fault_of(error, kind):
    """The Fault for a reader's InputError "<path>: <sentence>"."""
    path, _, sentence = str(error).partition(": ")
    return Fault(kind, Path(path), sentence)


def expect_sound_cameras(instances, root, go_on=False):
    """Raise util.InputError for the first fault of the cameras of a split, see camera_checks.

    With go_on, or if all of them may be intended, print a note instead.
    """
    faults = sorted(camera_checks.faults_of(instances), key=lambda fault: fault.kind == camera_checks.BESIDE)
    if not faults:
        return
    first = f"{faults[0]}" + (f" ({len(faults) - 1} further faults of cameras)" if len(faults) > 1 else "")
    may_be_intended = faults[0].kind == camera_checks.BESIDE  # these come last
    if not go_on and not may_be_intended:
        raise util.InputError(f"{first}; run check_dataset.py {root} to see all, or train on them with --no_check")
    why = f"since this may be intended; check_dataset.py {root} lists all" if may_be_intended else "because of --no_check"
    print(f"note: {first}; training goes on, {why}")


def check_folder(folder, num_classes=None, decode=True):
    """Check all files of an instance folder; returns a Report. Cameras are left to camera_checks.faults_of.

    num_classes: K of the class list; None without one, when every class id is valid
    decode:      decode images, and read label maps and point clouds; otherwise only names and headers are read
    """
    folder = Path(folder)
    report = Report(folder.name, folder)
    names = report.attempt(UNREADABLE, list_names, folder) or ()
    found = {kind: [] for kind in FILES}
    for kind in [kind for kind in found if kind in names]:
        files = report.attempt(UNREADABLE, list_names, folder / kind) or ()
        found[kind] = [folder / kind / name for name in files if name.endswith(FILES[kind][1])]
    report.num_images, report.num_label_maps = len(found["rgb"]), len(found["seg"])
    if report.faults and not names:
        return report
    if not any(found.values()) and not report.faults and "intrinsics.txt" not in names:
        report.add("empty instance", folder, "holds no images, poses or intrinsics.txt; fill the folder or remove it")
        return report
    if not report.faults:
        check_counts(report, found)
    check_cameras(report, found["pose"])
    shapes = check_images(report, found["rgb"], decode)
    check_labels(report, found["seg"], shapes, num_classes, decode)
    if found["params"]:
        report.attempt("latent vectors", data_util.load_latent_vectors, found["params"])
    if decode:
        report.attempt("point cloud", data_util.load_labelled_cloud, folder, num_classes or MAX_CLASSES)
    return report


def list_names(folder):
    """Sorted names of what is in a folder, without hidden ones. Raises an OSError where that cannot be listed or opened."""
    return sorted(name for name in os.listdir(os.path.join(folder, ".")) if not name.startswith("."))


def check_counts(report, found):
    """Each view must have an image, a pose and, if there are any, a label map and a latent vector."""
    if not found["rgb"] and not found["seg"]:
        others = Counter(path.suffix for path in (report.folder / "rgb").glob("[!.]*.*"))
        has = ", found " + ", ".join(f"{count} {suffix} files" for suffix, count in others.items()) if others else ""
        report.add("no images", report.folder, f"no images; expected {report.folder / 'rgb'}/*.png{has}")
        return
    stems = {kind: {path.stem for path in paths} for kind, paths in found.items() if paths or kind == "pose"}
    every = set().union(*stems.values())
    missing = {FILES[kind][0]: sorted(every - has) for kind, has in stems.items() if every - has}
    if missing:
        counts = ", ".join(f"{len(has)} {FILES[kind][0]}" for kind, has in stems.items())
        sentences = "; ".join(
            f"no {what} of {', '.join(views[:_SHOWN])}{', ...' * (len(views) > _SHOWN)}" for what, views in missing.items()
        )
        report.add("unequal counts", report.folder, f"{counts}; {sentences}; each view needs all of them")


def check_for_images(reports):
    """A fault for each instance without images in a split where others have some: it can only be used with all or none."""
    if any(report.num_images for report in reports):
        for report in reports:
            path = report.folder / "rgb"
            if report.num_label_maps and not report.num_images and path not in [fault.path for fault in report.faults]:
                sentence = f"no images, though other instances of the split have some; expected {path}/*.png"
                report.add("no images", report.folder, sentence)


def check_cameras(report, paths):
    """Read intrinsics.txt and the poses, as far as they are readable."""
    report.intrinsics = report.attempt("intrinsics", data_util.load_intrinsics, report.folder / "intrinsics.txt")
    is_world2cam = report.intrinsics is not None and report.intrinsics.poses_are_world2cam
    poses = {path.stem: report.attempt("unreadable pose", data_util.load_poses, [path], is_world2cam) for path in paths}
    poses = {view: pose for view, pose in poses.items() if pose is not None}
    if poses:
        report.views, report.poses = tuple(poses), np.concatenate(list(poses.values()))
    num_different = len(np.unique(report.poses, axis=0))
    if len(poses) > 2 and num_different < len(poses) / 2:
        sentence = f"the {len(poses)} views have {num_different} different poses; expected one for each view"
        report.add("equal poses", report.folder / "pose", sentence)


def check_images(report, paths, decode):
    """Read the images; returns {view: (height, width)}."""
    shapes, camera = {}, report.intrinsics
    for path in paths:
        image = report.attempt("unreadable image", read_image, path, decode)
        if image is None:
            continue
        (height, width), is_blank = image
        shapes[path.stem] = height, width
        report.sides.add((height, width))
        report.num_blank += is_blank
        # An image of another size and the same shape is valid: the stages scale the intrinsics to the side they use.
        if camera is not None and abs(width - camera.width * height / camera.height) > 1:
            sentence = (
                f"the image is {width} x {height} pixels, but intrinsics.txt is for {camera.width} x {camera.height}; its "
                f"fourth line must be the height, then the width"
            )
            report.add("image size", path, sentence)
    return shapes


def read_image(path, decode=True):
    """((height, width), whether there is nothing but background) of an image file. Without `decode` the latter is False."""
    return headers.check_png(path), decode and not data_util.load_image(path)[1].any()


def check_labels(report, paths, shapes, num_classes, decode):
    """Read the label maps, which must have the shapes of the images, and count their pixels by class."""
    for path in paths:
        seg_labels = report.attempt("unreadable label map", data_util.open_seg_labels, path, None if decode else "r")
        if seg_labels is None:
            continue
        if not shapes:
            report.sides.add(seg_labels.shape)
        shape = shapes.get(path.stem, seg_labels.shape)
        if seg_labels.shape != shape:
            own, expected = (f"{width} x {height} pixels" for height, width in (seg_labels.shape, shape))
            report.add("label map size", path, f"the label map is {own}, its image {expected}; they must be equal")
        if decode:
            count_pixels(report, path, seg_labels, num_classes)


def count_pixels(report, path, seg_labels, num_classes):
    last = (num_classes or MAX_CLASSES) - 1
    low, high = int(seg_labels.min()), int(seg_labels.max())
    if low < util.UNLABELLED or high > last:
        expected = f"the class list ends at {last}" if num_classes else f"class ids are 0 to {last}"
        sentence = f"labels from {low} to {high}, but {expected}; add the class to the list or correct the label map"
        report.add("labels outside the class list", path, sentence)
        seg_labels = seg_labels[(seg_labels >= util.UNLABELLED) & (seg_labels <= last)]
    counts = np.bincount(seg_labels.ravel().astype(np.int64) - util.UNLABELLED)
    for i in np.flatnonzero(counts).tolist():
        report.pixels[i + util.UNLABELLED] += int(counts[i])
