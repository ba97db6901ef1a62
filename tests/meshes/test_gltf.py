"""datasets/meshes/gltf.py, on files that trimesh writes."""

import json

import numpy as np
import pytest
from PIL import Image

import util
from datasets.meshes import named_mesh, reading

trimesh = pytest.importorskip("trimesh")

TEXTURE = np.array([[[250, 0, 0], [0, 250, 0]], [[0, 0, 250], [250, 250, 0]]], dtype=np.uint8)  # blue at the bottom left
QUARTER = [[0, -1, 0, 2], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]  # turn about z, then 2 along x


def square(material=None, uv=True, colours=None):
    """The unit square at z = 0, texture coordinates equal to x and y."""
    mesh = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    if material is not None:
        mesh.visual = trimesh.visual.TextureVisuals(uv=mesh.vertices[:, :2] if uv else None, material=material)
    elif colours is not None:
        mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=colours)
    return mesh


def pbr(name, **values):
    if "texture" in values:
        values["baseColorTexture"] = Image.fromarray(values.pop("texture"))
    return trimesh.visual.material.PBRMaterial(name=name, **values)


def scene(**meshes):
    made = trimesh.Scene()
    for name, mesh in meshes.items():
        made.add_geometry(mesh, node_name=name, geom_name=f"{name} mesh")
    return made


def write(made, path):
    path.write_bytes(made.export(file_type="glb"))
    return path


def rewrite(path, change):
    """Changes the JSON of a .glb."""
    data = path.read_bytes()
    length = int.from_bytes(data[12:16], "little")
    header = json.loads(data[20 : 20 + length])
    change(header)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    path.write_bytes(
        data[:8]
        + (20 + len(text) + len(rest)).to_bytes(4, "little")
        + len(text).to_bytes(4, "little")
        + data[16:20]
        + text
        + rest
    )


def read(path):
    return reading.read_below(path.parent, path)


def of(named, kind, name):
    found = named.names[kind]
    return found.ids == found.names.index(name)


def test_nodes_are_placed_and_named_with_their_parents_and_materials(tmp_path):
    made = scene(Seat=square(pbr("oak")))
    made.add_geometry(square(), node_name="Leg 1", geom_name="leg", parent_node_name="Seat", transform=QUARTER)
    made.graph.update("Seat", matrix=np.diag([2, 2, 2, 1.0]))
    named = read(write(made, tmp_path / "a.glb"))
    seat, leg = (named.mesh.corners[of(named, "object", name)].reshape(-1, 3) for name in ("Seat", "Leg 1"))
    assert np.allclose(seat.max(axis=0), [2, 2, 0]) and np.allclose(seat.min(axis=0), 0)
    assert np.allclose(leg.min(axis=0), [2, 0, 0]) and np.allclose(leg.max(axis=0), [4, 2, 0])
    assert (of(named, "group", "Seat") == of(named, "object", "Leg 1")).all()
    assert (of(named, "material", "oak") == of(named, "object", "Seat")).all()
    assert (named.mesh.labels == 1).all() and not named.faults


def test_the_texture_stands_upright(tmp_path):
    named = read(write(scene(a=square(pbr("wood", texture=TEXTURE))), tmp_path / "a.glb"))
    assert named.mesh.texture_ids.tolist() == [0, 0]
    assert np.array_equal(named.mesh.textures[0][..., :3], TEXTURE)
    assert np.allclose(named.mesh.corner_uv, named.mesh.corners[..., :2])  # bottom left is (0, 0)


def test_factors_are_linear_and_multiply_textures_and_vertex_colours(tmp_path):
    half = [128, 128, 128, 255]  # 0.502 linear is 0.737 in sRGB
    vertex_colours = np.tile(np.uint8([128, 0, 255, 255]), (4, 1))
    named = read(
        write(
            scene(
                plain=square(pbr("plain", baseColorFactor=half)),
                coloured=square(colours=vertex_colours),
                bare=square(pbr("bare")),
                wood=square(pbr("wood", baseColorFactor=half, texture=np.full((2, 2, 3), 255, np.uint8))),
            ),
            tmp_path / "a.glb",
        )
    )
    colours = {name: named.mesh.colours[of(named, "object", name)][0] for name in ("plain", "coloured", "bare")}
    assert np.allclose(colours["plain"], 0.737, atol=1e-3)
    assert np.allclose(colours["coloured"], [0.737, 0, 1], atol=1e-3)
    assert np.allclose(colours["bare"], 1)  # glTF's default
    assert (named.mesh.textures[0] == [188, 188, 188, 255]).all()


def test_one_texture_of_two_materials_is_kept_once(tmp_path):
    named = read(write(scene(a=square(pbr("a", texture=TEXTURE)), b=square(pbr("b", texture=TEXTURE))), tmp_path / "a.glb"))
    assert len(named.mesh.textures) == 1 and (named.mesh.texture_ids == 0).all()


@pytest.mark.parametrize(("mode", "alpha"), [(None, 255), ("MASK", 0), ("BLEND", 100)])
def test_alpha_counts_as_the_material_says(tmp_path, mode, alpha):
    rgba = np.dstack([TEXTURE, np.full((2, 2), 100, np.uint8)])
    named = read(write(scene(a=square(pbr("a", texture=rgba, alphaMode=mode))), tmp_path / "a.glb"))
    assert (named.mesh.textures[0][..., 3] == alpha).all()


def test_primitives_of_one_mesh_have_the_name_of_its_node(tmp_path):
    path = write(scene(Seat=square(pbr("oak")), Other=square(pbr("steel"))), tmp_path / "a.glb")

    def merge(header):
        first, second = header["meshes"]
        header["meshes"] = [{"name": "both", "primitives": first["primitives"] + second["primitives"]}]
        header["nodes"] = [{"name": "top", "children": [1]}, {"name": "Seat", "mesh": 0}]
        header["scenes"] = [{"nodes": [0]}]

    rewrite(path, merge)
    named = read(path)
    assert named.names["object"].names == ["Seat"] and named.names["group"].names == ["top"]
    assert sorted(named.names["material"].names) == ["oak", "steel"]
    rewrite(path, lambda header: header["nodes"][1].pop("name"))
    assert read(path).names["object"].names != ["1"]


def test_names_that_occur_twice_and_that_of_trimeshs_root_stay_as_they_are(tmp_path):
    path = write(scene(a=square(), b=square(), c=square(), d=square(), e=square()), tmp_path / "a.glb")

    def rename(header):
        meshes = [node["mesh"] for node in header["nodes"] if "mesh" in node]
        header["meshes"][meshes[3]]["name"] = header["meshes"][meshes[4]]["name"] = "leg"
        names = [{"name": "seat"}, {"name": "seat"}, {"name": "world"}, {}, {}]
        nodes = [{**name, "mesh": i, "translation": [5 * i, 0, 0]} for name, i in zip(names, meshes)]
        nodes[0]["children"], nodes[2]["children"] = [1], [3]
        header.update(nodes=nodes, scenes=[{"nodes": [0, 2, 4]}])

    rewrite(path, rename)
    named = read(path)
    left = named.mesh.corners[..., 0].min(axis=1).round()
    objects, groups = ([named.names[kind].names[i] for i in named.names[kind].ids] for kind in ("object", "group"))
    assert dict(zip(left, zip(objects, groups))) == {
        0: ("seat", ""),
        5: ("seat", "seat"),
        10: ("world", ""),
        25: ("leg", "world"),
        20: ("leg", ""),
    }


def test_what_hangs_on_a_node_with_a_camera_is_read(tmp_path):
    path = write(scene(a=square(), b=square()), tmp_path / "a.glb")
    camera = {"type": "perspective", "perspective": {"aspectRatio": 1.5, "yfov": 0.6, "znear": 0.1}}
    rewrite(
        path,
        lambda header: header.update(
            cameras=[camera],
            nodes=[{"name": "eye", "mesh": 0, "camera": 0, "children": [1]}, {"name": "lamp", "mesh": 1}],
            scenes=[{"nodes": [0]}],
        ),
    )
    assert sorted(read(path).names["object"].names) == ["eye", "lamp"] and len(read(path).mesh.triangles) == 4


@pytest.mark.parametrize(
    ("uri", "name"),
    [("my%20buf.bin", "my buf.bin"), ("st%C3%BChl.bin", "stühl.bin"), ("100%.bin", "100%.bin"), ("a%20b.bin", "a%20b.bin")],
)
def test_names_of_files_may_be_percent_encoded(tmp_path, uri, name):
    for part, data in scene(a=square()).export(file_type="gltf").items():
        (tmp_path / part).write_bytes(data)
    header = json.loads((tmp_path / "model.gltf").read_text())
    folder = tmp_path / "chair"
    folder.mkdir()
    for entry in header["buffers"]:
        (folder / (name + entry["uri"])).write_bytes((tmp_path / entry["uri"]).read_bytes())
        entry["uri"] = uri + entry["uri"]
    (folder / "model.gltf").write_text(json.dumps(header))
    assert len(reading.read_below(folder, folder / "model.gltf").mesh.triangles) == 2
    for entry in header["buffers"]:
        entry["uri"] = "..%2F" + entry["uri"]
    for file in folder.glob("*.bin"):
        file.rename(tmp_path / file.name)
    (folder / "model.gltf").write_text(json.dumps(header))
    with pytest.raises(util.InputError, match="not found"):
        reading.read_below(folder, folder / "model.gltf")


def test_lines_are_passed_over_and_fans_refused(tmp_path):
    for mode, num_triangles in ((1, 2), (3, 2), (5, 5), (6, None), (9, None)):
        path = write(scene(a=square(), b=square()), tmp_path / "a.glb")
        rewrite(path, lambda header, mode=mode: header["meshes"][1]["primitives"][0].update(mode=mode))
        if num_triangles is None:
            with pytest.raises(util.InputError, match=rf"a\.glb: primitives of mode {mode}"):
                read(path)
        else:
            assert len(read(path).mesh.triangles) == num_triangles


def test_grey_textures_of_16_bits_keep_their_shades(tmp_path):
    grey = Image.fromarray(np.array([[0, 257 * 100]], dtype=np.uint16))
    image = tmp_path / "grey.png"
    grey.save(image)
    path = write(scene(a=square(pbr("wood", texture=TEXTURE))), tmp_path / "a.glb")
    rewrite(path, lambda header: header.update(images=[{"uri": "grey.png"}]))
    assert read(path).mesh.textures[0][0, :, 0].tolist() == [0, 100]


def test_gltf_reads_files_below_its_root_only(tmp_path):
    folder = tmp_path / "chair"
    folder.mkdir()
    for name, data in scene(a=square(pbr("wood", texture=TEXTURE))).export(file_type="gltf").items():
        (folder / name).write_bytes(data)
    assert len(reading.read_below(folder, folder / "model.gltf").mesh.triangles) == 2
    header = json.loads((folder / "model.gltf").read_text())
    (folder / header["buffers"][0]["uri"]).rename(tmp_path / "outside.bin")
    header["buffers"][0]["uri"] = "../outside.bin"
    (folder / "model.gltf").write_text(json.dumps(header))
    with pytest.raises(util.InputError, match=r"model\.gltf: cannot read this glTF file \(\.\./outside\.bin not found\)"):
        reading.read_below(folder, folder / "model.gltf")
    assert len(reading.read_below(tmp_path, folder / "model.gltf").mesh.triangles) == 2


def test_missing_textures_are_named_and_the_plain_colour_taken(tmp_path):
    path = write(scene(a=square(pbr("wood", texture=TEXTURE, baseColorFactor=[255, 0, 0, 255]))), tmp_path / "a.glb")

    def lose(header):
        header["images"] = [{"uri": "lost.png"}]

    rewrite(path, lose)
    named = read(path)
    assert named.faults == (f"{path}: texture lost.png is missing or cannot be read, plain colour used",)
    assert (named.mesh.texture_ids == -1).all() and np.allclose(named.mesh.colours, [1, 0, 0])
    (tmp_path / "lost.png").write_bytes(b"no image")
    assert "lost.png" in read(path).faults[0]


def test_what_would_be_read_wrongly_is_refused_or_reported(tmp_path):
    path = write(scene(a=square(pbr("wood", texture=TEXTURE))), tmp_path / "a.glb")
    rewrite(path, lambda header: header.update(extensionsRequired=["KHR_draco_mesh_compression"]))
    with pytest.raises(util.InputError, match=r"a\.glb: needs the glTF extension KHR_draco_mesh_compression"):
        read(path)
    path = write(scene(a=square(pbr("wood", texture=TEXTURE))), path)
    rewrite(path, lambda header: header["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"].update(texCoord=1))
    assert "second set of coordinates" in read(path).faults[0]
    for change in ({"componentType": 5123}, {"sparse": {}}):
        path = write(scene(a=square()), path)
        rewrite(path, lambda header, change=change: [accessor.update(change) for accessor in header["accessors"]])
        with pytest.raises(util.InputError, match="not stored as plain floats"):
            read(path)


def test_degenerate_triangles_are_counted(tmp_path):
    mesh = square()
    mesh.faces = [[0, 1, 2], [0, 0, 1], [1, 1, 1]]
    named = read(write(scene(a=mesh), tmp_path / "a.glb"))
    assert "2 degenerate" in named.faults[0] and len(named.mesh.triangles) == 1


def test_broken_files_are_reported(tmp_path):
    path = write(scene(a=square()), tmp_path / "a.glb")
    whole = path.read_bytes()
    for content in (b"", b"glTF", b"no glTF at all, but twenty bytes", whole[:60], whole[:-20]):
        path.write_bytes(content)
        with pytest.raises(util.InputError, match=r"a\.glb: cannot read this glTF file"):
            read(path)
    path.write_bytes(whole)
    rewrite(path, lambda header: header.update(meshes=[], nodes=[{"name": "empty"}]))
    with pytest.raises(util.InputError, match=r"a\.glb: (no faces|cannot read)"):
        named_mesh.assemble([read(path)], path)
    mesh = square()
    mesh.faces = [[0, 1, 9]]
    with pytest.raises(util.InputError, match=r"vertices 0 to 9, expected 0 to 3"):
        read(write(scene(a=mesh), path))
    (tmp_path / "a.gltf").write_text("[1]")
    with pytest.raises(util.InputError, match=r"a\.gltf: cannot read this glTF file"):
        read(tmp_path / "a.gltf")
