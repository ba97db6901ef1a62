"""Reads a mesh from disk, OBJ, glTF or PLY by its suffix, with colours, textures and the names of its parts."""

from pathlib import Path

import numpy as np
from PIL import Image

import gltf_files
import mesh_parts
import meshes
import obj_files
import ply_files
import util

SUFFIXES = (".obj", ".glb", ".gltf", ".ply")
MAX_NAMED = 3  # files in a sentence


def read(path, root):
    """The NamedMesh of one file; it may have no triangle. Faces that no object line names get the file's stem.

    root: folder below which material libraries and textures must lie; others count as missing
    """
    path, root = Path(path), Path(root)
    try:
        return _read(path, root)
    except obj_files.NoFaces as error:
        return mesh_parts.empty(f"{error}; left out")


def _read(path, root):
    if path.suffix.lower() == ".obj":
        return _read_obj(path, root)
    if path.suffix.lower() in (".glb", ".gltf"):
        return gltf_files.read(path, root)
    if path.suffix.lower() == ".ply":
        return ply_files.read(path)
    raise util.InputError(f"{path}: cannot read this kind of file; expected {', '.join(SUFFIXES)}")


def _read_obj(path, root):
    obj = obj_files.parse_obj(_read_text(path), path)
    missing, unreadable = {}, {}  # names, in order
    faults, defined = [], set()

    def find(name):
        return mesh_parts.file_below(root, path.parent, name.replace("\\", "/"))

    def read_mtl(name):
        several = [part for part in name.split() if find(part)]  # a line may name several, and a name may have blanks
        materials = {}
        for library in map(find, [name] if find(name) else several):
            materials.update(obj_files.parse_mtl(_read_text(library), library, faults))
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

    colours, textures = obj_files.appearance(obj, read_mtl, read_texture)
    is_defined = np.array([name in defined for name in obj.material_names])
    # Without a library, materials may be there to name parts only; and one that is missing is told as it is.
    is_told = is_defined | (not obj.libraries or any(library in missing for library in obj.libraries))
    undefined = [obj.material_names[i] for i in np.unique(obj.material_ids) if not is_told[i] and obj.material_names[i]]
    faults += [f"{path}: {_listed(names)} {what}, plain colour taken" for names, what in (
        (list(missing), f"not found below {root}"), (list(unreadable), "cannot be read"),
        (undefined, f"not defined as a material in {_listed(obj.libraries)}"),
    ) if names]

    corner_ids, face_ids = obj_files.triangulate(obj)
    num_lost = len(obj.sizes) - len(np.unique(face_ids))
    kept = obj_files.first_of_each_face(obj)[face_ids]
    corner_ids, face_ids = corner_ids[kept], face_ids[kept]
    uv_ids, material_ids = obj.uv_ids[corner_ids], obj.material_ids[face_ids]
    texture_of = {material: i for i, material in enumerate(textures)}
    texture_ids = np.array([texture_of.get(i, meshes.UNTEXTURED) for i in range(len(colours))])[material_ids]
    no_uv = (uv_ids == obj_files.NO_UV).any(axis=1)
    uv = np.nan_to_num(np.concatenate([obj.uv, [[0.0, 0.0]]]), posinf=0.0, neginf=0.0)  # NO_UV picks the last
    triangles, colours = obj.position_ids[corner_ids], colours[material_ids]
    vertex_colours = obj.vertex_colours[triangles].mean(axis=1)
    has_own = np.isfinite(vertex_colours).all(axis=1) & ~is_defined[material_ids]
    mesh = meshes.Mesh(
        vertices=obj.positions,
        triangles=triangles,
        labels=mesh_parts.label_all(len(corner_ids)),
        colours=np.where(has_own[:, None], vertex_colours, colours),
        texture_ids=np.where(no_uv, meshes.UNTEXTURED, texture_ids),
        corner_uv=uv[uv_ids],
        textures=list(textures.values()),
    )
    names = {
        "object": mesh_parts.Names([name or path.stem for name in obj.object_names], obj.object_ids[face_ids]),
        "group": mesh_parts.Names(obj.group_names, obj.group_ids[face_ids]),
        "material": mesh_parts.Names(obj.material_names, material_ids),
    }
    return mesh_parts.without_flat(mesh_parts.NamedMesh(mesh, names, tuple(faults)), path, num_lost)


def _read_text(path):
    try:
        return path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise util.InputError(f"{path}: cannot be read ({error.strerror})") from None


def _read_image(path):
    with Image.open(path) as image:
        return mesh_parts.to_rgba(image)


def _listed(names):
    shown = ", ".join(names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown} and {len(names) - MAX_NAMED} more"
