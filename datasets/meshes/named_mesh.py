"""Meshes whose triangles still have the names that the file gave them: the step between a file and class labels.

Shapes: T triangles.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

import util
from datasets.meshes import polygons, triangle_mesh

NAME_KINDS = ("object", "group", "material")
FLAT = 1e-12  # twice the area over the squared longest edge; a triangle below it is flat up to rounding
MAX_SHOWN = 5  # names in a message
DEFAULT_COLOUR = (0.6, 0.6, 0.6)  # sRGB of surfaces for which no file defines a colour


class Names(NamedTuple):
    """A name for every triangle, "" where the file gives none."""

    names: list  # of str
    ids: np.ndarray  # (T,) index into names


@dataclass(frozen=True)
class NamedMesh:
    """The surface in one file, or in all files of one object.

    mesh:      its labels are all 1
    names:     {kind in NAME_KINDS: Names}
    face_ids:  (T,) index of the face in the file that each triangle is part of
    num_faces: number of faces in the file
    faults:    sentences, each naming a file: what could not be used
    """

    mesh: triangle_mesh.Mesh
    names: dict
    face_ids: np.ndarray
    num_faces: int
    faults: tuple = ()


def build(vertices, triangles, colours, names, face_ids=None, num_faces=None, faults=(), **texture):
    """The NamedMesh of arrays; see triangle_mesh.Mesh for `texture`. Without `face_ids` every triangle is a face."""
    labels = np.ones(len(triangles), dtype=np.uint8)
    mesh = triangle_mesh.Mesh(vertices, triangles, labels, colours, **texture)
    face_ids = np.arange(len(triangles)) if face_ids is None else face_ids
    return NamedMesh(mesh, names, face_ids, len(triangles) if num_faces is None else num_faces, tuple(faults))


def one_name(name, num_triangles):
    """The Names of triangles that have one name in common."""
    return Names([name], np.zeros(num_triangles, dtype=int))


def empty(fault):
    """The NamedMesh of a file without faces."""
    names = dict.fromkeys(NAME_KINDS, Names([], np.zeros(0, dtype=int)))
    return build(np.zeros((0, 3)), np.zeros((0, 3), dtype=int), np.zeros((0, 3)), names, faults=[fault])


def listed(names):
    """The first names as text, and the number of the others."""
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(name or "(none)" for name in names[:MAX_SHOWN]) + more


def without_flat(named, path, num_lost):
    """Drops triangles that have no area or a coordinate that is not finite. A fault gives their number.

    num_lost: number of faces of the file that gave no triangle in the first place
    """
    corners = named.mesh.corners
    with np.errstate(all="ignore"):  # coordinates may be NaN or overflow
        longest = ((np.roll(corners, -1, axis=1) - corners) ** 2).sum(axis=-1).max(axis=-1, initial=0)
        _, double_area = triangle_mesh.normals_and_areas(corners)
        sound = np.isfinite(double_area) & np.isfinite(longest) & (double_area > FLAT * longest)
    lost = int((~sound).sum()) + num_lost
    if not lost:
        return named
    fault = f"{path}: {lost} degenerate triangles left out, {int(sound.sum())} kept"
    return replace(_select(named, sound), faults=(*named.faults, fault))


def _select(named, kept):
    """The NamedMesh of the triangles where `kept` (T,) is True."""
    names = {kind: Names(found.names, found.ids[kept]) for kind, found in named.names.items()}
    return replace(named, mesh=triangle_mesh.select(named.mesh, kept), names=names, face_ids=named.face_ids[kept])


def join(pieces):
    """One NamedMesh of one or more."""
    first_face = np.cumsum([0] + [piece.num_faces for piece in pieces])
    return NamedMesh(
        mesh=triangle_mesh.join([piece.mesh for piece in pieces]),
        names={kind: _join_names([piece.names[kind] for piece in pieces]) for kind in NAME_KINDS},
        face_ids=np.concatenate([piece.face_ids + first for piece, first in zip(pieces, first_face)]),
        num_faces=int(first_face[-1]),
        faults=tuple(fault for piece in pieces for fault in piece.faults),
    )


def _join_names(parts):
    names = list(dict.fromkeys(name for part in parts for name in part.names))
    index = {name: i for i, name in enumerate(names)}
    ids = [np.array([index[name] for name in part.names], dtype=int)[part.ids] for part in parts]
    return Names(names, np.concatenate(ids))


def assemble(pieces, path):
    """One NamedMesh of the files of an object, without repeated triangles. Raises InputError, naming `path`, if empty."""
    whole = join(pieces)
    if not len(whole.mesh.triangles):
        raise util.InputError(f"{path}: no triangle has an area ({'; '.join(whole.faults)}); expected a surface")
    vertices, triangles = whole.mesh.vertices, whole.mesh.triangles
    return _select(whole, polygons.first_of_each_face(vertices, np.full(len(triangles), 3), triangles.ravel()))
