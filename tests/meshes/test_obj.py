"""datasets/meshes/obj.py: positions, names and references of a text."""

import numpy as np
import pytest

import util
from datasets.meshes import obj

SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


def names(parsed, kind):
    return [parsed.names[kind].names[i] for i in parsed.names[kind].ids]


def test_every_face_has_the_names_that_stand_before_it():
    parsed = obj.parse(
        SQUARE + "f 1 2 3\no Seat cushion\ng a b\nusemtl red leather\nf 1 2 3\ng\nf 1 2 3\no Leg\nf 1 2 3\n", "a.obj"
    )
    assert names(parsed, "object") == ["", "Seat cushion", "Seat cushion", "Leg"]
    assert names(parsed, "group") == ["", "a b", "", ""]
    assert names(parsed, "material") == ["", "red leather", "red leather", "red leather"]


def test_faces_keep_the_order_of_the_file():
    parsed = obj.parse(SQUARE + "usemtl a\nf 1 2 3 4\nf 1 2 3\nusemtl b\nf 1 2 3 4 1 2\nusemtl a\nf 4 1 2 3\n", "a.obj")
    assert parsed.sizes.tolist() == [4, 3, 6, 4] and names(parsed, "material") == ["a", "a", "b", "a"]
    assert parsed.position_ids.tolist() == [0, 1, 2, 3, 0, 1, 2, 0, 1, 2, 3, 0, 1, 3, 0, 1, 2]


def test_a_line_that_goes_on_keeps_its_corners():
    parsed = obj.parse(SQUARE + "f 1 2 \\\n3 4\nf 1 2 \\\r\n3\n", "a.obj")
    assert parsed.sizes.tolist() == [4, 3]


def test_negative_references_count_back_from_their_line():
    first, second = "vt 0 0\nvt 1 1\nf -4/-1 -3/-2 -2/-1\n", "vt 2 2\nf -4/-1 2/-3 -1/1\n"
    parsed = obj.parse(SQUARE + first + SQUARE + second, "a.obj")
    assert parsed.position_ids.tolist() == [0, 1, 2, 4, 1, 7]
    assert parsed.uv_ids.tolist() == [1, 0, 1, 2, 0, 0]


def test_faces_may_come_before_what_they_refer_to():
    parsed = obj.parse("f 1/2 2/1 3/1\n" + SQUARE + "vt 0 0\nvt 1 1\n", "a.obj")
    assert parsed.position_ids.tolist() == [0, 1, 2] and parsed.uv_ids.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    "face", ["1 2 5", "1/1 2/1 3/3", "1 2 99999999999999999999", "-5 1 2", "1/-3 2/1 3/1", "0 1 2", "1/0 2 3"]
)
def test_references_to_what_is_not_there_are_reported_with_their_line(face):
    text = SQUARE + f"vt 0 0\nvt 1 1\nf 1 2 3\nf {face}\nf 1 2 4\n"
    with pytest.raises(util.InputError, match=rf"a\.obj, line 8: 'f {face}' is not valid OBJ"):
        obj.parse(text, "a.obj")


def test_comments_at_the_ends_of_lines_and_a_byte_order_mark_are_no_part_of_the_file():
    text = "\ufeffv 0 0 0 # first\n" + SQUARE + "usemtl red #2\nvt 0 1 # and so on\nf 1 2 3# x y\n# f 1 2 3\n"
    parsed = obj.parse(text, "a.obj")
    assert parsed.sizes.tolist() == [3] and len(parsed.positions) == 5 and names(parsed, "material") == ["red #2"]


def test_colours_of_vertices_are_read_where_there_are_any():
    parsed = obj.parse("v 0 0 0 0.25 0.5 1\nv 1 0 0\nv 1 1 0 1.01 0 0\nf 1 2 3\n", "a.obj")
    assert np.allclose(parsed.vertex_colours, [[0.25, 0.5, 1], [np.nan] * 3, [1, 0, 0]], equal_nan=True)
    parsed = obj.parse("v 0 0 0 51 0 255\nv 1 0 0 0 1 0\nv 1 1 0 0 0 0\nf 1 2 3\n", "a.obj")
    assert np.allclose(parsed.vertex_colours[0], [0.2, 0, 1])
    assert np.isnan(obj.parse("v 0 0 0 1\nf 1 1 1\n", "a.obj").vertex_colours).all()  # a weight


@pytest.mark.parametrize(
    ("text", "line"),
    [("v 1 2", 1), ("v 1 2 x", 1), ("v 0 0 0\nvt", 2), ("v 0 0 0\nf 1 1 2", 2), ("f 1 2 3", 1), ("v 0 0 0\nf 0 1 1", 2)],
)
def test_invalid_lines_are_reported(text, line):
    with pytest.raises(util.InputError, match=rf"a\.obj, line {line}"):
        obj.parse(text, "a.obj")
