"""datasets/meshes/obj.py: names, materials and polygons. tests/test_furniture.py has more on cutting polygons."""

import numpy as np
import pytest

import util
from datasets.meshes import obj

SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


def names(parsed, kind):
    return [getattr(parsed, f"{kind}_names")[i] for i in getattr(parsed, f"{kind}_ids")]


def test_every_face_has_the_names_that_stand_before_it():
    parsed = obj.parse_obj(
        SQUARE + "f 1 2 3\no Seat cushion\ng a b\nusemtl red leather\nf 1 2 3\ng\nf 1 2 3\no Leg\nf 1 2 3\n", "a.obj"
    )
    assert names(parsed, "object") == ["", "Seat cushion", "Seat cushion", "Leg"]
    assert names(parsed, "group") == ["", "a b", "", ""]
    assert names(parsed, "material") == ["", "red leather", "red leather", "red leather"]


def test_a_line_that_goes_on_keeps_its_corners():
    parsed = obj.parse_obj(SQUARE + "f 1 2 \\\n3 4\nf 1 2 \\\r\n3\n", "a.obj")
    assert parsed.sizes.tolist() == [4, 3]


def test_negative_references_count_back_from_their_line():
    first, second = "vt 0 0\nvt 1 1\nf -4/-1 -3/-2 -2/-1\n", "vt 2 2\nf -4/-1 2/-3 -1/1\n"
    parsed = obj.parse_obj(SQUARE + first + SQUARE + second, "a.obj")
    assert parsed.position_ids.tolist() == [0, 1, 2, 4, 1, 7]
    assert parsed.uv_ids.tolist() == [1, 0, 1, 2, 0, 0]


def test_faces_may_come_before_what_they_refer_to():
    parsed = obj.parse_obj("f 1/2 2/1 3/1\n" + SQUARE + "vt 0 0\nvt 1 1\n", "a.obj")
    assert parsed.position_ids.tolist() == [0, 1, 2] and parsed.uv_ids.tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    "face", ["1 2 5", "1/1 2/1 3/3", "1 2 99999999999999999999", "-5 1 2", "1/-3 2/1 3/1", "0 1 2", "1/0 2 3"]
)
def test_references_to_what_is_not_there_are_told_with_their_line(face):
    text = SQUARE + f"vt 0 0\nvt 1 1\nf 1 2 3\nf {face}\nf 1 2 4\n"
    with pytest.raises(util.InputError, match=rf"a\.obj, line 8: 'f {face}' is not valid OBJ"):
        obj.parse_obj(text, "a.obj")


def test_comments_at_the_ends_of_lines_and_a_byte_order_mark_are_no_part_of_the_file():
    text = "\ufeffv 0 0 0 # first\n" + SQUARE + "usemtl red #2\nvt 0 1 # and so on\nf 1 2 3# x y\n# f 1 2 3\n"
    parsed = obj.parse_obj(text, "a.obj")
    assert parsed.sizes.tolist() == [3] and len(parsed.positions) == 5 and names(parsed, "material") == ["red #2"]


def test_colours_of_vertices_are_read_where_there_are_any():
    parsed = obj.parse_obj("v 0 0 0 0.25 0.5 1\nv 1 0 0\nv 1 1 0 1.01 0 0\nf 1 2 3\n", "a.obj")
    assert np.allclose(parsed.vertex_colours, [[0.25, 0.5, 1], [np.nan] * 3, [1, 0, 0]], equal_nan=True)
    parsed = obj.parse_obj("v 0 0 0 51 0 255\nv 1 0 0 0 1 0\nv 1 1 0 0 0 0\nf 1 2 3\n", "a.obj")
    assert np.allclose(parsed.vertex_colours[0], [0.2, 0, 1])
    assert np.isnan(obj.parse_obj("v 0 0 0 1\nf 1 1 1\n", "a.obj").vertex_colours).all()  # a weight


@pytest.mark.parametrize(("text", "line"), [("v 1 2", 1), ("v 0 0 0\nvt", 2), ("v 0 0 0\nf 1 1 2", 2), ("f 1 2 3", 1)])
def test_lines_that_lack_something_are_told(text, line):
    with pytest.raises(util.InputError, match=rf"a\.obj, line {line}"):
        obj.parse_obj(text, "a.obj")


@pytest.mark.parametrize(
    ("line", "texture"),
    [
        ("wood.jpg", "wood.jpg"),
        ("my wood 2.jpg", "my wood 2.jpg"),
        ("-s 1 1 1 tex.jpg", "tex.jpg"),
        ("-blendu on -s 0.5 2 -o 1e-3 -clamp off tex 1.jpg", "tex 1.jpg"),
        ("-mm 0 1 -bm 2 -imfchan l ..\\images\\tex.jpg", "../images/tex.jpg"),
        ("-strange.jpg", "-strange.jpg"),
        ('"my wood.jpg"', "my wood.jpg"),
        ("-clamp on 'my wood.jpg' # oak", "my wood.jpg"),
        ("wood.jpg # oak", "wood.jpg"),
        ("wood.jpg #oak", "wood.jpg"),
        ("wood #2.jpg", "wood #2.jpg"),
        ("", None),
    ],
)
def test_options_and_backslashes_of_a_texture_are_no_part_of_its_name(line, texture):
    assert obj.parse_mtl(f"newmtl a\nKd 1 0 2\nmap_Kd {line}\n", "a.mtl")["a"] == obj.Material((1, 0, 1), texture)


@pytest.mark.parametrize(
    ("line", "colour"),
    [
        ("Kd 0.5", (0.5, 0.5, 0.5)),
        ("Kd .5 .25 1 # blue", (0.5, 0.25, 1)),
        ("kd 0 0.5 1", (0, 0.5, 1)),
        ("KD 0 0.5 1 1", (0, 0.5, 1)),
        ("\tKd 0 0 0", (0, 0, 0)),
    ],
)
def test_colours_are_read_in_every_form(line, colour):
    faults = []
    materials = obj.parse_mtl(f"\ufeffNewMtl a\n{line}\nMAP_KD a.png\n", "a.mtl", faults)
    assert materials == {"a": obj.Material(colour, "a.png")} and not faults


@pytest.mark.parametrize("line", ["Kd 1 0", "Kd nan 0 0", "Kd a b c", "Kd", "newmtl"])
def test_broken_lines_of_a_library_are_told_and_the_others_read(line):
    faults = []
    materials = obj.parse_mtl(f"newmtl a\nmap_Kd a.png\n{line}\nnewmtl b\nKd 0 0 1\n", "a.mtl", faults)
    assert materials == {"a": obj.Material(texture="a.png"), "b": obj.Material((0, 0, 1))}
    assert faults == [f"a.mtl: line 3 ({line!r}) cannot be read, plain colour taken"]


def test_colours_without_a_material_are_told_once_a_file():
    red = obj.Material((1, 0, 0))
    assert obj.parse_mtl("newmtl a\nKd 1 0 0\nnewmtl\nKd 0 0 1\n", "a.mtl") == {"a": red}
    faults = []
    assert obj.parse_mtl("Kd 1 0 0\nmap_Kd a.png\nKd 1 1\nnewmtl a\n", "a.mtl", faults) == {"a": obj.Material()}
    assert faults == ["a.mtl: line 1 ('Kd 1 0 0') and 2 more cannot be read, plain colour taken"]


def test_a_face_repeated_in_any_order_or_with_other_vertices_counts_once():
    parsed = obj.parse_obj(SQUARE + SQUARE + "f 1 2 3 4\nf 1 2 3\nf 4 3 2 1\nf 7 5 6\nf 1 2 4\nf 8 5 6 7\n", "a.obj")
    assert obj.first_of_each_face(parsed).tolist() == [True, True, False, False, True, False]


def test_faces_without_corners_or_with_two_give_no_triangle():
    parsed = obj.parse_obj(SQUARE + "f\nf 1 2\nf 1 2 3\n", "a.obj")
    corner_ids, face_ids = obj.triangulate(parsed)
    assert face_ids.tolist() == [2] and corner_ids.tolist() == [[2, 3, 4]]
    assert obj.first_of_each_face(parsed).tolist() == [False, True, True]


def test_coordinates_that_are_not_finite_do_not_stop_the_cutting():
    pytest.importorskip("mapbox_earcut")
    parsed = obj.parse_obj(SQUARE + "v nan inf -inf\nf 1 2 3 4 5\nf 1 2 3 4\n", "a.obj")
    assert (obj.triangulate(parsed)[1] == 1).sum() == 2


def test_only_textures_in_use_are_read_and_a_missing_one_leaves_the_plain_colour():
    parsed = obj.parse_obj(SQUARE + "mtllib a.mtl\nusemtl unused\nusemtl wood\nf 1 2 3\nusemtl lost\nf 1 2 4\n", "a.obj")
    texture = np.array([[[200, 100, 0, 255], [0, 0, 0, 0]]], dtype=np.uint8)
    asked = []

    def read_texture(name):
        asked.append(name)
        return texture if name == "wood.png" else None

    colours, textures = obj.appearance(
        parsed,
        lambda name: obj.parse_mtl(
            "newmtl wood\nmap_Kd wood.png\nnewmtl lost\nKd 0 1 0\nmap_Kd lost.png\nnewmtl unused\nmap_Kd other.png", name
        ),
        read_texture,
    )
    wood, lost = parsed.material_names.index("wood"), parsed.material_names.index("lost")
    assert asked == ["wood.png", "lost.png"] and list(textures) == [wood]
    assert np.allclose(colours[wood], [200 / 255, 100 / 255, 0]) and np.allclose(colours[lost], [0, 1, 0])
