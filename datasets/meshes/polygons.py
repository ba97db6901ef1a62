"""Cuts polygons into triangles that remember their face.

Mesh libraries reorder faces by material or by number of corners. Here the triangles carry the index of their face, so
that what a file says about a face (label, name, material) still applies.

Shapes: P positions, F faces, C corners of all faces in order, T triangles.
"""

import numpy as np

import util


def first_of_each_face(positions, sizes, position_ids):
    """(F,) bool: False for a face whose corners are at the positions of an earlier face's corners, in any order.

    positions:    (P, 3)
    sizes:        (F,) number of corners of each face
    position_ids: (C,) index into positions
    """
    starts = np.cumsum(sizes) - sizes
    _, places = np.unique(positions, axis=0, return_inverse=True)
    places = places.ravel()[position_ids]
    first = sizes == 0
    for size in np.unique(sizes[sizes > 0]):
        faces = np.flatnonzero(sizes == size)
        corners = np.sort(places[starts[faces, None] + np.arange(size)], axis=1)
        _, kept = np.unique(corners, axis=0, return_index=True)
        first[faces[kept]] = True
    return first


def triangulate(positions, sizes, position_ids):
    """Cuts faces into triangles; see `first_of_each_face` for the arguments.

    Concave faces are cut inside their outline. Faces without area may give no triangle. A repeated quad or polygon
    gives none either: its triangles may differ from the first one's. Repeated triangles stay, for
    `named_mesh.assemble` to find across files.

    returns  (T, 3) indices of corners (of C), (T,) the face of each triangle, and the number of faces without area
             that gave no triangle
    """
    starts, is_new = np.cumsum(sizes) - sizes, sizes <= 3
    if not is_new.all():
        is_new |= first_of_each_face(positions, sizes, position_ids)
    corners = np.nan_to_num(positions, posinf=0.0, neginf=0.0)[position_ids]  # faces with NaN are dropped after the cut

    triangles = np.flatnonzero(sizes == 3)
    corner_ids, face_ids = [starts[triangles, None] + np.arange(3)], [triangles]
    quads = np.flatnonzero((sizes == 4) & is_new)
    quad_corners = starts[quads, None] + np.arange(4)
    corner_ids.append((_cut_quads(corners[quad_corners]) + quad_corners[:, :1, None]).reshape(-1, 3))
    face_ids.append(np.repeat(quads, 2))
    for face in np.flatnonzero((sizes > 4) & is_new):
        cut = _cut_polygon(corners[starts[face] : starts[face] + sizes[face]])
        corner_ids.append(cut + starts[face])
        face_ids.append(np.full(len(cut), face))
    face_ids = np.concatenate(face_ids)
    return np.concatenate(corner_ids), face_ids, is_new.sum() - len(np.unique(face_ids))


def _cut_quads(corners):
    """(n, 4, 3) to (n, 2, 3) corners of two triangles each, along the diagonal that lies inside."""

    def normal(a, b, c):
        return np.cross(corners[:, b] - corners[:, a], corners[:, c] - corners[:, a])

    inside = (normal(0, 1, 2) * normal(0, 2, 3)).sum(axis=1) >= 0
    return np.where(inside[:, None, None], [[0, 1, 2], [0, 2, 3]], [[0, 1, 3], [1, 2, 3]])


def _cut_polygon(corners):
    """(n, 3) corners of a flat polygon to (m, 3) indices, by ear clipping."""
    earcut = util.load_library("mapbox_earcut", "cutting polygons into triangles")
    following = np.roll(corners, -1, axis=0)
    normal = np.cross(corners - corners[0], following - corners[0]).sum(axis=0)  # twice the area, along the normal
    flat = np.ascontiguousarray(np.delete(corners, np.abs(normal).argmax(), axis=1))
    return earcut.triangulate_float64(flat, np.array([len(flat)], dtype=np.uint32)).reshape(-1, 3).astype(int)
