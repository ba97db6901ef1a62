"""What is wrong with the cameras of a data set, told from poses and intrinsics alone: no image is read.

Where cameras look: the cameras of an instance look at the point nearest to their optical axes (as in
geometry.viewing_target, but the further an axis passes from the point the less it counts, so that a few cameras
astray do not move it). A camera looks away where this point lies behind it, and beside where it lies in front, but more
than a whole image beyond the border of its image: a close-up or a dolly may mean that. Where many cameras of an instance
look away or beside, other readings of the poses are tried: OpenGL axes, world-to-camera, both at once.

One view, or axes within some ten degrees of each other, leave the point open. The reference is then the point that
the cameras of all instances look at, or else the origin, and cameras are suspected only where it lies right behind
nearly all of them, in nearly all of the instances left open, as with OpenGL axes: objects may well lie elsewhere.

Shapes: I instances, P cameras, those of one instance after those of the other.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

TOLERANCE = 3e-3  # of the entries of R^T R and of the last row: poses may be text of three decimals
SPREAD = 0.03  # mean square sine of the angles between axes, from which they tell a point: some 10 degrees
BEYOND = 1.0  # images beyond the border of an image, where a camera may still have the point
RIGHT_BEHIND_DEG = 10.0  # at most so far off the backward axis
FEW = 3  # fewer cameras tell nothing by having the reference right behind them
MOST, MANY = 0.9, 0.25  # shares of an instance's cameras: that must see the point, that look away or beside
MIN_FOCAL = 0.1  # per longer side of the image: a field of view of 157 degrees
NUM_ROUNDS = 12  # of weighting the axes
AT_ONCE = 40_000  # cameras; their arrays stay in the processor's cache

BESIDE = "looks beside"  # the kind of fault that may be meant
AXES = "OpenGL axes (y up, z backwards)"
NEGATE = "negate the second and third column of each (make_dataset.py convert does it for a transforms.json)"
OPENGL_TO_OPENCV = np.array([1.0, -1.0, -1.0, 1.0])  # of the columns of a cam2world
READINGS = {  # in place of the one as cam2world with OpenCV axes: what poses turn out to be, and what they mean
    "opengl": lambda poses: poses * OPENGL_TO_OPENCV,
    "inverse": np.linalg.inv,
    "inverse opengl": lambda poses: np.linalg.inv(poses) * OPENGL_TO_OPENCV,
}


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: its kind in two or three words, its file or folder, and a sentence on what is there."""

    kind: str
    path: Path
    sentence: str

    def __str__(self):
        return f"{self.path}: {self.sentence}"


class Rig:
    """The cameras of some instances, each of which has at least one.

    poses  (P, 4, 4) float64, the identity where they are not sound      sound (P,) bool, finite and rigid
    owner  (P,) index of a camera's instance                             first (I,) index of an instance's first camera
    images (P, 5) focal length, principal point (u, v), or the image's centre where that is outside, width, height
    """

    def __init__(self, instances):
        self.instances = instances
        counts = np.array([len(instance.poses) for instance in instances])
        self.first, self.owner = np.cumsum(counts) - counts, np.repeat(np.arange(len(counts)), counts)
        self.given = np.concatenate([instance.poses for instance in instances]).astype(np.float64)
        cameras = [instance.intrinsics for instance in instances]
        images = [
            (c.focal, *((c.cx, c.cy) if sees_its_axis(c) else (c.width / 2, c.height / 2)), c.width, c.height)
            for c in cameras
        ]
        self.images = np.array(images)[self.owner]

        finite = np.isfinite(self.given).all(axis=(1, 2))
        self.poses = np.where(finite[:, None, None], self.given, np.eye(4))
        rotations = self.poses[:, :3, :3]
        self.stretch = abs(rotations.transpose(0, 2, 1) @ rotations - np.eye(3)).max(axis=(1, 2))
        self.faults = {
            "pose not finite": ~finite,
            "last row of a pose": abs(self.poses[:, 3] - [0, 0, 0, 1]).max(axis=1) > TOLERANCE,
            "pose not rigid": self.stretch > TOLERANCE,
        }
        self.sound = ~np.any(list(self.faults.values()), axis=0)
        self.faults["mirrored pose"] = self.sound & (np.linalg.det(rotations) < 0)
        self.poses[~self.sound] = np.eye(4)

    def per_instance(self, values):
        """Sums (I, ...) over the cameras of each instance, of (P, ...)."""
        return np.add.reduceat(values, self.first, axis=0)

    def views_of(self, index):
        """The slice of an instance's cameras."""
        return slice(self.first[index], self.first[index] + len(self.instances[index].poses))


def faults_of(instances):
    """Faults of the cameras of instances, a list of Fault in their order.

    instances: with name, folder, views, poses (V, 4, 4) cam2world, and intrinsics (data_util.Intrinsics), such as
        dataio.Instance. Poses may hold anything: those that are not rigid are faults, and not asked where they look
    """
    instances = [instance for instance in instances if len(instance.poses)]
    faults, undecided, sums = {id(instance): faults_of_intrinsics(instance) for instance in instances}, [], 0
    for some in in_chunks(instances):
        rig = Rig(some)
        of_directions, is_open, axis_sums = faults_of_directions(rig)
        sums = sums + axis_sums
        for i, instance in enumerate(some):
            faults[id(instance)] += faults_of_poses(rig, i) + of_directions[i]
            if is_open[i]:
                undecided.append(instance)
    for instance, fault in faults_of_undecided(undecided, sums):
        faults[id(instance)].append(fault)
    return [fault for instance in instances for fault in faults[id(instance)]]


def in_chunks(instances):
    """Yields the instances in lists of some AT_ONCE cameras."""
    some, num_cameras = [], 0
    for instance in instances:
        some.append(instance)
        num_cameras += len(instance.poses)
        if num_cameras >= AT_ONCE:
            yield some
            some, num_cameras = [], 0
    if some:
        yield some


# What a camera shows by itself


def sees_its_axis(camera):
    """Whether the principal point of a data_util.Intrinsics lies in the image."""
    return 0 <= camera.cx <= camera.width and 0 <= camera.cy <= camera.height


def faults_of_intrinsics(instance):
    camera, path, faults = instance.intrinsics, Path(instance.folder) / "intrinsics.txt", []
    if not sees_its_axis(camera):
        faults.append(
            Fault(
                "principal point",
                path,
                (
                    f"the principal point ({camera.cx:g}, {camera.cy:g}) lies outside the image of {camera.width} x "
                    f"{camera.height} pixels; expected `f cx cy 0.` in pixels of that image, and its height before its width"
                ),
            )
        )
    longer = max(camera.width, camera.height)
    if camera.focal < MIN_FOCAL * longer:
        angle_deg = np.rad2deg(2 * np.arctan(longer / 2 / camera.focal))
        faults.append(
            Fault(
                "focal length",
                path,
                (
                    f"a focal length of {camera.focal:g} pixels gives the image of {camera.width} x {camera.height} a "
                    f"field of view "
                    f"of {angle_deg:.0f} degrees; expected it in pixels, neither in millimetres nor per side of the image"
                ),
            )
        )
    return faults


def faults_of_poses(rig, index):
    """Poses of one instance that are no rigid motions."""
    instance, views = rig.instances[index], rig.views_of(index)
    given, stretch = rig.given[views], rig.stretch[views]
    sentence_of = {
        "pose not finite": lambda v: "holds a number that is not finite; mend the pose or take the view out",
        "last row of a pose": lambda v: (
            f"the last row of the pose is {_numbers(given[v, 3])}, expected 0 0 0 1; perhaps "
            f"the matrix is written column by column"
        ),
        "pose not rigid": lambda v: (
            f"the pose is not rigid: entries of R^T R are off by up to {stretch[v]:.2g}, expected "
            f"at most {TOLERANCE:g}; take scale and shear out of the rotation R"
        ),
        "mirrored pose": lambda v: (
            "the pose mirrors: its rotation has the determinant -1; expected the columns x right, "
            "y down, z forward, so that x cross y is z"
        ),
    }
    return [
        fault
        for kind, is_faulty in rig.faults.items()
        for fault in per_view(kind, instance, np.flatnonzero(is_faulty[views]), sentence_of[kind])
    ]


def per_view(kind, instance, faulty, sentence_of):
    """A fault for each faulty view, or one for all where these are most of three or more of an instance.

    faulty: indices of views; sentence_of: index -> sentence
    """
    folder = Path(instance.folder) / "pose"
    if len(faulty) > 2 and len(faulty) > len(instance.views) / 2:
        first = faulty[0]
        told = f"{len(faulty)} of {len(instance.views)} views; the first, {instance.views[first]}: {sentence_of(first)}"
        return [Fault(kind, folder, told)]
    return [Fault(kind, folder / f"{instance.views[v]}.txt", sentence_of(v)) for v in faulty]


# Where cameras look


def faults_of_directions(rig):
    """A list of Fault per instance, whether its cameras leave open what they look at (I,), and sums for `nearest_point`."""
    sees, is_open, _, sums = looks(rig, rig.poses)
    blind = rig.per_instance((rig.sound & ~sees) * 1) > 0
    faults = [[] for _ in rig.instances]
    doubtful = np.flatnonzero(~is_open & blind | is_open & in_one_place(rig))
    if len(doubtful):
        for i, (fault, still_open) in zip(doubtful, faults_of_doubtful(Rig([rig.instances[i] for i in doubtful]))):
            faults[i], is_open[i] = fault, still_open
    return faults, is_open, sums.sum(axis=0)


def faults_of_doubtful(rig):
    """For each instance its list of Fault, and whether its cameras leave open what they look at."""
    sees, is_open, in_camera, _ = looks(rig, rig.poses, NUM_ROUNDS)
    num_sound, num_away = rig.per_instance(rig.sound * 1), rig.per_instance((rig.sound & ~sees) * 1)
    misread = np.flatnonzero((num_away > MANY * num_sound) | is_open)
    reading_of = dict(zip(misread, read_otherwise([rig.instances[i] for i in misread])))
    for i, instance in enumerate(rig.instances):
        views = rig.views_of(i)
        if reading_of.get(i):
            yield [other_reading(instance, reading_of[i], num_away[i], num_sound[i])], False
        elif is_open[i]:
            yield [], True
        else:
            points, blind = in_camera[views], rig.sound[views] & ~sees[views]
            yield (
                [
                    fault
                    for kind, faulty in (("looks away", blind & (points[:, 2] <= 0)), (BESIDE, blind & (points[:, 2] > 0)))
                    for fault in per_view(kind, instance, np.flatnonzero(faulty), lambda v: _looks_away(instance, points[v]))
                ],
                False,
            )


def looks(rig, poses, num_rounds=0):
    """Where cameras look, and which of them do, with `poses` in place of the rig's own; with rounds of weighting the axes.

    returns sees (P,) bool, is_open (I,) bool, the point in camera space (P, 3), and the instances' terms (I, 10)
    """
    centres, axes = poses[:, :3, 3], poses[:, :3, 2]
    terms = axis_terms(centres, axes) * rig.sound[:, None]
    sums = rig.per_instance(terms)
    weights = rig.sound * 1.0
    points, spread = nearest_point(sums)
    to_point = points[rig.owner] - centres
    for _ in range(num_rounds):
        beside = np.linalg.norm(to_point - axes * (to_point * axes).sum(axis=1, keepdims=True), axis=1)  # (P,)
        mean = rig.per_instance(beside * weights) / np.maximum(rig.per_instance(weights), 1e-9)
        weights = rig.sound / (beside + 0.1 * mean[rig.owner] + 1e-9)
        points, spread = nearest_point(rig.per_instance(terms * weights[:, None]))
        to_point = points[rig.owner] - centres
    in_camera = (to_point[:, None] @ poses[:, :3, :3])[:, 0]
    focal, centre, size = rig.images[:, :1], rig.images[:, 1:3], rig.images[:, 3:]
    depth = in_camera[:, 2:]
    uv = focal * in_camera[:, :2] / np.where(depth > 0, depth, 1) + centre
    inside = ((uv >= -BEYOND * size) & (uv <= (1 + BEYOND) * size)).all(axis=1)
    return rig.sound & (depth[:, 0] > 0) & inside, spread < SPREAD, in_camera, sums


def axis_terms(centres, axes):
    """Per camera (P, 10), what `nearest_point` needs the sum of: 1, a a^T (upper half), c - a (a . c)."""
    x, y, z = axes.T
    across = centres - axes * (centres * axes).sum(axis=1, keepdims=True)
    return np.column_stack([np.ones(len(axes)), x * x, x * y, x * z, y * y, y * z, z * z, across])


def nearest_point(sums):
    """Points (I, 3) nearest to lines, and how far these spread (I,): the least mean square sine to any direction.

    sums: (I, 10) of the `axis_terms` of each point's lines. Where they leave the point open, it is near the origin.
    """
    total = np.maximum(sums[:, :1], 1e-12)
    outer = sums[:, [1, 2, 3, 2, 4, 5, 3, 5, 6]] / total
    values, vectors = np.linalg.eigh(np.eye(3) - outer.reshape(-1, 3, 3))  # ascending
    told = values > 1e-4 * values[:, 2:]
    along = np.einsum("iab,ia->ib", vectors, sums[:, 7:] / total) * told / np.where(told, values, 1)
    return np.einsum("iab,ib->ia", vectors, along), values[:, 0] * (sums[:, 0] > 0)


def in_one_place(rig):
    """(I,) bool: the instance's two or more cameras stand in one place, though not in the origin, and look elsewhere.

    World-to-camera poses of a circle about the origin, read as camera-to-world.
    """
    num_sound = np.maximum(rig.per_instance(rig.sound * 1), 1)
    centres = rig.poses[:, :3, 3] * rig.sound[:, None]
    mean = rig.per_instance(centres) / num_sound[:, None]
    apart = np.maximum.reduceat(np.linalg.norm(centres - mean[rig.owner], axis=1) * rig.sound, rig.first)
    return (num_sound > 1) & (apart < 1e-3 * np.linalg.norm(mean, axis=1))


def read_otherwise(instances):
    """For each instance that of READINGS in which most of its cameras look at one point, and most closely; or None."""
    if not instances:
        return []
    rig = Rig(instances)
    num_sound = rig.per_instance(rig.sound * 1)
    beside = np.full((len(READINGS), len(instances)), np.inf)
    for row, read in zip(beside, READINGS.values()):
        sees, is_open, in_camera, _ = looks(rig, read(rig.poses), NUM_ROUNDS)
        fits = ~is_open & (rig.per_instance(sees * 1) >= MOST * num_sound)
        off_axis = np.linalg.norm(in_camera[:, :2], axis=1) / np.where(sees, in_camera[:, 2], 1) * sees
        row[fits] = rig.per_instance(off_axis)[fits]
    beside[0] /= 2  # OpenGL axes are the commonest mistake
    best = beside.argmin(axis=0)
    return [list(READINGS)[best[i]] if np.isfinite(beside[best[i], i]) else None for i in range(len(instances))]


def other_reading(instance, reading, num_away, num_views):
    """The fault of an instance whose poses make sense in another reading only."""
    path, says_world2cam = Path(instance.folder) / "pose", instance.intrinsics.poses_are_world2cam
    if reading == "opengl":
        return Fault(
            "OpenGL axes",
            path,
            (
                f"the poses look like {AXES}: {num_away} of {num_views} cameras look away from the object, but not "
                f"with y and z reversed; {NEGATE}"
            ),
        )
    is_what, write_flag = inversely_read(says_world2cam)
    return Fault(
        f"{is_what} poses",
        path,
        (
            f"the poses look like {is_what}{f' with {AXES}' if 'opengl' in reading else ''}: inverted, the cameras "
            f"look at one "
            f"point, as they are {num_away} of {num_views} look away; {write_flag}"
            f"{', and mend the axes' if 'opengl' in reading else ''}"
        ),
    )


def faults_of_undecided(instances, sums):
    """(instance, Fault) of each of those whose own cameras leave open what they look at; sums (10,): see `nearest_point`."""
    if not instances:
        return
    points, spread = nearest_point(sums[None])
    of_split = spread[0] >= SPREAD
    reference = points[0] if of_split else np.zeros(3)
    counts = np.concatenate([count_reversed(Rig(some), reference) for some in in_chunks(instances)])
    num_behind, _, num_sound = counts.T
    agree = (num_sound > 0) & (num_behind >= MOST * num_sound)
    if agree.sum() < MOST * (num_sound > 0).sum() or num_behind[agree].sum() < FEW:
        return
    num_behind, num_inverse, num_sound = counts[agree].sum(axis=0)
    where = f"the point {_numbers(reference)} that the split's cameras look at" if of_split else "the origin"
    for i in np.flatnonzero(agree):
        is_what, write_flag = inversely_read(instances[i].intrinsics.poses_are_world2cam)
        either = num_inverse >= num_behind
        yield (
            instances[i],
            Fault(
                "OpenGL axes",
                Path(instances[i].folder) / "pose",
                (
                    f"the poses look like {AXES}{f', or like {is_what}' if either else ''}: {counts[i, 0]} of "
                    f"{counts[i, 2]} cameras "
                    f"have {where} right behind them; "
                    f"{NEGATE}{f', or, if they are {is_what}, {write_flag}' if either else ''}"
                ),
            ),
        )


def count_reversed(rig, reference):
    """Counts (I, 3) of cameras: with the reference right behind, with the origin right ahead if poses are inverse, sound."""
    in_camera = ((reference - rig.poses[:, :3, 3])[:, None] @ rig.poses[:, :3, :3])[:, 0]
    origin_if_inverse = rig.poses[:, :3, 3]
    cosine = np.cos(np.deg2rad(RIGHT_BEHIND_DEG))
    ahead = [point[:, 2] > cosine * np.linalg.norm(point, axis=1) for point in (-in_camera, origin_if_inverse)]
    return rig.per_instance(np.column_stack([*ahead, rig.sound]) * rig.sound[:, None] * 1)


def inversely_read(says_world2cam):
    """What poses are where intrinsics.txt says the opposite, and how to mend that."""
    is_what, flag = ("camera-to-world", "0 in") if says_world2cam else ("world-to-camera", "1 as")
    return is_what, f"write {flag} the fifth line of intrinsics.txt"


def _looks_away(instance, point):
    """The sentence on a camera that has the object's point (3,) where it does not see it."""
    if point[2] <= 0:
        return f"the camera looks away: the point that the cameras of {instance.name} look at is {-point[2]:.3g} behind it"
    camera = instance.intrinsics
    u, v = camera.focal * point[:2] / point[2] + [camera.cx, camera.cy]
    return (
        f"the camera looks beside the object: the point that the cameras of {instance.name} look at falls on "
        f"({u:.0f}, {v:.0f}), far outside its image of {camera.width} x {camera.height} pixels"
    )


def _numbers(row):
    return " ".join(f"{x:.4g}" for x in row)
