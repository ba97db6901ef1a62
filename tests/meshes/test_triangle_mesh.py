import numpy as np
import pytest

from datasets.meshes import triangle_mesh

RED_AND_HOLE = np.array([[[255, 0, 0, 255], [0, 0, 255, 0]]], np.uint8)  # left half red, right half transparent


def mesh_of(corners, labels, colours=(0.2, 0.4, 0.6), **texture):
    """Triangles (T, 3, 3) that share no vertex."""
    corners = np.asarray(corners, dtype=np.float64)
    colours = np.tile(np.asarray(colours, dtype=np.float64), (len(corners), 1))
    triangles = np.arange(3 * len(corners)).reshape(-1, 3)
    return triangle_mesh.Mesh(corners.reshape(-1, 3), triangles, np.array(labels, np.uint8), colours, **texture)


def triangle(scale, z=0.0):
    return [[0, 0, z], [scale, 0, z], [0, scale, z]]


def sample(mesh, count=4000, seed=0):
    return triangle_mesh.sample_surface(mesh, count, np.random.default_rng(seed))


def test_points_lie_on_their_triangles():
    rng = np.random.default_rng(1)
    mesh = mesh_of(rng.normal(size=(6, 3, 3)), [1, 2, 3, 1, 2, 3])
    cloud = sample(mesh, 500)
    corners = mesh.corners[cloud.triangle_ids]
    edges = np.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], cloud.normals], axis=-1)
    u, v, height = np.linalg.solve(edges, (cloud.points - corners[:, 0])[..., None])[..., 0].T
    assert np.abs(height).max() < 1e-9
    assert min(u.min(), v.min()) >= -1e-9 and (u + v).max() <= 1 + 1e-9
    np.testing.assert_allclose(np.linalg.norm(cloud.normals, axis=1), 1)
    assert (cloud.labels == mesh.labels[cloud.triangle_ids]).all() and len(cloud.points) == 500


def test_triangles_get_points_by_their_area():
    """Areas 1, 4 and 9; the second has no class, and the fourth no area."""
    mesh = mesh_of([triangle(1), triangle(2, z=1), triangle(3, z=2), triangle(0, z=3)], [1, 0, 2, 3])
    counts = np.bincount(sample(mesh, 20_000).triangle_ids, minlength=4)
    assert counts[1] == counts[3] == 0
    assert counts[0] / 20_000 == pytest.approx(0.1, abs=0.01)


def test_points_are_spread_evenly_over_a_triangle():
    """Each of the four triangles that the edges' midpoints make gets a quarter of them."""
    x, y, _ = sample(mesh_of([triangle(2)], [1]), 20_000).points.T
    quarters = [(x > 1).mean(), (y > 1).mean(), ((x < 1) & (y < 1) & (x + y > 1)).mean(), (x + y < 1).mean()]
    np.testing.assert_allclose(quarters, 0.25, atol=0.015)


def test_the_same_seed_draws_the_same_points():
    mesh = mesh_of([triangle(1), triangle(2)], [1, 2])
    assert np.array_equal(sample(mesh).points, sample(mesh).points)
    assert not np.array_equal(sample(mesh).points, sample(mesh, seed=1).points)


def test_plain_triangles_give_their_colour_and_textures_theirs_where_they_are_not_cut_away():
    """uv is (x, y) of the point and whole numbers, so the red half of the texture is where x < 0.5."""
    corners = [triangle(1), triangle(1, z=1)]
    uv = np.array(corners)[..., :2] + [-2, 5]
    texture_ids = np.array([0, triangle_mesh.UNTEXTURED])
    mesh = mesh_of(corners, [1, 2], texture_ids=texture_ids, corner_uv=uv, textures=[RED_AND_HOLE])
    cloud = sample(mesh)
    textured = cloud.triangle_ids == 0
    assert len(textured) == 4000 and textured.any() and not textured.all()
    assert (cloud.colours[textured] == [1, 0, 0]).all() and cloud.points[textured, 0].max() < 0.5
    assert (cloud.colours[~textured] == [0.2, 0.4, 0.6]).all() and cloud.points[~textured, 0].max() > 0.5


def test_textures_are_looked_up_from_the_bottom_left_and_repeat():
    rows = np.array([[[0, 255, 0, 255]], [[255, 0, 0, 255]]], np.uint8)  # green above red
    uv = np.array([triangle(1)])[..., :2] + [3, -2]
    mesh = mesh_of([triangle(1)], [1], texture_ids=np.array([0]), corner_uv=uv, textures=[rows])
    cloud = sample(mesh)
    red = cloud.colours[:, 0] == 1
    assert cloud.points[red, 1].max() < 0.5 < cloud.points[~red, 1].min()


def test_a_surface_without_classes_or_wholly_cut_away_gives_no_points():
    assert len(sample(mesh_of([triangle(1)], [0])).points) == 0
    uv = np.full((1, 3, 2), 0.75)
    gone = mesh_of([triangle(1)], [1], texture_ids=np.array([0]), corner_uv=uv, textures=[RED_AND_HOLE])
    assert len(sample(gone).points) == 0
