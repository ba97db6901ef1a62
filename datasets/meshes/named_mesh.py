"""Meshes whose triangles still know what the file called them, on their way to labelled ones.

Shapes: T triangles.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from PIL import Image

import util
from datasets.meshes import obj, triangle_mesh

NAME_KINDS = ("object", "group", "material")
FLAT = 1e-12  # double area by squared longest edge, below which a triangle has no area but that of rounding


class Names(NamedTuple):
    """A name of every triangle, "" where the file gives none."""

    names: list  # of str
    ids: np.ndarray  # (T,) index into names


@dataclass(frozen=True)
class NamedMesh:
    """Surface of a file, or of several that make up one object.

    mesh:   its labels are all 1
    names:  {kind of NAME_KINDS: Names}
    faults: sentences, each naming its file: what had to be left out
    """

    mesh: triangle_mesh.Mesh
    names: dict
    faults: tuple = ()


def file_below(root, folder, name):
    """The path of the file `name`, relative to `folder`, None where there is none or it lies outside `root`."""
    try:
        path = (folder / name).resolve()
        return path if path.is_file() and path.is_relative_to(root.resolve()) else None
    except (OSError, ValueError, RuntimeError):  # a name that no file can have; links in a circle
        return None


def to_rgba(image):
    """(H, W, 4) uint8 of a PIL image. PIL itself clips greys of 16 bits to white."""
    if image.mode.startswith("I"):
        image = Image.fromarray(np.round(np.asarray(image).clip(0, 65535) / 257).astype(np.uint8))
    return np.array(image.convert("RGBA"))


def empty(fault):
    """The NamedMesh of a file without a surface."""
    nothing = Names([], np.zeros(0, dtype=int))
    mesh = triangle_mesh.Mesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=int), label_all(0), np.zeros((0, 3)))
    return NamedMesh(mesh, dict.fromkeys(NAME_KINDS, nothing), (fault,))


def label_all(num_triangles):
    """(T,) labels of what has no parts: 1."""
    return np.ones(num_triangles, dtype=np.uint8)


def without_flat(named, path, num_lost=0):
    """Leaves out triangles without area or with coordinates that are not finite, and says in a fault how many.

    num_lost: how many of the file's faces gave no triangle to begin with
    """
    corners = named.mesh.corners
    with np.errstate(all="ignore"):  # coordinates may be NaN or huge
        edges = np.roll(corners, -1, axis=1) - corners
        longest = (edges**2).sum(axis=-1).max(axis=-1, initial=0)
        double_area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=-1)
        sound = np.isfinite(double_area) & np.isfinite(longest) & (double_area > FLAT * longest)
    lost = int((~sound).sum()) + num_lost
    if not lost:
        return named
    fault = f"{path}: {lost} degenerate triangles left out, {int(sound.sum())} kept"
    return _select(named, sound, (*named.faults, fault))


def _select(named, kept, faults):
    """The triangles `kept` (T,) bool, and the vertices they use."""
    mesh = named.mesh
    used, triangles = np.unique(mesh.triangles[kept], return_inverse=True)
    mesh = replace(
        mesh,
        vertices=mesh.vertices[used],
        triangles=triangles.reshape(-1, 3),
        labels=mesh.labels[kept],
        colours=mesh.colours[kept],
        texture_ids=mesh.texture_ids[kept],
        corner_uv=mesh.corner_uv[kept],
    )
    names = {kind: Names(found.names, found.ids[kept]) for kind, found in named.names.items()}
    return NamedMesh(mesh, names, faults)


def join(pieces):
    """One NamedMesh of several, of which one at least has to be."""
    first_vertex = np.cumsum([0] + [len(piece.mesh.vertices) for piece in pieces])
    first_texture = np.cumsum([0] + [len(piece.mesh.textures) for piece in pieces])
    texture_ids = [
        np.where(piece.mesh.texture_ids >= 0, piece.mesh.texture_ids + first, triangle_mesh.UNTEXTURED)
        for piece, first in zip(pieces, first_texture)
    ]
    mesh = triangle_mesh.Mesh(
        vertices=np.concatenate([piece.mesh.vertices for piece in pieces]),
        triangles=np.concatenate([piece.mesh.triangles + first for piece, first in zip(pieces, first_vertex)]),
        labels=np.concatenate([piece.mesh.labels for piece in pieces]),
        colours=np.concatenate([piece.mesh.colours for piece in pieces]),
        texture_ids=np.concatenate(texture_ids),
        corner_uv=np.concatenate([piece.mesh.corner_uv for piece in pieces]),
        textures=[texture for piece in pieces for texture in piece.mesh.textures],
    )
    names = {kind: _join_names([piece.names[kind] for piece in pieces]) for kind in NAME_KINDS}
    return NamedMesh(mesh, names, tuple(fault for piece in pieces for fault in piece.faults))


def assemble(pieces, path):
    """One NamedMesh of several, without triangles that lie where an earlier one does; `path` is what errors call it."""
    whole = join(pieces)
    if not len(whole.mesh.triangles):
        raise util.InputError(f"{path}: no triangle has an area ({'; '.join(whole.faults)}); expected a surface")
    sizes = np.full(len(whole.mesh.triangles), 3)
    polygons = obj.Polygons(whole.mesh.vertices, sizes, whole.mesh.triangles.ravel())
    return _select(whole, obj.first_of_each_face(polygons), whole.faults)


def _join_names(parts):
    names = list(dict.fromkeys(name for part in parts for name in part.names))
    index = {name: i for i, name in enumerate(names)}
    ids = [np.array([index[name] for name in part.names], dtype=int)[part.ids] for part in parts]
    return Names(names, np.concatenate(ids))
