"""datasets/conversion/transforms_json.py: reading and writing NeRF's transforms.json."""

import json
import math

import imageio.v3 as iio
import numpy as np
import pytest

import data_util
import util
from datasets.conversion import source_views, transforms_json

MATRIX = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]]  # at (0, 0, 4), looking at the origin


def write(folder, frames=({},), size=(48, 64), **facts):
    """A folder with transforms.json and an image for each of the frames, a.png, b.png, ...; returns the file."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entries = []
    for letter, frame in zip("abcdef", frames):
        iio.imwrite(folder / "images" / f"{letter}.png", np.zeros((*size, 3), np.uint8))
        entries.append({"file_path": f"images/{letter}.png", "transform_matrix": MATRIX} | dict(frame))
    (folder / "transforms.json").write_text(json.dumps({"fl_x": 50, **facts, "frames": entries}))
    return folder / "transforms.json"


def read(path, skip=False):
    return transforms_json.read(path, source_views.Faults(skip))


def lens_of(folder, frame=None, **facts):
    return read(write(folder, [frame or {}], **facts))[0].lens


def test_an_opengl_camera_by_hand(tmp_path):
    """Right stays right, OpenGL's up (0, 1, 0) is down (0, -1, 0), and the camera at z = 4 looks along -z."""
    view = read(write(tmp_path))[0]
    expected = [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 4], [0, 0, 0, 1]]
    assert np.array_equal(view.cam2world, expected) and view.cam2world.dtype == np.float64
    assert (view.name, view.path) == ("a.png", tmp_path / "images" / "a.png")


def test_a_byte_order_mark_is_no_part_of_the_json(tmp_path):
    path = write(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(read(path)) == 1


def test_intrinsics(tmp_path):
    lens = lens_of(tmp_path, fl_x=70.5, fl_y=71, cx=30.25, cy=20, w=64, h=48, k1=0.1, p2=0.2)
    assert (lens.fl_x, lens.fl_y, lens.cx, lens.cy, lens.height, lens.width) == (70.5, 71, 30.25, 20, 48, 64)
    assert (lens.k1, lens.k2, lens.p1, lens.p2) == (0.1, 0, 0, 0.2)


def test_a_field_of_view_is_a_focal_length(tmp_path):
    lens = lens_of(tmp_path, fl_x=None, camera_angle_x=math.radians(90))
    assert (lens.fl_x, lens.fl_y, lens.cx, lens.cy) == (pytest.approx(32), pytest.approx(32), 32, 24)
    lens = lens_of(tmp_path, fl_x=None, camera_angle_x=math.radians(90), camera_angle_y=math.radians(90))
    assert (lens.fl_x, lens.fl_y) == (pytest.approx(32), pytest.approx(24))


def test_a_frame_may_have_its_own_camera(tmp_path):
    frames = [{}, {"fl_x": 80, "cx": 31}, {"camera_angle_x": math.radians(90), "k1": 0.5}]
    a, b, c = (view.lens for view in read(write(tmp_path, frames, cy=20, k1=0.1)))
    assert (a.fl_x, a.cx, a.cy, a.k1) == (50, 32, 20, 0.1)
    assert (b.fl_x, b.fl_y, b.cx, b.cy, b.k1) == (80, 80, 31, 20, 0.1)
    assert (c.fl_x, c.fl_y, c.cx, c.k1) == (pytest.approx(32), pytest.approx(32), 32, 0.5)


@pytest.mark.parametrize("file_path", ["./images/a", "images/a.png", "./images/../images/a", ".\\images\\a.png"])
def test_ways_to_name_an_image(tmp_path, file_path):
    assert [view.name for view in read(write(tmp_path, [{"file_path": file_path}]))] == ["a.png"]


def test_an_image_may_lie_elsewhere(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    iio.imwrite(tmp_path / "elsewhere" / "x.jpg", np.zeros((48, 64, 3), np.uint8))
    for file_path in ("../elsewhere/x", str(tmp_path / "elsewhere" / "x.jpg")):
        view = read(write(tmp_path / "set", [{"file_path": file_path}]))[0]
        assert view.name == "elsewhere/x.jpg" and view.path.is_file()


def test_three_rows_are_a_pose(tmp_path):
    view = read(write(tmp_path, [{"transform_matrix": MATRIX[:3]}]))[0]
    assert np.array_equal(view.cam2world[3], [0, 0, 0, 1])


FRAMES = {
    "no image": {"file_path": "images/none"},
    "no file_path": {"file_path": None},
    "4 x 4 numbers": {"transform_matrix": [[1, 2], [3, 4]]},
    "expected a transform_matrix": {"transform_matrix": "identity"},
    "not finite": {"transform_matrix": [[float("nan"), 0, 0, 0], *MATRIX[1:]]},
    "not rigid": {"transform_matrix": [[2, 0, 0, 0], *MATRIX[1:]]},
    "as the last row": {"transform_matrix": [*MATRIX[:3], [0, 0, 0, 2]]},
    "mirrors": {"transform_matrix": [[-1, 0, 0, 0], *MATRIX[1:]]},
    "64 x 48 pixels": {"w": 65},
    "expected a number": {"cx": "middle"},
    "no focal length": {"fl_x": -3},
    "fisheye": {"is_fisheye": True},
    "OPENCV_FISHEYE": {"camera_model": "OPENCV_FISHEYE"},
    "k4, k5, k6": {"k4": 0.1},
}


@pytest.mark.parametrize("reason", FRAMES)
def test_a_broken_frame_is_named_or_left_out(tmp_path, reason):
    path = write(tmp_path, [{}, FRAMES[reason], {}])
    with pytest.raises(util.InputError, match=reason) as error:
        read(path)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
    faults = source_views.Faults(skip=True)
    assert [view.name for view in transforms_json.read(path, faults)] == ["a.png", "c.png"]
    assert len(faults.found) == 1


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"frames": []}', '{"frames": 3}', "\xff", "[" * 100_000])
def test_an_unreadable_file_is_refused(tmp_path, text):
    (tmp_path / "transforms.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(util.InputError, match="transforms.json"):
        read(tmp_path / "transforms.json", skip=True)


def test_written_and_read_again(tmp_path):
    poses = np.stack([np.array(MATRIX, float) @ transforms_json.OPENGL_FROM_OPENCV] * 2)
    poses[1, :3, 3] = [1 / 3, 2e5 / 7, -1e-7]
    camera = data_util.Intrinsics(50 / 3, 31.1, 24.7, 48, 64)
    write(tmp_path, [{}, {}])
    transforms_json.write(tmp_path, ["a.png", "b.png"], poses, camera)
    views = read(tmp_path / "transforms.json")
    assert np.array_equal([view.cam2world for view in views], poses)
    lens = views[0].lens
    assert (lens.fl_x, lens.fl_y, lens.cx, lens.cy, lens.height, lens.width) == (50 / 3, 50 / 3, 31.1, 24.7, 48, 64)
    facts = json.loads((tmp_path / "transforms.json").read_text())
    assert facts["camera_angle_x"] == pytest.approx(2 * math.atan(32 / (50 / 3)))
