"""Faults of the cameras of a data set, found from poses and intrinsics alone: no image is read.

The cameras of an instance are expected to look at one point: the one nearest to their optical axes, as in
geometry.nearest_to_axes, but with less weight for axes that pass far from it, so that a few wrong cameras do not move it.
A camera "looks away" if this point is behind it, and "looks beside" if the point is in front, but more than a whole
image beyond the border of the image; a close-up or a dolly may do that on purpose. Where many cameras of an instance do
either, other readings of the poses are tried: OpenGL axes, world-to-camera poses, or both.

A single view, or axes within some ten degrees of each other, do not determine the point. The reference is then the point
that the cameras of all instances look at, else the origin. Such cameras are faulty only if the reference is straight
behind nearly all of them, in nearly all such instances, as with OpenGL axes: an object may lie anywhere.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import geometry

TOLERANCE = 3e-3  # of the entries of R^T R and of the last row: poses may be text of three decimals
SPREAD = 0.03  # mean square sine of the angles between axes that determine a point: some 10 degrees
BEYOND = 1.0  # image sides beyond the border of an image where a camera still counts as looking at the point
RIGHT_BEHIND_DEG = 10.0  # largest angle to the backward axis
FEW = 3  # with fewer cameras, a reference straight behind them proves nothing
MOST, MANY = 0.9, 0.25  # shares of an instance's cameras: that must see the point; that look away or beside
MIN_FOCAL = 0.1  # per longer side of the image: a field of view of 157 degrees
NUM_ROUNDS = 12  # of weighting the axes

BESIDE = "looks beside"  # the kind of fault that may be intended
EXPECTED_ROW = "expected 0 0 0 1; the matrix may be written column by column"
EXPECTED_R = f"expected at most {TOLERANCE:g}; remove scale and shear from the rotation R"
EXPECTED_COLUMNS = "its determinant is -1; expected the columns x right, y down, z forward, so that x cross y is z"
AXES = "OpenGL axes (y up, z backwards)"
NEGATE = "negate the second and third column of each (make_dataset.py convert does it for a transforms.json)"
OPENGL_TO_OPENCV = np.array([1.0, -1.0, -1.0, 1.0])  # factors of the columns of a cam2world
READINGS = {  # what else a pose may be: the function that makes it a cam2world with OpenCV axes
    "opengl": lambda poses: poses * OPENGL_TO_OPENCV,
    "inverse": np.linalg.inv,
    "inverse opengl": lambda poses: np.linalg.inv(poses) * OPENGL_TO_OPENCV,
}


@dataclass(frozen=True)
class Fault:
    """One fault: its kind in two or three words, its file or folder, and a sentence."""

    kind: str
    path: Path
    sentence: str

    def __str__(self):
        return f"{self.path}: {self.sentence}"


def faults_of(instances):
    """Faults of the cameras of instances, a list of Fault in the order of the instances.

    instances: with name, folder, views, poses (V, 4, 4) cam2world and intrinsics (data_util.Intrinsics), such as
        dataio.Instance. Poses may hold anything: where those look that are not rigid is not judged
    """
    faults, undecided, judged = [], [], []
    for instance in instances:
        if not len(instance.poses):
            continue
        of_poses, sound = faults_of_poses(instance)
        own = faults_of_intrinsics(instance) + of_poses
        faults.append(own)
        if len(sound):
            poses = instance.poses[sound].astype(np.float64)
            judged.append((instance, sound))
            of_directions, is_open = faults_of_directions(instance, poses, sound)
            own += of_directions
            if is_open:
                undecided.append((instance, poses, own))
    judge_undecided(undecided, judged)
    return [fault for own in faults for fault in own]


# A camera by itself


def faults_of_intrinsics(instance):
    camera, path, faults = instance.intrinsics, instance.folder / "intrinsics.txt", []
    if not is_in_image(camera, camera.cx, camera.cy):
        sentence = (
            f"the principal point ({camera.cx:g}, {camera.cy:g}) lies outside the image of {camera.width} x "
            f"{camera.height} pixels; expected `f cx cy 0.` in pixels of that image, and its height before its width"
        )
        faults.append(Fault("principal point", path, sentence))
    longer = max(camera.width, camera.height)
    if camera.focal < MIN_FOCAL * longer:
        angle = np.rad2deg(2 * np.arctan(longer / 2 / camera.focal))
        sentence = (
            f"a focal length of {camera.focal:g} pixels is a field of view of {angle:.0f} degrees over {longer} pixels; "
            f"expected the focal length in pixels, not in millimetres or image sides"
        )
        faults.append(Fault("focal length", path, sentence))
    return faults


def is_in_image(camera, u, v, beyond=0.0):
    """Whether pixels (u, v) lie in the image, or at most `beyond` image sides outside. camera: data_util.Intrinsics"""
    inside_u = (u >= -beyond * camera.width) & (u <= (1 + beyond) * camera.width)
    return inside_u & (v >= -beyond * camera.height) & (v <= (1 + beyond) * camera.height)


def faults_of_poses(instance):
    """Faults of the poses that are not rigid motions, and the indices of the other ones, which may be mirrored."""
    given = instance.poses.astype(np.float64)
    finite = np.isfinite(given).all(axis=(1, 2))
    poses = np.where(finite[:, None, None], given, np.eye(4))
    rotations = poses[:, :3, :3]
    stretch = abs(rotations.transpose(0, 2, 1) @ rotations - np.eye(3)).max(axis=(1, 2))
    off_last_row = abs(poses[:, 3] - [0, 0, 0, 1]).max(axis=1) > TOLERANCE
    sound = finite & ~off_last_row & (stretch <= TOLERANCE)
    checks = [
        ("pose not finite", ~finite, lambda v: "found a number that is not finite; correct the pose or remove the view"),
        ("last row of a pose", off_last_row, lambda v: f"the last row is {_numbers(given[v, 3])}, {EXPECTED_ROW}"),
        ("pose not rigid", stretch > TOLERANCE, lambda v: f"R^T R is off by up to {stretch[v]:.2g}, {EXPECTED_R}"),
        ("mirrored pose", sound & (np.linalg.det(rotations) < 0), lambda v: f"the rotation mirrors, {EXPECTED_COLUMNS}"),
    ]
    return per_view(instance, checks), np.flatnonzero(sound)


def per_view(instance, checks):
    """For each check a fault for each faulty view, or one for all if these are most of the views and more than two.

    checks: (kind, (V,) bool where faulty, function from the index of a view to a sentence)
    """
    folder, num_views, faults = instance.folder / "pose", len(instance.views), []
    for kind, is_faulty, sentence_of in checks:
        faulty = np.flatnonzero(is_faulty)
        if len(faulty) > max(2, num_views / 2):
            first = f"the first, {instance.views[faulty[0]]}: {sentence_of(faulty[0])}"
            faults.append(Fault(kind, folder, f"{len(faulty)} of {num_views} views; {first}"))
        else:
            faults += [Fault(kind, folder / f"{instance.views[v]}.txt", sentence_of(v)) for v in faulty]
    return faults


# Where cameras look. Below, `poses` are the P sound ones of an instance, (P, 4, 4) float64


def look(poses, camera, num_rounds=0):
    """Which cameras look at their common point (P,) bool, whether the axes leave it open, the point in camera space (P, 3).

    num_rounds: of weighting the axes, less where they pass far from the point
    """
    centres, axes, weights = poses[:, :3, 3], poses[:, :3, 2], np.ones(len(poses))
    for _ in range(1 + num_rounds):
        point, is_open = common_point(poses, weights)
        to_point = point - centres
        off_axis = np.linalg.norm(to_point - axes * (to_point * axes).sum(axis=1, keepdims=True), axis=1)
        weights = 1 / (off_axis + 0.1 * np.average(off_axis, weights=weights) + 1e-9)
    in_camera = to_camera(point, poses)
    u, v = project(in_camera, camera)
    return (in_camera[:, 2] > 0) & is_in_image(camera, u, v, BEYOND), is_open, in_camera


def common_point(poses, weights):
    """The point (3,) nearest to axes of weights (P,), near the origin where they leave it open, and whether they do."""
    point, spread = geometry.nearest_to_axes(torch.from_numpy(poses), torch.from_numpy(weights))
    return point.numpy(), spread < SPREAD


def to_camera(point, poses):
    """A point (3,) of the world in the space of each camera, (P, 3)."""
    return ((point - poses[:, :3, 3])[:, None] @ poses[:, :3, :3])[:, 0]


def project(in_camera, camera):
    """Pixels (2, P) of points (P, 3) in front; the image's centre replaces a principal point outside the image."""
    has_centre = is_in_image(camera, camera.cx, camera.cy)
    centre = [camera.cx, camera.cy] if has_centre else [camera.width / 2, camera.height / 2]
    depth = np.where(in_camera[:, 2:] > 0, in_camera[:, 2:], 1)
    return (camera.focal * in_camera[:, :2] / depth + centre).T


def faults_of_directions(instance, poses, indices):
    """A list of Fault, and whether the cameras leave open what they look at. indices: (P,) of the poses' views."""
    camera = instance.intrinsics
    sees, is_open, _ = look(poses, camera)
    in_place = in_one_place(poses)
    if not in_place and (is_open or sees.all()):
        return [], is_open
    sees, is_open, in_camera = look(poses, camera, NUM_ROUNDS)
    if in_place:  # their axes meet where the cameras are, which is neither in front nor behind
        sees, is_open = np.zeros_like(sees), True
    num_away = (~sees).sum()
    reading = other_reading(poses, camera) if is_open or num_away > MANY * len(poses) else None
    if reading:
        evidence = f"as they are, {num_away} of {len(poses)} cameras look away from the object, but not in that reading"
        return [misread(instance, reading, evidence)], False
    if is_open:
        return [], True
    points = np.full((len(instance.views), 3), np.nan)
    points[indices[~sees]] = in_camera[~sees]
    u, v = project(points, camera)
    point_is = f"the point that the cameras of {instance.name} look at is"
    image = f"its image of {camera.width} x {camera.height} pixels"

    def away(i):
        return f"the camera looks away: {point_is} {-points[i, 2]:.3g} behind it"

    def beside(i):
        return f"the camera looks beside the object: {point_is} at pixel ({u[i]:.0f}, {v[i]:.0f}), far outside {image}"

    checks = [("looks away", points[:, 2] <= 0, away), (BESIDE, points[:, 2] > 0, beside)]
    return per_view(instance, checks), False


def in_one_place(poses):
    """Whether two or more cameras stand in one place other than the origin.

    World-to-camera poses of a circle about the origin, read as camera-to-world, do so.
    """
    centres = poses[:, :3, 3]
    mean = centres.mean(axis=0)
    return len(poses) > 1 and np.linalg.norm(centres - mean, axis=1).max() < 1e-3 * np.linalg.norm(mean)


def other_reading(poses, camera):
    """The one of READINGS with which most cameras look at one point, and pass closest to it; None if there is none."""
    best, least = None, np.inf
    for reading, read in READINGS.items():
        sees, is_open, in_camera = look(read(poses), camera, NUM_ROUNDS)
        if is_open or sees.mean() < MOST:
            continue
        off_axis = (np.linalg.norm(in_camera[sees, :2], axis=1) / in_camera[sees, 2]).sum()
        off_axis /= 2 if reading == "opengl" else 1  # the most common mistake
        if off_axis < least:
            best, least = reading, off_axis
    return best


def misread(instance, reading, evidence):
    """The fault of an instance whose poses make sense in another reading only: one of READINGS, or "undecided"."""
    is_flagged = instance.intrinsics.poses_are_world2cam
    other, flag = ("camera-to-world", "0 in") if is_flagged else ("world-to-camera", "1 as")
    write_flag = f"write {flag} the fifth line of intrinsics.txt"
    kind, like, advice = {
        "opengl": ("OpenGL axes", AXES, NEGATE),
        "inverse": (f"{other} poses", other, write_flag),
        "inverse opengl": (f"{other} poses", f"{other} with {AXES}", f"{write_flag}, and correct the axes"),
        "undecided": ("OpenGL axes", f"{AXES}, or like {other}", f"{NEGATE}, or, if they are {other}, {write_flag}"),
    }[reading]
    return Fault(kind, instance.folder / "pose", f"the poses look like {like}: {evidence}; {advice}")


def judge_undecided(undecided, judged):
    """Add a fault to the list of each instance whose poses seem to have OpenGL axes.

    undecided: (instance, sound poses, list of its faults) of those whose own cameras leave open what they look at
    judged:    (instance, indices of its sound poses) of the whole split
    """
    if not undecided:
        return
    every_pose = np.concatenate([instance.poses[sound] for instance, sound in judged]).astype(np.float64)
    point, is_open = common_point(every_pose, np.ones(len(every_pose)))
    reference = np.zeros(3) if is_open else point
    # in each instance: cameras; those with the reference straight behind; if inverted, with the origin straight ahead
    num_sound = np.array([len(poses) for _, poses, _ in undecided])
    behind = np.array([num_ahead(-to_camera(reference, poses)) for _, poses, _ in undecided])
    inverse = np.array([num_ahead(poses[:, :3, 3]) for _, poses, _ in undecided])
    agree = behind >= MOST * num_sound
    if agree.mean() < MOST or behind[agree].sum() < FEW:
        return
    reading = "undecided" if inverse[agree].sum() >= behind[agree].sum() else "opengl"
    where = "the origin" if is_open else f"the point {_numbers(reference)} that the split's cameras look at"
    for i in np.flatnonzero(agree):
        instance, _, own = undecided[i]
        own.append(misread(instance, reading, f"{behind[i]} of {num_sound[i]} cameras have {where} straight behind them"))


def num_ahead(in_camera):
    """The number of points (P, 3) in camera space that lie straight ahead."""
    return (in_camera[:, 2] > np.cos(np.deg2rad(RIGHT_BEHIND_DEG)) * np.linalg.norm(in_camera, axis=1)).sum()


def _numbers(row):
    return " ".join(f"{x:.4g}" for x in row)
