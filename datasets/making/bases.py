"""Bases of chairs and tables, from the floor up to the surface that they carry, in the units and axes of carpentry.py."""

import functools
from dataclasses import dataclass

import numpy as np

from datasets.making.solids import bar, box, loft, outline, slab

ROUND = 20  # corners of a circle


@dataclass(frozen=True)
class Base:
    """The support of a seat or a top. Lengths in metres; splay is the outward lean of legs per metre of height."""

    kind: str  # one of BUILDERS
    width: float  # of a leg at its top
    taper: float  # width at the floor relative to `width`
    round: bool  # cross-section of legs
    splay: float
    inset: float  # distance of the legs from the edge above
    num_feet: int  # of a star
    apron: float  # height of the frame under the edge, 0 for none
    stretcher: str  # between four legs: "none", "sides", "H", "box"
    stretcher_height: float  # relative to the height of the base


def build_base(base, half_x, half_y, top, material):
    """Pieces from the floor up to `top`, under a surface of half extents (half_x, half_y)."""
    return BUILDERS[base.kind](base, *leg_axis(base, half_x, half_y), top, material)


def leg_axis(base, half_x, half_y, drop=0.0):
    """Distances (x, y) from the middle to the axis of a corner leg, `drop` below the surface."""
    return [half - base.inset - base.width / 2 + base.splay * drop for half in (half_x, half_y)]


def build_legs(base, x, y, top, material, signs=((-1, -1), (1, -1), (1, 1), (-1, 1))):
    """A leg at each of `signs`, its position relative to (x, y); four legs can have an apron and stretchers."""
    directions = np.array(signs)
    half = base.width / 2
    ring = outline(half, half, 12) if base.round else outline(half, half)

    def axis(direction, z):
        """A leg's axis (3,) at height z."""
        return np.append(direction * [x, y] + np.sign(direction) * base.splay * (top - z), z)

    pieces = [bar(axis(d, 0.0), axis(d, top), *material["legs"], ring * base.taper, ring) for d in directions]
    if len(directions) != 4:
        return pieces
    if base.apron:
        half, low = 0.55 * base.width / 2, top - base.apron  # four boards between the axes of the legs
        pieces += [box((-x, side - half, low), (x, side + half, top), *material["apron"]) for side in (-y, y)]
        pieces += [box((side - half, -y, low), (side + half, y, top), *material["apron"]) for side in (-x, x)]
    if base.stretcher != "none":
        z = base.stretcher_height * top
        front_left, front_right, back_right, back_left = (axis(d, z) for d in directions)
        between = [(front_left, back_left), (front_right, back_right)]
        if base.stretcher == "H":
            between.append(((front_left + back_left) / 2, (front_right + back_right) / 2))
        elif base.stretcher == "box":
            between += [(front_left, front_right), (back_left, back_right)]
        thin = outline(0.3 * base.width, 0.35 * base.width)
        pieces += [bar(start, end, *material["stretchers"], thin) for start, end in between]
    return pieces


def build_panels(base, x, y, top, material):
    """A closed panel at each side and a board between them at the back."""
    half = 0.35 * base.width
    panels = [box((side - half, -y, 0), (side + half, y, top), *material["legs"]) for side in (-x, x)]
    return [*panels, box((-x, y - 0.05, 0.55 * top), (x, y - 0.02, top), *material["stretchers"])]


def build_block(base, x, y, top, material):
    """One closed body down to the floor."""
    ring = outline(x, y, 2 * ROUND if base.round else 4)
    return [slab(ring, 0, top, *material["legs"])]


def build_sled(base, x, y, top, material, cantilever=False):
    """Two posts, or with `cantilever` the front one only, on a runner at each side, and a bar across the back."""
    half = 0.4 * base.width
    low = 0 if cantilever else base.stretcher_height * top
    pieces = [box((-x, y - half, low), (x, y + half, low + 1.6 * half), *material["stretchers"])]
    for side in (-x, x):
        for end in (-y,) if cantilever else (-y, y):
            pieces.append(box((side - half, end - half, 0), (side + half, end + half, top), *material["legs"]))
        pieces.append(box((side - 0.9 * half, -y, 0), (side + 0.9 * half, y + half, 1.8 * half), *material["stretchers"]))
    return pieces


def build_cross(base, x, y, top, material):
    """Two legs that cross at each side, joined by a bar where they do."""
    y, half = min(y, 0.7 * top), base.width / 2
    ring = outline(0.8 * half, 1.2 * half)
    pieces = [bar((side, -end, 0), (side, end, top), *material["legs"], ring) for side in (-x, x) for end in (-y, y)]
    return [*pieces, bar((-x, 0, top / 2), (x, 0, top / 2), *material["stretchers"], outline(0.7 * half, 0.7 * half))]


def build_trestle(base, x, y, top, material):
    """A post between two beams at each side, and a board between the posts."""
    half, low = base.width / 2, 0.3 * top
    pieces = [box((-x, -0.4 * half, low), (x, 0.4 * half, low + 2.4 * half), *material["stretchers"])]
    for side in (-x, x):
        for bottom in (0, top - 1.4 * half):
            beam = (side - half, -0.9 * y, bottom), (side + half, 0.9 * y, bottom + 1.4 * half)
            pieces.append(box(*beam, *material["stretchers"]))
        pieces.append(box((side - 0.8 * half, -1.8 * half, 0.01), (side + 0.8 * half, 1.8 * half, top), *material["legs"]))
    return pieces


def build_column(base, x, y, top, material, foot):
    """A column on a `foot`, a function of (base, reach, material)."""
    radius = 0.75 * base.width
    column = slab(outline(radius, radius, ROUND), 0.03, top, *material["legs"])
    return [column, *foot(base, max(1.2 * min(x, y), 0.26 * top), material)]


def disc(base, reach, material):
    radii_and_heights = (reach, 0.0), (reach, 0.025), (1.1 * base.width, 0.06)
    rings = [np.insert(outline(radius, radius, ROUND), 2, z, axis=1) for radius, z in radii_and_heights]
    return [loft(rings, *material["stretchers"])]


def star(base, reach, material, low=0.0):
    """Arms that reach from the column outwards; their tips stand at the height `low`."""
    pieces = []
    for direction in directions_of(base.num_feet):
        tip = np.append(reach * direction, low + 0.3 * base.width)
        thick, thin = outline(0.5 * base.width, 0.55 * base.width), outline(0.35 * base.width, 0.3 * base.width)
        pieces.append(bar((0, 0, low + 0.6 * base.width + 0.02), tip, *material["stretchers"], thick, thin))
    return pieces


def directions_of(num_feet):
    """Horizontal unit vectors (n, 2)."""
    angle = 2 * np.pi * (np.arange(num_feet) + 0.5) / num_feet - np.pi / 2
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def castors(base, reach, material):
    """A star on castors, and the sleeve of a gas lift around the column."""
    radius = 0.55 * base.width
    reach = max(reach, 0.27)
    sleeve = slab(outline(base.width, base.width, ROUND), radius, 0.24, *material["stretchers"])
    wheels = []
    for x, y in reach * 0.96 * directions_of(base.num_feet):
        axle = np.array([-y, x, 0]) / np.hypot(x, y) * 0.6 * radius
        middle = np.array([x, y, radius])
        wheels.append(bar(middle - axle, middle + axle, *material["legs"], outline(radius, radius, 12)))
    return [sleeve, *star(base, reach, material, 1.6 * radius), *wheels]


BUILDERS = {
    "legs": build_legs,
    "three legs": functools.partial(build_legs, signs=((0, -1.2), (1.04, 0.6), (-1.04, 0.6))),
    "panels": build_panels,
    "block": build_block,
    "sled": build_sled,
    "cantilever": functools.partial(build_sled, cantilever=True),
    "cross": build_cross,
    "trestle": build_trestle,
    "disc": functools.partial(build_column, foot=disc),
    "star": functools.partial(build_column, foot=star),
    "castors": functools.partial(build_column, foot=castors),
}
AT_CORNERS = ("legs", "panels", "sled")  # kinds that have something upright at each corner
