"""Readers of single files: images, label maps, poses, intrinsics, class lists, point clouds. docs/data.md has the formats.

Every reader raises util.InputError, naming the file, for a file that it cannot use.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from skimage.transform import resize_local_mean

import util

MAX_NUMBER = 1e30  # in a pose, which is stored in float32
MIN_DETERMINANT = 1e-9  # of the rotation in a pose
MAX_CLASS_ID = 2**15 - 1
IMAGE_MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # of Pillow, with up to 8 bits per channel
CLOUD_POINTS = "point_cloud/sample-points-all-pts-nor-rgba-10000.txt"
CLOUD_LABELS = ("point_cloud/sample-points-label-10000.txt", "point_cloud/sample-points-label-10000.npy")
_CORRECT_CLOUD = "; correct it, or move the point_cloud folder away to score without it"


def read_numbers(path):
    """All numbers of a text file: a list of floats for each line that is not empty."""
    with util.reading(path, "numbers", OSError, ValueError):
        with open(path, "rb", buffering=0) as file:  # text of a buffered file takes twice the time
            lines = file.read().splitlines()
        return [[float(word) for word in words] for line in lines if (words := line.split())]


def square_crop(height, width):
    """The published centre crop to an even square: (top, left, side)."""
    half = min(height, width) // 2
    return height // 2 - half, width // 2 - half, 2 * half


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole camera of an instance as in its intrinsics.txt, in pixels of a height x width image."""

    focal: float
    cx: float
    cy: float
    height: int
    width: int
    poses_are_world2cam: bool = False

    def matrix(self, sidelength=None):
        """(3, 3) float32 for the image after the centre crop, resized to sidelength (None: not resized)."""
        top, left, side = square_crop(self.height, self.width)
        scale = 1.0 if sidelength is None else sidelength / side
        focal, cx, cy = self.focal * scale, (self.cx - left) * scale, (self.cy - top) * scale
        return np.array([[focal, 0, cx], [0, focal, cy], [0, 0, 1]], dtype=np.float32)


def load_intrinsics(path):
    """Reads an intrinsics.txt: `f cx cy 0.` / barycentre / scale / `height width` / optional world-to-camera flag."""
    lines = read_numbers(path)
    if len(lines) not in (4, 5) or len(lines[0]) < 3 or len(lines[3]) != 2:
        found = f"found {len(lines)} lines with {[len(line) for line in lines]} numbers"
        expected = "expected four or five lines (f cx cy 0. / x y z / scale / height width / flag)"
        raise util.InputError(f"{path}: {expected}, {found}")
    focal, cx, cy = lines[0][:3]
    height, width = lines[3]
    if not np.isfinite([number for line in lines for number in line]).all():
        raise util.InputError(f"{path}: found a number that is not finite; correct the camera")
    if not (focal > 0 and height >= 2 and width >= 2):
        expected = "focal length must be positive and sizes at least 2"
        raise util.InputError(f"{path}: {expected}, found {focal} and {height:g} x {width:g}")
    return Intrinsics(focal, cx, cy, int(height), int(width), len(lines) == 5 and lines[4][0] != 0)


def load_poses(paths, is_world2cam=False, dtype=np.float32):
    """Reads pose files, each with four lines of four numbers or one of sixteen: V paths -> (V, 4, 4) cam2world."""
    matrices = np.empty((len(paths), 4, 4))
    for matrix, path in zip(matrices, paths):
        lines = read_numbers(path)
        if [len(line) for line in lines[:4]] == [4, 4, 4, 4] and len(lines) <= 5:
            matrix[:] = lines[:4]
        elif lines and len(lines[0]) == 16:
            matrix[:] = np.reshape(lines[0], (4, 4))
        else:
            found = f"found lines of {[len(line) for line in lines]} numbers"
            raise util.InputError(f"{path}: expected four lines of four numbers or one line of sixteen, {found}")
    is_pose = (np.abs(matrices) <= MAX_NUMBER).all(axis=(1, 2))
    side = 4 if is_world2cam else 3  # what is inverted; another last row of a cam2world is left to the camera checks
    is_pose[is_pose] = np.abs(np.linalg.det(matrices[is_pose, :side, :side])) >= MIN_DETERMINANT
    if not is_pose.all():
        path = paths[is_pose.argmin()]
        raise util.InputError(f"{path}: not a pose; the numbers must be finite and the rotation invertible")
    return (np.linalg.inv(matrices) if is_world2cam else matrices).astype(dtype)


def load_latent_vectors(paths):
    """Reads the latent vector of each view, numbers separated by blanks or line ends, as (V, D) float32."""
    vectors = [np.array([number for line in read_numbers(path) for number in line], dtype=np.float32) for path in paths]
    for path, vector in zip(paths, vectors):
        if not len(vector) or len(vector) != len(vectors[0]) or not np.isfinite(vector).all():
            expected = f"expected a latent vector of {len(vectors[0]) or 'some'} finite numbers"
            raise util.InputError(f"{path}: {expected}, found {len(vector)} numbers")
    return np.stack(vectors)


def load_image(path, sidelength=None, blend_alpha=False):
    """Reads an RGB(A) or grey PNG, crops it to a square and area-averages it to sidelength x sidelength.

    Fully transparent pixels become white in all four channels. With `blend_alpha`, half-transparent ones are composited
    over white too. Alpha is 1 where the file has none.

    returns rgba (S, S, 4): of an image that is averaged, float32 in [-1, 1]; else uint8 as in the file, for `compose`
            foreground (S, S) bool, see `find_foreground`: an averaged pixel is foreground if a part of it is
    """
    rgba = decode_image(path)
    foreground = find_foreground(rgba)
    if sidelength in (None, len(rgba)):
        return rgba, foreground
    shape = sidelength, sidelength
    image = _over_white(rgba, blend_alpha).astype(np.float64)  # in float32, scikit-image rounds pixel borders
    image = resize_local_mean(image, shape, channel_axis=-1)
    return (2 * image - 1).astype(np.float32), resize_local_mean(foreground.astype(np.float32), shape) > 0


def decode_image(path):
    """Reads an RGB(A) or grey PNG and crops it to a square: (S, S, 4) uint8 as in the file, alpha 255 if it has none."""
    with util.reading(path, "an image", Exception), Image.open(path) as image:  # Pillow raises any error of its decoders
        mode = image.mode
        rgba = np.array(image.convert("RGBA") if mode in IMAGE_MODES else image)
    height, width = rgba.shape[:2]
    if mode not in IMAGE_MODES:
        raise util.InputError(f"{path}: expected an 8-bit grey, RGB or RGBA image, found one of Pillow's mode {mode}")
    if min(height, width) < 2:
        raise util.InputError(f"{path}: is {width} x {height} pixels; expected 2 x 2 or more")
    top, left, side = square_crop(height, width)
    return rgba[top : top + side, left : left + side]


def find_foreground(rgba):
    """(S, S, 4) uint8 -> (S, S) bool: what is not fully transparent; without transparency, what is not pure white."""
    alpha = rgba[..., 3]
    return alpha > 0 if (alpha == 0).any() else (rgba[..., :3] < 255).any(axis=-1)


def compose(rgba, blend_alpha=False):
    """Pixels of `decode_image`, (..., 4) uint8, to float32 in [-1, 1] over white, each pixel by itself."""
    return 2 * _over_white(rgba, blend_alpha) - 1


def _over_white(rgba, blend_alpha):
    """(..., 4) uint8 to float32 in [0, 1]; transparent pixels are white."""
    image = rgba.astype(np.float32) / 255
    alpha = image[..., 3:]
    if not blend_alpha:
        return np.where(alpha == 0, np.float32(1), image)
    image = image * alpha + (1 - alpha)
    image[..., 3] = 1
    return image


def open_seg_labels(path, mmap_mode=None):
    """The (H, W) integer array of a label map as in the file; with mmap_mode "r" only its header is read."""
    with util.reading(path, "a .npy label map", OSError, ValueError, EOFError):
        labels = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    if not isinstance(labels, np.ndarray):
        raise util.InputError(f"{path}: found several arrays (.npz); expected one, as written by np.save")
    labels = labels[..., 0] if labels.ndim == 3 and labels.shape[-1] == 1 else labels
    if labels.ndim != 2 or labels.dtype.kind not in "iub":
        raise util.InputError(f"{path}: expected an (H, W) array of integer class ids, found {labels.dtype} {labels.shape}")
    if min(labels.shape) < 2:
        raise util.InputError(f"{path}: is {labels.shape[1]} x {labels.shape[0]} pixels; expected 2 x 2 or more")
    return labels if mmap_mode or labels.dtype.isnative else labels.astype(labels.dtype.newbyteorder("="))


def load_seg_labels(path, sidelength=None, pixel_center=0.0):
    """Reads an (H, W) label map (.npy), crops it to a square and resizes it: (S, S) int64 class ids.

    Pixel i of the result is the source pixel at (i + pixel_center) * source side / S: 0 is the published rule, 0.5 is
    aligned with the area average of the images.
    """
    labels = open_seg_labels(path)
    top, left, side = square_crop(*labels.shape)
    labels = labels[top : top + side, left : left + side].astype(np.int64)
    if sidelength not in (None, side):
        nearest = ((np.arange(sidelength) + pixel_center) * side / sidelength).astype(int)
        labels = labels[nearest][:, nearest]
    return labels


@dataclass(frozen=True)
class LabelledCloud:
    """Points on the surface of an object, each with a class."""

    points: np.ndarray  # (N, 3) float32, world space
    labels: np.ndarray  # (N,) int64 class ids, or util.UNLABELLED


def load_labelled_cloud(folder, num_classes):
    """Reads the labelled point cloud of an instance folder: CLOUD_POINTS and the first of CLOUD_LABELS that exists.

    A line of the points begins with x y z; the rest (normal, colour, alpha) is not used. Labels are one class id per
    line, or a .npy array. Returns a LabelledCloud, or None for an instance without labels of points.
    """
    points_path, label_paths = Path(folder) / CLOUD_POINTS, [Path(folder) / name for name in CLOUD_LABELS]
    labels_path = next((path for path in label_paths if path.exists()), None)
    if labels_path is None:
        return None
    points, labels = _load_table(points_path), _load_table(labels_path)
    if points.shape[1] < 3 or not np.isfinite(points[:, :3]).all():
        expected = "lines that begin with three finite numbers x y z"
        raise util.InputError(f"{points_path}: expected {expected}, found a table of shape {points.shape}{_CORRECT_CLOUD}")
    if labels.shape not in ((len(points),), (len(points), 1)):
        expected = f"a class id for each of {len(points)} points"
        raise util.InputError(f"{labels_path}: expected {expected}, found a table of shape {labels.shape}{_CORRECT_CLOUD}")
    labels = labels.reshape(-1)
    wrong = labels[~((labels == np.round(labels)) & (labels >= util.UNLABELLED) & (labels < num_classes))]
    if len(wrong):
        expected = f"class ids from 0 to {num_classes - 1}, or {util.UNLABELLED} for unlabelled"
        raise util.InputError(f"{labels_path}: expected {expected}, found {wrong[0]:g}{_CORRECT_CLOUD}")
    return LabelledCloud(points[:, :3].astype(np.float32), labels.astype(np.int64))


def _load_table(path):
    """The numbers of a text file with lines of equal length, (lines, numbers) float64, or those of a .npy file."""
    with util.reading(path, "a table of numbers", OSError, ValueError, TypeError, EOFError, advice=_CORRECT_CLOUD):
        if path.suffix == ".npy":
            return np.asarray(np.load(path, allow_pickle=False), dtype=np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about an empty file, which the caller refuses
            return np.loadtxt(path, comments=None, ndmin=2)


def load_class_names(path):
    """Reads a class list: a line per class, the integer id first.

    returns a list of names by id, up to the highest id; ids without a line are named "class <id>".
    """
    with util.reading(path, "a class list", OSError, ValueError, advice="; expected a line per class, the integer id first"):
        lines = [line.split(maxsplit=1) for line in Path(path).read_text().splitlines() if line.strip()]
        names = {int(line[0]): line[1].strip() if len(line) > 1 else f"class {line[0]}" for line in lines}
    if len(names) < len(lines):
        raise util.InputError(f"{path}: found {len(lines)} lines but only {len(names)} different class ids")
    if not names or min(names) < 0:
        raise util.InputError(f"{path}: expected at least one class and no negative id, found {sorted(names)}")
    if max(names) > MAX_CLASS_ID:
        raise util.InputError(f"{path}: class id {max(names)} found, expected ids up to {MAX_CLASS_ID}; number them from 0")
    return [names.get(i, f"class {i}") for i in range(max(names) + 1)]


@dataclass(frozen=True)
class DatasetSettings:
    """How images of a class are read, from its folder's `dataset.json`; the defaults are those of the published data."""

    pixel_center: float = 0.0
    blend_alpha: bool = False


def load_dataset_settings(class_folder):
    """Reads `dataset.json` of a class folder (the parent of a split); published data has none."""
    path = Path(class_folder) / "dataset.json"
    if not path.exists():
        return DatasetSettings()
    found = util.load_json(path, "expected the settings of a data set")
    found = found if isinstance(found, dict) else {"pixel_center": None}
    pixel_center, blend_alpha = found.get("pixel_center", 0.0), found.get("blend_alpha", False)
    if pixel_center not in (0, 0.5) or not isinstance(blend_alpha, bool):
        raise util.InputError(f'{path}: expected {{"pixel_center": 0 or 0.5, "blend_alpha": true or false, ...}}')
    return DatasetSettings(float(pixel_center), blend_alpha)
