"""Reading and writing COLMAP's sparse models, text and binary, with the library pycolmap.

A model has cameras and, for each image, the world-to-camera pose with OpenCV axes. Points are neither read nor written.
"""

import struct
import tempfile
from pathlib import Path

import numpy as np

import util
from datasets.conversion import lenses, source_views
from datasets.making import viewpoints

PLACES = (".", "sparse/0", "sparse", "colmap/sparse/0", "dense/sparse", "dense/0/sparse")
PARAMETERS = {  # of the camera models that can be read
    "SIMPLE_PINHOLE": "f cx cy",
    "PINHOLE": "fl_x fl_y cx cy",
    "SIMPLE_RADIAL": "f cx cy k1",
    "RADIAL": "f cx cy k1 k2",
    "OPENCV": "fl_x fl_y cx cy k1 k2 p1 p2",
    "FULL_OPENCV": "fl_x fl_y cx cy k1 k2 p1 p2 k3 k4 k5 k6",
}


def find(folder):
    """The folder of a model in one of the usual places below `folder`, or None."""
    return next((folder / place for place in PLACES if _suffix(folder / place)), None)


def _suffix(model):
    """The suffix of the files of a model, .bin or .txt; None if there is no model."""
    for suffix in (".bin", ".txt"):
        if all((model / f"{name}{suffix}").is_file() for name in ("cameras", "images")):
            return suffix
    return None


def images_folder(model):
    """The folder images/ beside a model or up to three levels above it."""
    model = Path(model).resolve()
    folders = [folder / "images" for folder in (model, *model.parents[:3])]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise util.InputError(f"{model}: no folder images/ beside the model; expected it at {model.parents[1] / 'images'}")
    return found


def read(model, faults):
    """The views in a model's folder, a list of source_views.SourceView; broken views go to `faults`."""
    model, suffix, images = Path(model).resolve(), _suffix(Path(model)), images_folder(model)
    named = _read_images(model, suffix)
    others = sorted(path.name for path in model.parent.iterdir() if _suffix(path)) if model.name == "0" else []
    if len(others) > 1:
        print(f"note: {model.parent} holds the models {', '.join(others)}; 0 is read")
    if not named:
        raise util.InputError(f"{model}: the COLMAP model has no images; expected one or more")
    views = []
    for name, image in named:
        with faults.of(name):
            views.append(_view(model, images, name, image))
    return views


def _read_images(model, suffix):
    """(name, pycolmap.Image) of the images of a model, sorted by id."""
    pycolmap = util.load_library("pycolmap", "reading or writing COLMAP models")
    if suffix == ".bin":
        _check_complete(model / "images.bin")
    with util.reading(model, "a COLMAP model", Exception):  # pycolmap raises errors of many kinds
        with tempfile.TemporaryDirectory() as folder:  # the model without its points, which take long to read
            for name in ("cameras", "images"):
                (Path(folder) / f"{name}{suffix}").symlink_to(model / f"{name}{suffix}")
            (Path(folder) / f"points3D{suffix}").write_bytes(bytes(8) if suffix == ".bin" else b"")
            found = pycolmap.Reconstruction(folder)
        named = [(image.name, image) for image in sorted(found.images.values(), key=lambda image: image.image_id)]
    cameras_size = 8 + sum(24 + 8 * len(camera.params) for camera in found.cameras.values())
    if suffix == ".bin" and (model / "cameras.bin").stat().st_size != cameras_size:
        raise util.InputError(f"{model / 'cameras.bin'}: cut short or not a COLMAP file; copy it again")
    return named


def _check_complete(path):
    """An InputError if images.bin is cut short: pycolmap would search for the end of a name forever."""
    data = path.read_bytes()
    try:
        end = 8
        for _ in range(struct.unpack_from("<Q", data)[0]):
            end = data.index(b"\0", end + 64) + 1  # id, rotation, translation, camera; then the name
            end += 8 + 24 * struct.unpack_from("<Q", data, end)[0]  # the number of points; then the points
    except (struct.error, ValueError, OverflowError):
        end = -1
    if end != len(data):
        raise util.InputError(f"{path}: cut short or not a COLMAP file; copy it again")


def _view(model, images, name, image):
    where = f"{model}, image {name}"
    if not image.has_pose:
        raise util.InputError(f"{where}: has no pose in the model; leave it out with --skip_broken")
    cam2world = np.linalg.inv(np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]]))
    viewpoints.check_rigid(cam2world, where)
    path = images / name
    if not path.is_file():
        blanks = "" if _suffix(model) == ".bin" else " (names in text models end at the first blank)"
        raise util.InputError(f"{where}: there is no image {path}{blanks}")
    camera = image.camera
    if camera.model_name not in PARAMETERS:
        expected = f"expected one of {', '.join(PARAMETERS)}; run colmap image_undistorter"
        raise util.InputError(f"{where}: found the camera model {camera.model_name}, {expected}")
    source_views.check_size(where, source_views.picture_size(path), (camera.height, camera.width), "its camera in the model")
    numbers = dict(zip(PARAMETERS[camera.model_name].split(), map(float, camera.params)))
    if "f" in numbers:
        numbers["fl_x"] = numbers["fl_y"] = numbers.pop("f")
    if not np.isfinite(list(numbers.values())).all() or not min(numbers["fl_x"], numbers["fl_y"]) > 0:
        raise util.InputError(f"{where}: its camera has {numbers}; expected finite numbers and a focal length above 0")
    lens = lenses.Lens(**numbers, height=camera.height, width=camera.width)
    return source_views.SourceView(source_views.name_within(path, images), path, cam2world, lens)


def write(folder, names, cam2world, camera, binary):
    """Writes sparse/0 beside images/: cameras, images and points3D (empty), as .bin or .txt.

    names:     of the images in images/, without blanks
    cam2world: (V, 4, 4) float64, OpenCV axes
    camera:    data_util.Intrinsics of all views, pixel centres at + 0.5
    """
    pycolmap = util.load_library("pycolmap", "reading or writing COLMAP models")
    model = pycolmap.Reconstruction()
    size = {"width": camera.width, "height": camera.height}
    parameters = [camera.focal, camera.focal, camera.cx, camera.cy]
    model.add_camera_with_trivial_rig(pycolmap.Camera(camera_id=1, model="PINHOLE", **size, params=parameters))
    for i, (name, pose) in enumerate(zip(names, cam2world), start=1):
        rotation = pycolmap.Rotation3d(np.linalg.inv(pose[:3, :3]))
        rotation.normalize()
        translation = -rotation.matrix() @ pose[:3, 3]  # of the normalized rotation, so that the camera does not move
        image = pycolmap.Image(name=name, camera_id=1, image_id=i)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(rotation, translation))
    place = folder / "sparse" / "0"
    place.mkdir(parents=True)
    (model.write_binary if binary else model.write_text)(str(place))
