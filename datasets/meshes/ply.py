"""Reads PLY files: polygons, colours of vertices or faces, and integer labels of faces.

Shapes: P positions, F faces, T triangles.
"""

import numpy as np
import plyfile

import util
from datasets.meshes import named_mesh, obj, triangle_mesh

CORNERS = ("vertex_indices", "vertex_index")
LABELS = ("label", "part", "part_id", "class", "class_id", "segment")  # properties of faces that name their part
COLOURS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"))


def read(path):
    """The NamedMesh of a PLY file, flat triangles left out. Objects are named by a face label, else by the file."""
    try:
        ply = plyfile.PlyData.read(path)
    except (plyfile.PlyParseError, OSError, ValueError, EOFError, MemoryError, OverflowError) as error:
        raise util.InputError(f"{path}: cannot be read as a PLY file ({error})") from None
    elements = {element.name: element.data for element in ply.elements}
    vertices, faces = elements.get("vertex"), elements.get("face")
    corners = next((name for name in CORNERS if faces is not None and name in faces.dtype.names), None)
    if corners is None or not len(faces):
        raise obj.NoFaces(f"{path}: no faces found, expected a PLY file with an element face of vertex_indices")
    if vertices is None or not {"x", "y", "z"} <= set(vertices.dtype.names):
        raise util.InputError(f"{path}: no vertices found, expected an element vertex with x, y, z")

    positions = np.stack([vertices[axis] for axis in "xyz"], axis=-1).astype(np.float64)
    sizes = np.array([len(face) for face in faces[corners]])
    position_ids = np.concatenate(list(faces[corners])).astype(int)
    if len(position_ids) and not 0 <= position_ids.min() <= position_ids.max() < len(positions):
        raise util.InputError(
            f"{path}: faces refer to vertices {position_ids.min()} to {position_ids.max()}, "
            f"the file has {len(positions)}, counted from 0"
        )
    polygons = obj.Polygons(positions, sizes, position_ids)
    corner_ids, face_ids = obj.triangulate(polygons)
    num_lost = len(sizes) - len(np.unique(face_ids))
    kept = obj.first_of_each_face(polygons)[face_ids]
    triangles, face_ids = position_ids[corner_ids[kept]], face_ids[kept]

    colours = np.full((len(triangles), 3), obj.UNDEFINED_COLOUR)
    of_faces, of_vertices = _colours(faces), _colours(vertices)
    if of_faces is not None:
        colours = of_faces[face_ids]
    elif of_vertices is not None:
        colours = of_vertices[triangles].mean(axis=1)
    faults = (
        [f"{path}: has a texture, which is not read from PLY files; colours of faces, vertices or a plain one taken"]
        if "texcoord" in faces.dtype.names
        else []
    )
    objects = named_mesh.Names([path.stem], np.zeros(len(triangles), dtype=int))
    label = next((name for name in faces.dtype.names if name.lower() in LABELS and faces.dtype[name].kind in "iu"), None)
    if label is not None:
        values, ids = np.unique(faces[label], return_inverse=True)
        objects = named_mesh.Names([str(value) for value in values], ids.ravel()[face_ids])
    nameless = named_mesh.Names([""], np.zeros(len(triangles), dtype=int))
    mesh = triangle_mesh.Mesh(positions, triangles, named_mesh.label_all(len(triangles)), colours)
    named = named_mesh.NamedMesh(mesh, {"object": objects, "group": nameless, "material": nameless}, tuple(faults))
    return named_mesh.without_flat(named, path, num_lost)


def _colours(rows):
    """(N, 3) in [0, 1] of the properties in COLOURS, floats up to 1 or whole numbers up to 255 or 65535; None without."""
    names = next((names for names in COLOURS if set(names) <= set(rows.dtype.names)), None)
    if names is None:
        return None
    colours, largest = np.stack([rows[name] for name in names], axis=-1), 1.0
    if colours.dtype.kind in "iu":  # the type does not tell: some write 255 as an int
        largest = 255 if colours.max(initial=0) <= 255 else 65535
    return np.nan_to_num(colours.astype(np.float64) / largest).clip(0, 1)
