"""Reads PLY files: polygons, colours of vertices or faces, and integer labels of faces.

Shapes: F faces, N rows of an element.
"""

import io

import numpy as np
import plyfile

import util
from datasets.meshes import named_mesh, polygons

CORNERS = ("vertex_indices", "vertex_index")
LABELS = ("label", "part", "part_id", "class", "class_id", "segment")  # face properties that name the part
COLOURS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"))


def read(path, data, open_file=None):
    """The NamedMesh of a file's bytes. Objects have the name of their face label, else the stem of `path`."""
    errors = (plyfile.PlyParseError, OSError, ValueError, EOFError, MemoryError, OverflowError)
    with util.reading(path, "a PLY file", *errors, advice="; export it again"):
        elements = {element.name: element.data for element in plyfile.PlyData.read(io.BytesIO(data)).elements}
    vertices, faces = elements.get("vertex"), elements.get("face")
    corners = next((name for name in CORNERS if faces is not None and name in faces.dtype.names), None)
    if corners is None or not len(faces):
        return named_mesh.empty(f"{path}: no faces found, expected an element face with vertex_indices; left out")
    if vertices is None or not {"x", "y", "z"} <= set(vertices.dtype.names):
        raise util.InputError(f"{path}: no vertices found, expected an element vertex with x, y, z")

    positions = np.stack([vertices[axis] for axis in "xyz"], axis=-1).astype(np.float64)
    sizes = np.array([len(face) for face in faces[corners]])
    position_ids = np.concatenate(list(faces[corners])).astype(int)
    low, high = position_ids.min(initial=0), position_ids.max(initial=-1)
    if low < 0 or high >= len(positions):
        raise util.InputError(f"{path}: faces refer to vertices {low} to {high}, expected 0 to {len(positions) - 1}")
    corner_ids, face_ids, num_lost = polygons.triangulate(positions, sizes, position_ids)
    triangles = position_ids[corner_ids]

    of_faces, of_vertices = _colours(faces), _colours(vertices)
    if of_faces is not None:
        colours = of_faces[face_ids]
    elif of_vertices is not None:
        colours = of_vertices[triangles].mean(axis=1)
    else:
        colours = np.tile(named_mesh.DEFAULT_COLOUR, (len(triangles), 1))
    has_texture = "texcoord" in faces.dtype.names
    faults = [f"{path}: textures of PLY files are not supported; colours of faces or vertices used"] if has_texture else []

    objects, nameless = named_mesh.one_name(path.stem, len(triangles)), named_mesh.one_name("", len(triangles))
    label = next((name for name in faces.dtype.names if name.lower() in LABELS and faces.dtype[name].kind in "iu"), None)
    if label is not None:
        values, ids = np.unique(faces[label], return_inverse=True)
        objects = named_mesh.Names([str(value) for value in values], ids.ravel()[face_ids])
    names = {"object": objects, "group": nameless, "material": nameless}
    named = named_mesh.build(positions, triangles, colours, names, face_ids, len(sizes), faults)
    return named_mesh.without_flat(named, path, num_lost)


def _colours(rows):
    """(N, 3) in [0, 1] of the properties in COLOURS, None without them. Floats end at 1, integers at 255 or 65535."""
    names = next((names for names in COLOURS if set(names) <= set(rows.dtype.names)), None)
    if names is None:
        return None
    colours, largest = np.stack([rows[name] for name in names], axis=-1), 1.0
    if colours.dtype.kind in "iu":  # not by type: some programs write 255 as an int32
        largest = 255 if colours.max(initial=0) <= 255 else 65535
    return np.nan_to_num(colours.astype(np.float64) / largest).clip(0, 1)
