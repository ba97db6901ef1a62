"""Posed images as users bring them: a view of a source, its picture, mask and label map, and what may be wrong with them."""

import contextlib
import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

import data_util
import util
from datasets.conversion import lenses

NAMES = "source_views.txt"  # of an instance folder: what its views were called where they came from
PICTURES = (".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG")
LABEL_MAPS = (".npy", ".png", ".PNG")


@dataclass(frozen=True)
class SourceView:
    """One posed image of a source."""

    name: str  # of the picture within the source, such as "train/r_0.png"
    path: Path
    cam2world: np.ndarray  # (4, 4) float64, OpenCV axes
    lens: lenses.Lens


@dataclass
class Faults:
    """What is wrong with single views or instances: the first ends the program, or each is noted and left out."""

    skip: bool = False  # leave out what is broken
    instance: str = ""  # that the views belong to
    found: list = field(default_factory=list)  # (name, sentence) of what was left out

    def within(self, instance):
        """The same for the views of an instance; what is found goes to the same list."""
        return replace(self, instance=instance)

    @contextlib.contextmanager
    def of(self, name):
        """Work on the view or instance `name`; a util.InputError within the block is a fault of it."""
        try:
            yield
        except util.InputError as error:
            if not self.skip:
                raise
            self.found.append(("/".join(filter(None, (self.instance, str(name)))), str(error)))

    def report(self, folder, num_instances, num_views):
        """Print what was written to `folder` and what was left out."""
        for name, sentence in self.found:
            print(f"skipped {name}: {sentence}")
        instances = f"{num_instances} instances, " if num_instances > 1 else ""
        names = ", ".join(name for name, _ in self.found)
        print(f"wrote {folder}: {instances}{num_views} views" + (f"; {len(self.found)} skipped: {names}" if names else ""))


def in_order(views):
    """Views sorted by name, numbers by value: r_2 before r_10."""
    return sorted(views, key=lambda view: ([_by_value(part) for part in re.split(r"(\d+)", view.name)], view.name))


def _by_value(text):
    return (0, int(text), "") if text.isdecimal() else (1, 0, text)


def name_within(path, root):
    """The name of a picture within a source: its path from `root` without .. and without a leading images/."""
    parts = [part for part in Path(os.path.relpath(path, root)).parts if part != ".."]
    name = "/".join(parts[1:] if parts[0] == "images" and len(parts) > 1 else parts)
    if not name.isprintable():
        raise util.InputError(f"{name!r}: the name of an image holds characters that cannot be printed; rename the file")
    return name


def picture_size(path):
    """(height, width) of an image file, from its header."""
    with _opened(path) as picture:
        return picture.height, picture.width


@contextlib.contextmanager
def _opened(path):
    try:
        with Image.open(path) as picture:
            yield picture
    except FileNotFoundError:
        raise util.InputError(f"{path}: no such image") from None
    except util.InputError:
        raise
    except Exception as error:  # PIL raises whatever its decoders do
        raise util.InputError(f"{path}: cannot be read as an image ({error})") from None


def load_picture(path):
    """Reads an 8-bit image as (H, W, 3) uint8, or (H, W, 4) where it has an alpha channel."""
    with _opened(path) as picture:
        _check_8_bit(picture, path)
        return np.array(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))


def load_mask(path):
    """Reads a mask as (H, W) bool, True on the object: not black, or not transparent where there is transparency."""
    with _opened(path) as picture:
        _check_8_bit(picture, path)
        alpha = np.array(picture.convert("RGBA"))[..., 3]
        if alpha.min() < 255:
            return alpha > 0
        noise = 127 if picture.format == "JPEG" else 0  # black is not quite black there
        return (np.array(picture.convert("RGB")) > noise).any(axis=-1)


def _check_8_bit(picture, path):
    if picture.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"):
        raise util.InputError(f"{path}: expected an image of 8 bits a channel, found mode {picture.mode}; convert it")


def load_labels(path, num_classes, unlabelled=None):
    """Reads a label map, .npy or a PNG with a class id per pixel (grey or palette), as (H, W) int64.

    unlabelled: the value that stands for no label in the file, beside util.UNLABELLED
    """
    if Path(path).suffix == ".npy":
        labels = data_util.open_seg_labels(path).astype(np.int64)
    else:
        with _opened(path) as picture:
            if picture.mode not in ("1", "L", "P", "I", "I;16"):
                raise util.InputError(
                    f"{path}: a label map has one channel, the class id of each pixel (grey or palette PNG, or .npy); "
                    f"found mode {picture.mode}"
                )
            labels = np.array(picture).astype(np.int64)
    if unlabelled is not None:
        labels[labels == unlabelled] = util.UNLABELLED
    wrong = labels[(labels < util.UNLABELLED) | (labels >= num_classes)]
    if len(wrong):
        raise util.InputError(
            f"{path}: holds the label {wrong[0]}, but the class list goes from 0 to {num_classes - 1}; add the class "
            f"to it, or mend the label map (--unlabelled {wrong[0]} where that value means no label)"
        )
    return labels


def find_beside(folder, view_name, suffixes, by_file_name):
    """The file of a mask or label map that belongs to a view: its name within `folder` with one of the suffixes.

    by_file_name: look without the view's subfolders too, which is safe where file names are unique. None where
    there is no such file.
    """
    names = [view_name, Path(view_name).name] if by_file_name else [view_name]
    stems = [stem for name in names for stem in (os.path.splitext(name)[0], name)]  # COLMAP: IMG_1.jpg.png
    candidates = (Path(folder) / f"{stem}{suffix}" for stem in stems for suffix in suffixes)
    return next((path for path in candidates if path.is_file()), None)


def write_names(folder, names, comment=None):
    """Write which view of an instance was called what in its source, a line per view."""
    lines = [f"# {comment}\n"] if comment else []
    lines += [f"{i:06d} {name}\n" for i, name in enumerate(names)]
    (folder / NAMES).write_text("".join(lines), encoding="utf-8")


def read_names(folder, views, blanks=True):
    """Names for the pictures of an instance outside our layout, all different, each ending in .png.

    views:  names of the views in our layout, such as "000000". Where no other names are kept these remain.
    blanks: False turns them into _
    """
    path, kept = folder / NAMES, {}
    if path.exists():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise util.InputError(f"{path}: cannot be read as the names of the views ({error})") from None
        kept = dict(line.split(maxsplit=1) for line in lines if not line.startswith("#") and len(line.split()) > 1)
    names = [f"{os.path.splitext(kept.get(view, view))[0]}.png" for view in views]
    names = names if blanks else ["_".join(name.split()) for name in names]
    outside = [name for name in names if os.path.isabs(name) or ".." in Path(name).parts]
    if outside:
        raise util.InputError(f"{path}: the name {outside[0]} leads out of the folder; expected a path within it")
    return names if len(set(names)) == len(names) else [f"{view}.png" for view in views]


def check_apart(target, sources):
    """An InputError where a source (None: not given) is `target` or lies within it, and could be replaced with it."""
    target = Path(target).resolve()
    for source in sources:
        if source is not None and (target == Path(source).resolve() or target in Path(source).resolve().parents):
            raise util.InputError(f"{source} lies within {target}, and one of them is to be written; choose another --out")
