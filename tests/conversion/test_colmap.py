"""datasets/conversion/colmap.py: reading and writing COLMAP's models, text and binary."""

import sys

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import data_util
import geometry
import util
from datasets.conversion import colmap, source_views

CAMERA = data_util.Intrinsics(50 / 3, 31.1, 24.7, 48, 64)
IMAGES_TXT = "1 0.6 0 0.8 0 1 2 3 1 a.png\n10.5 11.5 7 3 4 -1\n2 1 0 0 0 0 0 5 1 b.png\n\n"


@pytest.fixture(autouse=True)
def pycolmap():
    return pytest.importorskip("pycolmap")


def poses_of(num_views, seed=0):
    azimuth, elevation = torch.rand(2, num_views, generator=torch.manual_seed(seed), dtype=torch.float64) * 80
    return geometry.look_at(geometry.on_sphere(azimuth, elevation, 3.0)).numpy()


def write_images(folder, names, size=(48, 64)):
    for name in names:
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        iio.imwrite(folder / "images" / name, np.zeros((*size, 3), np.uint8))


def write_text(folder, camera="1 PINHOLE 64 48 50 51 32 24", images=IMAGES_TXT):
    """A model as older programs write it, without rigs, frames and points; returns its folder."""
    write_images(folder, ["a.png", "b.png"])
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text(f"# cameras\n{camera}\n")
    (model / "images.txt").write_text(f"# images\n{images}")
    return model


def read(model, skip=False):
    return colmap.read(model, source_views.Faults(skip))


def test_a_text_model_by_hand(tmp_path):
    """The rotation (0.6, 0, 0.8, 0) is about y by an angle with cosine 0.36 - 0.64 and sine 2 * 0.6 * 0.8."""
    a, b = read(write_text(tmp_path))
    world2cam = np.array([[-0.28, 0, 0.96, 1], [0, 1, 0, 2], [-0.96, 0, -0.28, 3], [0, 0, 0, 1]])
    np.testing.assert_allclose(a.cam2world, np.linalg.inv(world2cam), atol=1e-12)
    np.testing.assert_allclose(b.cam2world[:3, 3], [0, 0, -5], atol=1e-12)
    assert (a.name, a.path, b.name) == ("a.png", tmp_path / "images" / "a.png", "b.png")
    assert (a.lens.fl_x, a.lens.fl_y, a.lens.cx, a.lens.cy) == (50, 51, 32, 24)


@pytest.mark.parametrize("binary", [False, True])
def test_written_and_read_again(tmp_path, binary):
    poses, names = poses_of(3), ["a.png", "sub/b.png", "c.png"]
    write_images(tmp_path, names)
    colmap.write(tmp_path, names, poses, CAMERA, binary)
    suffix = "bin" if binary else "txt"
    assert {"cameras", "images", "points3D"} <= {path.stem for path in (tmp_path / "sparse" / "0").glob(f"*.{suffix}")}
    views = read(colmap.find(tmp_path))
    assert [view.name for view in views] == names
    np.testing.assert_allclose([view.cam2world for view in views], poses, atol=1e-12)
    lens = views[0].lens
    assert (lens.fl_x, lens.fl_y, lens.cx, lens.cy, lens.height, lens.width) == (50 / 3, 50 / 3, 31.1, 24.7, 48, 64)


MODELS = {
    "SIMPLE_PINHOLE": "50 32 24",
    "PINHOLE": "50 51 32 24",
    "SIMPLE_RADIAL": "50 32 24 0.1",
    "RADIAL": "50 32 24 0.1 -0.05",
    "OPENCV": "50 51 32 24 0.1 -0.05 0.01 0.02",
    "FULL_OPENCV": "50 51 32 24 0.1 -0.05 0.01 0.02 0.03 0.2 -0.04 0.01",
}


@pytest.mark.parametrize("model_name", MODELS)
def test_lenses_project_as_colmap_does(tmp_path, pycolmap, model_name):
    lens = read(write_text(tmp_path, f"1 {model_name} 64 48 {MODELS[model_name]}"))[0].lens
    camera = pycolmap.Camera(model=model_name, width=64, height=48, params=[float(x) for x in MODELS[model_name].split()])
    points = np.column_stack([np.random.default_rng(0).uniform(-0.6, 0.6, (20, 2)), np.ones(20)])
    np.testing.assert_allclose(np.column_stack(lens.project(*points[:, :2].T)), camera.img_from_cam(points), atol=1e-9)


@pytest.mark.parametrize("place", [".", "sparse", "sparse/0", "colmap/sparse/0"])
def test_models_are_found_in_the_usual_places(tmp_path, place):
    model = write_text(tmp_path / "written")
    folder = tmp_path / "mug" / place
    folder.mkdir(parents=True)
    for path in model.iterdir():
        path.rename(folder / path.name)
    write_images(tmp_path / "mug", ["a.png", "b.png"])
    assert colmap.find(tmp_path / "mug").resolve() == folder.resolve()
    assert len(read(folder)) == 2
    assert colmap.find(tmp_path / "written") is None


def test_one_of_several_models_is_read_and_a_line_says_so(tmp_path, capsys):
    model = write_text(tmp_path)
    (model.parent / "1").mkdir()
    for path in model.iterdir():
        (model.parent / "1" / path.name).write_bytes(path.read_bytes())
    assert len(read(model)) == 2
    assert "holds the models 0, 1; 0 is read" in capsys.readouterr().out


@pytest.mark.parametrize(
    "camera, images, reason",
    [
        ("1 OPENCV_FISHEYE 64 48 50 50 32 24 0 0 0 0", IMAGES_TXT, "found the camera model OPENCV_FISHEYE"),
        ("1 NONE 64 48 50 50 32 24", IMAGES_TXT, "cannot be read as a COLMAP model"),
        ("1 PINHOLE 64 48 50", IMAGES_TXT, "cannot be read as a COLMAP model"),
        ("1 PINHOLE 64 48 0 50 32 24", IMAGES_TXT, "focal length above 0"),
        ("1 PINHOLE 128 96 50 50 32 24", IMAGES_TXT, "64 x 48 pixels"),
        ("1 PINHOLE 64 48 50 50 32 24", "hello\n", "cannot be read as a COLMAP model"),
        ("1 PINHOLE 64 48 50 50 32 24", "", "has no images"),
        ("1 PINHOLE 64 48 50 50 32 24", IMAGES_TXT.replace(" 1 a.png", " 2 a.png"), "cannot be read as a COLMAP model"),
        ("1 PINHOLE 64 48 50 50 32 24", IMAGES_TXT.replace("a.png", "c d.png"), "end at the first blank"),
    ],
)
def test_what_is_refused(tmp_path, camera, images, reason):
    with pytest.raises(util.InputError, match=reason) as error:
        read(write_text(tmp_path, camera, images))
    assert "\n" not in str(error.value)


def test_a_missing_image_can_be_left_out(tmp_path):
    model, faults = write_text(tmp_path), source_views.Faults(skip=True)
    (tmp_path / "images" / "a.png").unlink()
    assert [view.name for view in colmap.read(model, faults)] == ["b.png"]
    assert faults.found[0][0] == "a.png" and "there is no image" in faults.found[0][1]


@pytest.mark.parametrize("name", ["images.bin", "cameras.bin"])
@pytest.mark.parametrize("length", [0, 5, 30, -1])
def test_a_binary_model_that_is_cut_short_is_refused(tmp_path, name, length):
    write_images(tmp_path, ["a.png"])
    colmap.write(tmp_path, ["a.png"], poses_of(1), CAMERA, binary=True)
    path = tmp_path / "sparse" / "0" / name
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(util.InputError, match="cut short|cannot be read"):
        read(path.parent)


def test_a_name_without_an_end_is_refused(tmp_path):
    """pycolmap would search for it until memory is full."""
    write_images(tmp_path, ["a.png"])
    colmap.write(tmp_path, ["a.png"], poses_of(1), CAMERA, binary=True)
    path = tmp_path / "sparse" / "0" / "images.bin"
    path.write_bytes(path.read_bytes()[: 8 + 64 + 3])
    with pytest.raises(util.InputError, match="images.bin: cut short"):
        read(path.parent)


def test_without_the_library_the_requirements_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(util.InputError, match="pip install -r requirements/data.txt"):
        read(write_text(tmp_path))


def test_a_pose_that_is_not_quite_rigid_is_written_as_a_rotation_about_the_same_place(tmp_path):
    pose, names = poses_of(1)[0], ["a.png"]
    pose[:3, :3] *= 1.0003
    pose[:3, 3] *= 100
    write_images(tmp_path, names)
    colmap.write(tmp_path, names, [pose], CAMERA, binary=False)
    lines = (tmp_path / "sparse" / "0" / "images.txt").read_text().splitlines()
    numbers = next(line for line in lines if line.endswith("a.png")).split()
    assert np.linalg.norm([float(number) for number in numbers[1:5]]) == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(read(tmp_path / "sparse" / "0")[0].cam2world[:3, 3], pose[:3, 3], rtol=1e-12)
