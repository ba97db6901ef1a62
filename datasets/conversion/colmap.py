"""COLMAP's sparse models, text and binary: reading and writing posed images, by the library pycolmap.

A model holds cameras and, for each image, the world-to-camera pose with OpenCV axes. Points are neither read nor
written.
"""

import struct
import tempfile
from pathlib import Path

import numpy as np

import data_util
import util
from datasets.conversion import lenses, source_views

PLACES = (".", "sparse/0", "sparse", "colmap/sparse/0", "dense/sparse", "dense/0/sparse")
PARAMETERS = {  # of the camera models that are read
    "SIMPLE_PINHOLE": "f cx cy",
    "PINHOLE": "fl_x fl_y cx cy",
    "SIMPLE_RADIAL": "f cx cy k1",
    "RADIAL": "f cx cy k1 k2",
    "OPENCV": "fl_x fl_y cx cy k1 k2 p1 p2",
    "FULL_OPENCV": "fl_x fl_y cx cy k1 k2 p1 p2 k3 k4 k5 k6",
}
ONE_CAMERA = 1  # the id of the camera of a model that is written here


def _library():
    try:
        import pycolmap
    except ImportError:
        raise util.InputError(
            "COLMAP models are read and written by pycolmap, which is missing; pip install -r requirements-data.txt"
        ) from None
    return pycolmap


def find(folder):
    """The folder of a model in one of the usual places below `folder`, or None."""
    return next((folder / place for place in PLACES if _suffix(folder / place)), None)


def _suffix(model):
    """What the files of a model end with; None where there is no model."""
    return next(
        (
            suffix
            for suffix in (".bin", ".txt")
            if all((model / f"{name}{suffix}").is_file() for name in ("cameras", "images"))
        ),
        None,
    )


def images_folder(model):
    """The folder images/ beside a model or up to three levels above it."""
    model = Path(model).resolve()
    folders = [folder / "images" for folder in (model, *model.parents[:3])]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise util.InputError(f"{model}: no folder images/ beside the model; expected it at {model.parents[1] / 'images'}")
    return found


def read(model, faults):
    """The views of a model folder, a list of source_views.SourceView; broken ones go to `faults`."""
    pycolmap = _library()
    model, suffix, images = Path(model).resolve(), _suffix(Path(model)), images_folder(model)
    if suffix == ".bin":
        _check_whole(model / "images.bin")
    try:
        with tempfile.TemporaryDirectory() as folder:  # the model without its points, which take long and are not used
            for name in ("cameras", "images"):
                (Path(folder) / f"{name}{suffix}").symlink_to(model / f"{name}{suffix}")
            (Path(folder) / f"points3D{suffix}").write_bytes(bytes(8) if suffix == ".bin" else b"")
            found = pycolmap.Reconstruction(folder)
        images_found = sorted(found.images.values(), key=lambda image: image.image_id)
        named = [(image.name, image) for image in images_found]
    except Exception as error:  # the library raises whatever it meets
        raise util.InputError(f"{model}: cannot be read as a COLMAP model ({' '.join(str(error).split())})") from None
    cameras_size = 8 + sum(24 + 8 * len(camera.params) for camera in found.cameras.values())
    if suffix == ".bin" and (model / "cameras.bin").stat().st_size != cameras_size:
        raise util.InputError(f"{model / 'cameras.bin'}: cut short or not a COLMAP file; copy it again")
    others = sorted(path.name for path in model.parent.iterdir() if _suffix(path)) if model.name == "0" else []
    if len(others) > 1:
        print(f"note: {model.parent} holds the models {', '.join(others)}; 0 is read")
    if not named:
        raise util.InputError(f"{model}: a COLMAP model without images; nothing to convert")
    views = []
    for name, image in named:
        with faults.of(name):
            views.append(_view(model, images, name, image))
    return views


def _check_whole(path):
    """An InputError where images.bin is cut short: the library would look for the end of a name for ever."""
    data = path.read_bytes()
    try:
        place = 8
        for _ in range(struct.unpack_from("<Q", data)[0]):
            place = data.index(b"\0", place + 64) + 1  # id, rotation, translation, camera; then the name
            place += 8 + 24 * struct.unpack_from("<Q", data, place)[0]
    except (struct.error, ValueError, OverflowError):
        place = -1
    if place != len(data):
        raise util.InputError(f"{path}: cut short or not a COLMAP file; copy it again")


def _view(model, images, name, image):
    where = f"{model}, image {name}"
    if not image.has_pose:
        raise util.InputError(f"{where}: the model has no pose of it; leave it out with --skip_broken")
    cam2world = np.linalg.inv(np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]]))
    data_util.check_rigid(cam2world, where)
    path = images / name
    if not path.is_file():
        blanks = "" if _suffix(model) == ".bin" else " (names in text models end at the first blank)"
        raise util.InputError(f"{where}: there is no image {path}{blanks}")
    height, width = source_views.picture_size(path)
    camera = image.camera
    if camera.model_name not in PARAMETERS:
        raise util.InputError(
            f"{where}: cameras of the model {camera.model_name} are not read, only {', '.join(PARAMETERS)}; undistort the "
            "images first (colmap image_undistorter)"
        )
    if (camera.width, camera.height) != (width, height):
        raise util.InputError(
            f"{where}: the image has {width} x {height} pixels (width x height), but its camera {camera.width} x "
            f"{camera.height}; give the images that the model was made from"
        )
    numbers = dict(zip(PARAMETERS[camera.model_name].split(), map(float, camera.params)))
    focal = numbers.pop("f", None)
    numbers = numbers if focal is None else {"fl_x": focal, "fl_y": focal, **numbers}
    if not np.isfinite(list(numbers.values())).all() or not min(numbers["fl_x"], numbers["fl_y"]) > 0:
        raise util.InputError(f"{where}: its camera has {numbers}; expected finite numbers and a focal length above 0")
    return source_views.SourceView(
        source_views.name_within(path, images), path, cam2world, lenses.Lens(**numbers, height=height, width=width)
    )


def write(folder, names, cam2world, camera, binary):
    """Writes sparse/0 beside images/: cameras, images and points3D (empty), as .bin or .txt.

    names:     of the pictures within images/, without blanks
    cam2world: (V, 4, 4) float64, OpenCV axes
    camera:    data_util.Intrinsics of all of them, centres of pixels at + 0.5
    """
    pycolmap = _library()
    model = pycolmap.Reconstruction()
    parameters = [camera.focal, camera.focal, camera.cx, camera.cy]
    model.add_camera_with_trivial_rig(
        pycolmap.Camera(camera_id=ONE_CAMERA, model="PINHOLE", width=camera.width, height=camera.height, params=parameters)
    )
    for i, (name, pose) in enumerate(zip(names, cam2world), start=1):
        rotation = pycolmap.Rotation3d(np.linalg.inv(pose[:3, :3]))
        rotation.normalize()
        translation = -rotation.matrix() @ pose[:3, 3]  # so that the camera stays where it is, whatever was rounded
        model.add_image_with_trivial_frame(
            pycolmap.Image(name=name, camera_id=ONE_CAMERA, image_id=i), pycolmap.Rigid3d(rotation, translation)
        )
    place = folder / "sparse" / "0"
    place.mkdir(parents=True)
    (model.write_binary if binary else model.write_text)(str(place))
