"""datasets/making/procedural.py and datasets/making/carpentry.py: proportions, parts and colours of the random objects."""

import collections

import numpy as np
import pytest
import torch

import geometry
from datasets.making import carpentry, procedural
from datasets.meshes import raycasting

OBJ_NAMES = ("Chair", "Table")


def parameters(obj_name, count=60):
    return [procedural.draw(obj_name, np.random.default_rng([7, i])) for i in range(count)]


@pytest.fixture(scope="module", params=OBJ_NAMES)
def objects(request):
    """(name, meshes of many objects)."""
    return request.param, [carpentry.build(drawn) for drawn in parameters(request.param)]


def test_objects_are_centred_and_of_unit_diagonal(objects):
    for mesh in objects[1]:
        low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
        assert np.linalg.norm(high - low) == pytest.approx(1)
        assert np.allclose(low + high, 0)


def test_every_part_appears_and_no_other(objects):
    obj_name, built = objects
    expected = set(range(1, len(carpentry.CLASS_NAMES[obj_name])))
    seen = collections.Counter(label for mesh in built for label in np.unique(mesh.labels).tolist())
    assert set(seen) == expected
    assert min(seen.values()) >= 0.15 * len(built)


def test_parts_lie_where_they_belong():
    for drawn in parameters("Chair"):
        mesh = carpentry.build(drawn)
        height = {part: mesh.corners[mesh.labels == part][..., 2].mean() for part in np.unique(mesh.labels)}
        depth = {part: mesh.corners[mesh.labels == part][..., 1].mean() for part in np.unique(mesh.labels)}
        assert height[carpentry.BACK] > height[carpentry.SEAT] > height[carpentry.CHAIR_BASE]
        assert depth[carpentry.BACK] > depth[carpentry.SEAT]  # the front is at -y
        assert height.get(carpentry.ARM, np.inf) > height[carpentry.SEAT]
    for drawn in parameters("Table"):
        mesh = carpentry.build(drawn)
        others = mesh.corners[mesh.labels != carpentry.TOP][..., 2]
        assert mesh.corners[mesh.labels == carpentry.TOP][..., 2].max() > others.max()


def test_objects_stand_level_on_the_floor(objects):
    for mesh in objects[1]:
        on_floor = mesh.vertices[mesh.vertices[:, 2] < mesh.vertices[:, 2].min() + 1e-6]
        assert np.ptp(on_floor[:, 0]) > 0.1 and np.ptp(on_floor[:, 1]) > 0.1


def test_objects_look_the_same_from_left_and_right():
    for drawn in parameters("Chair", 30):
        if drawn.base.kind in ("legs", "sled", "panels"):
            vertices = carpentry.build(drawn).vertices
            mirrored = vertices * [-1, 1, 1]
            assert np.allclose(np.sort(vertices[:, 0]), np.sort(mirrored[:, 0]), atol=1e-9)


def test_solids_are_closed(objects):
    """Every edge of a piece belongs to two triangles that run along it in opposite directions."""
    for mesh in objects[1][:10]:
        edges = np.concatenate([mesh.triangles[:, [0, 1]], mesh.triangles[:, [1, 2]], mesh.triangles[:, [2, 0]]])
        count = collections.Counter(map(tuple, edges.tolist()))
        assert all(count[b, a] == times == 1 for (a, b), times in count.items())


@pytest.mark.slow
def test_the_same_colour_is_on_every_part(objects):
    """How often a colour lies on a part does not depend on the colour, up to chance."""
    obj_name, _ = objects
    built = [carpentry.build(drawn) for drawn in parameters(obj_name, 400)]
    parts = range(1, len(carpentry.CLASS_NAMES[obj_name]))
    counts = np.zeros((len(procedural.PALETTE), len(parts)))
    for mesh in built:
        for colour in np.unique(mesh.colours, axis=0):
            brightness = (colour @ procedural.PALETTE.T) / (procedural.PALETTE**2).sum(axis=1)
            nearest = np.abs(colour - brightness[:, None] * procedural.PALETTE).sum(axis=1)
            nearest = np.where(np.abs(brightness - 1) < 0.11, nearest, np.inf).argmin()
            for part in parts:
                counts[nearest, part - 1] += (mesh.labels[(mesh.colours == colour).all(axis=1)] == part).any()
    shares = counts / counts.sum(axis=1, keepdims=True)
    overall = counts.sum(axis=0) / counts.sum()
    assert counts.sum(axis=1).min() > 30
    assert np.abs(shares - overall).max() < 0.15


def test_any_two_groups_of_pieces_match_in_colour_equally_often():
    drawn = np.array([procedural.draw_colours(np.random.default_rng([3, i])) for i in range(3000)])  # (n, groups, 3)
    matches = (drawn[:, :, None] == drawn[:, None, :]).all(axis=-1).mean(axis=0)
    pairs = matches[np.triu_indices(len(carpentry.GROUPS), 1)]
    assert np.abs(pairs - (0.25 + 0.5 / 2 + 0.25 / 3)).max() < 0.04  # for one, two and three colours


def test_objects_have_one_to_three_colours(objects):
    counts = collections.Counter(len(np.unique(mesh.colours, axis=0)) for mesh in objects[1])
    assert set(counts) == {1, 2, 3}


def test_objects_differ():
    for obj_name in OBJ_NAMES:
        assert len({repr(drawn) for drawn in parameters(obj_name)}) == 60


def test_labels_agree_between_views():
    pytest.importorskip("embreex")
    side = 64
    intrinsics = torch.tensor([[65.6, 0, 32], [0, 65.6, 32], [0, 0, 1]])
    scene = raycasting.Scene(carpentry.build(parameters("Chair")[0]))
    first, second = (
        geometry.look_at(geometry.on_sphere(torch.tensor(a), torch.tensor(e), 1.3)) for a, e in ((20.0, 15.0), (50.0, 35.0))
    )
    directions, _ = geometry.rays(geometry.pixel_grid(side, side, 0.5), first, intrinsics)
    origins = geometry.camera_centre(first).expand_as(directions)
    ids, _, distances = scene.cast(origins.numpy(), directions.numpy(), 0.01)
    points = origins[ids >= 0] + directions[ids >= 0] * torch.from_numpy(distances[ids >= 0]).float()[:, None]

    towards = points - geometry.camera_centre(second)
    length = towards.norm(dim=-1, keepdim=True)
    again, _, reached = scene.cast(geometry.camera_centre(second).expand_as(points).numpy(), (towards / length).numpy(), 0.01)
    visible = np.abs(reached - length[:, 0].numpy()) < 1e-3
    assert visible.sum() > 200
    same = scene.labels[ids[ids >= 0]][visible] == scene.labels[again][visible]
    assert same.mean() > 0.995

    _, seg_labels, _, _ = raycasting.render(scene, second, intrinsics, side, side)
    uv = geometry.project(geometry.world_to_camera(points[visible], second), intrinsics)
    column, row = uv.floor().long().clamp(0, side - 1).numpy().T
    assert (seg_labels[row, column] == scene.labels[again][visible]).mean() > 0.9
