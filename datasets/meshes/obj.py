"""Reads Wavefront OBJ: polygons with texture coordinates and the names of objects, groups and materials.

Faces stay in the order of the file's `f` lines, so that labels per face stay valid.

Shapes: P positions, F faces, C corners of all faces in order, M materials, T triangles.
"""

import re
import sys
from dataclasses import dataclass

import numpy as np

import util
from datasets.meshes import mtl, named_mesh, polygons, triangle_mesh

NAMING = {"o": "object", "g": "group", "usemtl": "material"}  # keywords that name the faces after them
NO_UV = -1  # texture coordinate index of a corner that has none
NO_COLOUR = (float("nan"),) * 3
BYTES_FROM = 2.0  # vertex colours that reach this value are in [0, 255], all others in [0, 1]


@dataclass(frozen=True)
class ObjFile:
    """The faces of an OBJ file. A face before any `o`, `g` or `usemtl` has the name "".

    positions:      (P, 3)
    sizes:          (F,) number of corners of each face
    position_ids:   (C,) index into positions
    uv:             (Q, 2) texture coordinates, origin at the bottom left
    uv_ids:         (C,) index into uv, or NO_UV
    names:          {kind: Names with ids (F,)}; if a face has several groups, their names are one string with blanks
    libraries:      names of MTL files, as in the file
    vertex_colours: (P, 3) in [0, 1], NaN where a `v` line has none
    """

    positions: np.ndarray
    sizes: np.ndarray
    position_ids: np.ndarray
    uv: np.ndarray
    uv_ids: np.ndarray
    names: dict
    libraries: list
    vertex_colours: np.ndarray


def read(path, data, open_file):
    """The NamedMesh of a file's bytes. Faces before any `o` line have the stem of `path` as their object's name.

    Colours are those of textures, else of materials, else of vertices. See `reading.read` for `open_file`.
    """
    obj = parse(data.decode("utf-8", errors="replace"), path)
    if not len(obj.sizes):
        return named_mesh.empty(f"{path}: no faces found, expected an OBJ file with `f` lines; left out")
    material_names, material_ids = obj.names["material"]
    look = mtl.read(obj.libraries, material_names, np.unique(material_ids).tolist(), path, open_file)
    corner_ids, face_ids, num_lost = polygons.triangulate(obj.positions, obj.sizes, obj.position_ids)
    triangles, uv_ids, material_ids = obj.position_ids[corner_ids], obj.uv_ids[corner_ids], material_ids[face_ids]

    vertex_colours = obj.vertex_colours[triangles].mean(axis=1)
    has_own = np.isfinite(vertex_colours).all(axis=1) & ~look.is_defined[material_ids]
    texture_of = np.full(len(material_names), triangle_mesh.UNTEXTURED)
    texture_of[list(look.textures)] = np.arange(len(look.textures))
    uv = np.nan_to_num(np.concatenate([obj.uv, [[0.0, 0.0]]]), posinf=0.0, neginf=0.0)  # NO_UV picks the last
    names = {kind: named_mesh.Names(found.names, found.ids[face_ids]) for kind, found in obj.names.items()}
    names["object"] = names["object"]._replace(names=[name or path.stem for name in names["object"].names])
    named = named_mesh.build(
        obj.positions,
        triangles,
        np.where(has_own[:, None], vertex_colours, look.colours[material_ids]),
        names,
        face_ids,
        len(obj.sizes),
        look.faults,
        texture_ids=np.where((uv_ids == NO_UV).any(axis=1), triangle_mesh.UNTEXTURED, texture_of[material_ids]),
        corner_uv=uv[uv_ids],
        textures=list(look.textures.values()),
    )
    return named_mesh.without_flat(named, path, num_lost)


def parse(text, name):
    """The ObjFile of a file's text. Raises InputError with `name` and the line if the text is not valid."""
    positions, colours, uv, sizes, position_ids, uv_ids, libraries, face_lines = [], [], [], [], [], [], [], []
    lines = re.sub(r"\\\r?\n", " ", text.removeprefix("\ufeff")).splitlines()
    names = {keyword: {"": 0} for keyword in NAMING}
    current, ids = dict.fromkeys(NAMING, 0), {keyword: [] for keyword in NAMING}
    for number, line in enumerate(lines):
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
            elif keyword in NAMING:  # names may contain "#"
                words = line.split(None, 1)[1:] or [""]
                current[keyword] = names[keyword].setdefault(words[0].strip(), len(names[keyword]))
            elif keyword == "mtllib":
                libraries.append(line.split(None, 1)[1].strip())
        except (ValueError, IndexError):
            raise _invalid(name, number, line) from None
    position_ids, uv_ids = np.array(position_ids, dtype=int), np.array(uv_ids, dtype=int)
    beyond = (position_ids >= len(positions)) | (uv_ids >= len(uv))  # only known here: faces may precede vertices
    if beyond.any():
        number = np.repeat(face_lines, sizes)[beyond.argmax()]
        raise _invalid(name, number, lines[number])
    colours = np.array(colours).reshape(-1, 3)
    return ObjFile(
        positions=np.array(positions).reshape(-1, 3),
        sizes=np.array(sizes, dtype=int),
        position_ids=position_ids,
        uv=np.array(uv).reshape(-1, 2),
        uv_ids=uv_ids,
        names={kind: named_mesh.Names(list(names[word]), np.array(ids[word], dtype=int)) for word, kind in NAMING.items()},
        libraries=libraries,
        vertex_colours=(colours / 255 if (colours >= BYTES_FROM).any() else colours).clip(0, 1),
    )


def _invalid(name, number, line):
    return util.InputError(f"{name}, line {number + 1}: {line.strip()[:60]!r} is not valid OBJ")


def _from_zero(word, count):
    """Index from 0 of an OBJ reference, which counts from 1, or backwards from the last of `count` if negative."""
    index = int(word)
    if index == 0 or index < -count:
        raise ValueError(word)
    return min(index, sys.maxsize) - 1 if index > 0 else count + index
