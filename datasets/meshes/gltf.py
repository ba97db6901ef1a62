"""Reads glTF 2.0 (.glb, .gltf) with trimesh: node transforms, names, base colours and their textures.

glTF stores base colour factors and vertex colours linear and textures in sRGB; a Mesh has sRGB throughout. The alpha
of a texture counts only if its material says so (MASK, BLEND); the alpha of a plain colour is ignored.

Shapes: V vertices, T triangles.
"""

import contextlib
import hashlib
import io
import json
import struct
import urllib.parse
from dataclasses import replace

import numpy as np

import util
from datasets.meshes import named_mesh, textures, triangle_mesh

FLOAT = 5126  # the only componentType that trimesh reads correctly for these attributes
MODES = range(6)  # of primitives: points, lines, and the triangles that trimesh reads; it drops fans (6) silently
TRIANGLES = 4  # the default mode
BINARY_CHUNK = "binary chunk of the .glb"  # the URI by which trimesh asks for it
READ_EXTENSIONS = {"KHR_materials_unlit", "KHR_materials_pbrSpecularGlossiness", "EXT_texture_webp"}


def read(path, data, open_file):
    """The NamedMesh of a file's bytes; see `reading.read` for `open_file`.

    Objects have the name of their node, groups that of the node's parent.
    """
    trimesh = util.load_library("trimesh", f"{path}: reading glTF")
    header, binary = _parse(path, data)
    try:
        texture_names, faults = _check(header, path)
        file = io.BytesIO(json.dumps(_simplified(header)).encode())
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {error}") from None
    files = _Files(path.parent, open_file, binary)
    try:
        scene = trimesh.load_scene(file, file_type="gltf", resolver=files, process=False)
        placed = [(node, *scene.graph[node]) for node in scene.graph.nodes_geometry]
    except Exception as error:  # trimesh lets through whatever its parser raises on a broken file
        reason = f"{', '.join(files.missing)} not found" if files.missing else f"{type(error).__name__}: {error}"
        raise _unreadable(path, reason) from None

    pieces, images = [], _Textures(path, texture_names, faults)
    order = {name: i for i, name in enumerate(scene.geometry)}  # as in the file, which trimesh's walk does not keep
    for node, transform, name in sorted(placed, key=lambda entry: (order[entry[2]], entry[1].tolist())):
        geometry = scene.geometry[name]
        if not isinstance(geometry, trimesh.Trimesh) or not len(geometry.faces):
            continue  # lines and points
        if geometry.vertices.shape[1:] != (3,):
            raise util.InputError(f"{path}: the vertices of {name} are {geometry.vertices.shape}, expected (V, 3)")
        low, high, last = geometry.faces.min(), geometry.faces.max(), len(geometry.vertices) - 1
        if low < 0 or high > last:
            raise util.InputError(f"{path}: faces of {name} refer to vertices {low} to {high}, expected 0 to {last}")
        pieces.append(_place(geometry, transform, _names(scene.graph, header, node, name, geometry), images))
    if not pieces:
        return named_mesh.empty(f"{path}: no faces found, expected a scene with at least one mesh of triangles; left out")
    whole = named_mesh.join(pieces)
    whole = replace(whole, mesh=replace(whole.mesh, textures=images.images), faults=tuple(images.faults))
    return named_mesh.without_flat(whole, path, num_lost=0)


def _unreadable(path, reason):
    return util.InputError(f"{path}: cannot read this glTF file ({reason}); export it again")


def _parse(path, data):
    """(JSON of a file, binary chunk of a .glb or None)."""
    try:
        binary = None
        if path.suffix.lower() == ".glb":
            magic, version, _, length, _ = struct.unpack_from("<4s4I", data)
            if magic != b"glTF" or version != 2:
                raise ValueError("it does not begin with glTF and version 2")
            chunk_length, binary = data[20 + length : 24 + length], data[28 + length :]
            if len(binary) < int.from_bytes(chunk_length, "little"):
                raise ValueError("its binary chunk is cut off")
            data = data[20 : 20 + length]
        header = json.loads(data)
        if not isinstance(header, dict):
            raise ValueError("its header is not a JSON object")
        return header, binary
    except (ValueError, struct.error, RecursionError) as error:
        raise _unreadable(path, error) from None


def _simplified(header):
    """The JSON of a .gltf with nodes named "node 0", "node 1", ... and without cameras. A buffer without URI gets one.

    trimesh renames nodes whose name occurs twice or equals that of its own root, and drops the children of a node
    with a camera.
    """
    nodes = [{**node, "name": f"node {i}"} for i, node in enumerate(header.get("nodes", ()))]
    for node in nodes:
        node.pop("camera", None)
    buffers = [{"uri": BINARY_CHUNK, **buffer} for buffer in header.get("buffers", ())]
    return {**header, "buffers": buffers} | ({"nodes": nodes} if nodes else {})


def _check(header, path):
    """({material name: name of its base colour texture}, faults). Raises for content that trimesh misreads."""
    unread = sorted(set(map(str, header.get("extensionsRequired") or ())) - READ_EXTENSIONS)
    if unread:
        raise util.InputError(f"{path}: needs the glTF extension {unread[0]}, which is not supported; export without it")
    for primitive in (p for mesh in header.get("meshes", ()) for p in mesh["primitives"]):
        mode = primitive.get("mode", TRIANGLES)
        if mode not in MODES:
            raise util.InputError(f"{path}: primitives of mode {mode} (6 is fans) are not supported; export triangles")
        for name in {"POSITION", "TEXCOORD_0"} & set(primitive["attributes"]):
            accessor = header["accessors"][primitive["attributes"][name]]
            if accessor["componentType"] != FLOAT or "sparse" in accessor:
                raise util.InputError(f"{path}: {name} is not stored as plain floats; export without compression")
    texture_names, faults = {}, []
    for material in header.get("materials", ()):
        info = material.get("pbrMetallicRoughness", {}).get("baseColorTexture")
        if info is None:
            continue
        source = header["textures"][info["index"]].get("source")
        image = {} if source is None else header["images"][source]
        uri = image.get("uri", "")
        name = image.get("name") if not uri or uri.startswith("data:") else uri
        texture_names[material.get("name")] = name or f"image {source}"
        if info.get("texCoord", 0) or "KHR_texture_transform" in info.get("extensions", {}):
            unsupported = "a second set of coordinates or KHR_texture_transform"
            faults.append(f"{path}: material {material.get('name')} uses {unsupported}; first coordinates used as they are")
    return texture_names, faults


class _Files:
    """Gives trimesh the binary chunk and the files that the JSON names."""

    def __init__(self, folder, open_file, binary):
        self.folder, self.open_file, self.binary, self.missing = folder, open_file, binary, []

    def __getitem__(self, name):
        if name == BINARY_CHUNK and self.binary is not None:
            return self.binary
        for candidate in (name, urllib.parse.unquote(name)):  # a URI, but some programs write the plain name
            with contextlib.suppress(FileNotFoundError):
                return self.open_file(self.folder / candidate)
        self.missing.append(name)
        raise FileNotFoundError(name)


def _names(graph, header, node, geometry_name, geometry):
    """{kind: Names} of the mesh at a node."""
    parents, nodes = graph.transforms.parents, {f"node {i}": given for i, given in enumerate(header["nodes"])}
    if node not in nodes:
        node = parents[node]  # trimesh adds a node per primitive if a mesh has several
    mesh_name = header["meshes"][nodes[node]["mesh"]].get("name", geometry_name)
    names = {
        "object": nodes[node].get("name", mesh_name),
        "group": nodes.get(parents.get(node), {}).get("name", ""),
        "material": getattr(getattr(geometry.visual, "material", None), "name", None) or "",
    }
    return {kind: named_mesh.one_name(str(name), len(geometry.faces)) for kind, name in names.items()}


def _place(geometry, transform, names, images):
    """The NamedMesh of a trimesh geometry, moved by a (4, 4) transform; its texture ids index `images.images`."""
    from trimesh.visual import color

    triangles = np.asarray(geometry.faces, dtype=int)
    visual, num_triangles = geometry.visual, len(triangles)
    texture_id, uv, vertex_colours, factor = triangle_mesh.UNTEXTURED, None, None, np.ones(4)
    colours = np.tile(named_mesh.DEFAULT_COLOUR, (num_triangles, 1))
    if hasattr(visual, "material"):
        factor = _factor(visual.material)
        vertex_colours, uv = visual.vertex_attributes.get("color"), visual.uv
        texture_id = images.add(visual.material)
        colours[:] = color.linear_to_srgb(factor[:3]) if texture_id < 0 else textures.mean_colour(images.images[texture_id])
    elif visual.kind == "vertex":
        vertex_colours = visual.vertex_colors
    if vertex_colours is not None and texture_id < 0:
        colours = color.linear_to_srgb(_unit(vertex_colours)[triangles, :3].mean(axis=1) * factor[:3])
    has_uv = uv is not None and uv.shape == (len(geometry.vertices), 2)
    return named_mesh.build(
        geometry.vertices @ transform[:3, :3].T + transform[:3, 3],
        triangles,
        colours,
        names,
        texture_ids=np.full(num_triangles, texture_id if has_uv else triangle_mesh.UNTEXTURED),
        corner_uv=np.nan_to_num(uv[triangles], posinf=0.0, neginf=0.0) if has_uv else None,
    )


class _Textures:
    """The base colour textures of a file's materials, without duplicates, and their faults."""

    def __init__(self, path, names, faults):
        self.images, self.faults, self._ids, self._path, self._names = [], list(faults), {}, path, names

    def add(self, material):
        """Index of the material's texture in `images`, UNTEXTURED if it has none."""
        try:
            rgba = textures.to_rgba(material.baseColorTexture)
        except Exception:  # it is None for want of an image, and Pillow's decoders raise many kinds of errors
            fault = f"{self._path}: texture {self._names.get(material.name)} is missing or cannot be read, plain colour used"
            if material.name in self._names and fault not in self.faults:
                self.faults.append(fault)
            return triangle_mesh.UNTEXTURED
        rgba = _as_seen(rgba, material)
        key = (rgba.shape, hashlib.sha256(rgba.tobytes()).digest())
        if key not in self._ids:
            self._ids[key] = len(self.images)
            self.images.append(rgba)
        return self._ids[key]


def _as_seen(rgba, material):
    """(H, W, 4) uint8 with the material's factor applied, and alpha as its alpha mode says."""
    from trimesh.visual import color

    factor = _factor(material)
    if (factor[:3] != 1).any():
        levels = color.srgb_to_linear(np.arange(256)[:, None] / 255)
        table = np.round(255 * color.linear_to_srgb(levels * factor[:3])).astype(np.uint8)  # (256, 3)
        rgba[..., :3] = table[rgba[..., :3], np.arange(3)]
    alpha = rgba[..., 3] / 255 * factor[3]
    if material.alphaMode == "MASK":
        alpha = alpha >= (0.5 if material.alphaCutoff is None else material.alphaCutoff)
    elif material.alphaMode != "BLEND":
        alpha = np.ones_like(alpha)
    rgba[..., 3] = np.round(255 * alpha)
    return rgba


def _factor(material):
    """Base colour factor (4,) in [0, 1], linear."""
    return np.ones(4) if material.baseColorFactor is None else _unit(material.baseColorFactor)


def _unit(values):
    """Integers scaled to [0, 1], floats clipped to it."""
    values = np.asarray(values)
    largest = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1.0
    return np.nan_to_num(values.astype(np.float64) / largest).clip(0, 1)
