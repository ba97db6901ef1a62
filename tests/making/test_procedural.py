"""datasets/making/procedural.py, carpentry.py and bases.py: proportions, parts and colours of the random objects."""

import collections
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import sparse, spatial

import geometry
from datasets.making import bases, carpentry, kinds, procedural, viewpoints
from datasets.meshes import raycasting, triangle_mesh

OBJ_NAMES = ("Chair", "Table")


def parameters(obj_name, count=60):
    return [procedural.draw(obj_name, 7, "train", i) for i in range(count)]


def seg_labels_from(drawn, azimuth_deg, elevation_deg, side=64):
    """Labels (side, side) of an object as the demo sees it; azimuth 0 is its front."""
    pytest.importorskip("embreex")
    cam2world = geometry.look_at(
        geometry.on_sphere(torch.tensor(azimuth_deg), torch.tensor(elevation_deg), viewpoints.DISTANCE)
    )
    scene = raycasting.Scene(carpentry.build(drawn))
    return raycasting.render(scene, cam2world, viewpoints.intrinsics_of(side), side, side)[1]


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
        assert height.get(carpentry.BACK, np.inf) > height[carpentry.SEAT] > height[carpentry.CHAIR_BASE]
        assert depth.get(carpentry.BACK, np.inf) > depth[carpentry.SEAT]  # the front is at -y
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
    for drawn in parameters("Chair", 60):
        if drawn.base.kind not in ("disc", "star", "castors"):
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


def test_an_object_depends_on_its_seed_split_and_index_only():
    for obj_name in OBJ_NAMES:
        drawn = procedural.draw(obj_name, 0, "val", 5)
        assert drawn == procedural.draw(obj_name, 0, "val", 5)
        others = (1, "val", 5), (0, "test", 5), (0, "val", 6)
        assert all(drawn != procedural.draw(obj_name, *other) for other in others)


@pytest.mark.parametrize("split", ["train", "test"])
def test_small_sets_of_chairs_show_the_whole_range(split):
    for seed in range(30):
        chairs = [procedural.draw("Chair", seed, split, i) for i in range(32)]
        has_arms = [chair.arms != "none" for chair in chairs]
        assert 10 <= sum(has_arms) <= 12 and 2 <= sum(has_arms[:10]) <= 4 and 2 <= sum(has_arms[:8]) <= 4
        assert 1 <= sum(chair.back == "none" for chair in chairs) <= 4
        assert 2 <= sum(chair.base.kind == "castors" for chair in chairs) <= 5


def test_shares_over_many_draws():
    chairs, tables = (parameters(obj_name, 1000) for obj_name in OBJ_NAMES)
    assert np.mean([chair.arms != "none" for chair in chairs]) == pytest.approx(0.34, abs=0.005)
    assert np.mean([chair.back == "none" for chair in chairs]) == pytest.approx(0.08, abs=0.005)
    assert np.mean([chair.base.kind == "castors" for chair in chairs]) == pytest.approx(0.12, abs=0.005)
    assert np.mean([table.storage != "none" for table in tables]) == pytest.approx(0.45, abs=0.005)


def test_arms_backs_and_bases_are_independent():
    """Of the kinds with the same choices, chairs and armchairs, with and without round seats, which limit the bases."""
    chairs = [chair for chair in parameters("Chair", 3000) if chair.shape != "round" and chair.back in kinds.CHAIR["back"]]
    chairs = [chair for chair in chairs if chair.base.kind in kinds.BASE["kind"] and chair.width < 0.62]
    facts = np.array([[chair.arms != "none", chair.back == "ladder", chair.base.kind == "legs"] for chair in chairs])
    assert np.abs(np.corrcoef(facts.T) - np.eye(3)).max() < 0.05


def is_in_one_piece(mesh, reach=0.01):
    """Whether the solids of a mesh form one group, joined where points of their surfaces are within `reach`."""
    points = triangle_mesh.sample_surface(mesh, 20_000, np.random.default_rng(0))
    corners = mesh.triangles[points.triangle_ids]
    pairs = spatial.cKDTree(points.points).query_pairs(reach, output_type="ndarray")
    edges = np.concatenate([corners[pairs[:, 0], :1], corners[pairs[:, 1], :1]], axis=1)
    edges = np.concatenate([edges, mesh.triangles[:, :2], mesh.triangles[:, 1:]])
    graph = sparse.coo_matrix((np.ones(len(edges)), edges.T), shape=2 * [len(mesh.vertices)])
    return sparse.csgraph.connected_components(graph, directed=False)[0] == 1


@pytest.mark.parametrize("obj_name", OBJ_NAMES)
def test_objects_are_in_one_piece(obj_name):
    """One object of each combination of a base with a back, arms or storage."""
    combinations = {}
    for drawn in parameters(obj_name, 600):
        styles = (drawn.back, drawn.arms) if obj_name == "Chair" else ((drawn.storage, drawn.is_open), drawn.shelf_height > 0)
        combinations |= {(drawn.base.kind, style): drawn for style in styles}
    for drawn in {repr(drawn): drawn for drawn in combinations.values()}.values():
        assert is_in_one_piece(carpentry.build(drawn)), drawn


def test_a_piece_that_floats_is_noticed():
    chair = parameters("Chair")[1]
    pieces = carpentry.build_chair(chair)
    lifted = replace(pieces[-1], vertices=pieces[-1].vertices + [0, 0, 0.6])
    assert not is_in_one_piece(triangle_mesh.to_unit_diagonal(triangle_mesh.join([*pieces[:-1], lifted])))


def test_every_kind_of_piece_is_drawn():
    chairs, tables = (parameters(obj_name, 600) for obj_name in OBJ_NAMES)
    assert {drawn.base.kind for drawn in [*chairs, *tables]} == set(bases.BUILDERS)
    assert {chair.back for chair in chairs} == {*carpentry.BACKS, "none"}
    assert {drawn.shape for drawn in chairs} == {drawn.shape for drawn in tables} == set(carpentry.REACH)
    assert {chair.arms for chair in chairs} == {"none", "posts", "panels", "centred"}
    assert {table.storage for table in tables} == {"none", "row", "left", "right", "both"}


@pytest.mark.parametrize(
    ("span", "gap", "gap_at_ends", "slats"),
    [
        ((-0.2, 0.19), 0.05, (True, True), [(-0.15, -0.26 / 3), (-0.11 / 3, 0.08 / 3), (0.23 / 3, 0.14)]),
        ((0, 0.34), 0.06, (False, False), [(0, 0.22 / 3), (0.4 / 3, 0.62 / 3), (0.8 / 3, 0.34)]),
        ((0, 0.4), 0.06, (True, False), [(0.06, 0.4 / 3), (0.58 / 3, 0.8 / 3), (0.98 / 3, 0.4)]),
    ],
)
def test_as_many_slats_are_spread_as_fit(span, gap, gap_at_ends, slats):
    assert np.allclose(carpentry.spread(*span, gap, *gap_at_ends), slats)


def test_slats_and_their_gaps_are_two_pixels_wide():
    """From the front, along a line across the back; without the arms, which hide parts of it."""
    counts = collections.Counter()
    for drawn in parameters("Chair", 120):
        if drawn.back not in ("slats", "framed slats", "ladder"):
            continue
        is_back = seg_labels_from(replace(drawn, arms="none"), 0.0, 0.0) == carpentry.BACK
        rows = np.flatnonzero(is_back.any(axis=1))
        line = is_back[:, 32] if drawn.back == "ladder" else is_back[(rows[0] + rows[-1]) // 2]
        widths = np.diff(np.flatnonzero(np.diff(np.pad(line, 1).astype(int))))  # of slats and gaps in turn
        assert len(widths) >= 3 and widths.min() >= 2, (drawn, widths)
        counts[drawn.back] += 1
    assert min(counts.values()) > 10


@pytest.mark.parametrize(("obj_name", "part"), [("Chair", carpentry.ARM), ("Table", carpentry.STORAGE)])
def test_arms_and_storage_are_seen_from_the_front(obj_name, part):
    having = [drawn for drawn in parameters(obj_name, 40) if (carpentry.build(drawn).labels == part).any()]
    num_pixels = [(seg_labels_from(drawn, 35.0, 25.0) == part).sum() for drawn in having]  # of 4096
    assert len(having) >= 12 and min(num_pixels) >= 60 and np.median(num_pixels) >= 200


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
