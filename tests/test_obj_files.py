"""obj_files.py: names, materials and polygons. tests/test_furniture.py has more on cutting polygons."""

import numpy as np
import pytest

import obj_files
import util

SQUARE = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"


def names(obj, kind):
    return [getattr(obj, f"{kind}_names")[i] for i in getattr(obj, f"{kind}_ids")]


def test_every_face_has_the_names_that_stand_before_it():
    obj = obj_files.parse_obj(
        SQUARE + "f 1 2 3\no Seat cushion\ng a b\nusemtl red leather\nf 1 2 3\ng\nf 1 2 3\no Leg\nf 1 2 3\n", "a.obj"
    )
    assert names(obj, "object") == ["", "Seat cushion", "Seat cushion", "Leg"]
    assert names(obj, "group") == ["", "a b", "", ""]
    assert names(obj, "material") == ["", "red leather", "red leather", "red leather"]


def test_a_line_that_goes_on_keeps_its_corners():
    obj = obj_files.parse_obj(SQUARE + "f 1 2 \\\n3 4\nf 1 2 \\\r\n3\n", "a.obj")
    assert obj.sizes.tolist() == [4, 3]


@pytest.mark.parametrize(("text", "line"), [("v 1 2", 1), ("v 0 0 0\nvt", 2), ("v 0 0 0\nf 1 1 2", 2), ("f 1 2 3", 1)])
def test_lines_that_lack_something_are_told(text, line):
    with pytest.raises(util.InputError, match=rf"a\.obj, line {line}"):
        obj_files.parse_obj(text, "a.obj")


@pytest.mark.parametrize(("line", "texture"), [
    ("wood.jpg", "wood.jpg"),
    ("my wood 2.jpg", "my wood 2.jpg"),
    ("-s 1 1 1 tex.jpg", "tex.jpg"),
    ("-blendu on -s 0.5 2 -o 1e-3 -clamp off tex 1.jpg", "tex 1.jpg"),
    ("-mm 0 1 -bm 2 -imfchan l ..\\images\\tex.jpg", "../images/tex.jpg"),
    ("-strange.jpg", "-strange.jpg"),
])
def test_options_and_backslashes_of_a_texture_are_no_part_of_its_name(line, texture):
    assert obj_files.parse_mtl(f"newmtl a\nKd 1 0 2\nmap_Kd {line}\n", "a.mtl")["a"] == obj_files.Material((1, 0, 1), texture)


@pytest.mark.parametrize("line", ["Kd 1 0", "Kd nan 0 0", "Kd a b c"])
def test_broken_colours_are_told_with_their_line(line):
    with pytest.raises(util.InputError, match=r"a\.mtl, line 2"):
        obj_files.parse_mtl(f"newmtl a\n{line}\n", "a.mtl")


def test_a_face_repeated_in_any_order_or_with_other_vertices_counts_once():
    obj = obj_files.parse_obj(
        SQUARE + SQUARE + "f 1 2 3 4\nf 1 2 3\nf 4 3 2 1\nf 7 5 6\nf 1 2 4\nf 8 5 6 7\n", "a.obj"
    )
    assert obj_files.first_of_each_face(obj).tolist() == [True, True, False, False, True, False]


def test_faces_without_corners_or_with_two_give_no_triangle():
    obj = obj_files.parse_obj(SQUARE + "f\nf 1 2\nf 1 2 3\n", "a.obj")
    corner_ids, face_ids = obj_files.triangulate(obj)
    assert face_ids.tolist() == [2] and corner_ids.tolist() == [[2, 3, 4]]
    assert obj_files.first_of_each_face(obj).tolist() == [False, True, True]


def test_coordinates_that_are_not_finite_do_not_stop_the_cutting():
    pytest.importorskip("mapbox_earcut")
    obj = obj_files.parse_obj(SQUARE + "v nan inf -inf\nf 1 2 3 4 5\nf 1 2 3 4\n", "a.obj")
    assert (obj_files.triangulate(obj)[1] == 1).sum() == 2


def test_only_textures_in_use_are_read_and_a_missing_one_leaves_the_plain_colour():
    obj = obj_files.parse_obj(SQUARE + "mtllib a.mtl\nusemtl unused\nusemtl wood\nf 1 2 3\nusemtl lost\nf 1 2 4\n", "a.obj")
    texture = np.array([[[200, 100, 0, 255], [0, 0, 0, 0]]], dtype=np.uint8)
    asked = []

    def read_texture(name):
        asked.append(name)
        return texture if name == "wood.png" else None

    colours, textures = obj_files.appearance(
        obj, lambda name: obj_files.parse_mtl(
            "newmtl wood\nmap_Kd wood.png\nnewmtl lost\nKd 0 1 0\nmap_Kd lost.png\nnewmtl unused\nmap_Kd other.png", name
        ), read_texture
    )
    wood, lost = obj.material_names.index("wood"), obj.material_names.index("lost")
    assert asked == ["wood.png", "lost.png"] and list(textures) == [wood]
    assert np.allclose(colours[wood], [200 / 255, 100 / 255, 0]) and np.allclose(colours[lost], [0, 1, 0])
