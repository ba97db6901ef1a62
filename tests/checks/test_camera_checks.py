import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import data_util
import geometry
from datasets.checks import camera_checks

CAMERA = data_util.Intrinsics(131.25, 64, 64, 128, 128)
FLIP = np.diag([1.0, -1, -1, 1]).astype(np.float32)  # OpenCV to OpenGL axes and back


def instance(poses, name="mug", camera=CAMERA):
    poses = np.asarray(poses, np.float32)
    views = tuple(f"{i:06d}" for i in range(len(poses)))
    return SimpleNamespace(name=name, folder=Path("Mug.train") / name, views=views, poses=poses, intrinsics=camera)


def around(num_views=30, target=(0, 0, 0), distance=1.3, elevation_deg=(-10, 60), seed=0, aim=0.0):
    """Poses (V, 4, 4) about a target; `aim`: how far, in world units, they look past it."""
    rng = np.random.default_rng(seed)
    azimuth_deg, elevation_deg = rng.uniform(0, 360, num_views), rng.uniform(*elevation_deg, num_views)
    target = torch.tensor(target, dtype=torch.float64)
    eyes = target + geometry.on_sphere(torch.tensor(azimuth_deg), torch.tensor(elevation_deg), distance)
    aims = target + aim * torch.tensor(rng.normal(size=(num_views, 3)))
    return geometry.look_at(eyes, aims).numpy()


def kinds(*instances):
    return [fault.kind for fault in camera_checks.faults_of(list(instances))]


def turned(poses, seed=1):
    """The same cameras in a world that is turned, shifted and scaled, as structure from motion leaves it."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation *= np.sign(np.linalg.det(rotation))
    result = np.array(poses, np.float64)
    result[:, :3, 3] = 7.3 * result[:, :3, 3] @ rotation.T + [40, -25, 13]
    result[:, :3, :3] = rotation @ result[:, :3, :3]
    return result


SOUND = {
    "sphere": around(elevation_deg=(-90, 90)),
    "hemisphere": around(elevation_deg=(0, 90)),
    "orbit": geometry.orbit(torch.zeros(3), 1.3, 25.0, 24).numpy(),
    "level orbit": geometry.orbit(torch.zeros(3), 1.3, 0.0, 24).numpy(),
    "object off the centre": around(target=(3, -8, 5)),
    "hand-held": around(aim=0.25),
    "structure from motion": turned(around(aim=0.2)),
    "a quarter of the way round": around()[around()[:, 0, 3] > 0.4],
    "two views, sixty degrees apart": geometry.orbit(torch.zeros(3), 1.3, 10.0, 6).numpy()[:2],
    "one view": around(1),
    "one view of an object elsewhere": turned(around(1, seed=3)),
    "views in the same place": np.repeat(around(1), 5, axis=0),
    "side by side, parallel": around(1) + np.pad(np.arange(5)[:, None, None] / 9, ((0, 0), (0, 3), (3, 0))),
    "from straight above": geometry.look_at(
        torch.tensor([[x, y, 5.0] for x in range(4) for y in range(4)]),
        torch.tensor([[x, y, 0.0] for x in range(4) for y in range(4)]),
    ).numpy(),
    "near and far": np.concatenate([around(distance=0.6), around(distance=40.0)]),
}


@pytest.mark.parametrize("poses", SOUND.values(), ids=SOUND)
def test_sound_cameras_have_no_fault(poses):
    assert kinds(instance(poses)) == []


def test_poses_as_text_of_six_digits_are_rigid():
    assert kinds(instance([np.round(pose, 6) for pose in around(250)])) == []
    rounded = [np.round(pose, 4) for pose in turned(around())]
    assert kinds(instance(rounded)) == []


@pytest.mark.parametrize("seed", range(4))
def test_poses_as_text_of_three_decimals_are_rigid(seed):
    assert kinds(instance(np.round(turned(around(250, seed=seed), seed), 3))) == []


@pytest.mark.parametrize(
    "name", ["sphere", "orbit", "hand-held", "structure from motion", "object off the centre", "views in the same place"]
)
def test_opengl_axes_are_told_once_per_instance_with_how_to_mend_them(name):
    faults = camera_checks.faults_of([instance(SOUND[name] @ FLIP)])
    assert [fault.kind for fault in faults] == ["OpenGL axes"]
    assert faults[0].path == Path("Mug.train/mug/pose")
    assert "negate the second and third column" in faults[0].sentence and "make_dataset.py convert" in faults[0].sentence
    mended = SOUND[name] @ FLIP * [1, -1, -1, 1]
    assert kinds(instance(mended)) == []


def test_single_views_are_judged_by_what_all_instances_look_at():
    """Objects beside the origin, each seen once: no single one tells what it looks at, all of them do."""
    poses = around(12, target=(5, 5, 0))
    sound = [instance(poses[i : i + 1], f"mug_{i}") for i in range(12)]
    assert kinds(*sound) == []
    opengl = [instance(poses[i : i + 1] @ FLIP, f"mug_{i}") for i in range(12)]
    faults = camera_checks.faults_of(opengl)
    assert [fault.path.parent.name for fault in faults] == [f"mug_{i}" for i in range(12)]
    assert "have the point 5 5 " in faults[0].sentence and "world-to-camera" not in faults[0].sentence
    assert len(camera_checks.faults_of([*sound[:1], *opengl[1:]])) == 11


def test_few_single_views_with_the_origin_behind_are_sound():
    """An object may lie anywhere: three cameras, and nearly all of the split's, show that the axes are OpenGL's."""
    for height in (0.1, 1e-7, 2.0):
        pose = np.eye(4)
        pose[2, 3] = height
        assert kinds(instance([pose])) == []
    poses = around(8)
    sound = [instance(poses[i : i + 1], f"mug_{i}") for i in range(8)]
    opengl = [instance(poses[i : i + 1] @ FLIP, f"mug_{i}") for i in range(8)]
    assert kinds(*opengl[:2]) == kinds(*sound[:5], *opengl[5:]) == []
    assert kinds(*opengl[:3]) == kinds(*opengl[:3], instance(np.zeros((1, 4, 4))))[:3] == ["OpenGL axes"] * 3


def test_both_readings_are_named_where_single_views_do_not_tell_them_apart():
    """Seen along the world's z axis, the inverse of a pose and its OpenGL axes both have the origin before the camera."""
    pose = np.eye(4)
    pose[2, 3] = 2.0
    for says, named, cure in ((False, "world-to-camera", "1 as the"), (True, "camera-to-world", "0 in the")):
        camera = data_util.Intrinsics(131.25, 64, 64, 128, 128, poses_are_world2cam=says)
        faults = camera_checks.faults_of([instance([pose], f"mug_{i}", camera) for i in range(3)])
        assert [fault.kind for fault in faults] == ["OpenGL axes"] * 3
        assert f"or like {named}" in faults[0].sentence
        assert f"if they are {named}, write {cure} fifth line of intrinsics.txt" in faults[0].sentence
        assert "negate the second and third column" in faults[0].sentence
    opengl = [instance(around(1, seed=3) @ FLIP, f"mug_{i}") for i in range(3)]
    assert "world-to-camera" not in camera_checks.faults_of(opengl)[0].sentence


@pytest.mark.parametrize("name", ["sphere", "orbit", "level orbit", "object off the centre"])
@pytest.mark.parametrize("axes", [np.eye(4), FLIP], ids=["OpenCV", "OpenGL"])
def test_world_to_camera_poses_are_recognised(name, axes):
    inverted = np.linalg.inv(SOUND[name] @ axes)
    (fault,) = camera_checks.faults_of([instance(inverted)])
    assert fault.kind == "world-to-camera poses"
    assert "write 1 as the fifth line of intrinsics.txt" in fault.sentence
    assert ("OpenGL axes" in fault.sentence) == (axes is FLIP)


@pytest.mark.parametrize("num_views", range(3, 30, 2))
def test_world_to_camera_poses_about_the_origin_are_recognised_whatever_their_number(num_views):
    """Read as camera-to-world they stand in one place, where their axes meet: neither in front of them nor behind."""
    assert kinds(instance(np.linalg.inv(SOUND["hemisphere"][:num_views]))) == ["world-to-camera poses"]


def test_a_flag_that_should_not_be_there_is_recognised():
    """load_poses inverts poses where intrinsics.txt says world-to-camera."""
    flagged = data_util.Intrinsics(131.25, 64, 64, 128, 128, poses_are_world2cam=True)
    (fault,) = camera_checks.faults_of([instance(np.linalg.inv(SOUND["sphere"]), camera=flagged)])
    assert fault.kind == "camera-to-world poses" and "write 0 in the fifth line" in fault.sentence


def test_the_camera_that_looks_away_is_named_and_only_that_one():
    poses = around(aim=0.1)
    poses[7] = poses[7] @ FLIP  # behind
    poses[11, :3, :3] = poses[11, :3, :3] @ np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # a quarter turn
    faults = camera_checks.faults_of([instance(poses)])
    assert [(fault.kind, fault.path.name) for fault in faults] == [("looks away", "000007.txt"), ("looks away", "000011.txt")]
    assert "behind it" in faults[0].sentence


def test_a_camera_beside_the_object_is_told_where_it_has_it():
    poses = around()
    turn = np.deg2rad(70)
    poses[3, :3, :3] = poses[3, :3, :3] @ [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    (fault,) = camera_checks.faults_of([instance(poses)])
    assert fault.kind == camera_checks.BESIDE != "looks away"
    assert fault.path.name == "000003.txt" and "far outside its image of 128 x 128" in fault.sentence


def test_cameras_astray_do_not_make_the_others_faulty():
    poses = around(60)
    poses[:5, :3, 3] += 1e5 * np.random.default_rng(0).normal(size=(5, 3))
    faults = camera_checks.faults_of([instance(poses)])
    named = {fault.path.name for fault in faults}
    assert named and named <= {f"{i:06d}.txt" for i in range(5)}


@pytest.mark.parametrize(
    "kind, change, reason",
    [
        ("pose not rigid", lambda p: p * [1.1, 1.1, 1.1, 1], "off by up to 0.21"),
        ("pose not rigid", lambda p: p + [[0.01, 0, 0, 0], [0] * 4, [0] * 4, [0] * 4], "expected at most 0.003"),
        ("mirrored pose", lambda p: p * [-1, 1, 1, 1], "determinant is -1"),
        ("last row of a pose", lambda p: p.T, "written column by column"),
        ("pose not finite", lambda p: p * np.where(np.arange(4) == 3, np.nan, 1), "not finite"),
        ("pose not finite", lambda p: p + np.where(np.arange(4) == 0, np.inf, 0), "not finite"),
    ],
)
def test_a_pose_that_is_no_rigid_motion_is_named(kind, change, reason):
    poses = around()
    poses[5] = change(poses[5])
    (fault,) = camera_checks.faults_of([instance(poses)])
    assert (fault.kind, fault.path) == (kind, Path("Mug.train/mug/pose/000005.txt"))
    assert reason in fault.sentence


def test_a_pose_that_is_no_rigid_motion_is_not_asked_where_it_looks():
    """Nor does it hide what is wrong with the others, though it cannot be inverted."""
    poses = around()
    poses[5, :3, :3], poses[8] = 0, poses[8] @ FLIP
    faults = camera_checks.faults_of([instance(poses)])
    assert [fault.kind for fault in faults] == ["pose not rigid", "looks away"]
    assert [fault.path.name for fault in faults] == ["000005.txt", "000008.txt"]
    poses = around() @ FLIP
    poses[5, :3, :3] = 0
    assert kinds(instance(poses)) == ["pose not rigid", "OpenGL axes"]


def test_a_fault_of_most_views_is_told_once():
    (fault,) = camera_checks.faults_of([instance(around(30) * [2, 2, 2, 1])])
    assert fault.path == Path("Mug.train/mug/pose") and fault.sentence.startswith("30 of 30 views; the first, 000000: ")


@pytest.mark.parametrize(
    "camera, kind",
    [
        (data_util.Intrinsics(100, 64, 200, 128, 128), "principal point"),
        (data_util.Intrinsics(100, -3, 64, 128, 128), "principal point"),
        (data_util.Intrinsics(1.2, 0.5, 0.5, 128, 128), "focal length"),
    ],
)
def test_intrinsics_that_cannot_be_are_named(camera, kind):
    (fault,) = camera_checks.faults_of([instance(around(), camera=camera)])
    assert (fault.kind, fault.path.name) == (kind, "intrinsics.txt")


def test_a_principal_point_off_the_centre_and_an_image_that_is_not_square_are_sound():
    assert kinds(instance(around(aim=0.1), camera=data_util.Intrinsics(150, 20, 90, 96, 160))) == []


def test_faults_come_in_the_order_of_instances():
    sound, opengl = around(), around() @ FLIP
    instances = [instance(opengl if i % 3 == 0 else sound, f"mug_{i}") for i in range(10)]
    instances.insert(4, instance(np.zeros((0, 4, 4)), "empty"))
    assert [fault.path.parent.name for fault in camera_checks.faults_of(instances)] == ["mug_0", "mug_3", "mug_6", "mug_9"]
    assert camera_checks.faults_of([]) == []


def test_six_thousand_instances_take_seconds():
    """A twentieth of them here."""
    instances = [instance(around(250, seed=i), f"mug_{i}") for i in range(300)]
    start = time.perf_counter()
    assert camera_checks.faults_of(instances) == []
    assert time.perf_counter() - start < 2
