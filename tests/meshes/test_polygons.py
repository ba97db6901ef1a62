"""datasets/meshes/polygons.py, on faces of OBJ texts."""

import numpy as np
import pytest

from datasets.meshes import obj, polygons

SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


def parse(text):
    parsed = obj.parse(text, "a.obj")
    return parsed.positions, parsed.sizes, parsed.position_ids


def test_a_face_repeated_in_any_order_or_with_other_vertices_counts_once():
    parsed = parse(SQUARE + SQUARE + "f 1 2 3 4\nf 1 2 3\nf 4 3 2 1\nf 7 5 6\nf 1 2 4\nf 8 5 6 7\n")
    assert polygons.first_of_each_face(*parsed).tolist() == [True, True, False, False, True, False]


def test_faces_without_corners_or_with_two_give_no_triangle():
    parsed = parse(SQUARE + "f\nf 1 2\nf 1 2 3\n")
    corner_ids, face_ids, num_lost = polygons.triangulate(*parsed)
    assert num_lost == 2 and face_ids.tolist() == [2] and corner_ids.tolist() == [[2, 3, 4]]
    assert polygons.first_of_each_face(*parsed).tolist() == [True, True, True]


def test_coordinates_that_are_not_finite_do_not_stop_the_cutting():
    pytest.importorskip("mapbox_earcut")
    parsed = parse(SQUARE + "v nan inf -inf\nf 1 2 3 4 5\nf 1 2 3 4\n")
    assert (polygons.triangulate(*parsed)[1] == 1).sum() == 2


def test_a_repeated_quad_gives_no_triangle_even_if_it_would_be_cut_otherwise():
    parsed = parse(SQUARE + "f 1 2 3 4\nf 2 3 4 1\nf 1 2 3\nf 3 1 2\n")
    _, face_ids, num_lost = polygons.triangulate(*parsed)
    assert sorted(face_ids.tolist()) == [0, 0, 2, 3] and num_lost == 0


def test_every_concave_polygon_keeps_its_area():
    pytest.importorskip("mapbox_earcut")
    angle = 2 * np.pi * np.arange(40) / 40
    radius = np.where(np.arange(40) % 2, 1.0, 0.3)  # a star, in a tilted plane
    star = np.stack([radius * np.cos(angle), radius * np.sin(angle), 0.5 * radius * np.cos(angle)], axis=-1)
    lines = [f"v {x} {y} {z}" for x, y, z in star] + ["f " + " ".join(map(str, range(1, 41)))]
    dart = [
        "v 0 0 0",
        "v 4 0 0",
        "v 1 1 0",
        "v 0 4 0",
        "f -4 -3 -2 -1",
        "v 0 0 1",
        "v 4 0 1",
        "v 1 1 1",
        "v 0 4 1",
        "f -3 -2 -1 -4",
    ]
    positions, sizes, position_ids = parse("\n".join(lines + dart))
    triangles, face_ids, _ = polygons.triangulate(positions, sizes, position_ids)
    a, b, c = np.moveaxis(positions[position_ids[triangles]], 1, 0)
    area = np.linalg.norm(np.cross(b - a, c - a), axis=-1) / 2
    flat = 20 * 1.0 * 0.3 * np.sin(2 * np.pi / 40)
    assert area[face_ids == 0].sum() == pytest.approx(flat * np.sqrt(1.25))
    assert area[face_ids == 1].sum() == pytest.approx(4) and area[face_ids == 2].sum() == pytest.approx(4)
