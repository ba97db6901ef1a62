"""Posed images of a source: views, their images, masks, label maps and names, and the faults found in them."""

import contextlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

import data_util
import util
from datasets.conversion import lenses

NAMES = "source_views.txt"  # in an instance folder: the names of its views in the source
PICTURES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")
LABEL_MAPS = (".npy", ".png", ".PNG")
EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # modes of Pillow
ONE_CHANNEL = ("1", "L", "P", "I", "I;16")


@dataclass
class SourceView:
    """One posed image of a source, and what belongs to it."""

    name: str  # of the image within the source, such as "train/r_0.png"
    path: Path
    cam2world: np.ndarray  # (4, 4) float64, OpenCV axes
    lens: lenses.Lens
    mask: Path = None
    labels: Path = None  # label map


@dataclass
class Faults:
    """What is wrong with views and instances: with `skip` each fault is recorded, otherwise the first stops the program."""

    skip: bool = False
    instance: str = ""  # of the views, if the source has several
    found: list = field(default_factory=list)  # (name, sentence) of each view or instance left out

    @contextlib.contextmanager
    def of(self, name):
        """A util.InputError in the block is a fault of the view or instance `name`."""
        try:
            yield
        except util.InputError as error:
            if not self.skip:
                raise
            self.found.append((f"{self.instance}/{name}" if self.instance else str(name), str(error)))

    def expect_some(self, items, complaint):
        """An InputError, with the last fault as its reason, if no items are left."""
        if not items:
            raise util.InputError(f"{complaint}: {self.found[-1][1]}")

    def report(self, folder, num_instances, num_views):
        """Prints what was written to `folder` and what was left out."""
        for name, sentence in self.found:
            print(f"skipped {name}: {sentence}")
        instances = f"{num_instances} instances, " if num_instances > 1 else ""
        names = ", ".join(name for name, _ in self.found)
        print(f"wrote {folder}: {instances}{num_views} views" + (f"; {len(self.found)} skipped: {names}" if names else ""))


def in_order(views):
    """Views sorted by name, numbers by value: r_2 before r_10."""

    def key(view):
        parts = re.split(r"(\d+)", view.name)  # the numbers are at odd places
        return [int(part) if i % 2 else part for i, part in enumerate(parts)], view.name

    return sorted(views, key=key)


def name_within(path, root):
    """The name of an image within a source: its path from `root` without .. and without images/ in front."""
    name = "/".join(part for part in Path(os.path.relpath(path, root)).parts if part != "..").removeprefix("images/")
    if not name.isprintable():
        raise util.InputError(f"{name!r}: the name of an image has characters that cannot be printed; rename the file")
    return name


def picture_size(path):
    """(height, width) of an image file, from its header."""
    with _opened(path) as picture:
        return picture.height, picture.width


@contextlib.contextmanager
def _opened(path, modes=None, expected=""):
    """The Pillow image in a file. An InputError if it cannot be read or if its mode is not one of `modes`."""
    with util.reading(path, "an image", Exception), Image.open(path) as picture:  # Pillow raises any error of its decoders
        if modes is not None and picture.mode not in modes:
            raise ValueError(f"expected {expected}, found mode {picture.mode}; convert it")
        yield picture


def check_size(where, found, expected, whose):
    """An InputError, naming `where` and `whose` size is expected, unless two sizes (height, width) are equal."""
    if found != expected:
        sides = f"{found[1]} x {found[0]} pixels (width x height), {whose} {expected[1]} x {expected[0]}"
        raise util.InputError(f"{where}: has {sides}; expected the same")


def load_picture(path):
    """Reads an 8-bit image as (H, W, 3) uint8, or (H, W, 4) if it has transparency."""
    with _opened(path, EIGHT_BIT, "8 bits a channel") as picture:
        return np.array(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))


def load_mask(path):
    """Reads a mask as (H, W) bool, True on the object: opaque or, in an image without transparency, not black."""
    with _opened(path, EIGHT_BIT, "8 bits a channel") as picture:
        alpha = np.array(picture.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            return alpha > 0
        noise = 127 if picture.format == "JPEG" else 0  # compression changes black
        return (np.array(picture.convert("RGB")) > noise).any(axis=-1)


def load_labels(path, num_classes, unlabelled=None):
    """Reads a label map, .npy or a PNG with a class id per pixel (grey or palette), as (H, W) int16.

    unlabelled: a value in the file that means no label, beside util.UNLABELLED
    """
    if Path(path).suffix == ".npy":
        labels = data_util.open_seg_labels(path).astype(np.int64)
    else:
        with _opened(path, ONE_CHANNEL, "one channel, the class id of each pixel") as picture:
            labels = np.array(picture).astype(np.int64)
    if unlabelled is not None:
        labels[labels == unlabelled] = util.UNLABELLED
    wrong = labels[(labels < util.UNLABELLED) | (labels >= num_classes)]
    if len(wrong):
        expected = f"the class list goes from 0 to {num_classes - 1}"
        advice = f"correct one of them, or pass --unlabelled {wrong[0]} if it means no label"
        raise util.InputError(f"{path}: holds the label {wrong[0]}, but {expected}; {advice}")
    return labels.astype(np.int16)


def find_beside(folder, name, suffixes, by_file_name):
    """The mask or label map of the view `name` in a folder, with one of the suffixes; None if there is none.

    by_file_name: also look for it without the view's subfolders; safe if file names are unique
    """
    names = [name, Path(name).name] if by_file_name else [name]
    stems = [stem for name in names for stem in (os.path.splitext(name)[0], name)]  # COLMAP: IMG_1.jpg.png
    candidates = (folder / f"{stem}{suffix}" for stem in stems for suffix in suffixes)
    return next((path for path in candidates if path.is_file()), None)


def write_names(folder, names, comment=None):
    """Writes the names of an instance's views in the source, a line per view."""
    lines = ([f"# {comment}"] if comment else []) + [f"{i:06d} {name}" for i, name in enumerate(names)]
    (folder / NAMES).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_names(folder, views, blanks=True):
    """Unique names, each ending in .png, for the exported images of an instance: those in the source, if known.

    views:  names of the views in the instance folder, such as "000000"
    blanks: whether names may have blanks; otherwise _ replaces them
    """
    path, kept = folder / NAMES, {}
    if path.exists():
        with util.reading(path, "the names of the views", OSError, ValueError):
            lines = path.read_text(encoding="utf-8").splitlines()
        kept = dict(line.split(maxsplit=1) for line in lines if not line.startswith("#") and len(line.split()) > 1)
    names = [f"{os.path.splitext(kept.get(view, view))[0]}.png" for view in views]
    names = names if blanks else ["_".join(name.split()) for name in names]
    for name in names:
        if os.path.isabs(name) or ".." in Path(name).parts:
            raise util.InputError(f"{path}: the name {name} leads out of the folder; expected a path inside it")
    return names if len(set(names)) == len(names) else [f"{view}.png" for view in views]


def check_apart(target, sources):
    """An InputError if a source (None: not given) is `target` or lies in it, since writing `target` could delete it."""
    target = Path(target).resolve()
    for source in sources:
        if source is not None and (target == Path(source).resolve() or target in Path(source).resolve().parents):
            raise util.InputError(f"{source} lies in {target}, which could overwrite it; choose another --out")
