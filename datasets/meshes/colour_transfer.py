"""Colours of one surface onto another of the same object: register the two, then take the nearest colours.

PartNet and ShapeNet keep the same furniture in frames that differ by a turn about the axes, a scale and an offset.

Shapes: N points, T triangles.
"""

import itertools
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

import util
from datasets.meshes import triangle_mesh

UP = 1  # the axis about which a turn is tried first
NUM_POINTS, NUM_SCORED = 20_000, 1_000  # of each surface in the search trees; that look for their nearest
NUM_RANKED, NUM_COARSE = 200, 2_000  # that do so, in search trees of so many, to tell which turns are promising
NUM_STEPS = 10  # of ICP
NUM_REFINED = 4  # the most promising turns
OUTLIER = 3.0  # pairs farther apart than so many medians do not pull
FITS = 1.2  # mean distance, in that of two sets of points on one surface, up to which there is nothing to mend
REFUSED = 0.01  # median distance, in diagonals of the bounding box, beyond which two surfaces are not of one object
NUM_COLOURS = 300_000  # points of the coloured surface
NEARLY = 0.1  # the nearest point may be farther than it needs to by that share, which is much faster far from the surface
PARALLEL = 0.5  # |cosine| between normals from which a colour counts as of the same side
NUM_NEAREST, DETOUR = 16, 0.01  # where to look for such a colour: so many points, farther by that share of the diagonal


class Similarity(NamedTuple):
    """x -> scale * rotation @ x + offset."""

    scale: float
    rotation: np.ndarray  # (3, 3)
    offset: np.ndarray  # (3,)

    def apply(self, points):
        """(N, 3) to (N, 3)."""
        return self.scale * points @ self.rotation.T + self.offset

    def undo(self, points):
        """(N, 3) to (N, 3)."""
        return (points - self.offset) @ self.rotation / self.scale


def register(moving, fixed):
    """(the Similarity that lays the mesh `moving` on the mesh `fixed`, median distance between the two surfaces).

    The distance is in diagonals of the bounding box of `fixed`. Turns about the y axis by quarters come first; where
    none of them fits, the other turns that keep the axes, and bounding boxes that have one side or one length in
    common only, because a surface lacks a part of the other.
    """
    pair = _Pair(moving, fixed)
    turns = _axis_turns()
    upright = [turn for turn in turns if turn[UP, UP] == 1]
    found = pair.best(map(pair.from_boxes, upright))
    if not pair.fits(found):
        starts = [pair.from_boxes(turn) for turn in turns]
        starts += [start for turn in upright for start in pair.from_parts_of_boxes(turn)]
        found = min(found, pair.best(starts), key=lambda fit: fit.mean)
    return found.similarity, found.median


def _axis_turns():
    """The 24 rotations (3, 3) that take axes to axes, the identity first."""
    turns = [
        np.eye(3)[list(order)] * signs
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1, -1), repeat=3)
    ]
    return [turn for turn in turns if np.linalg.det(turn) > 0]


class _Fit(NamedTuple):
    """How far apart two surfaces lie under a Similarity."""

    mean: float  # distance
    median: float  # distance, in diagonals of the fixed surface's bounding box
    similarity: Similarity


class _Pair:
    """Two surfaces as points, and how well they lie on each other.

    noise: mean distance between two sets of points on the same surface
    """

    def __init__(self, moving, fixed):
        self.moving, self.fixed = (_surface(mesh, NUM_POINTS).points for mesh in (moving, fixed))
        self.boxes = [np.stack([mesh.corners.min(axis=(0, 1)), mesh.corners.max(axis=(0, 1))]) for mesh in (moving, fixed)]
        self.diagonals = [np.linalg.norm(high - low) for low, high in self.boxes]
        self.trees = [cKDTree(points) for points in (self.moving, self.fixed)]
        self.coarse = [cKDTree(points[-NUM_COARSE:]) for points in (self.moving, self.fixed)]
        self.noise = cKDTree(self.fixed[NUM_SCORED:]).query(self.fixed[:NUM_SCORED])[0].mean()

    def best(self, starts):
        """The best _Fit of Similarities `starts`, after ICP where none of them fits as it is."""
        starts = sorted(starts, key=self._rank)[:NUM_REFINED]
        best = min((self._fit(start)[0] for start in starts), key=lambda fit: fit.mean)
        if self.fits(best):
            return best
        return min((self._refine(start) for start in starts), key=lambda fit: fit.mean)

    def fits(self, fit):
        return fit.mean <= FITS * self.noise

    def _rank(self, similarity):
        """About the mean distance between the two surfaces."""
        forth, _ = self.coarse[1].query(similarity.apply(self.moving[:NUM_RANKED]), eps=NEARLY)
        back, _ = self.coarse[0].query(similarity.undo(self.fixed[:NUM_RANKED]), eps=NEARLY)
        return forth.mean() + back.mean() * similarity.scale

    def from_boxes(self, turn):
        """The Similarity that gives the bounding boxes one centre and one diagonal."""
        scale = self.diagonals[1] / self.diagonals[0]
        return Similarity(scale, turn, self.boxes[1].mean(axis=0) - scale * turn @ self.boxes[0].mean(axis=0))

    def from_parts_of_boxes(self, turn):
        """Similarities that give the bounding boxes one length, and along each axis one centre or one side."""
        moving, (low, high) = np.sort(self.boxes[0] @ turn.T, axis=0), self.boxes[1]
        for scale in (high - low) / np.maximum(np.ptp(moving, axis=0), 1e-12 * self.diagonals[0]):
            sides = low - scale * moving[0], (low + high - scale * moving.sum(axis=0)) / 2, high - scale * moving[1]
            for choice in itertools.product(range(3), repeat=3):
                yield Similarity(scale, turn, np.array([sides[side][axis] for axis, side in enumerate(choice)]))

    def _fit(self, similarity):
        """(_Fit, the Similarity of the next step of ICP)."""
        forth, forth_ids = self.trees[1].query(similarity.apply(self.moving[:NUM_SCORED]), eps=NEARLY)
        back, back_ids = self.trees[0].query(similarity.undo(self.fixed[:NUM_SCORED]), eps=NEARLY)
        moving = np.concatenate([self.moving[:NUM_SCORED], self.moving[back_ids]])
        fixed = np.concatenate([self.fixed[forth_ids], self.fixed[:NUM_SCORED]])
        distances = np.concatenate([forth, back * similarity.scale])
        median = np.median(distances)
        near = distances <= OUTLIER * median
        return _Fit(distances.mean(), median / self.diagonals[1], similarity), fit_similarity(moving[near], fixed[near])

    def _refine(self, similarity):
        """The best _Fit of a few steps of ICP."""
        fits = []
        for _ in range(NUM_STEPS + 1):
            fit, similarity = self._fit(similarity)
            fits.append(fit)
        return min(fits, key=lambda fit: fit.mean)


def fit_similarity(moving, fixed):
    """The Similarity with the least squares between pairs of points, (N, 3) each, N >= 3 (Umeyama 1991)."""
    centres = moving.mean(axis=0), fixed.mean(axis=0)
    moving, fixed = moving - centres[0], fixed - centres[1]
    u, spread, vt = np.linalg.svd(fixed.T @ moving)
    signs = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    rotation = u * signs @ vt
    scale = (spread * signs).sum() / max((moving**2).sum(), 1e-30)
    return Similarity(scale, rotation, centres[1] - scale * rotation @ centres[0])


def _surface(mesh, count, textured=False):
    """`count` SurfacePoints, always the same, of the whole mesh; without its textures it has no holes."""
    mesh = replace(mesh, labels=np.ones(len(mesh.triangles), dtype=np.uint8))
    if not textured:
        mesh = replace(mesh, textures=[], texture_ids=np.full(len(mesh.triangles), triangle_mesh.UNTEXTURED))
    return triangle_mesh.sample_surface(mesh, count, np.random.default_rng(0))


def paint(mesh, coloured, similarity, resolution=256):
    """`mesh` with the colours of `coloured`, which `similarity` lays on it. Labels stay.

    Triangles are divided until no edge is longer than the diagonal / resolution, but where they get one colour only.
    """
    surface = _surface(coloured, NUM_COLOURS, textured=True)
    if not len(surface.points):
        raise util.InputError("its textures are transparent throughout, so there are no colours to take")
    points, normals = similarity.apply(surface.points), surface.normals @ similarity.rotation.T
    corners = mesh.corners
    diagonal = np.linalg.norm(np.ptp(corners.reshape(-1, 3), axis=0))
    pieces, parents = subdivide(corners, diagonal / resolution)
    parent_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    parent_normals /= np.linalg.norm(parent_normals, axis=1, keepdims=True)
    ids = _nearest_of_same_side(points, normals, pieces.mean(axis=1), parent_normals[parents], DETOUR * diagonal)
    colours = surface.colours[ids]

    order = np.argsort(parents, kind="stable")
    pieces, parents, colours = pieces[order], parents[order], colours[order]
    first = np.searchsorted(parents, np.arange(len(corners)))
    same = (np.maximum.reduceat(colours, first) == np.minimum.reduceat(colours, first)).all(axis=1)  # (T,)
    kept = ~same[parents]
    kept[first[same]] = True
    pieces[first[same]] = corners[same]
    pieces, parents = pieces[kept], parents[kept]
    return triangle_mesh.Mesh(
        pieces.reshape(-1, 3), np.arange(3 * len(pieces)).reshape(-1, 3), mesh.labels[parents], colours[kept]
    )


def _nearest_of_same_side(points, normals, queries, query_normals, detour):
    """(N,) index of the nearest of `points` to each of `queries`, one with a parallel normal where it is not far."""
    tree = cKDTree(points)
    distances, ids = tree.query(queries, eps=NEARLY)
    askew = np.flatnonzero(np.abs((normals[ids] * query_normals).sum(axis=1)) < PARALLEL)
    if len(askew):
        num_nearest = min(NUM_NEAREST, len(points))
        others_far, others = tree.query(queries[askew], k=np.arange(1, num_nearest + 1), eps=NEARLY)
        parallel = np.abs(np.einsum("nkc,nc->nk", normals[others], query_normals[askew])) >= PARALLEL
        parallel &= others_far <= distances[askew, None] + detour
        first = parallel.argmax(axis=1)  # 0, the nearest, where there is none
        ids[askew] = others[np.arange(len(askew)), first]
    return ids


def subdivide(corners, longest):
    """Triangles (T, 3, 3) to pieces (N, 3, 3) without an edge over `longest`, and the triangle of each piece (N,).

    The altitude on the longest edge cuts a triangle in two with right angles, and a grid along their legs cuts those.
    There are about 4 area / longest^2 + 3 length / longest pieces, so slivers give as many as they are long.
    """
    lengths = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=-1)  # from a corner to the next
    whole = lengths.max(axis=1) <= longest
    order = (lengths.argmax(axis=1)[~whole, None] + np.arange(3)) % 3
    a, b, c = np.moveaxis(np.take_along_axis(corners[~whole], order[..., None], axis=1), 1, 0)
    along = (b - a) / np.linalg.norm(b - a, axis=-1, keepdims=True)
    foot = a + ((c - a) * along).sum(axis=-1, keepdims=True) * along
    right = np.concatenate([np.stack([foot, a, c], axis=1), np.stack([foot, b, c], axis=1)])  # the right angle first
    parents = np.tile(np.flatnonzero(~whole), 2)
    legs = np.linalg.norm(right[:, 1:] - right[:, :1], axis=-1)
    right, legs, parents = (each[legs.min(axis=1) > 1e-9 * longest] for each in (right, legs, parents))
    pieces, sources = _grid(right, legs, longest / np.sqrt(2))
    return np.concatenate([corners[whole], pieces]), np.concatenate([np.flatnonzero(whole), parents[sources]])


def _grid(right, legs, step):
    """Cuts triangles (R, 3, 3) with a right angle at the first corner into pieces (N, 3, 3), from triangles (N,).

    legs: (R, 2) lengths from the first corner to the others
    step: of the grid, at most; no edge is over its diagonal
    """
    swap = legs[:, 1] > legs[:, 0]
    right, legs = np.where(swap[:, None, None], right[:, [0, 2, 1]], right), np.sort(legs, axis=1)[:, ::-1]
    num_strips = np.ceil(legs[:, 0] / step).astype(int)  # across the longer leg
    sources = np.repeat(np.arange(len(right)), num_strips)
    start, end = _count(num_strips) / num_strips[sources], (_count(num_strips) + 1) / num_strips[sources]  # from the tip
    num_cells = np.ceil(legs[sources, 1] * end / step).astype(int)
    strips = np.repeat(np.arange(len(sources)), num_cells)
    low = _count(num_cells) / num_cells[strips]
    high = (_count(num_cells) + 1) / num_cells[strips]
    sources, start, end = sources[strips], start[strips], end[strips]
    foot, tip, top = np.moveaxis(right[sources], 1, 0)

    def at(forth, up):
        return tip + forth[:, None] * (foot - tip) + (forth * up)[:, None] * (top - foot)

    corners = [at(start, low), at(end, low), at(end, high), at(start, high)]
    quads = start > 0  # at the tip there is but one triangle
    pieces = np.concatenate(
        [np.stack([corners[i] for i in (3, 1, 2)], axis=1), np.stack([corners[i] for i in (0, 1, 3)], axis=1)[quads]]
    )
    return pieces, np.concatenate([sources, sources[quads]])


def _count(lengths):
    """0, 1, ... up to each of `lengths`, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
