"""datasets/meshes/colour_transfer.py: registration and painting of procedural chairs."""

from dataclasses import replace

import numpy as np
import pytest

from datasets.making import procedural, solids
from datasets.meshes import colour_transfer, triangle_mesh


@pytest.fixture(scope="module")
def chair():
    """A chair without symmetry about its upright axis, y up as in PartNet and ShapeNet."""
    mesh = procedural.load("Chair", 0, "train", 1)
    return replace(mesh, vertices=mesh.vertices @ [[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])


IDENTITY = np.eye(4)


def turned(degrees, axis):
    angle, (a, b) = np.radians(degrees), [i for i in range(3) if i != axis]
    rotation = np.eye(3)
    rotation[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
    return rotation


def areas(corners):
    return np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=-1) / 2


@pytest.mark.parametrize(("degrees", "axis"), [(0, 1), (90, 1), (180, 1), (270, 1), (90, 0), (180, 0), (90, 2), (270, 2)])
def test_turn_scale_and_offset_are_found(chair, degrees, axis):
    there = colour_transfer.similarity(1.7, turned(degrees, axis), [3.0, -1, 2])
    moving = replace(chair, vertices=colour_transfer.apply(there, chair.vertices))
    fit = colour_transfer.register(moving, chair)
    assert np.abs(colour_transfer.apply(fit.similarity, moving.vertices) - chair.vertices).max() < 1e-6
    assert fit.median < 5e-3


def mesh_of(corners, label=1, colour=(0, 0, 0)):
    """Triangles (T, 3, 3) that share no vertex."""
    triangles = np.arange(3 * len(corners)).reshape(-1, 3)
    labels, colours = np.full(len(corners), label, np.uint8), np.tile(np.array(colour, float), (len(corners), 1))
    return triangle_mesh.Mesh(corners.reshape(-1, 3), triangles, labels, colours)


@pytest.mark.parametrize("lacks", ["fixed", "moving"])
def test_a_surface_that_lacks_a_part_is_still_found(chair, lacks):
    pieces, _ = colour_transfer.subdivide(chair.corners, 0.02)
    lowest, highest = chair.corners[..., 1].min(), chair.corners[..., 1].max()
    partial = mesh_of(pieces[pieces[..., 1].min(axis=1) > lowest + 0.1 * (highest - lowest)])  # without its feet
    moving, fixed = (chair, partial) if lacks == "fixed" else (partial, chair)
    there = colour_transfer.similarity(0.6, turned(90, 1), [0, 5.0, 0])
    moved = colour_transfer.apply(there, moving.vertices)
    fit = colour_transfer.register(replace(moving, vertices=moved), fixed)
    assert np.abs(colour_transfer.apply(fit.similarity, moved) - moving.vertices).max() < 0.03 and fit.median < 0.01


@pytest.mark.slow
def test_another_shape_does_not_fit(chair):
    ball = solids.loft([ring_of_ball(z) for z in np.linspace(-0.95, 0.95, 12)], 1, (0, 0, 0))
    assert colour_transfer.register(ball, chair).median > colour_transfer.REFUSED


def ring_of_ball(z):
    radius = np.sqrt(1 - z**2)
    return np.insert(solids.outline(radius, radius, num_corners=24), 2, z, axis=1)


def test_what_only_one_surface_has_does_not_pull():
    rng = np.random.default_rng(0)
    blob = rng.random((300, 1, 3)) + 0.05 * rng.normal(size=(300, 3, 3))
    pair = colour_transfer._Pair(mesh_of(blob), mesh_of(np.concatenate([blob, blob[:40] + [6.0, 0, 0]])))
    forth, _ = pair._refined(IDENTITY)
    points = blob.reshape(-1, 3)
    assert np.abs(colour_transfer.apply(forth, points) - points).max() < 0.02


def test_pieces_cover_their_triangles_and_have_no_long_edge():
    rng = np.random.default_rng(0)
    corners = rng.random((30, 3, 3))
    pieces, parents = colour_transfer.subdivide(corners, 0.1)
    assert np.allclose(np.bincount(parents, areas(pieces)), areas(corners))
    edges = np.linalg.norm(np.roll(pieces, -1, axis=1) - pieces, axis=-1)
    assert edges.max() <= 0.1 + 1e-12 and areas(pieces).min() > 0
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    off_plane = np.einsum("nkc,nc->nk", pieces - corners[parents][:, :1], normals[parents])
    assert np.abs(off_plane).max() < 1e-12


def test_slivers_give_as_many_pieces_as_they_are_long():
    sliver = np.array([[[0, 0, 0], [1, 0, 0], [0.5, 1e-6, 0]]])
    cap = np.array([[[0, 0, 0], [1e-3, 0, 0], [0.3, 1.0, 0]]])
    for corners in (sliver, cap):
        assert 100 <= len(colour_transfer.subdivide(corners, 0.01)[0]) <= 400
    square = np.array([[[0, 0, 0], [1, 0, 0], [1, 1, 0]]])
    assert len(colour_transfer.subdivide(square, 0.01)[0]) <= 6 * 0.5 / 0.01**2
    whole, parents = colour_transfer.subdivide(sliver, 2.0)
    assert np.array_equal(whole, sliver) and parents.tolist() == [0]


def two_sided(texture):
    """A horizontal plate in the plane y = 0 with a texture, and an upright plate in plain blue."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 0, 1], [0, 0, 1.0]])
    vertices = np.concatenate([corners, corners[:, [0, 2, 1]] + [0, -0.5, 0.5]])
    triangles = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    uv = np.concatenate([corners[:, [0, 2]]] * 2)
    return triangle_mesh.Mesh(
        vertices,
        triangles,
        np.array([5, 5, 6, 6], np.uint8),
        np.tile([0, 0, 1.0], (4, 1)),
        np.array([0, 0, -1, -1]),
        uv[triangles],
        [texture],
    )


HALVES = np.array([[[255, 0, 0, 255], [0, 255, 0, 255]]], dtype=np.uint8)  # red for x < 0.5, green beyond


def test_colours_land_where_they_are_and_labels_stay():
    coloured = two_sided(HALVES)
    bare = triangle_mesh.Mesh(coloured.vertices, coloured.triangles, coloured.labels, np.full((4, 3), 0.5))
    painted = colour_transfer.paint(bare, coloured, IDENTITY, resolution=128)
    centres, upright = painted.corners.mean(axis=1), painted.labels == 6
    assert np.allclose(painted.colours[upright], [0, 0, 1]) and upright.sum() == 2  # one colour: not divided
    clear = ~upright & (np.abs(centres[:, 0] - 0.5) > 0.02)
    assert np.allclose(painted.colours[clear & (centres[:, 0] < 0.5)], [1, 0, 0])
    assert np.allclose(painted.colours[clear & (centres[:, 0] > 0.5)], [0, 1, 0])
    assert np.allclose(areas(painted.corners)[~upright].sum(), 1)
    assert (painted.texture_ids == triangle_mesh.UNTEXTURED).all()


def test_colours_of_surfaces_with_other_normals_are_passed_over():
    coloured = two_sided(HALVES)  # the blue upright plate crosses the horizontal one at z = 0.5
    level = triangle_mesh.Mesh(coloured.vertices, coloured.triangles[:2], coloured.labels[:2], np.zeros((2, 3)))
    painted = colour_transfer.paint(level, coloured, IDENTITY, resolution=128)
    assert not (painted.colours == [0, 0, 1]).all(axis=1).any()


@pytest.mark.parametrize(("detour", "found"), [(0.5, 0), (1.5, 1)])
def test_a_parallel_surface_gives_its_colour_only_where_it_is_not_far(detour, found):
    points, normals = np.array([[0, 0, 0.1], [0, 0, -1.1]]), np.array([[1.0, 0, 0], [0, 0, 1]])
    query = np.array([[0.0, 0, 0]]), np.array([[0, 0, 1.0]])
    assert colour_transfer._nearest_of_same_side(points, normals, *query, detour).tolist() == [found]


@pytest.mark.slow
def test_holes_of_textures_have_no_colour_to_give():
    holes = HALVES.copy()
    holes[:, 1, 3] = 0
    coloured = two_sided(holes)
    level = triangle_mesh.Mesh(coloured.vertices, coloured.triangles[:2], coloured.labels[:2], np.zeros((2, 3)))
    colours = colour_transfer.paint(level, coloured, IDENTITY, resolution=64).colours
    assert not (colours == [0, 1, 0]).all(axis=1).any()


def test_painting_is_the_same_every_time(chair):
    small = replace(chair, colours=np.random.default_rng(0).random((len(chair.triangles), 3)))
    first, second = (colour_transfer.paint(chair, small, IDENTITY, resolution=32) for _ in range(2))
    assert np.array_equal(first.colours, second.colours) and np.array_equal(first.vertices, second.vertices)
