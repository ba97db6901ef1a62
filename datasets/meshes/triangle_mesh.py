"""Labelled triangle meshes, and the closed solids that furniture is built from.

Canonical pose of an object: z up, front towards -y, x to the right as seen from the front; its bounding box is
centred at the origin and has a diagonal of length 1, so that everything lies in the sphere of radius 0.5.

Shapes: V vertices, T triangles.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

UNTEXTURED = -1  # texture id of a triangle that has the plain colour
MAX_DRAWS = 100  # of points, where textures cut most of the surface away


@dataclass(frozen=True)
class Mesh:
    """Triangles, each with a class and a colour or a texture. Windings need not be consistent.

    vertices:    (V, 3) float
    triangles:   (T, 3) int, indices of vertices
    labels:      (T,) uint8 class ids, 0 for none
    colours:     (T, 3) sRGB in [0, 1]; unused where there is a texture
    texture_ids: (T,) int, index into `textures`, or UNTEXTURED
    corner_uv:   (T, 3, 2) texture coordinates per corner, origin at the texture's bottom left, repeating
    textures:    (H, W, 4) uint8 sRGB images with straight alpha; a ray passes where alpha is below one half
    """

    vertices: np.ndarray
    triangles: np.ndarray
    labels: np.ndarray
    colours: np.ndarray
    texture_ids: np.ndarray = None
    corner_uv: np.ndarray = None
    textures: list = field(default_factory=list)

    def __post_init__(self):
        num_triangles = len(self.triangles)
        if self.texture_ids is None:
            object.__setattr__(self, "texture_ids", np.full(num_triangles, UNTEXTURED))
        if self.corner_uv is None:
            object.__setattr__(self, "corner_uv", np.zeros((num_triangles, 3, 2)))

    @property
    def corners(self):
        """(T, 3, 3) positions of each triangle's corners."""
        return self.vertices[self.triangles]


@dataclass(frozen=True)
class LoadedMesh:
    """A mesh as it came from its source."""

    mesh: Mesh
    faults: tuple = ()  # sentences, each naming its file: what was left out, such as triangles without area


class SurfacePoints(NamedTuple):
    """Points on the surface of a mesh."""

    points: np.ndarray  # (N, 3)
    normals: np.ndarray  # (N, 3) of unit length, to the side that the triangle's winding makes the front
    colours: np.ndarray  # (N, 3) sRGB in [0, 1], without shading
    labels: np.ndarray  # (N,) uint8 class ids
    triangle_ids: np.ndarray  # (N,) int


def sample_surface(mesh, count, rng):
    """`count` random SurfacePoints, spread evenly by area over the triangles that have a class (label > 0).

    The whole surface counts, also where other triangles hide it; where a texture is cut away there are no points.
    A mesh without any labelled surface gives none.
    """
    corners = mesh.corners
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    double_area = np.linalg.norm(normals, axis=1)
    up_to = np.cumsum(np.where(mesh.labels > 0, double_area, 0))  # (T,)
    ids, weights, colours = np.zeros(0, int), np.zeros((0, 3)), np.zeros((0, 3))
    for _ in range(MAX_DRAWS if len(up_to) and up_to[-1] > 0 else 0):
        missing = count - len(ids)
        drawn = np.searchsorted(up_to, rng.uniform(0, up_to[-1], missing), side="right")
        u, v = rng.uniform(size=(2, missing))
        u, v = np.where(u + v > 1, [1 - u, 1 - v], [u, v])  # a parallelogram, folded along its diagonal
        barycentric = np.stack([1 - u - v, u, v], axis=-1)
        rgba = _look_up(mesh, drawn, barycentric)
        solid = rgba[:, 3] >= 0.5
        ids = np.concatenate([ids, drawn[solid]])
        weights = np.concatenate([weights, barycentric[solid]])
        colours = np.concatenate([colours, rgba[solid, :3]])
        if solid.all():
            break
    points = np.einsum("nc,ncd->nd", weights, corners[ids])
    return SurfacePoints(points, normals[ids] / double_area[ids, None], colours, mesh.labels[ids], ids)


def _look_up(mesh, ids, barycentric):
    """Colour and alpha (N, 4) in [0, 1] at barycentric (N, 3) of triangles (N,), textures at full size."""
    rgba = np.concatenate([mesh.colours[ids], np.ones((len(ids), 1))], axis=1)
    uv = np.einsum("nc,ncd->nd", barycentric, mesh.corner_uv[ids])
    for texture_id, texture in enumerate(mesh.textures):
        here = mesh.texture_ids[ids] == texture_id
        height, width = texture.shape[:2]
        column = np.floor(uv[here, 0] * width).astype(int) % width
        row = np.floor(-uv[here, 1] * height).astype(int) % height  # v counts from the bottom
        rgba[here] = texture[row, column] / 255
    return rgba


def join(meshes):
    """One mesh of several untextured ones."""
    first_vertex = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes[:-1]])
    return Mesh(
        vertices=np.concatenate([mesh.vertices for mesh in meshes]),
        triangles=np.concatenate([mesh.triangles + first for mesh, first in zip(meshes, first_vertex)]),
        labels=np.concatenate([mesh.labels for mesh in meshes]),
        colours=np.concatenate([mesh.colours for mesh in meshes]),
    )


def turned(mesh, rotation):
    """The mesh with its vertices turned by a (3, 3) rotation."""
    return replace(mesh, vertices=mesh.vertices @ np.asarray(rotation, dtype=np.float64).T)


def to_unit_diagonal(mesh):
    """The mesh with the bounding box of its triangles centred at the origin, its diagonal of length 1."""
    used = mesh.vertices[np.unique(mesh.triangles)]
    low, high = used.min(axis=0), used.max(axis=0)
    return replace(mesh, vertices=(mesh.vertices - (low + high) / 2) / np.linalg.norm(high - low))


def loft(rings, label, colour):
    """A closed solid: consecutive rings of corners joined by quads, the first and the last ring capped.

    rings: (K, n, 3), K >= 2 convex, nearly planar rings of n corners each that run the same way round
    """
    rings = np.asarray(rings, dtype=np.float64)
    num_rings, num_corners = rings.shape[:2]
    here = np.arange(num_corners)
    following = (here + 1) % num_corners
    triangles = []
    for first in np.arange(num_rings - 1) * num_corners:
        above = first + num_corners
        triangles.append(np.stack([first + here, first + following, above + following], axis=-1))
        triangles.append(np.stack([first + here, above + following, above + here], axis=-1))
    fan = np.stack([np.zeros_like(here[2:]), here[1:-1], here[2:]], axis=-1)
    triangles += [fan[:, ::-1], fan + (num_rings - 1) * num_corners]
    triangles = np.concatenate(triangles)
    return Mesh(
        vertices=rings.reshape(-1, 3),
        triangles=triangles,
        labels=np.full(len(triangles), label, dtype=np.uint8),
        colours=np.tile(np.asarray(colour, dtype=np.float64), (len(triangles), 1)),
    )


def outline(half_x, half_y, num_corners=4, bevel=0.0):
    """A ring (n, 2) about the origin: a rectangle, with `bevel` > 0 an octagon, with more corners an ellipse."""
    if num_corners == 4 and bevel == 0:
        return np.array([[-half_x, -half_y], [half_x, -half_y], [half_x, half_y], [-half_x, half_y]])
    if num_corners == 4:
        x, y = half_x - bevel, half_y - bevel
        return np.array(
            [[-x, -half_y], [x, -half_y], [half_x, -y], [half_x, y], [x, half_y], [-x, half_y], [-half_x, y], [-half_x, -y]]
        )
    angle = 2 * np.pi * np.arange(num_corners) / num_corners
    return np.stack([half_x * np.cos(angle), half_y * np.sin(angle)], axis=-1)


def box(low, high, label, colour):
    """The axis-aligned box between two opposite corners, each (3,)."""
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    centre, half = (low + high) / 2, (high - low) / 2
    return slab(outline(half[0], half[1]) + centre[:2], low[2], high[2], label, colour)


def slab(ring, bottom, top, label, colour):
    """A level plate with the outline `ring` (n, 2) between two heights."""
    return loft([np.insert(ring, 2, z, axis=1) for z in (bottom, top)], label, colour)


def bar(start, end, label, colour, start_ring, end_ring=None):
    """A straight bar from `start` to `end` (3,), its cross-section going from one ring (n, 2) to another.

    Upright bars have level ends and sections along (x, y), so that splayed legs stand flat on the floor. In the
    others the section's first axis is level and the second one as upright as it can be.
    """
    start, end = np.asarray(start, dtype=np.float64), np.asarray(end, dtype=np.float64)
    end_ring = start_ring if end_ring is None else end_ring
    direction = (end - start) / np.linalg.norm(end - start)
    if abs(direction[2]) > 0.5:
        axes = np.eye(3)[:2]
    else:
        sideways = np.cross([0.0, 0.0, 1.0], direction)
        sideways /= np.linalg.norm(sideways)
        axes = np.stack([sideways, np.cross(direction, sideways)])
    return loft([start + start_ring @ axes, end + end_ring @ axes], label, colour)
