"""Reads glTF 2.0 (.glb, .gltf) with trimesh: node transforms, names, base colours and their textures.

glTF keeps base colour factors and vertex colours linear and textures in sRGB; a Mesh has sRGB throughout. The alpha
of a texture counts where its material says so (MASK, BLEND); that of a plain colour never does.

Shapes: V vertices, T triangles.
"""

import hashlib
import io
import json
import urllib.parse
from dataclasses import replace

import numpy as np

import util
from datasets.meshes import named_mesh, obj, triangle_mesh

FLOAT = 5126  # the componentType that trimesh reads as it is meant
MODES = range(6)  # of primitives: points, lines, and the triangles that trimesh reads; it drops fans without a word
TRIANGLES = 4  # the mode where none is given
READ_EXTENSIONS = {"KHR_materials_unlit", "KHR_materials_pbrSpecularGlossiness", "EXT_texture_webp"}


def read(path, root):
    """The NamedMesh of a file, flat triangles left out. Files that it refers to must lie below the folder `root`.

    Objects are named by their node, groups by the node's parent.
    """
    try:
        import trimesh
    except ImportError as error:
        advice = "run `pip install -r requirements-data.txt`"
        raise util.InputError(f"{path}: reading glTF needs trimesh, but {error}; {advice}") from None
    header, binary = _header(path)
    try:
        texture_names, faults = _check(header, path)
        data = _simplified(header, binary)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise util.InputError(f"{path}: cannot be read as glTF ({type(error).__name__}: {error}); export it again") from None
    files = _Files(path.parent, root)
    try:
        scene = trimesh.load_scene(io.BytesIO(data), file_type=path.suffix[1:].lower(), resolver=files, process=False)
        placed = [(node, *scene.graph[node]) for node in scene.graph.nodes_geometry]
    except Exception as error:  # trimesh raises whatever a broken file makes its parser meet
        reason = f"{', '.join(files.missing)} not found" if files.missing else f"{type(error).__name__}: {error}"
        raise util.InputError(f"{path}: cannot be read as glTF ({reason}); export it again") from None

    pieces, textures = [], _Textures(path, texture_names, faults)
    order = {name: i for i, name in enumerate(scene.geometry)}  # as in the file; nodes come as trimesh walks
    for node, transform, name in sorted(placed, key=lambda entry: (order[entry[2]], entry[1].tolist())):
        geometry = scene.geometry[name]
        if not isinstance(geometry, trimesh.Trimesh) or not len(geometry.faces):
            continue  # lines and points
        if geometry.vertices.shape[1:] != (3,):
            raise util.InputError(f"{path}: the vertices of {name} are {geometry.vertices.shape}, expected (V, 3)")
        if not 0 <= geometry.faces.min() <= geometry.faces.max() < len(geometry.vertices):
            raise util.InputError(
                f"{path}: faces of {name} refer to vertices {geometry.faces.min()} to {geometry.faces.max()}, "
                f"it has {len(geometry.vertices)}, counted from 0"
            )
        names = _names(scene.graph, header, node, name, geometry)
        each = np.zeros(len(geometry.faces), dtype=int)
        pieces.append(
            named_mesh.NamedMesh(
                _place(geometry, transform, textures),
                {kind: named_mesh.Names([names[kind]], each) for kind in named_mesh.NAME_KINDS},
            )
        )
    if not pieces:
        raise obj.NoFaces(f"{path}: no faces found, expected a scene with at least one mesh of triangles")
    whole = named_mesh.join(pieces)
    mesh = replace(whole.mesh, textures=textures.images)
    return named_mesh.without_flat(named_mesh.NamedMesh(mesh, whole.names, tuple(textures.faults)), path)


def _header(path):
    """(the JSON of a file, None or of a .glb what frames it: the 20 bytes before it and the bytes behind it)."""
    try:
        data, binary = path.read_bytes(), None
        if path.suffix.lower() == ".glb":
            magic, _, _, length, _ = np.frombuffer(data[:20], "<u4").tolist()
            if magic != int.from_bytes(b"glTF", "little"):
                raise ValueError("it does not begin with glTF")
            data, binary = data[20 : 20 + length], (data[:20], data[20 + length :])
        header = json.loads(data)
        if not isinstance(header, dict):
            raise ValueError("its header is no JSON object")
        return header, binary
    except (OSError, ValueError, RecursionError) as error:
        raise util.InputError(f"{path}: cannot be read as glTF ({error}); export it again") from None


def _simplified(header, binary):
    """The bytes of a file whose nodes are called "node 0", "node 1", ... and have no cameras, see `_header`.

    trimesh renames nodes whose name occurs twice or is that of its own root, so that theirs would not be the file's,
    and drops what hangs on a node with a camera.
    """
    nodes = [{**node, "name": _own_name(i)} for i, node in enumerate(header.get("nodes", ()))]
    for node in nodes:
        node.pop("camera", None)
    text = json.dumps({**header, "nodes": nodes} if nodes else header).encode()
    if binary is None:
        return text
    start, rest = binary
    text += b" " * (-len(text) % 4)
    lengths = [(20 + len(text) + len(rest)).to_bytes(4, "little"), len(text).to_bytes(4, "little")]
    return b"".join([start[:8], *lengths, start[16:], text, rest])


def _own_name(i):
    return f"node {i}"


def _check(header, path):
    """Refuses what trimesh would read as something else; the names of base colour textures by material, and faults."""
    unread = sorted(set(map(str, header.get("extensionsRequired") or ())) - READ_EXTENSIONS)
    if unread:
        raise util.InputError(f"{path}: needs the glTF extension {unread[0]}, which is not read; export it without")
    for primitive in (p for mesh in header.get("meshes", ()) for p in mesh["primitives"]):
        mode = primitive.get("mode", TRIANGLES)
        if mode not in MODES:
            raise util.InputError(f"{path}: has primitives of mode {mode} (6 are fans), which are not read; export triangles")
        for name in {"POSITION", "TEXCOORD_0"} & set(primitive["attributes"]):
            accessor = header["accessors"][primitive["attributes"][name]]
            if accessor["componentType"] != FLOAT or "sparse" in accessor:
                raise util.InputError(f"{path}: {name} is not stored as plain floats; export it without compression")
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
            faults.append(
                f"{path}: the texture of material {material.get('name')} is placed by a second set of coordinates "
                "or KHR_texture_transform, which is not read"
            )
    return texture_names, faults


class _Files:
    """Gives trimesh the files beside a .gltf by name, none from outside `root`."""

    def __init__(self, folder, root):
        self.folder, self.root, self.missing = folder, root, []

    def __getitem__(self, name):
        names = name, urllib.parse.unquote(name)  # a URI, but some write the name as it is
        path = next(filter(None, (named_mesh.file_below(self.root, self.folder, each) for each in names)), None)
        if path is None:
            self.missing.append(name)
            raise FileNotFoundError(name)
        return path.read_bytes()


def _names(graph, header, node, geometry_name, geometry):
    """{kind: name} of a node's mesh."""
    parents, nodes = graph.transforms.parents, {_own_name(i): given for i, given in enumerate(header["nodes"])}
    material = getattr(getattr(geometry.visual, "material", None), "name", None) or ""
    if node not in nodes:
        node = parents[node]  # one primitive of several, on a node that trimesh made for it
    mesh_name = header["meshes"][nodes[node]["mesh"]].get("name", geometry_name)
    return {
        "object": str(nodes[node].get("name", mesh_name)),
        "group": str(nodes.get(parents.get(node), {}).get("name", "")),
        "material": str(material),
    }


def _place(geometry, transform, textures):
    """The Mesh of a trimesh geometry, moved by a (4, 4) transform; its texture ids count in `textures.images`."""
    triangles = np.asarray(geometry.faces, dtype=int)
    visual, num_triangles = geometry.visual, len(triangles)
    texture_id, uv, vertex_colours = triangle_mesh.UNTEXTURED, None, None
    colours = np.full((num_triangles, 3), obj.UNDEFINED_COLOUR)
    if hasattr(visual, "material"):
        factor = _factor(visual.material)
        vertex_colours, uv = visual.vertex_attributes.get("color"), visual.uv
        texture_id = textures.add(visual.material)
        colours[:] = to_srgb(factor[:3]) if texture_id < 0 else obj.mean_colour(textures.images[texture_id])
    elif visual.kind == "vertex":
        factor, vertex_colours = np.ones(4), visual.vertex_colors
    if vertex_colours is not None and texture_id < 0:
        colours = to_srgb(_unit(vertex_colours)[triangles, :3].mean(axis=1) * factor[:3])
    has_uv = uv is not None and uv.shape == (len(geometry.vertices), 2)
    return triangle_mesh.Mesh(
        vertices=geometry.vertices @ transform[:3, :3].T + transform[:3, 3],
        triangles=triangles,
        labels=named_mesh.label_all(num_triangles),
        colours=colours,
        texture_ids=np.full(num_triangles, texture_id if has_uv else triangle_mesh.UNTEXTURED),
        corner_uv=np.nan_to_num(uv[triangles], posinf=0.0, neginf=0.0) if has_uv else None,
    )


class _Textures:
    """The base colour textures of a file's materials, each once, and what was wrong with them."""

    def __init__(self, path, names, faults):
        self.images, self.faults, self._ids, self._path, self._names = [], list(faults), {}, path, names

    def add(self, material):
        """Index of the material's texture in `images`, UNTEXTURED where it has none."""
        image = material.baseColorTexture
        try:
            rgba = None if image is None else named_mesh.to_rgba(image)
        except Exception:  # pillow raises whatever its decoder does
            rgba = None
        if rgba is None:
            fault = f"{self._path}: texture {self._names.get(material.name)} is missing or cannot be read, plain colour taken"
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
    """(H, W, 4) uint8 with the material's factor applied, and alpha as its mode has it."""
    factor = _factor(material)
    if (factor[:3] != 1).any():
        rgba[..., :3] = np.round(255 * to_srgb(to_linear(np.arange(256)[:, None] / 255) * factor[:3])).astype(np.uint8)[
            rgba[..., :3], np.arange(3)
        ]
    alpha = rgba[..., 3] / 255 * factor[3]
    if material.alphaMode == "BLEND":
        rgba[..., 3] = np.round(255 * alpha)
    elif material.alphaMode == "MASK":
        rgba[..., 3] = 255 * (alpha >= (0.5 if material.alphaCutoff is None else material.alphaCutoff))
    else:
        rgba[..., 3] = 255
    return rgba


def _factor(material):
    """Base colour factor (4,) in [0, 1], linear."""
    return np.ones(4) if material.baseColorFactor is None else _unit(material.baseColorFactor)


def _unit(values):
    """Whole numbers to [0, 1], floats clipped to it."""
    values = np.asarray(values)
    largest = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1.0
    return np.nan_to_num(values.astype(np.float64) / largest).clip(0, 1)


def to_srgb(linear):
    """Linear values in [0, 1] to sRGB, whatever the shape."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


def to_linear(srgb):
    """sRGB in [0, 1] to linear values, whatever the shape."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
