"""Reads Wavefront OBJ and MTL text, and cuts the polygons into triangles that remember their face.

Library loaders reorder faces, by material or by the number of corners. Here faces stay in the order of the file's
`f` lines, so that labels given per face find theirs.

Shapes: P positions, F faces, C corners of all faces one after the other, M materials, T triangles.
"""

import re
import sys
from dataclasses import dataclass

import numpy as np

import util

NAMING = ("o", "g", "usemtl")  # keywords that name the faces that follow
NO_UV = -1  # texture coordinate index of a corner that has none
NO_COLOUR = (float("nan"),) * 3
UNDEFINED_COLOUR = (0.6, 0.6, 0.6)  # of faces whose material no file defines
_NUMBER = r"[-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?\s+"
MAP_OPTIONS = re.compile(  # before the file's name in map_Kd; none of them is applied
    rf"^(?:\s*(?:-(?:s|o|t)\s+(?:{_NUMBER}){{1,3}}|-mm\s+(?:{_NUMBER}){{2}}|-(?:bm|boost|texres)\s+{_NUMBER}"
    r"|-(?:blendu|blendv|cc|clamp)\s+(?:on|off)\s+|-(?:imfchan|type)\s+\w+\s+))+"
)
COMMENT = re.compile(r"(\.\w+)\s+#.*$")  # after the file's name in map_Kd; "wood #2.png" is a name
BYTES_FROM = 2.0  # colours of vertices that reach it go up to 255 instead of 1


class NoFaces(util.InputError):
    """A file that can be read but has no surface."""


@dataclass(frozen=True)
class Polygons:
    """Faces with any number of corners.

    positions:    (P, 3)
    sizes:        (F,) number of corners of each face
    position_ids: (C,) index into positions
    """

    positions: np.ndarray
    sizes: np.ndarray
    position_ids: np.ndarray


@dataclass(frozen=True)
class ObjFile(Polygons):
    """The faces of one OBJ file, in the order of its `f` lines. A face before any `o`, `g`, `usemtl` has the name "".

    uv:             (Q, 2) texture coordinates, origin at the bottom left
    uv_ids:         (C,) index into uv, or NO_UV
    material_ids:   (F,) index into material_names
    material_names: list of str
    object_ids:     (F,) index into object_names, what `o` lines give
    object_names:   list of str
    group_ids:      (F,) index into group_names, what `g` lines give; several groups of a face are one name with blanks
    group_names:    list of str
    libraries:      names of MTL files, as the file gives them
    vertex_colours: (P, 3) in [0, 1], NaN where a `v` line has none
    """

    uv: np.ndarray
    uv_ids: np.ndarray
    material_ids: np.ndarray
    material_names: list
    object_ids: np.ndarray
    object_names: list
    group_ids: np.ndarray
    group_names: list
    libraries: list
    vertex_colours: np.ndarray


@dataclass(frozen=True)
class Material:
    colour: tuple = UNDEFINED_COLOUR  # Kd, (r, g, b) in [0, 1]
    texture: str = None  # map_Kd, the name of the file without options, with forward slashes


def parse_obj(text, name):
    """The ObjFile of a file's text; `name` is what errors call it. Raises NoFaces where it has none."""
    positions, colours, uv, sizes, position_ids, uv_ids, libraries = [], [], [], [], [], [], []
    lines, face_lines = re.sub(r"\\\r?\n", " ", text.removeprefix("\ufeff")).splitlines(), []
    names = {keyword: {"": 0} for keyword in NAMING}
    current, ids = dict.fromkeys(NAMING, 0), {keyword: [] for keyword in NAMING}
    for number, line in enumerate(lines):
        keyword, *words = line.split() or [""]
        if "#" in line:  # a comment, but for names, which may have one
            keyword, *words = line.partition("#")[0].split() or [""]
        try:
            if keyword == "v":
                x, y, z = words[:3]
                positions.append((float(x), float(y), float(z)))
                colours.append([float(word) for word in words[3:6]] if len(words) >= 6 else NO_COLOUR)
            elif keyword == "vt":
                u, v = words[:2] if len(words) > 1 else (words[0], "0")
                uv.append((float(u), float(v)))
            elif keyword == "f":
                for word in words:
                    position, texture = (word.split("/") + [""])[:2]
                    position_ids.append(_from_zero(position, len(positions)))
                    uv_ids.append(_from_zero(texture, len(uv)) if texture else NO_UV)
                sizes.append(len(words))
                face_lines.append(number)
                for kind in NAMING:
                    ids[kind].append(current[kind])
            elif keyword in NAMING:
                name_here = (line.split(None, 1)[1:] or [""])[0].strip()
                current[keyword] = names[keyword].setdefault(name_here, len(names[keyword]))
            elif keyword == "mtllib":
                libraries.append(line.split(None, 1)[1].strip())
        except (ValueError, IndexError):
            raise _invalid(name, number, line) from None
    if not sizes:
        raise NoFaces(f"{name}: no faces found, expected an OBJ file with `f` lines")
    position_ids, uv_ids = np.array(position_ids, dtype=int), np.array(uv_ids, dtype=int)
    beyond = (position_ids >= len(positions)) | (uv_ids >= len(uv))  # faces may come before what they refer to
    if beyond.any():
        number = np.repeat(face_lines, sizes)[beyond.argmax()]
        raise _invalid(name, number, lines[number])
    colours = np.array(colours).reshape(-1, 3)
    colours = colours / 255 if (colours >= BYTES_FROM).any() else colours
    return ObjFile(
        np.array(positions).reshape(-1, 3),
        np.array(sizes),
        position_ids,
        np.array(uv).reshape(-1, 2),
        uv_ids,
        np.array(ids["usemtl"]),
        list(names["usemtl"]),
        np.array(ids["o"]),
        list(names["o"]),
        np.array(ids["g"]),
        list(names["g"]),
        libraries,
        colours.clip(0, 1),
    )


def _invalid(name, number, line):
    return util.InputError(f"{name}, line {number + 1}: {line.strip()[:60]!r} is not valid OBJ")


def _from_zero(word, count):
    """Index from zero of an OBJ reference, which counts from 1, or back from the latest of `count` if negative."""
    index = int(word)
    if index == 0 or index < -count:
        raise ValueError(word)
    return min(index, sys.maxsize) - 1 if index > 0 else count + index


def parse_mtl(text, name, faults=None):
    """{material name: Material} of a file's text. Transparency is not read.

    name:   what faults call the file
    faults: list to which a sentence is added where lines cannot be read; they leave the colour as it is
    """
    materials, current, unread = {}, None, []
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1):
        keyword, rest = (line.split(None, 1) + ["", ""])[:2]
        keyword, rest = keyword.lower(), rest.strip()
        try:
            if keyword == "newmtl":
                current = rest or None
                if not rest:
                    raise ValueError(line)
                materials[current] = Material()
            elif keyword == "kd":
                materials[current] = Material(_colour(rest.partition("#")[0].split()), materials[current].texture)
            elif keyword == "map_kd":
                materials[current] = Material(materials[current].colour, _texture(rest))
        except (ValueError, KeyError):
            unread.append(f"line {number} ({line.strip()[:60]!r})")
    if unread and faults is not None:
        more = f" and {len(unread) - 1} more" if len(unread) > 1 else ""
        faults.append(f"{name}: {unread[0]}{more} cannot be read, plain colour taken")
    return materials


def _colour(words):
    """(r, g, b) in [0, 1] of the numbers of a Kd line; a single one is a grey."""
    colour = np.array([float(word) for word in (words * 3 if len(words) == 1 else words)[:3]])
    if len(colour) < 3 or not np.isfinite(colour).all():
        raise ValueError(words)
    return tuple(colour.clip(0, 1).tolist())


def _texture(text):
    """Name of the file of a map_Kd line, None where it names none."""
    text = MAP_OPTIONS.sub("", text).strip()
    quoted = re.match(r"""(["'])(.+?)\1""", text)
    return (quoted[2] if quoted else COMMENT.sub(r"\1", text)).replace("\\", "/") or None


def appearance(obj, read_mtl, read_texture):
    """What the materials of a file look like. A texture that cannot be had leaves its material the plain colour.

    read_mtl:     from the name of a library to {material name: Material}, empty where there is none
    read_texture: from the name of a texture to (H, W, 4) uint8, or None
    returns       colours (M, 3) sRGB in [0, 1], of textures the mean, for faces without coordinates;
                  {material id: texture}
    """
    defined = {}
    for library in obj.libraries:
        defined.update(read_mtl(library))
    materials = [defined.get(name, Material()) for name in obj.material_names]
    colours, textures = np.array([material.colour for material in materials]), {}
    for i in np.unique(obj.material_ids).tolist():
        texture = materials[i].texture and read_texture(materials[i].texture)
        if texture is not None:
            textures[i], colours[i] = texture, mean_colour(texture)
    return colours, textures


def mean_colour(texture):
    """Mean sRGB (3,) in [0, 1] of what the alpha channel of an (H, W, 4) uint8 texture leaves."""
    weight = texture[..., 3:].astype(np.float64)
    return (texture[..., :3] * weight).sum(axis=(0, 1)) / max(weight.sum(), 1.0) / 255


def first_of_each_face(polygons):
    """(F,) bool: False for faces whose corners lie where those of an earlier face do, in whatever order."""
    _, places = np.unique(polygons.positions, axis=0, return_inverse=True)
    places = places.ravel()[polygons.position_ids]
    starts = np.cumsum(polygons.sizes) - polygons.sizes
    first = np.zeros(len(polygons.sizes), dtype=bool)
    for size in np.unique(polygons.sizes[polygons.sizes > 0]):
        faces = np.flatnonzero(polygons.sizes == size)
        corners = np.sort(places[starts[faces, None] + np.arange(size)], axis=1)
        _, kept = np.unique(corners, axis=0, return_index=True)
        first[faces[kept]] = True
    return first


def triangulate(polygons):
    """Cuts faces into triangles: (T, 3) indices of corners (of C), and (T,) the face of each.

    Concave faces are cut inside their outline; faces without area may give no triangle.
    """
    first = np.cumsum(polygons.sizes) - polygons.sizes
    positions = np.nan_to_num(polygons.positions, posinf=0.0, neginf=0.0)  # such faces are cut anyhow
    corners = positions[polygons.position_ids]
    is_triangle, is_quad = polygons.sizes == 3, polygons.sizes == 4
    triangles = [first[is_triangle, None] + np.arange(3)]
    face_ids = [np.flatnonzero(is_triangle)]

    quads = first[is_quad, None] + np.arange(4)
    triangles.append(_cut_quads(corners[quads]) + quads[:, :1, None])
    face_ids.append(np.repeat(np.flatnonzero(is_quad), 2))
    for face in np.flatnonzero(polygons.sizes > 4):
        cut = _cut_polygon(corners[first[face] : first[face] + polygons.sizes[face]])
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
            f"cutting polygons into triangles needs mapbox_earcut, but {error}; run `pip install -r requirements-data.txt`"
        ) from None
    following = np.roll(corners, -1, axis=0)
    normal = np.cross(corners - corners[0], following - corners[0]).sum(axis=0)  # twice the area, along the normal
    dropped = np.abs(normal).argmax()
    flat = np.ascontiguousarray(np.delete(corners, dropped, axis=1))
    ring_ends = np.array([len(flat)], dtype=np.uint32)
    return mapbox_earcut.triangulate_float64(flat, ring_ends).reshape(-1, 3).astype(int)
