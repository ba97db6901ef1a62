"""datasets/meshes/reading.py, named_mesh.py and ply.py, and how obj.py and mtl.py find files."""

from pathlib import PurePosixPath

import imageio.v3 as iio
import numpy as np
import plyfile
import pytest

import util
from datasets.meshes import named_mesh, reading, triangle_mesh

# Two unit squares at heights 0 and 1; the second one has coordinates into a texture.
OBJ = """mtllib chair.mtl
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
v 0 0 1
v 1 0 1
v 1 1 1
v 0 1 1
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl plain
f 1 2 3 4
o Seat
g upper
usemtl wood
f 5/1 6/2 7/3 8/4
"""
MTL = "newmtl plain\nKd 0.25 0.5 0.75\nnewmtl wood\nKd 0 0 1\nmap_Kd wood.png\n"
TEXTURE = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [250, 250, 0]]], dtype=np.uint8)


@pytest.fixture
def chair(tmp_path):
    folder = tmp_path / "chair"
    folder.mkdir()
    (folder / "chair.obj").write_text(OBJ)
    (folder / "chair.mtl").write_text(MTL)
    iio.imwrite(folder / "wood.png", TEXTURE)
    return folder / "chair.obj"


def read(path, root=None):
    return reading.read_below(path.parent if root is None else root, path)


def names(named, kind):
    found = named.names[kind]
    return [found.names[i] for i in found.ids]


def test_obj_gives_names_colours_and_textures(chair):
    named = read(chair)
    assert named.faults == () and (named.mesh.labels == 1).all()
    assert names(named, "object") == ["chair", "chair", "Seat", "Seat"]  # the file's stem before any `o`
    assert names(named, "group") == ["", "", "upper", "upper"]
    assert names(named, "material") == ["plain", "plain", "wood", "wood"]
    assert named.mesh.texture_ids.tolist() == [-1, -1, 0, 0]
    assert np.allclose(named.mesh.colours[:2], [0.25, 0.5, 0.75])
    at = triangle_mesh.sample_surface(named.mesh, 2000, np.random.default_rng(0))
    upper = at.points[:, 2] == 1
    expected = TEXTURE[np.where(at.points[upper, 1] < 0.5, 1, 0), np.where(at.points[upper, 0] < 0.5, 0, 1)] / 255
    assert np.allclose(at.colours[upper], expected)


def test_missing_and_broken_files_of_a_material_are_named_and_the_plain_colour_taken(chair):
    (chair.parent / "wood.png").write_bytes(b"no image")
    assert "wood.png cannot be read" in read(chair).faults[0]
    (chair.parent / "wood.png").unlink()
    named = read(chair)
    assert "chair.obj: wood.png not found" in named.faults[0] and len(named.faults) == 1
    assert (named.mesh.texture_ids == -1).all() and np.allclose(named.mesh.colours[2:], [0, 0, 1])
    (chair.parent / "chair.mtl").unlink()
    named = read(chair)
    assert "chair.mtl not found" in named.faults[0] and np.allclose(named.mesh.colours, named_mesh.DEFAULT_COLOUR)


def test_textures_are_found_below_the_root_only(chair, tmp_path):
    (tmp_path / "images").mkdir()
    (chair.parent / "wood.png").rename(tmp_path / "images" / "wood.png")
    for name in ("../images/wood.png", "..\\images\\wood.png", str(tmp_path / "images" / "wood.png")):
        (chair.parent / "chair.mtl").write_text(MTL.replace("wood.png", name))
        assert len(read(chair, tmp_path).mesh.textures) == 1
        named = read(chair)
        assert "not found in the folder" in named.faults[0] and not named.mesh.textures
    (chair.parent / "link.png").symlink_to(tmp_path / "images" / "wood.png")
    (chair.parent / "chair.mtl").write_text(MTL.replace("wood.png", "link.png"))
    assert not read(chair).mesh.textures
    for name in ("a\0b.png", "x" * 5000, "."):
        (chair.parent / "chair.mtl").write_text(MTL.replace("wood.png", name))
        assert "not found" in read(chair).faults[0]


def test_a_line_may_name_one_library_with_a_blank_or_several(chair):
    for lines, files in (("mtllib my chair.mtl", ["my chair.mtl"]), ("mtllib a.mtl b.mtl # both", ["a.mtl", "b.mtl"])):
        chair.write_text(OBJ.replace("mtllib chair.mtl", lines))
        for name, part in zip(files, [MTL] if len(files) == 1 else MTL.split("newmtl wood")):
            (chair.parent / name).write_text(part if name != "b.mtl" else "newmtl wood" + part)
        named = read(chair)
        assert not named.faults and len(named.mesh.textures) == 1 and np.allclose(named.mesh.colours[0], [0.25, 0.5, 0.75])


def test_a_library_in_another_folder_is_found_with_backslashes_too(chair):
    (chair.parent / "materials").mkdir()
    (chair.parent / "chair.mtl").rename(chair.parent / "materials" / "chair.mtl")
    chair.write_text(OBJ.replace("mtllib chair.mtl", "mtllib materials\\chair.mtl"))
    named = read(chair)
    assert not named.faults and np.allclose(named.mesh.colours[:2], [0.25, 0.5, 0.75])


def test_a_broken_line_of_a_library_is_reported_and_the_rest_read(chair):
    (chair.parent / "chair.mtl").write_text(MTL.replace("Kd 0.25 0.5 0.75", "Kd 0.25 0.5"))
    named = read(chair)
    assert named.faults == (f"{chair.parent / 'chair.mtl'}: cannot read line 2 ('Kd 0.25 0.5'), plain colour used",)
    assert np.allclose(named.mesh.colours[:2], named_mesh.DEFAULT_COLOUR) and len(named.mesh.textures) == 1


def test_materials_that_no_library_defines_are_named(chair):
    chair.write_text(OBJ + "usemtl brass\nf 1 2 7\nusemtl unused\nusemtl tin\nf 1 2 8\nusemtl\nf 1 2 5\n")
    assert read(chair).faults == (f"{chair}: brass, tin not defined as a material in chair.mtl, plain colour used",)


def test_materials_may_name_parts_without_any_library(chair):
    chair.write_text(OBJ.replace("mtllib chair.mtl\n", ""))
    assert not read(chair).faults


def test_colours_of_vertices_count_where_no_material_does(chair):
    red_to_blue = OBJ.replace("v 0 0 0\n", "v 0 0 0 1 0 0\n").replace("v 1 0 0\n", "v 1 0 0 0.5 0 0.5\n")
    red_to_blue = red_to_blue.replace("v 1 1 0\n", "v 1 1 0 0 0 1\n")  # the fourth corner has none
    chair.write_text(red_to_blue)
    assert np.allclose(read(chair).mesh.colours[:2], [0.25, 0.5, 0.75])
    for without in ("usemtl plain\n", "mtllib chair.mtl\n"):
        chair.write_text(red_to_blue.replace(without, ""))
        assert np.allclose(read(chair).mesh.colours[:2], [[0.5, 0, 0.5], named_mesh.DEFAULT_COLOUR])


def test_a_mesh_may_be_a_link_but_what_it_names_must_be_below_the_root(chair, tmp_path):
    link = tmp_path / "links" / "chair.obj"
    link.parent.mkdir()
    link.symlink_to(chair)
    named = read(link)
    assert len(named.mesh.triangles) == 4 and "chair.mtl not found" in named.faults[0]
    assert not read(link, tmp_path).mesh.textures  # libraries are looked up beside the link
    with pytest.raises(util.InputError, match=r"none\.obj: cannot read \(No such file"):
        read(tmp_path / "none.obj")


def test_an_archive_is_read_as_a_folder_is(chair):
    data = {PurePosixPath("a.zip") / path.name: path.read_bytes() for path in chair.parent.iterdir()}

    def open_file(path):
        if path not in data:
            raise FileNotFoundError(path)
        return data[path]

    archived, plain = reading.read(PurePosixPath("a.zip/chair.obj"), open_file), read(chair)
    assert archived.faults == () and archived.names["object"].names == plain.names["object"].names
    assert np.array_equal(archived.mesh.colours, plain.mesh.colours) and len(archived.mesh.textures) == 1
    assert archived.num_faces == 2 and archived.face_ids.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_textures_in_grey_of_16_bits_keep_their_shades(chair, suffix):
    iio.imwrite(chair.parent / f"wood.{suffix}", np.array([[0, 257 * 100], [257 * 200, 65535]], dtype=np.uint16))
    (chair.parent / "chair.mtl").write_text(MTL.replace("wood.png", f"wood.{suffix}"))
    assert read(chair).mesh.textures[0].tolist() == [
        [[0, 0, 0, 255], [100, 100, 100, 255]],
        [[200, 200, 200, 255], [255, 255, 255, 255]],
    ]


def test_degenerate_triangles_are_counted_and_left_out(chair):
    vertices = "v nan 0 0\nv 2 0 0\nv 1e200 0 0\nv 0 1e200 0\n"
    chair.write_text(OBJ + vertices + "f 1 2 9\nf 1 1 3\nf 1 2 10\nf 1 2\nf 1 11 12\nf 1 2 7\n")
    named = read(chair)
    assert named.faults == (f"{chair}: 5 degenerate triangles left out, 5 kept",)
    assert np.isfinite(named.mesh.vertices).all() and len(named.mesh.corner_uv) == 5
    assert sorted(names(named, "object")) == ["Seat", "Seat", "Seat", "chair", "chair"]


def test_thin_and_tiny_triangles_are_not_degenerate(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 0.5 1e-9 0\nv 1e-9 0 0\nv 0 1e-9 0\nf 1 2 3\nf 1 4 5\n")
    assert len(read(tmp_path / "a.obj").mesh.triangles) == 2


def test_a_file_with_degenerate_triangles_only_is_refused_once_assembled(tmp_path):
    path = tmp_path / "a.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\nf 1 1 2\n")
    with pytest.raises(util.InputError, match=r"a\.obj: no triangle has an area .*2 degenerate"):
        named_mesh.assemble([read(path)], path)


def test_pieces_keep_their_textures_and_names_and_lose_what_repeats(chair):
    other = chair.parent / "other.obj"
    other.write_text(OBJ.replace("o Seat", "o Tray") + "v 5 5 5\no Leg\nf 1 2 9\n")
    whole = named_mesh.assemble([read(chair), read(other)], chair.parent)
    assert names(whole, "object") == ["chair", "chair", "Seat", "Seat", "Leg"]
    shifted = read(other)
    shifted.mesh.vertices[:] += 10
    whole = named_mesh.assemble([read(chair), shifted], chair.parent)
    objects = np.array(names(whole, "object"))
    assert np.isin(["chair", "Seat", "other", "Tray", "Leg"], objects).all() and len(objects) == 9
    texture_of = {name: set(whole.mesh.texture_ids[objects == name].tolist()) for name in set(objects)}
    assert texture_of == {"chair": {-1}, "Seat": {0}, "other": {-1}, "Tray": {1}, "Leg": {-1}}
    assert np.allclose(whole.mesh.corners[objects == "Tray"].min(axis=(0, 1)), [10, 10, 11])


@pytest.mark.parametrize(("content", "reason"), [(b"", "no faces"), (b"\xff\xfe\0 binary", "no faces")])
def test_an_obj_file_without_faces_is_refused(tmp_path, content, reason):
    path = tmp_path / "a.obj"
    path.write_bytes(content)
    with pytest.raises(util.InputError, match=rf"a\.obj.*{reason}"):
        named_mesh.assemble([read(path)], path)


def test_of_several_files_one_may_have_no_faces(chair):
    other = chair.parent / "other.obj"
    other.write_text("v 0 0 0\n")
    for paths in ([chair, other], [other, chair]):
        whole = named_mesh.assemble([read(path) for path in paths], chair.parent)
        assert whole.faults == (f"{other}: no faces found, expected an OBJ file with `f` lines; left out",)
        assert len(whole.mesh.triangles) == 4 and whole.mesh.triangles.dtype == int
        assert set(names(whole, "object")) == {"chair", "Seat"}


def test_other_kinds_of_files_are_refused(tmp_path):
    with pytest.raises(util.InputError, match=r"a\.stl: cannot read this kind"):
        read(tmp_path / "a.stl")


# ------------------------------------------------------------------------------------------------------- PLY


def write_ply(path, vertex_fields=(), face_fields=(), faces=((0, 1, 2, 3), (4, 5, 6)), text=False, vertices=None):
    """The corners of a cube, and faces; extra fields are (name, type, values)."""
    corners = [(x, y, z) for z in (0, 1) for x, y in ((0, 0), (1, 0), (1, 1), (0, 1))] if vertices is None else vertices

    def element(name, columns):
        rows = np.empty(len(columns[0][2]), dtype=[(field, kind) for field, kind, _ in columns])
        for field, _, values in columns:
            for i, value in enumerate(values):
                rows[field][i] = value
        return plyfile.PlyElement.describe(rows, name)

    columns = [(axis, "f4", [corner[i] for corner in corners]) for i, axis in enumerate("xyz")]
    plyfile.PlyData(
        [
            element("vertex", [*columns, *vertex_fields]),
            element("face", [("vertex_indices", "O", [np.array(face, "i4") for face in faces]), *face_fields]),
        ],
        text=text,
    ).write(path)
    return path


@pytest.mark.parametrize("text", [False, True])
def test_ply_polygons_take_the_mean_of_their_vertex_colours(tmp_path, text):
    red = [0, 0, 0, 0, 255, 255, 0, 0]
    fields = [(name, "u1", red if name == "red" else [51] * 8) for name in ("red", "green", "blue")]
    named = read(write_ply(tmp_path / "stool.ply", fields, text=text))
    triangle, *quad = range(3)  # triangles come before halves of quads
    assert np.allclose(named.mesh.colours[quad], [0, 0.2, 0.2])
    assert np.allclose(named.mesh.colours[triangle], [2 / 3, 0.2, 0.2])
    assert names(named, "object") == ["stool"] * 3 and names(named, "material") == [""] * 3
    assert np.allclose(named.mesh.corners[triangle], [[0, 0, 1], [1, 0, 1], [1, 1, 1]])


def test_ply_faces_have_colours_and_labels_of_their_own(tmp_path):
    fields = [(name, "f4", [0.5, 1.5]) for name in ("red", "green", "blue")] + [("Part_id", "i4", [3, 12])]
    named = read(write_ply(tmp_path / "a.ply", face_fields=fields))
    assert np.allclose(named.mesh.colours[:, 0], [1, 0.5, 0.5])  # triangles come before halves of quads
    assert names(named, "object") == ["12", "3", "3"]


@pytest.mark.parametrize(
    ("kind", "largest"), [("u1", 255), ("i2", 255), ("i4", 255), ("u2", 255), ("u2", 65535), ("i4", 65535)]
)
def test_whole_colours_of_ply_files_go_up_to_255_or_65535(tmp_path, kind, largest):
    values = [largest, largest // 5]
    fields = [(name, kind, values) for name in ("diffuse_red", "diffuse_green", "diffuse_blue")]
    named = read(write_ply(tmp_path / "a.ply", face_fields=fields, text=True))
    assert np.allclose(named.mesh.colours[:, 0], [0.2, 1, 1])


def test_a_texture_of_a_ply_file_is_reported(tmp_path):
    named = read(write_ply(tmp_path / "a.ply", face_fields=[("texcoord", "O", [np.zeros(8, "f4"), np.zeros(6, "f4")])]))
    assert len(named.faults) == 1 and "a.ply: textures of PLY files are not supported" in named.faults[0]
    assert len(named.mesh.triangles) == 3


def test_degenerate_ply_faces_are_counted(tmp_path):
    named = read(write_ply(tmp_path / "a.ply", faces=[(0, 1, 2), (0, 0, 1), (0, 1), (2, 1, 0)]))
    assert "2 degenerate" in named.faults[0]
    assert len(named_mesh.assemble([named], tmp_path).mesh.triangles) == 1


def test_broken_ply_files_are_reported(tmp_path):
    path = write_ply(tmp_path / "a.ply", faces=[(0, 1, 8)])
    with pytest.raises(util.InputError, match=r"a\.ply: faces refer to vertices 0 to 8, expected 0 to 7"):
        read(path)
    write_ply(path, faces=[(0, 1, -1)])
    with pytest.raises(util.InputError, match=r"vertices -1 to 1"):
        read(path)
    write_ply(path, faces=[])
    with pytest.raises(util.InputError, match=r"a\.ply: no faces"):
        named_mesh.assemble([read(path)], path)
    whole = write_ply(path).read_bytes()
    for content in (b"", b"ply\nnonsense", whole[:-5], b"\0" * 50):
        path.write_bytes(content)
        with pytest.raises(util.InputError, match=r"a\.ply: cannot be read as a PLY file"):
            read(path)
