"""Triangle meshes with a class and a colour or texture per triangle, and random points on their surface.

Canonical pose of an object: z up, front towards -y, x to the right as seen from the front. Its bounding box is
centred at the origin and has a diagonal of length 1, so the object lies in the sphere of radius 0.5.

Shapes: V vertices, T triangles, N points.
"""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

MAX_CLASS_ID = 255  # of uint8 labels
UNTEXTURED = -1  # texture id of a triangle without a texture
OF_TRIANGLES = ("triangles", "labels", "colours", "texture_ids", "corner_uv")  # arrays with an entry per triangle
MAX_DRAWS = 100  # of points, for meshes whose textures cut most of the surface away


@dataclass(frozen=True)
class Mesh:
    """Triangles, each with a class and a colour or a texture. Windings need not be consistent.

    vertices:    (V, 3) float
    triangles:   (T, 3) int, indices into `vertices`
    labels:      (T,) uint8 class ids, 0 for no class
    colours:     (T, 3) sRGB in [0, 1]; ignored where there is a texture
    texture_ids: (T,) int, index into `textures`, or UNTEXTURED
    corner_uv:   (T, 3, 2) texture coordinates per corner, origin at the texture's bottom left, repeating
    textures:    (H, W, 4) uint8 sRGB images with straight alpha; rays pass where alpha is below one half
    faults:      sentences, each naming a file: what of the object could not be used, such as a missing texture
    """

    vertices: np.ndarray
    triangles: np.ndarray
    labels: np.ndarray
    colours: np.ndarray
    texture_ids: np.ndarray = None
    corner_uv: np.ndarray = None
    textures: list = field(default_factory=list)
    faults: tuple = ()

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


class SurfacePoints(NamedTuple):
    """Points on the surface of a mesh."""

    points: np.ndarray  # (N, 3)
    normals: np.ndarray  # (N, 3) of unit length, on the side from which the corners run counterclockwise
    colours: np.ndarray  # (N, 3) sRGB in [0, 1], without shading
    labels: np.ndarray  # (N,) uint8 class ids
    triangle_ids: np.ndarray  # (N,) int


def normals_and_areas(corners):
    """Normals (T, 3) of triangles with corners (T, 3, 3), as long as twice the area, and twice the areas (T,)."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return normals, np.linalg.norm(normals, axis=1)


def sample_surface(mesh, count, rng):
    """`count` random SurfacePoints, uniform by area over the triangles that have a class (label > 0).

    Triangles hidden behind others count too. Where a texture is transparent there are no points. The result is empty
    for a mesh without labelled surface.
    """
    corners = mesh.corners
    normals, double_area = normals_and_areas(corners)
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
    """Colour and alpha (N, 4) in [0, 1] at barycentric (N, 3) of triangles (N,), from textures at full resolution."""
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
    """One mesh of several."""
    arrays = {name: np.concatenate([getattr(mesh, name) for mesh in meshes]) for name in ("vertices", *OF_TRIANGLES)}
    num_vertices, num_textures = ([len(getattr(mesh, name)) for mesh in meshes] for name in ("vertices", "textures"))
    num_triangles = [len(mesh.triangles) for mesh in meshes]
    # Per triangle: the index of its own mesh's first vertex and first texture.
    first_vertex, first_texture = (np.repeat(np.cumsum(n) - n, num_triangles) for n in (num_vertices, num_textures))
    arrays["triangles"] += first_vertex[:, None]
    arrays["texture_ids"] += np.where(arrays["texture_ids"] == UNTEXTURED, 0, first_texture)
    return Mesh(**arrays, textures=[texture for mesh in meshes for texture in mesh.textures])


def select(mesh, kept):
    """The mesh of the triangles where `kept` (T,) is True, with the vertices that they use."""
    chosen = replace(mesh, **{name: getattr(mesh, name)[kept] for name in OF_TRIANGLES})
    used, triangles = np.unique(chosen.triangles, return_inverse=True)
    return replace(chosen, vertices=mesh.vertices[used], triangles=triangles.reshape(-1, 3))


def to_unit_diagonal(mesh):
    """The mesh moved and scaled so that the bounding box of its triangles has its centre at the origin and diagonal 1."""
    used = mesh.vertices[np.unique(mesh.triangles)]
    low, high = used.min(axis=0), used.max(axis=0)
    return replace(mesh, vertices=(mesh.vertices - (low + high) / 2) / np.linalg.norm(high - low))
