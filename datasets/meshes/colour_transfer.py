"""Transfers the colours of one surface to another of the same object: registers the two, then takes nearest colours.

PartNet and ShapeNet store the same furniture in frames that differ by a turn about the axes, a scale and an offset.
A similarity is a (4, 4) matrix. trimesh does ICP; the choice of its starts is made here, because furniture is nearly
symmetric and ICP from a single start often ends back to front.

Shapes: N points, T triangles.
"""

import itertools
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

import util
from datasets.meshes import triangle_mesh

UP = 1  # the axis of the turns that are tried first
NUM_POINTS, NUM_SCORED = 20_000, 1_000  # per surface: points in the search tree, points that look for their nearest one
NUM_COARSE, NUM_RANKED = 2_000, 200  # the same for the ranking of starts
NUM_STEPS = 10  # of ICP
NUM_REFINED = 4  # best-ranked starts that ICP refines
FITS = 1.2  # largest mean distance without ICP, relative to that of two sets of points on one surface
REFUSED = 0.01  # median distance in diagonals of the bounding box above which two surfaces are different objects
NUM_COLOURS = 300_000  # points sampled from the coloured surface
NEARLY = 0.1  # relative error of a nearest distance; far from the surface this is much faster
PARALLEL = 0.5  # |cosine| between normals from which a colour counts as of the same side
NUM_NEAREST, DETOUR = 16, 0.01  # search for such a colour: number of neighbours, extra distance in diagonals


class Fit(NamedTuple):
    """How well a similarity lays one surface on another."""

    mean: float  # distance between the surfaces
    median: float  # distance in diagonals of the fixed surface's bounding box
    similarity: np.ndarray  # (4, 4)


def register(moving, fixed):
    """The Fit that lays the mesh `moving` on the mesh `fixed`.

    Quarter turns about the y axis come first. If none of them fits, the other turns that map axes to axes follow, and
    bounding boxes that share only one side or one length, because one surface lacks a part.
    """
    pair = _Pair(moving, fixed)
    turns = Rotation.create_group("O").as_matrix().round()  # the 24 turns that map axes to axes
    upright = [turn for turn in turns if turn[UP, UP] == 1]
    found = pair.best(pair.from_boxes(turn) for turn in upright)
    if pair.fits(found):
        return found
    starts = [pair.from_boxes(turn) for turn in turns]
    starts += [start for turn in upright for start in pair.from_parts_of_boxes(turn)]
    return min(found, pair.best(starts), key=lambda fit: fit.mean)


def similarity(scale, rotation, offset):
    """The (4, 4) matrix of x -> scale * rotation @ x + offset."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = scale * rotation, offset
    return matrix


def apply(matrix, points):
    """Points (N, 3) moved by a (4, 4) matrix."""
    return points @ matrix[:3, :3].T + matrix[:3, 3]


class _Pair:
    """Two surfaces as points, and how well they fit each other.

    noise: mean distance between two sets of points on the same surface
    """

    def __init__(self, moving, fixed):
        self.icp = util.load_library("trimesh.registration", "transferring colours").icp
        without_holes = (replace(mesh, textures=[]) for mesh in (moving, fixed))
        self.moving, self.fixed = (_surface(mesh, NUM_POINTS).points for mesh in without_holes)
        self.boxes = [np.stack([mesh.corners.min(axis=(0, 1)), mesh.corners.max(axis=(0, 1))]) for mesh in (moving, fixed)]
        self.diagonals = [np.linalg.norm(high - low) for low, high in self.boxes]
        self.trees = [cKDTree(points) for points in (self.moving, self.fixed)]
        self.coarse = [cKDTree(points[-NUM_COARSE:]) for points in (self.moving, self.fixed)]
        self.noise = cKDTree(self.fixed[NUM_SCORED:]).query(self.fixed[:NUM_SCORED])[0].mean()

    def best(self, starts):
        """The best Fit of similarities `starts`, refined by ICP unless one of them fits as it is."""
        starts = sorted(starts, key=lambda start: self._distances(start, self.coarse, NUM_RANKED).mean())[:NUM_REFINED]
        best = min(map(self._fit, starts), key=lambda fit: fit.mean)
        if self.fits(best):
            return best
        refined = [found for start in starts for found in self._refined(start)]
        return min([best, *map(self._fit, refined)], key=lambda fit: fit.mean)

    def fits(self, fit):
        return fit.mean <= FITS * self.noise

    def from_boxes(self, turn):
        """The similarity that gives both bounding boxes the same centre and diagonal."""
        scale = self.diagonals[1] / self.diagonals[0]
        return similarity(scale, turn, self.boxes[1].mean(axis=0) - scale * turn @ self.boxes[0].mean(axis=0))

    def from_parts_of_boxes(self, turn):
        """Similarities that give both bounding boxes one common length and, per axis, a common centre or side."""
        moving, (low, high) = np.sort(self.boxes[0] @ turn.T, axis=0), self.boxes[1]
        for scale in (high - low) / np.maximum(np.ptp(moving, axis=0), 1e-12 * self.diagonals[0]):
            sides = low - scale * moving[0], (low + high - scale * moving.sum(axis=0)) / 2, high - scale * moving[1]
            for offset in itertools.product(*np.transpose(sides)):
                yield similarity(scale, turn, offset)

    def _distances(self, matrix, trees, count):
        """(2 * count,) distances from points of each surface to the other one, in units of `fixed`."""
        forth, _ = trees[1].query(apply(matrix, self.moving[:count]), eps=NEARLY)
        back, _ = trees[0].query(apply(np.linalg.inv(matrix), self.fixed[:count]), eps=NEARLY)
        return np.concatenate([forth, back * np.cbrt(np.linalg.det(matrix))])

    def _fit(self, matrix):
        distances = self._distances(matrix, self.trees, NUM_SCORED)
        return Fit(distances.mean(), np.median(distances) / self.diagonals[1], matrix)

    def _refined(self, matrix):
        """Similarities after ICP in each direction: every point of a surface that lacks a part has a true counterpart."""
        options = {"threshold": 0, "max_iterations": NUM_STEPS, "reflection": False}
        yield self.icp(self.moving[:NUM_SCORED], self.fixed, matrix, **options)[0]
        yield np.linalg.inv(self.icp(self.fixed[:NUM_SCORED], self.moving, np.linalg.inv(matrix), **options)[0])


def _surface(mesh, count):
    """`count` SurfacePoints of the whole mesh, labelled or not; the same in every call."""
    mesh = replace(mesh, labels=np.ones(len(mesh.triangles), dtype=np.uint8))
    return triangle_mesh.sample_surface(mesh, count, np.random.default_rng(0))


def paint(mesh, coloured, matrix, resolution=256):
    """`mesh` with the colours of `coloured`, which the similarity `matrix` lays on it. Labels stay.

    Triangles are divided until no edge is longer than the diagonal / resolution, except those of a single colour.
    """
    surface = _surface(coloured, NUM_COLOURS)
    if not len(surface.points):
        raise util.InputError("its textures are fully transparent, so it has no colours to transfer")
    points, normals = apply(matrix, surface.points), surface.normals @ matrix[:3, :3].T / np.cbrt(np.linalg.det(matrix))
    corners = mesh.corners
    diagonal = np.linalg.norm(np.ptp(corners.reshape(-1, 3), axis=0))
    pieces, parents = subdivide(corners, diagonal / resolution)
    parent_normals, double_area = triangle_mesh.normals_and_areas(corners)
    parent_normals /= double_area[:, None]
    ids = _nearest_of_same_side(points, normals, pieces.mean(axis=1), parent_normals[parents], DETOUR * diagonal)
    colours = surface.colours[ids]

    # Triangles whose pieces have one colour stay whole.
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
    """(N,) index of the point nearest to each query; of a nearby point with a parallel normal, if there is one."""
    tree = cKDTree(points)
    distances, ids = tree.query(queries, eps=NEARLY)
    askew = np.flatnonzero(np.abs((normals[ids] * query_normals).sum(axis=1)) < PARALLEL)
    if len(askew):
        num_nearest = min(NUM_NEAREST, len(points))
        others_far, others = tree.query(queries[askew], k=np.arange(1, num_nearest + 1), eps=NEARLY)
        parallel = np.abs(np.einsum("nkc,nc->nk", normals[others], query_normals[askew])) >= PARALLEL
        parallel &= others_far <= distances[askew, None] + detour
        first = parallel.argmax(axis=1)  # 0, the nearest, if none is parallel
        ids[askew] = others[np.arange(len(askew)), first]
    return ids


def subdivide(corners, longest):
    """Triangles (T, 3, 3) to pieces (N, 3, 3) without an edge over `longest`, and the triangle of each piece (N,).

    The altitude on the longest edge cuts a triangle into two right triangles, and a grid along their legs cuts those
    into about 4 area / longest^2 + 3 length / longest pieces. trimesh.remesh.subdivide_to_size cuts slivers, of which
    PartNet has many, into as many pieces as an equilateral triangle of their length.
    """
    lengths = np.linalg.norm(np.roll(corners, -1, axis=1) - corners, axis=-1)  # from a corner to the next
    whole = lengths.max(axis=1) <= longest
    order = (lengths.argmax(axis=1)[~whole, None] + np.arange(3)) % 3
    a, b, c = np.moveaxis(np.take_along_axis(corners[~whole], order[..., None], axis=1), 1, 0)
    along = (b - a) / np.linalg.norm(b - a, axis=-1, keepdims=True)
    foot = a + ((c - a) * along).sum(axis=-1, keepdims=True) * along
    right = np.concatenate([np.stack([foot, a, c], axis=1), np.stack([foot, b, c], axis=1)])  # right angle first
    parents = np.tile(np.flatnonzero(~whole), 2)
    legs = np.linalg.norm(right[:, 1:] - right[:, :1], axis=-1)
    right, legs, parents = (each[legs.min(axis=1) > 1e-9 * longest] for each in (right, legs, parents))
    pieces, sources = _grid(right, legs, longest / np.sqrt(2))
    return np.concatenate([corners[whole], pieces]), np.concatenate([np.flatnonzero(whole), parents[sources]])


def _grid(right, legs, step):
    """Cuts triangles (R, 3, 3) with the right angle at the first corner; returns pieces (N, 3, 3), their triangles (N,).

    legs: (R, 2) lengths from the first corner to the others
    step: largest cell of the grid; edges are at most its diagonal
    """
    swap = legs[:, 1] > legs[:, 0]
    right, legs = np.where(swap[:, None, None], right[:, [0, 2, 1]], right), np.sort(legs, axis=1)[:, ::-1]
    num_strips = np.ceil(legs[:, 0] / step).astype(int)  # across the longer leg
    sources, strip = _repeat(num_strips)
    start, end = strip / num_strips[sources], (strip + 1) / num_strips[sources]  # from the tip
    num_cells = np.ceil(legs[sources, 1] * end / step).astype(int)
    strips, cell = _repeat(num_cells)
    low, high = cell / num_cells[strips], (cell + 1) / num_cells[strips]
    sources, start, end = sources[strips], start[strips], end[strips]
    foot, tip, top = np.moveaxis(right[sources], 1, 0)

    def at(forth, up):
        return tip + forth[:, None] * (foot - tip) + (forth * up)[:, None] * (top - foot)

    corners = [at(start, low), at(end, low), at(end, high), at(start, high)]
    quads = start > 0  # the cell at the tip is a triangle
    upper, lower = (np.stack([corners[i] for i in ids], axis=1) for ids in ((3, 1, 2), (0, 1, 3)))
    return np.concatenate([upper, lower[quads]]), np.concatenate([sources, sources[quads]])


def _repeat(counts):
    """Indices i of `counts`, each counts[i] times, and for every one its number 0, 1, ..., counts[i] - 1."""
    ids = np.repeat(np.arange(len(counts)), counts)
    return ids, np.arange(len(ids)) - (np.cumsum(counts) - counts)[ids]
