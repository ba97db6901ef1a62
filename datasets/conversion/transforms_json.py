"""Reading and writing transforms.json, the posed images of NeRF, Blender, instant-ngp and nerfstudio.

A frame's transform_matrix is camera to world with OpenGL axes: x right, y up, z backwards.
"""

import json
import math
import os
from pathlib import Path

import numpy as np

import util
from datasets.conversion import lenses, source_views
from datasets.making import viewpoints

FILE = "transforms.json"
SPLITS = ("train", "val", "test")  # of NeRF's synthetic scenes: transforms_train.json, ...
OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])  # its own inverse
PERSPECTIVE = ("PERSPECTIVE", "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
FOCAL = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")


def find(folder):
    """{split: file} in a folder: {None: transforms.json}, or those of train, val and test; {} if there are none."""
    if (folder / FILE).is_file():
        return {None: folder / FILE}
    files = {split: folder / f"transforms_{split}.json" for split in SPLITS}
    return {split: path for split, path in files.items() if path.is_file()}


def read(path, faults):
    """The views in a transforms.json, a list of source_views.SourceView; broken views go to `faults`."""
    path = Path(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise util.InputError(f"{path}: cannot be read as JSON ({error})") from None
    frames = found.get("frames") if isinstance(found, dict) else None
    if not isinstance(frames, list) or not frames:
        expected = '{"frames": [{"file_path": ..., "transform_matrix": ...}, ...]}'
        raise util.InputError(f"{path}: has no frames; expected {expected}")
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
        if matrix.shape not in ((3, 4), (4, 4)):
            raise ValueError(f"shape {matrix.shape}")
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise util.InputError(f"{where}: expected a transform_matrix of 4 x 4 numbers ({error!r})") from None
    cam2world = np.concatenate([matrix, np.eye(4)[len(matrix) :]])
    viewpoints.check_rigid(cam2world, where)
    picture = _find_picture(path.parent, frame["file_path"], where)
    lens = _lens(found, frame, *source_views.picture_size(picture), where)
    name = source_views.name_within(picture, path.parent)
    return source_views.SourceView(name, picture, cam2world @ OPENGL_FROM_OPENCV, lens)


def _find_picture(folder, file_path, where):
    """The image of a frame; NeRF's own scenes omit the extension, files from Windows may have backslashes."""
    texts = dict.fromkeys((file_path, file_path.replace("\\", "/")))
    candidates = (folder / (text + suffix) for text in texts for suffix in ("", *source_views.PICTURES))
    found = next(filter(os.path.isfile, candidates), None)  # False for names that no file can have, too
    if found is None:
        raise util.InputError(f"{where}: there is no image {folder / file_path}, with or without .png or .jpg after it")
    return found


def _lens(found, frame, height, width, where):
    """The camera of a frame: entries of the frame take precedence over those of the file."""
    of_file, of_frame = ({key: value for key, value in level.items() if value is not None} for level in (found, frame))
    if of_frame.keys() & set(FOCAL):  # a frame's own focal length, in any form, replaces all forms of the file's
        of_file = {key: value for key, value in of_file.items() if key not in FOCAL}
    facts = of_file | of_frame
    for key in ("w", "h", "cx", "cy", *FOCAL, *DISTORTION):
        value = facts.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise util.InputError(f"{where}: {key} is {value!r}, expected a number")
    source_views.check_size(where, (height, width), (facts.get("h", height), facts.get("w", width)), "but w and h are")
    model = facts.get("camera_model", "OPENCV")
    if model not in PERSPECTIVE or facts.get("is_fisheye"):
        kind = model if model not in PERSPECTIVE else "fisheye"
        expected = f"expected one of {', '.join(PERSPECTIVE)}; undistort the images first"
        raise util.InputError(f"{where}: found a {kind} camera, {expected}")
    if model != "FULL_OPENCV" and any(facts.get(key) for key in ("k4", "k5", "k6")):
        advice = "undistort the images first, or set camera_model to FULL_OPENCV if they are OpenCV's"
        raise util.InputError(f"{where}: the meaning of k4, k5, k6 depends on the program; {advice}")
    fl_x = facts.get("fl_x", _focal(facts.get("camera_angle_x"), width))
    fl_y = facts.get("fl_y", _focal(facts.get("camera_angle_y"), height))
    fl_x, fl_y = (fl_y if fl_x is None else fl_x), (fl_x if fl_y is None else fl_y)
    if fl_x is None or min(fl_x, fl_y) <= 0:
        raise util.InputError(f"{where}: no focal length above 0; expected fl_x in pixels, or camera_angle_x in radians")
    distortion = {key: facts.get(key, 0.0) for key in DISTORTION}
    return lenses.Lens(fl_x, fl_y, facts.get("cx", width / 2), facts.get("cy", height / 2), height, width, **distortion)


def _focal(angle, side):
    return side / 2 / math.tan(angle / 2) if angle is not None and 0 < angle < math.pi else None


def write(folder, names, cam2world, camera):
    """Writes transforms.json beside images/.

    names:     of the images in images/
    cam2world: (V, 4, 4) float64, OpenCV axes
    camera:    data_util.Intrinsics of all views, pixel centres at + 0.5
    """
    width, height, focal = camera.width, camera.height, camera.focal
    angles = {"camera_angle_x": 2 * math.atan(width / 2 / focal), "camera_angle_y": 2 * math.atan(height / 2 / focal)}
    pixels = {"fl_x": focal, "fl_y": focal, "cx": camera.cx, "cy": camera.cy, "w": width, "h": height}
    matrices = (np.stack(cam2world) @ OPENGL_FROM_OPENCV).tolist()
    frames = [{"file_path": f"images/{name}", "transform_matrix": matrix} for name, matrix in zip(names, matrices)]
    facts = {"camera_model": "PINHOLE", **angles, **pixels, "frames": frames}
    (folder / FILE).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
