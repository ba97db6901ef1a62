"""Reads Wavefront OBJ and MTL text, and cuts the polygons into triangles that remember their face.

Library loaders reorder faces, by material or by the number of corners. Here faces stay in the order of the file's
`f` lines, so that labels given per face find theirs.

Shapes: P positions, F faces, C corners of all faces one after the other, T triangles.
"""

from dataclasses import dataclass

import numpy as np

import util

NO_UV = -1  # texture coordinate index of a corner that has none
UNDEFINED_COLOUR = (0.6, 0.6, 0.6)  # of faces whose material no file defines


@dataclass(frozen=True)
class ObjFile:
    """The faces of one OBJ file, in the order of its `f` lines.

    positions:      (P, 3)
    uv:             (Q, 2) texture coordinates, origin at the bottom left
    sizes:          (F,) number of corners of each face
    position_ids:   (C,) index into positions
    uv_ids:         (C,) index into uv, or NO_UV
    material_ids:   (F,) index into material_names
    material_names: list of str
    libraries:      names of MTL files, as the file gives them
    """

    positions: np.ndarray
    uv: np.ndarray
    sizes: np.ndarray
    position_ids: np.ndarray
    uv_ids: np.ndarray
    material_ids: np.ndarray
    material_names: list
    libraries: list


@dataclass(frozen=True)
class Material:
    colour: tuple = UNDEFINED_COLOUR  # Kd, (r, g, b) in [0, 1]
    texture: str = None  # map_Kd, the file's name as the MTL file gives it


def parse_obj(text, name):
    """The ObjFile of a file's text; `name` is what errors call it."""
    positions, uv, sizes, position_ids, uv_ids, material_ids, libraries = [], [], [], [], [], [], []
    material_names, material = {"": 0}, 0
    for number, line in enumerate(text.replace("\\\n", " \n").splitlines(), start=1):
        keyword, *words = line.split() or [""]
        try:
            if keyword == "v":
                positions.append([float(word) for word in words[:3]])
            elif keyword == "vt":
                uv.append([float(word) for word in (words + ["0"])[:2]])
            elif keyword == "f":
                for word in words:
                    position, texture = (word.split("/") + [""])[:2]
                    position_ids.append(_from_zero(position, len(positions)))
                    uv_ids.append(_from_zero(texture, len(uv)) if texture else NO_UV)
                sizes.append(len(words))
                material_ids.append(material)
            elif keyword == "usemtl":
                material = material_names.setdefault(line.split(None, 1)[1].strip(), len(material_names))
            elif keyword == "mtllib":
                libraries.append(line.split(None, 1)[1].strip())
        except (ValueError, IndexError):
            raise util.InputError(f"{name}, line {number}: {line.strip()[:60]!r} is not valid OBJ") from None
    if not sizes:
        raise util.InputError(f"{name}: no faces found, expected an OBJ file with `f` lines")
    return ObjFile(
        np.array(positions), np.array(uv).reshape(-1, 2), np.array(sizes), np.array(position_ids),
        np.array(uv_ids), np.array(material_ids), list(material_names), libraries,
    )


def _from_zero(word, count):
    """Index from zero of an OBJ reference, which counts from 1, or back from the latest if negative."""
    index = int(word)
    index = index - 1 if index > 0 else count + index
    if not 0 <= index < count:
        raise ValueError(word)
    return index


def parse_mtl(text, name):
    """{material name: Material} of a file's text; `name` is what errors call it."""
    materials, current = {}, None
    for number, line in enumerate(text.splitlines(), start=1):
        keyword, *words = line.split() or [""]
        try:
            if keyword == "newmtl":
                current = line.split(None, 1)[1].strip()
                materials[current] = Material()
            elif keyword == "Kd":
                red, green, blue = (min(max(float(word), 0.0), 1.0) for word in words)
                materials[current] = Material((red, green, blue), materials[current].texture)
            elif keyword == "map_Kd":
                materials[current] = Material(materials[current].colour, line.split(None, 1)[1].strip())
        except (ValueError, IndexError, KeyError):
            raise util.InputError(f"{name}, line {number}: {line.strip()[:60]!r} is not valid MTL") from None
    return materials


def triangulate(obj):
    """Cuts faces into triangles: (T, 3) indices of corners (of C), and (T,) the face of each.

    Concave faces are cut inside their outline; faces without area may give no triangle.
    """
    first = np.cumsum(obj.sizes) - obj.sizes
    corners = obj.positions[obj.position_ids]
    is_triangle, is_quad = obj.sizes == 3, obj.sizes == 4
    triangles = [first[is_triangle, None] + np.arange(3)]
    face_ids = [np.flatnonzero(is_triangle)]

    quads = first[is_quad, None] + np.arange(4)
    triangles.append(_cut_quads(corners[quads]) + quads[:, :1, None])
    face_ids.append(np.repeat(np.flatnonzero(is_quad), 2))
    for face in np.flatnonzero(obj.sizes > 4):
        cut = _cut_polygon(corners[first[face] : first[face] + obj.sizes[face]])
        triangles.append(cut + first[face])
        face_ids.append(np.full(len(cut), face))
    return np.concatenate([t.reshape(-1, 3) for t in triangles]), np.concatenate(face_ids)


def _cut_quads(corners):
    """(n, 4, 3) to (n, 2, 3) corners of two triangles each, along the diagonal that lies inside."""
    def normal(a, b, c):
        return np.cross(corners[:, b] - corners[:, a], corners[:, c] - corners[:, a])

    inside = (normal(0, 1, 2) * normal(0, 2, 3)).sum(axis=1) >= 0
    return np.where(inside[:, None, None], [[0, 1, 2], [0, 2, 3]], [[0, 1, 3], [1, 2, 3]])


def _cut_polygon(corners):
    """(n, 3) corners of a flat polygon to (m, 3) indices, by clipping ears."""
    try:
        import mapbox_earcut
    except ImportError as error:
        raise util.InputError(
            f"cutting polygons into triangles needs mapbox_earcut, but {error}; "
            "run `pip install -r requirements-data.txt`"
        ) from None
    following = np.roll(corners, -1, axis=0)
    normal = np.cross(corners - corners[0], following - corners[0]).sum(axis=0)  # twice the area, along the normal
    dropped = np.abs(normal).argmax()
    flat = np.ascontiguousarray(np.delete(corners, dropped, axis=1))
    ring_ends = np.array([len(flat)], dtype=np.uint32)
    return mapbox_earcut.triangulate_float64(flat, ring_ends).reshape(-1, 3).astype(int)
