"""Reads a mesh from disk, OBJ, glTF or PLY by its suffix, with colours, textures and the names of its parts."""

from pathlib import Path

import numpy as np
from PIL import Image

import util
from datasets.meshes import gltf, named_mesh, obj, ply, triangle_mesh

SUFFIXES = (".obj", ".glb", ".gltf", ".ply")
MAX_NAMED = 3  # files in a sentence


def read(path, root):
    """The NamedMesh of one file; it may have no triangle. Faces that no object line names get the file's stem.

    root: folder below which material libraries and textures must lie; others count as missing
    """
    path, root = Path(path), Path(root)
    try:
        return _read(path, root)
    except obj.NoFaces as error:
        return named_mesh.empty(f"{error}; left out")


def _read(path, root):
    if path.suffix.lower() == ".obj":
        return _read_obj(path, root)
    if path.suffix.lower() in (".glb", ".gltf"):
        return gltf.read(path, root)
    if path.suffix.lower() == ".ply":
        return ply.read(path)
    raise util.InputError(f"{path}: cannot read this kind of file; expected {', '.join(SUFFIXES)}")


def _read_obj(path, root):
    parsed = obj.parse_obj(_read_text(path), path)
    missing, unreadable = {}, {}  # names, in order
    faults, defined = [], set()

    def find(name):
        return named_mesh.file_below(root, path.parent, name.replace("\\", "/"))

    def read_mtl(name):
        several = [part for part in name.split() if find(part)]  # a line may name several, and a name may have blanks
        materials = {}
        for library in map(find, [name] if find(name) else several):
            materials.update(obj.parse_mtl(_read_text(library), library, faults))
        defined.update(materials)
        if not find(name) and not several:
            missing[name] = True
        return materials

    cache = {}

    def read_texture(name):
        if name not in cache:
            texture = find(name)
            try:
                cache[name] = None if texture is None else _read_image(texture)
            except Exception:  # pillow raises whatever its decoder does
                cache[name] = None
            if cache[name] is None:
                (missing if texture is None else unreadable)[name] = True
        return cache[name]

    colours, textures = obj.appearance(parsed, read_mtl, read_texture)
    is_defined = np.array([name in defined for name in parsed.material_names])
    # Without a library, materials may be there to name parts only; and one that is missing is told as it is.
    is_told = is_defined | (not parsed.libraries or any(library in missing for library in parsed.libraries))
    undefined = [
        parsed.material_names[i] for i in np.unique(parsed.material_ids) if not is_told[i] and parsed.material_names[i]
    ]
    faults += [
        f"{path}: {_listed(names)} {what}, plain colour taken"
        for names, what in (
            (list(missing), f"not found below {root}"),
            (list(unreadable), "cannot be read"),
            (undefined, f"not defined as a material in {_listed(parsed.libraries)}"),
        )
        if names
    ]

    corner_ids, face_ids = obj.triangulate(parsed)
    num_lost = len(parsed.sizes) - len(np.unique(face_ids))
    kept = obj.first_of_each_face(parsed)[face_ids]
    corner_ids, face_ids = corner_ids[kept], face_ids[kept]
    uv_ids, material_ids = parsed.uv_ids[corner_ids], parsed.material_ids[face_ids]
    texture_of = {material: i for i, material in enumerate(textures)}
    texture_ids = np.array([texture_of.get(i, triangle_mesh.UNTEXTURED) for i in range(len(colours))])[material_ids]
    no_uv = (uv_ids == obj.NO_UV).any(axis=1)
    uv = np.nan_to_num(np.concatenate([parsed.uv, [[0.0, 0.0]]]), posinf=0.0, neginf=0.0)  # NO_UV picks the last
    triangles, colours = parsed.position_ids[corner_ids], colours[material_ids]
    vertex_colours = parsed.vertex_colours[triangles].mean(axis=1)
    has_own = np.isfinite(vertex_colours).all(axis=1) & ~is_defined[material_ids]
    mesh = triangle_mesh.Mesh(
        vertices=parsed.positions,
        triangles=triangles,
        labels=named_mesh.label_all(len(corner_ids)),
        colours=np.where(has_own[:, None], vertex_colours, colours),
        texture_ids=np.where(no_uv, triangle_mesh.UNTEXTURED, texture_ids),
        corner_uv=uv[uv_ids],
        textures=list(textures.values()),
    )
    names = {
        "object": named_mesh.Names([name or path.stem for name in parsed.object_names], parsed.object_ids[face_ids]),
        "group": named_mesh.Names(parsed.group_names, parsed.group_ids[face_ids]),
        "material": named_mesh.Names(parsed.material_names, material_ids),
    }
    return named_mesh.without_flat(named_mesh.NamedMesh(mesh, names, tuple(faults)), path, num_lost)


def _read_text(path):
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise util.InputError(f"{path}: cannot be read ({error.strerror})") from None


def _read_image(path):
    with Image.open(path) as image:
        return named_mesh.to_rgba(image)


def _listed(names):
    shown = ", ".join(names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown} and {len(names) - MAX_NAMED} more"
