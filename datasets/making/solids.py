"""Closed solids as labelled triangle meshes: the pieces of which carpentry.py builds furniture."""

import numpy as np

from datasets.meshes.triangle_mesh import Mesh


def loft(rings, label, colour):
    """A solid between consecutive rings of corners, which quads connect. The first and the last ring are capped.

    rings:  (K, n, 3), K >= 2 convex, nearly planar rings of n corners each, all in the same direction
    label:  class id of every triangle
    colour: sRGB (3,) in [0, 1]
    """
    rings = np.asarray(rings, dtype=np.float64)
    here = np.arange(rings[..., 0].size).reshape(rings.shape[:2])  # (K, n) indices of the corners
    following = np.roll(here, -1, axis=1)
    first_halves = np.stack([here[:-1], following[:-1], following[1:]], axis=-1)
    second_halves = np.stack([here[:-1], following[1:], here[1:]], axis=-1)
    sides = np.stack([first_halves, second_halves], axis=1).reshape(-1, 3)
    caps = [np.stack([np.full_like(ring[2:], ring[0]), ring[1:-1], ring[2:]], axis=-1) for ring in (here[0], here[-1])]
    triangles = np.concatenate([sides, caps[0][:, ::-1], caps[1]])
    labels = np.full(len(triangles), label, dtype=np.uint8)
    colours = np.tile(np.asarray(colour, dtype=np.float64), (len(triangles), 1))
    return Mesh(rings.reshape(-1, 3), triangles, labels, colours)


def outline(half_x, half_y, num_corners=4, bevel=0.0):
    """A ring (n, 2) around the origin: a rectangle; an octagon if `bevel` > 0; an ellipse of `num_corners` > 4 corners."""
    if num_corners == 4 and bevel == 0:
        return np.array([[-half_x, -half_y], [half_x, -half_y], [half_x, half_y], [-half_x, half_y]])
    if num_corners == 4:
        x, y = half_x - bevel, half_y - bevel
        front_and_right = [[-x, -half_y], [x, -half_y], [half_x, -y], [half_x, y]]
        return np.array([*front_and_right, [x, half_y], [-x, half_y], [-half_x, y], [-half_x, -y]])
    angle = 2 * np.pi * np.arange(num_corners) / num_corners
    return np.stack([half_x * np.cos(angle), half_y * np.sin(angle)], axis=-1)


def box(low, high, label, colour):
    """The axis-aligned box between two opposite corners (3,)."""
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    centre, half = (low + high) / 2, (high - low) / 2
    return slab(outline(half[0], half[1]) + centre[:2], low[2], high[2], label, colour)


def slab(ring, bottom, top, label, colour):
    """A horizontal plate with the outline `ring` (n, 2) between the heights `bottom` and `top`."""
    return loft([np.insert(ring, 2, z, axis=1) for z in (bottom, top)], label, colour)


def bar(start, end, label, colour, start_ring, end_ring=None):
    """A straight bar from `start` to `end` (3,) whose cross-section changes from `start_ring` to `end_ring` (n, 2).

    A steep bar has horizontal ends and its sections lie along (x, y), so that splayed legs stand flat on the floor.
    In any other bar the first axis of the section is horizontal and the second one perpendicular to it and the bar.
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
