"""datasets/meshes/mtl.py: materials, and which textures are read."""

import io
from pathlib import PurePosixPath

import imageio.v3 as iio
import numpy as np
import pytest

from datasets.meshes import mtl


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
    assert mtl.parse(f"newmtl a\nKd 1 0 2\nmap_Kd {line}\n", "a.mtl", [])["a"] == mtl.Material((1, 0, 1), texture)


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
    materials = mtl.parse(f"\ufeffNewMtl a\n{line}\nMAP_KD a.png\n", "a.mtl", faults)
    assert materials == {"a": mtl.Material(colour, "a.png")} and not faults


@pytest.mark.parametrize("line", ["Kd 1 0", "Kd nan 0 0", "Kd a b c", "Kd", "newmtl"])
def test_broken_lines_of_a_library_are_reported_and_the_others_read(line):
    faults = []
    materials = mtl.parse(f"newmtl a\nmap_Kd a.png\n{line}\nnewmtl b\nKd 0 0 1\n", "a.mtl", faults)
    assert materials == {"a": mtl.Material(texture="a.png"), "b": mtl.Material((0, 0, 1))}
    assert faults == [f"a.mtl: cannot read line 3 ({line!r}), plain colour used"]


def test_colours_without_a_material_are_reported_once_a_file():
    red = mtl.Material((1, 0, 0))
    assert mtl.parse("newmtl a\nKd 1 0 0\nnewmtl\nKd 0 0 1\n", "a.mtl", []) == {"a": red}
    faults = []
    assert mtl.parse("Kd 1 0 0\nmap_Kd a.png\nKd 1 1\nnewmtl a\n", "a.mtl", faults) == {"a": mtl.Material()}
    assert faults == ["a.mtl: cannot read line 1 ('Kd 1 0 0') and 2 more, plain colour used"]


def test_only_textures_in_use_are_read_and_a_missing_one_leaves_the_plain_colour():
    image = io.BytesIO()
    iio.imwrite(image, np.array([[[200, 100, 0, 255], [0, 0, 0, 0]]], dtype=np.uint8), extension=".png")
    library = b"newmtl wood\nmap_Kd wood.png\nnewmtl lost\nKd 0 1 0\nmap_Kd lost.png\nnewmtl unused\nmap_Kd other.png"
    files = {"zip/a/a.mtl": library, "zip/a/wood.png": image.getvalue()}
    asked = []

    def open_file(path):
        asked.append(path.name)
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    look = mtl.read(["a.mtl"], ["", "unused", "wood", "lost"], [2, 3], PurePosixPath("zip/a/a.obj"), open_file)
    assert asked == ["a.mtl", "wood.png", "lost.png"] and list(look.textures) == [2]
    assert np.allclose(look.colours[2:], [[200 / 255, 100 / 255, 0], [0, 1, 0]])
    assert look.faults == ["zip/a/a.obj: lost.png not found in the folder of the object, plain colour used"]
