"""make_dataset.py convert --to: instances to transforms.json and COLMAP models, and back."""

import json
import shutil

import imageio.v3 as iio
import numpy as np
import pytest
import scenes

import data_util
import dataio
import make_dataset
from datasets.conversion import source_views, transforms_json

FORMS = ("transforms", "colmap-text", "colmap-binary")


def export(source, out, form="transforms", *flags):
    if form != "transforms":
        pytest.importorskip("pycolmap")
    make_dataset.main(["convert", str(source), "--to", form, "--out", str(out), *flags])
    return out


@pytest.fixture
def split(tmp_path):
    return scenes.write_split(tmp_path / "Ball" / "Ball.train")


@pytest.mark.parametrize("form", FORMS)
def test_there_and_back_again(split, tmp_path, form):
    """Poses to 1e-5, read in float32 as training does; images and labels to the last bit."""
    sources = export(split, tmp_path / "there", form)
    for name in ("ball_a", "ball_b"):
        assert (sources / name / "classes.txt").read_text() == scenes.CLASS_LIST
        make_dataset.main(
            [
                "convert",
                str(sources / name),
                "--obj_name",
                "Ball",
                "--out",
                str(tmp_path / "back"),
                "--labels",
                str(sources / name / "labels"),
                "--classes",
                str(sources / name / "classes.txt"),
            ]
        )
    back = tmp_path / "back" / "Ball" / "Ball.train"
    for old, new in zip(*(dataio.index_split(root, with_labels=True) for root in (split, back)), strict=True):
        assert old.name == new.name and old.views == new.views
        np.testing.assert_allclose(new.poses, old.poses, rtol=0, atol=1e-5)
        assert new.intrinsics == old.intrinsics
        for one, other in zip(scenes.paths_of(old, "rgb"), scenes.paths_of(new, "rgb")):
            assert np.array_equal(iio.imread(one), iio.imread(other))
        for one, other in zip(scenes.paths_of(old, "seg"), scenes.paths_of(new, "seg")):
            assert np.array_equal(np.load(one), np.load(other))


@pytest.mark.parametrize("form", FORMS)
def test_poses_go_through_in_float64(split, tmp_path, form):
    """Far from the origin, where float32 would be off by more."""
    folder = split / "ball_a"
    for path in (folder / "pose").iterdir():
        pose = np.loadtxt(path)
        pose[:3, 3] += [1000, -2000, 1 / 3]
        np.savetxt(path, pose, fmt="%.17g")
    make_dataset.main(
        ["convert", str(export(folder, tmp_path / "x", form)), "--obj_name", "Ball", "--out", str(tmp_path) + "/back"]
    )
    for path in (folder / "pose").iterdir():
        found = np.loadtxt(tmp_path / "back" / "Ball" / "Ball.train" / "x" / "pose" / path.name)
        np.testing.assert_allclose(found, np.loadtxt(path), rtol=0, atol=1e-6)  # the balls' rotations have seven digits


def test_transforms_by_hand(split, tmp_path):
    folder = split / "ball_a"
    np.savetxt(folder / "pose" / "000002.txt", [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 4], [0, 0, 0, 1]])
    out = export(folder, tmp_path / "out")
    facts = json.loads((out / "transforms.json").read_text())
    assert facts["frames"][2] == {
        "file_path": "images/000002.png",
        "transform_matrix": [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 4], [0, 0, 0, 1]],
    }
    assert (facts["w"], facts["h"], facts["cx"], facts["cy"]) == (16, 16, 8, 8)
    assert facts["fl_x"] == facts["fl_y"] == pytest.approx(scenes.FOCAL * 16)
    assert (out / "images" / "000002.png").read_bytes() == (folder / "rgb" / "000002.png").read_bytes()
    assert (out / "labels" / "000002.npy").read_bytes() == (folder / "seg" / "000002.npy").read_bytes()


def test_published_half_pixels_are_added_to_the_principal_point(tmp_path):
    split = scenes.write_split(tmp_path / "Ball" / "Ball.train", names=["ball"], pixel_center=0)
    facts = json.loads((export(split / "ball", tmp_path / "out") / "transforms.json").read_text())
    assert (facts["cx"], facts["cy"]) == (8.5, 8.5)


def test_world_to_camera_poses_are_inverted(split, tmp_path):
    folder = split / "ball_a"
    expected = export(folder, tmp_path / "plain") / "transforms.json"
    for path in (folder / "pose").iterdir():
        np.savetxt(path, np.linalg.inv(np.loadtxt(path)), fmt="%.17g")
    with open(folder / "intrinsics.txt", "a") as file:
        file.write("1\n")
    found = export(folder, tmp_path / "turned") / "transforms.json"
    poses = [[frame["transform_matrix"] for frame in json.loads(path.read_text())["frames"]] for path in (expected, found)]
    np.testing.assert_allclose(*poses, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_original_names_come_back(split, tmp_path, form):
    folder = split / "ball_a"
    names = ["train/r_0.png", "photo 1.JPG", "b.jpeg", "c"]
    source_views.write_names(folder, names, "a comment")
    out = export(folder, tmp_path / "out", form)
    photo = "photo 1.png" if form == "transforms" else "photo_1.png"
    assert source_views.read_names(folder, ["000000", "000001"]) == ["train/r_0.png", "photo 1.png"]
    assert sorted(str(path.relative_to(out / "images")) for path in (out / "images").rglob("*.png")) == sorted(
        ["train/r_0.png", photo, "b.png", "c.png"]
    )


def test_duplicate_names_are_replaced_by_numbers(split, tmp_path):
    source_views.write_names(split / "ball_a", ["a.png", "a.jpg", "b.png", "c.png"])
    out = export(split / "ball_a", tmp_path / "out")
    assert sorted(path.name for path in (out / "images").iterdir()) == [f"{i:06d}.png" for i in range(4)]


@pytest.mark.parametrize("name", ["../outside.png", "/outside.png", "a/../../../outside.png"])
def test_names_do_not_lead_out_of_the_folder(split, tmp_path, refuses, name):
    source_views.write_names(split / "ball_a", [name])
    arguments = ["convert", str(split / "ball_a"), "--to", "transforms", "--out", str(tmp_path / "out")]
    refuses(make_dataset.main, arguments, "leads out of the folder")
    assert not (tmp_path / "out").exists() and not list(tmp_path.rglob("outside*"))


def break_pose(folder):
    np.savetxt(folder / "pose" / "000001.txt", np.diag([2.0, 1, 1, 1]))


def break_size(folder):
    iio.imwrite(folder / "rgb" / "000001.png", np.zeros((16, 18, 3), np.uint8))


def break_image(folder):
    (folder / "rgb" / "000001.png").unlink()


@pytest.mark.parametrize("spoil, reason", [(break_pose, "not rigid"), (break_size, "18 x 16"), (break_image, "000001")])
def test_a_broken_instance_is_refused_or_left_out(split, tmp_path, refuses, capsys, spoil, reason):
    spoil(split / "ball_a")
    arguments = ["convert", str(split), "--to", "transforms", "--out", str(tmp_path / "out")]
    refuses(make_dataset.main, arguments, reason)
    make_dataset.main([*arguments, "--skip_broken"])
    assert capsys.readouterr().out.splitlines()[-1] == f"wrote {tmp_path / 'out'}: 4 views; 1 skipped: ball_a"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ball_b"]


def test_targets_are_kept_and_sources_too(split, tmp_path, refuses):
    export(split / "ball_a", tmp_path / "out")
    arguments = ["convert", str(split / "ball_a"), "--to", "transforms", "--out"]
    refuses(make_dataset.main, [*arguments, str(tmp_path / "out")], "pass --overwrite")
    export(split / "ball_a", tmp_path / "out", "transforms", "--overwrite")
    for out in (split / "ball_a", split, split / "ball_a" / "below"):
        refuses(make_dataset.main, [*arguments, str(out), "--overwrite"], "choose another --out")
    refuses(
        make_dataset.main,
        ["convert", str(split), "--to", "transforms", "--out", str(split), "--overwrite"],
        "choose another --out",
    )
    assert len(dataio.index_split(split)) == 2


def test_an_instance_without_labels(split, tmp_path):
    shutil.rmtree(split / "ball_a" / "seg")
    out = export(split / "ball_a", tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == ["images", "transforms.json"]


def test_axes_turn_twice_to_where_they_were():
    turn = transforms_json.OPENGL_FROM_OPENCV
    assert np.array_equal(turn @ turn, np.eye(4))
    assert data_util.DatasetSettings().pixel_center == 0
