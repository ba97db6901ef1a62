"""make_dataset.py: the layout of what is written, equal bytes for equal seeds, interruptions, wrong flags, help."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import data_util
import geometry
import make_dataset
import util
from datasets.making import furniture, procedural, render_options, viewpoints
from datasets.meshes import triangle_mesh
from tests.making import test_furniture

pytest.importorskip("embreex")

TINY = "--instances 2 --val_instances 1 --test_instances 1 --views 3 --train_val_views 2 --test_views 70 --sidelength 16"


def make(out, flags="", obj_name="Chair", num_workers=1):
    make_dataset.main(
        [
            "procedural",
            "--obj_name",
            obj_name,
            "--out",
            str(out),
            "--num_workers",
            str(num_workers),
            *TINY.split(),
            *flags.split(),
        ]
    )
    return out / obj_name


def contents(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def chairs(tmp_path_factory):
    return make(tmp_path_factory.mktemp("procedural"))


def test_layout(chairs):
    splits = {"train": (2, 3), "train_val": (2, 2), "val": (1, 2), "test": (1, 70)}
    for split, (num_instances, num_views) in splits.items():
        folders = sorted((chairs / f"Chair.{split}").iterdir())
        assert [folder.name for folder in folders] == [f"chair_{i:04d}" for i in range(num_instances)]
        for folder in folders:
            for name, suffix in (("rgb", "png"), ("seg", "npy"), ("pose", "txt")):
                files = sorted(path.name for path in (folder / name).iterdir())
                assert files == [f"{i:06d}.{suffix}" for i in range(num_views)]
            clouds = sorted(path.name for path in (folder / "point_cloud").iterdir())
            assert clouds == ["sample-points-all-pts-nor-rgba-10000.txt", "sample-points-label-10000.txt"]
    assert (chairs / "Chair-level-1.txt").read_text().splitlines()[:2] == ["0 background", "1 chair_back"]
    facts = json.loads((chairs / "dataset.json").read_text())
    assert facts["pixel_center"] == 0.5 and facts["blend_alpha"] is True
    assert facts["maker"] == "procedural" and facts["seed"] == 0
    assert facts["splits"]["test"] == {"instances": 1, "views": 70}


def test_files(chairs):
    instance = chairs / "Chair.train" / "chair_0000"
    rgba, seg_labels = iio.imread(instance / "rgb" / "000000.png"), np.load(instance / "seg" / "000000.npy")
    assert rgba.shape == (16, 16, 4) and rgba.dtype == np.uint8
    assert seg_labels.shape == (16, 16) and seg_labels.dtype == np.uint8
    assert (rgba[seg_labels > 0, 3] > 0).all() and not rgba[rgba[..., 3] == 0].any()
    focal, cx, cy, _ = map(float, (instance / "intrinsics.txt").read_text().splitlines()[0].split())
    assert (focal, cx, cy) == (pytest.approx(1.025 * 16), 8, 8)
    assert (instance / "intrinsics.txt").read_text().splitlines()[3] == "16 16"
    pose = np.loadtxt(instance / "pose" / "000000.txt")
    assert pose.shape == (4, 4)
    assert np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-6)
    assert np.linalg.norm(pose[:3, 3]) == pytest.approx(viewpoints.DISTANCE, abs=1e-6)
    assert np.allclose(pose[:3, 2], -pose[:3, 3] / viewpoints.DISTANCE, atol=1e-6)  # looks at the origin


def test_poses_and_pictures_belong_together(chairs):
    """The object's bounding sphere, projected with the written cameras, contains all visible pixels."""
    instance = chairs / "Chair.test" / "chair_0000"
    for view in ("000000", "000065"):
        cam2world = torch.from_numpy(np.loadtxt(instance / "pose" / f"{view}.txt")).float()
        uv = geometry.pixel_grid(16, 16, 0.5)
        directions, _ = geometry.rays(uv, cam2world, viewpoints.intrinsics_of(16))
        eye = geometry.camera_centre(cam2world).expand_as(directions)
        distance = torch.linalg.cross(directions, eye).norm(dim=-1)  # of the ray from the origin
        seen = torch.from_numpy(np.load(instance / "seg" / f"{view}.npy")).flatten() > 0
        assert seen.any() and (distance[seen] <= 0.5).all()


def test_point_clouds_lie_on_the_rendered_objects(chairs):
    folder = chairs / "Chair.train" / "chair_0001"
    mesh = procedural.load("Chair", 0, "train", 1)
    cloud = data_util.load_labelled_cloud(folder, int(mesh.labels.max()) + 1)
    assert cloud.points.shape == (10_000, 3) and set(cloud.labels) == set(mesh.labels) - {0}
    low, high = mesh.corners.min(axis=(0, 1)), mesh.corners.max(axis=(0, 1))
    np.testing.assert_allclose([cloud.points.min(axis=0), cloud.points.max(axis=0)], [low, high], atol=0.02)
    table = np.loadtxt(folder / data_util.CLOUD_POINTS)
    assert table.shape == (10_000, 10)
    np.testing.assert_allclose(np.linalg.norm(table[:, 3:6], axis=1), 1, atol=2e-3)
    expected = triangle_mesh.sample_surface(mesh, 10_000, np.random.default_rng(list(b"chair_0001")))
    np.testing.assert_allclose(table[:, :3], expected.points, atol=1e-5)
    np.testing.assert_allclose(table[:, 6:9], 255 * mesh.colours[expected.triangle_ids], atol=0.5)
    assert (table[:, 9] == 255).all()


def test_point_clouds_are_in_the_coordinates_of_the_poses(chairs):
    """Projected with the written cameras, the points fall on pixels that the object covers."""
    folder = chairs / "Chair.test" / "chair_0000"
    points = torch.from_numpy(data_util.load_labelled_cloud(folder, 256).points)
    cam2world = torch.from_numpy(data_util.load_poses([folder / "pose" / "000065.txt"])[0])
    uv = geometry.project(geometry.world_to_camera(points, cam2world), viewpoints.intrinsics_of(16))
    column, row = uv.floor().long().T
    covered = iio.imread(folder / "rgb" / "000065.png")[..., 3] > 0
    assert covered.mean() < 0.6 and covered[row, column].mean() > 0.97


def test_an_object_has_the_same_cloud_in_train_and_train_val_and_another_one_elsewhere(chairs):
    clouds = {
        split: (chairs / f"Chair.{split}" / "chair_0000" / data_util.CLOUD_POINTS).read_bytes()
        for split in render_options.SPLITS
    }
    assert clouds["train"] == clouds["train_val"] and len(set(clouds.values())) == 3


def test_objects_are_shared_by_train_and_train_val_only(tmp_path):
    options = make_dataset.build_parser().parse_args(["procedural", "--obj_name", "Chair", "--out", str(tmp_path)])
    mesh = {split: procedural.load("Chair", 0, split, 0).vertices for split in ("train", "val", "test")}
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        assert mesh[one].shape != mesh[other].shape or not np.allclose(mesh[one], mesh[other])
    train, train_val = (render_options.cameras(options, split, 0)[:, :3, 3] for split in ("train", "train_val"))
    assert torch.cdist(train, train_val).min() > 1e-4


@pytest.mark.slow
def test_same_seed_gives_the_same_bytes_with_any_number_of_processes(chairs, tmp_path):
    expected = contents(chairs)
    assert contents(make(tmp_path / "two", num_workers=2)) == expected
    other = contents(make(tmp_path / "other", "--seed 1"))
    assert other.keys() == expected.keys()
    changed = [name for name in other if other[name] != expected[name]]
    assert any("rgb" in name for name in changed) and not any("test/chair_0000/pose" in name for name in changed)


def test_an_existing_folder_is_replaced_only_with_overwrite(tmp_path, capsys):
    target = tmp_path / "Chair"
    target.mkdir()
    (target / "precious.txt").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        make(tmp_path)
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert str(target) in message and "--overwrite" in message and len(message.splitlines()) == 1
    assert (target / "precious.txt").exists()
    make(tmp_path, "--overwrite")
    assert not (target / "precious.txt").exists() and (target / "dataset.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["Chair"]


def started(out, num_workers=2):
    """A program in its own process group that renders chairs and has finished the first."""
    command = [
        sys.executable,
        make_dataset.__file__,
        "procedural",
        "--obj_name",
        "Chair",
        "--out",
        str(out),
        "--num_workers",
        str(num_workers),
        *TINY.split(),
        "--sidelength",
        "128",
        "--instances",
        "6",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    journal = out / ".Chair.unfinished" / "journal.jsonl"
    while process.poll() is None and not (journal.exists() and journal.read_text().count("\n")):
        time.sleep(0.01)
    assert process.poll() is None
    return process


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_ends_with_one_line(tmp_path):
    process = started(tmp_path)
    process.send_signal(signal.SIGINT)
    _, written = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in written
    assert written.splitlines()[-1].endswith("the same command goes on from there")
    journal = tmp_path / ".Chair.unfinished" / "journal.jsonl"
    finished = {json.loads(line)["name"] for line in journal.read_text().splitlines()}
    assert finished >= {path.name for path in (tmp_path / ".Chair.unfinished" / "Chair.train").iterdir()}
    assert not (tmp_path / "Chair").exists()


@pytest.mark.slow
def test_workers_end_when_the_program_is_killed(tmp_path):
    process = started(tmp_path)
    process.kill()
    process.communicate(timeout=60)
    for _ in range(200):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("workers are still running")


def test_another_seed_gives_other_poses(tmp_path):
    parser = make_dataset.build_parser()
    arguments = ["procedural", "--obj_name", "Chair", "--out", str(tmp_path), "--seed"]
    one, other = (render_options.cameras(parser.parse_args([*arguments, seed]), "train", 0) for seed in "01")
    assert not torch.allclose(one, other)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--test_views 65", r"--test_views.*at least 70.*'65'"),
        ("--instances 0", r"--instances.*at least 1.*'0'"),
        ("--sidelength x", r"--sidelength.*an integer.*'x'"),
        ("--obj_name Lamp", r"--obj_name.*Lamp"),
        ("--elevation_deg 60,10", "--elevation_deg.*LOW first"),
        ("--light 1,2", "--light.*three numbers"),
        ("--light 0,0,0", "--light.*direction"),
        ("--radius 0", "--radius.*above 0"),
        ("--radius 0.4", "inside the object"),
        ("--fov_deg 180", "--fov_deg.*below 180"),
        ("--cameras nowhere", "nowhere: expected a kind of views.*or a folder"),
    ],
)
def test_bad_flags_are_named(tmp_path, capsys, flags, named):
    with pytest.raises(SystemExit) as stop:
        make(tmp_path, flags)
    assert stop.value.code == 2
    assert re.search(named, capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


def test_missing_embree_says_what_to_install(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "embreex", None)
    with pytest.raises(SystemExit) as stop:
        make(tmp_path)
    assert stop.value.code == 2
    assert "requirements/data.txt" in capsys.readouterr().err


def test_furniture_variants_are_training_objects_only(tmp_path, monkeypatch):
    models = {
        f"Tiny/{name}": {**test_furniture.ENTRY, "split": split}
        for name, split in (("b", "train"), ("a", "train"), ("c", "val"), ("d", "test"))
    }
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"classes": {"chair": ["background", "a", "b", "c", "d"]}, "models": models}))
    monkeypatch.setattr(furniture, "LABELS_PATH", labels)
    archives = tmp_path / "archives"
    archives.mkdir()
    test_furniture.write_archive(archives / "Tiny.sh3f")
    make_dataset.main(
        [
            "furniture",
            "--obj_name",
            "Chair",
            "--out",
            str(tmp_path / "out"),
            "--variants",
            "2",
            "--archive_dir",
            str(archives),
            "--views",
            "2",
            "--train_val_views",
            "1",
            "--test_views",
            "70",
            "--sidelength",
            "16",
            "--num_workers",
            "1",
        ]
    )
    folder = tmp_path / "out" / "Chair"
    names = {split: sorted(path.name for path in (folder / f"Chair.{split}").iterdir()) for split in render_options.SPLITS}
    assert names["train"] == ["Tiny-a", "Tiny-a-v1", "Tiny-a-v2", "Tiny-b", "Tiny-b-v1", "Tiny-b-v2"]
    assert names["train_val"] == names["train"]
    assert names["val"] == ["Tiny-c"] and names["test"] == ["Tiny-d"]
    assert "| Tiny-b-v2 | Nobody |" in (folder / "ATTRIBUTION.md").read_text()
    with pytest.raises(util.InputError, match="already exists"):
        furniture.make(
            make_dataset.build_parser().parse_args(["furniture", "--obj_name", "Chair", "--out", str(tmp_path / "out")])
        )


@pytest.mark.parametrize("maker", make_dataset.MAKERS)
def test_help_names_each_default_once(maker, capsys):
    with pytest.raises(SystemExit) as stop:
        make_dataset.main([maker, "--help"])
    assert stop.value.code == 0
    written = " ".join(capsys.readouterr().out.split())
    assert "None" not in written and "(default: False)" not in written
    options = written.split(" --")
    assert max(option.count("(default") for option in options) == 1
