"""transforms.json of NeRF, Blender, instant-ngp and nerfstudio: reading and writing posed images.

A frame's transform_matrix is camera to world with OpenGL axes: x right, y up, z backwards.
"""

import json
import math
from pathlib import Path

import numpy as np

import data_util
import util
from datasets.conversion import lenses, source_views

FILE = "transforms.json"
SPLITS = ("train", "val", "test")  # those of NeRF's synthetic scenes: transforms_train.json, ...
OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])  # and back: it undoes itself
PERSPECTIVE = ("PERSPECTIVE", "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
FOCAL = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")


def find(folder):
    """{split: file} in a folder: {None: transforms.json}, or those of train, val and test; empty where there is none."""
    if (folder / FILE).is_file():
        return {None: folder / FILE}
    files = {split: folder / f"transforms_{split}.json" for split in SPLITS}
    return {split: path for split, path in files.items() if path.is_file()}


def read(path, faults):
    """The views of a transforms.json, a list of source_views.SourceView; broken ones go to `faults`."""
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise util.InputError(f"{path}: cannot be read as JSON ({error})") from None
    frames = found.get("frames") if isinstance(found, dict) else None
    if not isinstance(frames, list) or not frames:
        expected = '{"frames": [{"file_path": ..., "transform_matrix": ...}, ...]}'
        raise util.InputError(f"{path}: no frames there; expected {expected}")
    if any(isinstance(frame, dict) and "mask_path" in frame for frame in frames):
        print(f"note: {path}: mask_path is not used; give the folder of masks with --masks")
    views = []
    for i, frame in enumerate(frames):
        name = frame.get("file_path") if isinstance(frame, dict) else None
        with faults.of(name or f"frame {i}"):
            if not isinstance(name, str) or not name:
                raise util.InputError(f"{path}: frame {i} (from 0) has no file_path; expected the path of an image")
            views.append(_view(path, found, frame))
    return views


def _view(path, found, frame):
    where = f"{path}, frame {frame['file_path']}"
    try:
        matrix = np.array(frame["transform_matrix"], dtype=np.float64)
        cam2world = np.eye(4)
        cam2world[: len(matrix)] = matrix
        if matrix.shape not in ((3, 4), (4, 4)):
            raise ValueError(f"shape {matrix.shape}")
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise util.InputError(f"{where}: expected a transform_matrix of 4 x 4 numbers ({error!r})") from None
    data_util.check_rigid(cam2world, where)
    picture = _find_picture(path.parent, frame["file_path"], where)
    lens = _lens(found, frame, *source_views.picture_size(picture), where)
    name = source_views.name_within(picture, path.parent)
    return source_views.SourceView(name, picture, cam2world @ OPENGL_FROM_OPENCV, lens)


def _find_picture(folder, file_path, where):
    """The file of a frame; NeRF's own scenes leave the extension out, Windows may have turned the slashes."""
    for text in dict.fromkeys((file_path, file_path.replace("\\", "/"))):
        for suffix in ("", *source_views.PICTURES):
            try:
                if (folder / (text + suffix)).is_file():
                    return folder / (text + suffix)
            except (OSError, ValueError):  # a name that no file can have
                break
    raise util.InputError(f"{where}: there is no image {folder / file_path}, with or without .png or .jpg after it")


def _lens(found, frame, height, width, where):
    """The camera of a frame: what the frame says itself goes before what the file says of all."""

    def number(key, *levels):
        value = next((level[key] for level in levels or (frame, found) if level.get(key) is not None), None)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise util.InputError(f"{where}: {key} is {value!r}, expected a number")
        return value

    given = {key: number(key) for key in ("w", "h")}
    if _first(given["w"], width) != width or _first(given["h"], height) != height:
        raise util.InputError(
            f"{where}: the image has {width} x {height} pixels (width x height), but w and h are {given['w']} and "
            f"{given['h']}; resize the images or scale the camera"
        )
    model = frame.get("camera_model", found.get("camera_model", "OPENCV"))
    if model not in PERSPECTIVE or frame.get("is_fisheye", found.get("is_fisheye")):
        raise util.InputError(
            f"{where}: the camera is {model if model not in PERSPECTIVE else 'a fisheye'}; only perspective cameras are read "
            f"({', '.join(PERSPECTIVE)}): undistort the images first"
        )
    level = frame if any(frame.get(key) is not None for key in FOCAL) else found
    fl_x = _first(number("fl_x", level), _focal(number("camera_angle_x", level), width))
    fl_y = _first(number("fl_y", level), _focal(number("camera_angle_y", level), height))
    fl_x, fl_y = _first(fl_x, fl_y), _first(fl_y, fl_x)
    if fl_x is None or min(fl_x, fl_y) <= 0:
        raise util.InputError(f"{where}: no focal length above 0; expected fl_x in pixels, or camera_angle_x in radians")
    distortion = {key: number(key) or 0.0 for key in DISTORTION}
    if model != "FULL_OPENCV" and any(distortion[key] for key in ("k4", "k5", "k6")):
        raise util.InputError(
            f"{where}: k4, k5, k6 mean different things in different programs; undistort the images first, or "
            "name OpenCV's model: camera_model FULL_OPENCV"
        )
    cx, cy = _first(number("cx"), width / 2), _first(number("cy"), height / 2)
    return lenses.Lens(fl_x, fl_y, cx, cy, height, width, **distortion)


def _first(value, otherwise):
    return otherwise if value is None else value


def _focal(angle, side):
    return side / 2 / math.tan(angle / 2) if angle is not None and 0 < angle < math.pi else None


def write(folder, names, cam2world, camera):
    """Writes transforms.json beside images/.

    names:     of the pictures within images/
    cam2world: (V, 4, 4) float64, OpenCV axes
    camera:    data_util.Intrinsics of all of them, centres of pixels at + 0.5
    """
    facts = {
        "camera_model": "PINHOLE",
        "camera_angle_x": 2 * math.atan(camera.width / 2 / camera.focal),
        "camera_angle_y": 2 * math.atan(camera.height / 2 / camera.focal),
        "fl_x": camera.focal,
        "fl_y": camera.focal,
        "cx": camera.cx,
        "cy": camera.cy,
        "w": camera.width,
        "h": camera.height,
        "frames": [
            {"file_path": f"images/{name}", "transform_matrix": (pose @ OPENGL_FROM_OPENCV).tolist()}
            for name, pose in zip(names, cam2world)
        ],
    }
    (folder / FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
