"""datasets/making/from_meshes.py: mesh files become a data set that is consistent, passes the checks and trains."""

import itertools
import json

import imageio.v3 as iio
import numpy as np
import pytest
import scenes
import torch

import check_dataset
import data_util
import dataio
import geometry
import make_dataset
import train
import util
from datasets.making import from_meshes, solids, viewpoints
from tests.meshes import test_collection

pytest.importorskip("embreex")
trimesh = pytest.importorskip("trimesh")

PARTS = """
classes: [seat, back]
parts: {"cushion*": seat, rest: back}
"""
FLAGS = "--views 4 --train_val_views 2 --test_views 70 --sidelength 32 --num_workers 1"


def chair_obj(width=1.0, faces=""):
    """A seat and a back as OBJ text, y up, the front towards +z."""
    parts = {
        "cushion_1": solids.box((-width, 0, -1), (width, 0.5, 1), 1, (1, 0, 0)),
        "rest": solids.box((-width, 0.5, -1), (width, 2.5, -0.6), 1, (1, 0, 0)),
    }
    lines, first = [], 1
    for name, solid in parts.items():
        lines += [f"o {name}"] + [f"v {x} {y} {z}" for x, y, z in solid.vertices]
        lines += [f"f {a} {b} {c}" for a, b, c in solid.triangles + first]
        first += len(solid.vertices)
    return "\n".join(lines) + "\n" + faces


@pytest.fixture
def models(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    for i in range(3):
        (folder / f"chair_{i}.obj").write_text(chair_obj(width=1 + i / 4))
    (tmp_path / "parts.yml").write_text(PARTS)
    return folder


def make(models, flags="", parts=True):
    out = models.parent / "out"
    labels = ["--parts", str(models.parent / "parts.yml")] if parts else []
    where = [str(models), "--obj_name", "Chair", "--out", str(out)]
    make_dataset.main(["meshes", *where, *labels, *FLAGS.split(), *flags.split()])
    return out / "Chair"


def test_labelled_files_become_a_set_that_passes_the_checks_and_trains(models, tmp_path, capsys):
    folder = make(models, "--test_instances 1")
    assert {path.name: len(list(path.iterdir())) for path in folder.glob("Chair.*")} == {
        "Chair.train": 2,
        "Chair.train_val": 2,
        "Chair.test": 1,
    }
    assert data_util.load_class_names(folder / "Chair-level-1.txt") == ["background", "seat", "back"]
    check_dataset.main([str(folder)])  # exits with 2 where there are faults
    assert "no faults" in capsys.readouterr().out
    train.main(
        [
            "--data_root",
            str(folder / "Chair.train"),
            "--obj_name",
            "Chair",
            "--class_weight",
            "0",
            "--log_dir",
            "run",
            "--logging_root",
            str(tmp_path / "logs"),
            "--img_sidelengths",
            "32",
            "--max_steps_per_img_sidelength",
            "2",
            "--batch_size_per_img_sidelength",
            "2",
            "--hidden_features",
            "16",
            "--tracing_steps",
            "3",
            "--device",
            "cpu",
        ]
    )
    assert list((tmp_path / "logs" / "run" / "checkpoints").iterdir())


def test_objects_stand_upright_with_their_front_towards_the_cameras_in_front(models):
    """From the front the seat is below the back; from behind the back hides the seat."""
    poses = models.parent / "poses"
    poses.mkdir()
    for i, azimuth in enumerate((0.0, 180.0)):
        eye = geometry.on_sphere(torch.tensor(azimuth), torch.tensor(0.0), 1.2)
        np.savetxt(poses / f"{i}.txt", geometry.look_at(eye).numpy())
    folder = make(models, f"--cameras {poses}")
    for instance in (folder / "Chair.train").iterdir():
        front, behind = (np.load(instance / "seg" / f"{i:06d}.npy") for i in range(2))
        assert np.argwhere(front == 1)[:, 0].mean() > np.argwhere(front == 2)[:, 0].mean() + 5
        assert (front == 1).sum() > 30
        assert abs((behind == 1).sum() - (front == 1).sum()) < 0.5 * (front == 1).sum()  # the seat's rear is seen below


def test_a_surface_point_has_the_same_class_in_every_view_that_sees_it(models):
    folder = make(models, "--depth --sidelength 96 --views 12")
    instances = dataio.index_split(folder / "Chair.train", with_labels=True)
    agreeing = compared = 0
    for instance in instances:
        intrinsics = torch.from_numpy(instance.intrinsics.matrix(96))
        views = [
            (
                torch.from_numpy(instance.poses[i]),
                np.load(instance.folder / "depth" / f"{name}.npy"),
                np.load(instance.folder / "seg" / f"{name}.npy"),
            )
            for i, name in enumerate(instance.views)
        ]
        for cam2world, depth, seg_labels in views:
            seen = torch.from_numpy(depth.flatten() > 0)
            in_camera = geometry.lift(geometry.pixel_grid(96, 96, 0.5), torch.from_numpy(depth).reshape(-1, 1), intrinsics)
            points, labels = scenes.camera_to_world(in_camera, cam2world)[seen], seg_labels.flatten()[seen]
            for other, other_depth, other_labels in views:
                there = geometry.world_to_camera(points, other)
                column, row = geometry.project(there, intrinsics).floor().long().clamp(0, 95).T.numpy()
                visible = np.abs(other_depth[row, column] - there[:, 2].numpy()) < 0.01
                agreeing += (other_labels[row, column] == labels)[visible].sum()
                compared += visible.sum()
    assert compared > 100_000 and agreeing / compared > 0.97


def test_partnet_with_shapenet_s_colours_becomes_a_data_set(tmp_path):
    """Half of the twin is red, half green: seen from above, as the seat lies in the world."""
    test_collection.write_annotation(tmp_path / "partnet" / "173", "abc")
    test_collection.write_twin(tmp_path / "shapenet" / "03001627" / "abc")
    (tmp_path / "list.txt").write_text(test_collection.CLASS_LIST)
    poses = tmp_path / "poses"
    poses.mkdir()
    np.savetxt(poses / "0.txt", geometry.look_at([0.0, 0.0, 1.3]).numpy())  # the image's top is the world's +y
    where = ["--class_list", str(tmp_path / "list.txt"), "--shapenet", str(tmp_path / "shapenet"), "--cameras", str(poses)]
    make_dataset.main(
        [
            "meshes",
            str(tmp_path / "partnet"),
            "--obj_name",
            "Chair",
            "--out",
            str(tmp_path / "out"),
            *where,
            "--light",
            "none",
            *FLAGS.split(),
        ]
    )
    instance = tmp_path / "out" / "Chair" / "Chair.train" / "abc"
    assert (tmp_path / "out" / "Chair" / "Chair-level-1.txt").read_text() == "0 background\n1 chair_back\n2 chair_seat\n"
    rgba, seg_labels = iio.imread(instance / "rgb" / "000000.png"), np.load(instance / "seg" / "000000.npy")
    seat = np.argwhere(seg_labels == 2)
    red, green = (rgba[..., 0] > 200) & (seg_labels == 2), (rgba[..., 1] > 200) & (seg_labels == 2)
    assert min(red.sum(), green.sum()) > 0.4 * len(seat)
    # ShapeNet's front is -z, so the file's x points to the left in the world: green, beyond 0.1, is on the left
    assert np.argwhere(green)[:, 1].mean() < np.argwhere(red)[:, 1].mean() - 5


def test_a_glb_becomes_a_data_set(tmp_path):
    scene = trimesh.Scene()
    for name, x in (("cushion", -0.5), ("rest", 0.5)):
        part = trimesh.creation.box(extents=(1, 1, 1))
        part.visual = trimesh.visual.TextureVisuals(
            material=trimesh.visual.material.PBRMaterial(name=name, baseColorFactor=[255, 255, 255, 255])
        )
        moved = trimesh.transformations.translation_matrix([x, 0, 0])
        scene.add_geometry(part, node_name=name, geom_name=name, transform=moved)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "sofa.glb").write_bytes(scene.export(file_type="glb"))
    (tmp_path / "parts.yml").write_text(PARTS)
    folder = make(tmp_path / "models", "--cameras orbit --elevation_deg 0,0")
    seg_labels = np.load(folder / "Chair.train" / "sofa" / "seg" / "000000.npy")  # the first view of an orbit is the front
    seat, back = (np.argwhere(seg_labels == i) for i in (1, 2))
    assert len(seat) > 50 and abs(len(seat) - len(back)) <= 12
    assert seat[:, 1].max() <= back[:, 1].min()  # x points to the right


def test_without_labels_there_are_pictures_and_poses_only(models):
    folder = make(models, "--test_instances 1", parts=False)
    assert not list(folder.glob("*.txt"))
    instance = next((folder / "Chair.train").iterdir())
    assert sorted(path.name for path in instance.iterdir()) == ["intrinsics.txt", "pose", "rgb"]


def test_depth_and_normals_are_written_with_depth(models):
    folder = make(models, "--depth")
    instance = next((folder / "Chair.train").iterdir())
    depth, normals = (np.load(instance / kind / "000001.npy") for kind in ("depth", "normals"))
    alpha = iio.imread(instance / "rgb" / "000001.png")[..., 3]
    assert depth.shape == (32, 32) and normals.shape == (32, 32, 3)
    assert 0.5 < depth[depth > 0].min() and depth.max() < 1.7  # the object's sphere about the centre, seen from 1.15
    assert (alpha[depth > 0] > 0).all()
    assert np.allclose(np.linalg.norm(normals[depth > 0].astype(float), axis=1), 1, atol=2e-3)
    assert (normals[depth > 0][:, 2] < 0).all()


def test_keeping_the_size_leaves_points_where_the_file_has_them(models):
    folder = make(models, "--keep_size --radius 6 --test_instances 1")
    points = data_util.load_labelled_cloud(folder / "Chair.test" / "chair_1", 3)
    points = points or data_util.load_labelled_cloud(next((folder / "Chair.test").iterdir()), 3)
    assert points.points[:, 2].min() == pytest.approx(0, abs=0.01)  # z is up: the file's y
    assert points.points[:, 2].max() == pytest.approx(2.5, abs=0.01)
    assert points.points[:, 1].min() == pytest.approx(-1, abs=0.01)  # the front, the file's z = 1, is at -y


def test_flags_set_the_cameras(models):
    folder = make(models, "--cameras orbit --elevation_deg -40,-20 --radius 2 --fov_deg 60 --test_instances 1")
    instance = dataio.index_split(folder / "Chair.train")[0]
    assert np.allclose(np.linalg.norm(instance.poses[:, :3, 3], axis=1), 2, atol=1e-5)
    assert np.allclose(instance.poses[:, 2, 3], -1, atol=1e-5)
    assert instance.intrinsics.focal == pytest.approx(32 * viewpoints.focal_of(60))


def test_poses_from_files_make_no_train_val(models):
    poses = models.parent / "poses"
    poses.mkdir()
    for i, pose in enumerate(viewpoints.spiral(3)):
        np.savetxt(poses / f"{i}.txt", pose)
    assert {path.name for path in make(models, f"--cameras {poses}").glob("Chair.*")} == {"Chair.train"}


def test_poses_from_files_must_be_rigid(models, refuses):
    poses = models.parent / "poses"
    poses.mkdir()
    np.savetxt(poses / "0.txt", 2 * np.eye(4))
    arguments = ["meshes", str(models), "--obj_name", "Chair", "--out", str(models.parent / "out"), "--cameras", str(poses)]
    refuses(make_dataset.main, arguments, "0.txt: the pose is not rigid")


def test_no_views_of_train_val_make_no_train_val(models):
    folder = make(models, "--cameras orbit --train_val_views 0")
    assert {path.name for path in folder.glob("Chair.*")} == {"Chair.train"}


def test_an_unfinished_run_is_not_resumed_with_another_map_of_parts(models, refuses):
    (models / "empty.obj").write_text("v 0 0 0\n")
    where = ["meshes", str(models), "--obj_name", "Chair", "--out", str(models.parent / "out"), *FLAGS.split()]
    arguments = [*where, "--parts", str(models.parent / "parts.yml")]
    refuses(make_dataset.main, arguments, "1 of 4 objects")
    (models.parent / "parts.yml").write_text(PARTS.replace('"cushion*": seat, rest: back', '"cushion*": back, rest: seat'))
    refuses(make_dataset.main, arguments, "made with other options")


def test_broken_files_are_named_and_left_out_on_request(models, refuses, capsys):
    (models / "empty.obj").write_text("v 0 0 0\n")
    (models / "flat.obj").write_text(chair_obj(faces="f 1 1 2\n"))
    arguments = [
        "meshes",
        str(models),
        "--obj_name",
        "Chair",
        "--out",
        str(models.parent / "out"),
        "--parts",
        str(models.parent / "parts.yml"),
        *FLAGS.split(),
    ]
    refuses(make_dataset.main, arguments, "2 of 5 objects cannot be used")
    folder = make(models, "--skip_broken")
    assert "left out 1 objects, and parts of 1 others" in capsys.readouterr().out
    left_out = (folder / "left_out.txt").read_text()
    assert "empty.obj" in left_out and "flat.obj" in left_out
    assert {path.name for path in (folder / "Chair.train").iterdir()} == {"chair_0", "chair_1", "chair_2", "flat"}


def test_names_of_parts_that_the_map_lacks_are_refused(models, refuses):
    (models.parent / "parts.yml").write_text(PARTS.replace("rest", "arm"))
    arguments = [
        "meshes",
        str(models),
        "--obj_name",
        "Chair",
        "--out",
        str(models.parent / "out"),
        "--parts",
        str(models.parent / "parts.yml"),
        *FLAGS.split(),
    ]
    refuses(make_dataset.main, arguments, "rest")


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--shapenet x", "--class_list"),
        ("--class_list x --parts y", "give one of them"),
        ("--up y --front -y", "lie on one axis"),
        ("--val_instances 2 --test_instances 1", "ask for 3 objects"),
        ("--splits nowhere.yml", "nowhere.yml: cannot be read"),
        ("--splits s.yml --test_instances 1", "remove --val_instances"),
    ],
)
def test_flags_that_cannot_work_are_refused(models, refuses, flags, reason):
    arguments = ["meshes", str(models), "--obj_name", "Chair", "--out", str(models.parent / "out"), *flags.split()]
    refuses(make_dataset.main, arguments, reason)


@pytest.mark.parametrize(("up", "front"), [p for p in itertools.permutations(from_meshes.AXES, 2) if p[0][-1] != p[1][-1]])
def test_any_two_axes_turn_to_up_and_front(up, front):
    rotation = from_meshes.rotation_to_canonical(up, front)
    assert np.array_equal(rotation @ from_meshes.AXES[up], [0, 0, 1])
    assert np.array_equal(rotation @ from_meshes.AXES[front], [0, -1, 0])
    assert np.linalg.det(rotation) == pytest.approx(1)


# ---------------------------------------------------------------------------------------------------- splits


def read(path, known=("a", "b", "c", "d")):
    return from_meshes.read_splits(path, "Chair", set(known))


def test_a_file_assigns_objects_to_splits(tmp_path, capsys):
    (tmp_path / "splits.yml").write_text("train: [b, a, gone]\ntest: [c]\n")
    assert read(tmp_path / "splits.yml") == {"train": ["a", "b"], "val": [], "test": ["c"]}
    printed = capsys.readouterr().out
    assert "1 objects listed" in printed and "gone" in printed and "1 objects are in none" in printed


def test_partnet_s_own_split_files_are_read(tmp_path):
    for split, ids in {"train": "ab", "val": "", "test": "c"}.items():
        entries = [{"model_id": "unknown", "anno_id": x} if x == "a" else {"model_id": x, "anno_id": "7"} for x in ids]
        (tmp_path / f"Chair.{split}.json").write_text(json.dumps(entries))
    assert read(tmp_path) == {"train": ["a", "b"], "val": [], "test": ["c"]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("train: [a]\ntest: [a]", "a is in more than one split"),
        ("train: [x, y]", "none of its training objects"),
        ("[a, b]", "expected"),
        ("train: a", "expected"),
        ("training: [a]", "expected"),
        ("{", "cannot be read"),
    ],
)
def test_wrong_split_files_are_refused(tmp_path, text, reason):
    (tmp_path / "splits.yml").write_text(text)
    with pytest.raises(util.InputError, match=reason):
        read(tmp_path / "splits.yml")
