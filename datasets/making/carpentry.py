"""Builds chairs and tables from parameters, as pieces with the label of a part and the colour of a group of pieces.

Lengths are in metres until the object is scaled to unit diagonal. Axes: x to the right as seen from the front, y to the
back, z up, the floor at z = 0.
"""

from dataclasses import dataclass

import numpy as np

from datasets.making.solids import bar, box, loft, outline, slab
from datasets.meshes import triangle_mesh

CLASS_NAMES = {
    "Chair": ["background", "chair_back", "chair_seat", "chair_arm", "chair_base"],
    "Table": ["background", "tabletop", "table_base", "table_storage"],
}
BACK, SEAT, ARM, CHAIR_BASE = 1, 2, 3, 4
TOP, TABLE_BASE, STORAGE = 1, 2, 3

# Groups of pieces that share a colour, and the groups that make up each part.
GROUPS = tuple("surface cushion apron legs stretchers back posts rail arms supports shelf drawers fronts".split())
CHAIR_PARTS = {SEAT: "surface cushion apron", BACK: "back posts rail", ARM: "arms supports", CHAIR_BASE: "legs stretchers"}
TABLE_PARTS = {TOP: "surface", TABLE_BASE: "apron legs stretchers", STORAGE: "shelf drawers fronts"}

ROUND = 20  # corners of a circle
REACH = {"rectangle": 1.0, "bevelled": 0.92, "round": 0.72}  # fraction of the half extents where legs are under the surface


@dataclass(frozen=True)
class Base:
    """The support of a seat or a top. Lengths in metres; splay is the outward lean of legs per metre of height."""

    kind: str  # "legs", "three legs", "sled", "panels", "pedestal"
    width: float  # of a leg at its top
    taper: float  # width at the floor relative to `width`
    round: bool  # cross-section of legs
    splay: float
    inset: float  # distance of the legs from the edge above
    foot: str  # of a pedestal: "star" or "disc"
    num_feet: int  # of a star
    apron: float  # height of the frame under the edge, 0 for none
    stretcher: str  # "none", "sides", "H", "box"
    stretcher_height: float  # relative to the height of the base


@dataclass(frozen=True)
class Chair:
    """Lengths in metres."""

    width: float
    depth: float
    seat_height: float
    seat_thickness: float
    seat_shape: str  # "rectangle", "bevelled", "round"
    cushion: float  # height, 0 for none
    base: Base
    back: str  # "solid", "vertical slats", "horizontal slats"
    back_height: float  # above the seat
    back_lean: float  # towards +y per metre of height
    back_bow: float  # distance of the middle behind the sides
    back_thickness: float
    num_slats: int
    top_rail: float  # height, 0 for none
    posts: bool  # upright posts at both sides of the back
    arms: str  # "none", "posts", "panels"
    arm_height: float  # above the seat
    arm_width: float
    colours: tuple  # sRGB ((r, g, b), ...) in [0, 1], in the order of GROUPS


@dataclass(frozen=True)
class Table:
    """Lengths in metres."""

    width: float
    depth: float
    height: float
    thickness: float
    top_shape: str  # "rectangle", "bevelled", "round"
    base: Base
    shelf_height: float  # relative to the height, 0 for none
    drawers: str  # "none", "row", "right", "both"
    num_drawers: int
    colours: tuple  # as for a Chair


def build(parameters):
    """The labelled mesh of a Chair or Table, in canonical pose."""
    pieces = build_chair(parameters) if isinstance(parameters, Chair) else build_table(parameters)
    return triangle_mesh.to_unit_diagonal(triangle_mesh.join(pieces))


def _materials(parts, colours):
    """{group: (label, colour)}, from {label: names of groups} and the colours of GROUPS."""
    colour_of = dict(zip(GROUPS, colours))
    return {group: (label, colour_of[group]) for label, groups in parts.items() for group in groups.split()}


def build_chair(chair):
    """The pieces of a chair, a list of meshes in metres."""
    material = _materials(CHAIR_PARTS, chair.colours)
    half_x, half_y = chair.width / 2, chair.depth / 2
    underside = chair.seat_height - chair.seat_thickness
    level = chair.seat_height + chair.cushion
    ring = _top_outline(chair.seat_shape, half_x, half_y)

    pieces = [slab(ring, underside, chair.seat_height, *material["surface"])]
    if chair.cushion:
        pieces.append(slab(ring * 0.94, chair.seat_height, level, *material["cushion"]))
    reach = REACH[chair.seat_shape]
    pieces += build_base(chair.base, half_x * reach, half_y * reach, underside + 0.005, material)
    pieces += build_back(chair, chair.seat_height - 0.5 * chair.seat_thickness, level, material)
    if chair.arms != "none":
        pieces += build_arms(chair, level, material)
    return pieces


def build_back(chair, bottom, level, material):
    """Pieces of the back from `bottom`, a height inside the seat; `level` is the height of the seat's top."""
    thickness, top = chair.back_thickness, level + chair.back_height
    half_x = chair.width / 2 * (0.8 if chair.seat_shape == "round" else 0.97)
    start_y = chair.depth / 2 * (0.8 if chair.seat_shape == "round" else 1.0) - thickness

    def panel(left, right, low, high, group, thickness=thickness):
        """A piece of the back between two positions across, in [-1, 1], and two heights, with the back's lean and bow."""
        across = np.linspace(left, right, 2 if right - left < 0.3 else 9)[:, None]
        z, half = np.array([low, low, high, high]), thickness / 2
        bow = chair.back_bow * (1 - across**2) * np.clip((z - bottom) / 0.2, 0, 1)  # none at the seat
        y = start_y + chair.back_lean * (z - bottom) + bow + [-half, half, half, -half]
        return loft(np.stack(np.broadcast_arrays(across * half_x, y, z), axis=-1), *material[group])

    pieces = []
    post = min(0.08, 1.1 * thickness / half_x)  # width across
    rail_bottom = top - chair.top_rail
    if chair.posts:
        pieces += [panel(-1, -1 + 2 * post, bottom, top, "posts"), panel(1 - 2 * post, 1, bottom, top, "posts")]
    side = 1 - post if chair.posts else 1.0
    if chair.top_rail:
        pieces.append(panel(-side, side, rail_bottom, top - 0.004, "rail", thickness * 0.9))
    slat_thickness = thickness * 0.7
    if chair.back == "solid":
        low = level + 0.08 if chair.posts else bottom
        pieces.append(panel(-side, side, low, rail_bottom, "back", thickness * (0.8 if chair.posts else 1.0)))
    elif chair.back == "vertical slats":
        centres = np.linspace(-side, side, chair.num_slats + 2)[1:-1]
        if not chair.posts:  # the outer slats are the sides
            centres = np.linspace(-0.9, 0.9, chair.num_slats)
        half = 0.34 * (centres[1] - centres[0])
        pieces += [panel(c - half, c + half, bottom, rail_bottom + 0.005, "back", slat_thickness) for c in centres]
    else:
        edges = np.linspace(level + 0.08, rail_bottom, chair.num_slats + 1)
        height = 0.7 * (edges[1] - edges[0])
        pieces += [panel(-side, side, high - height, high, "back", slat_thickness) for high in edges[1:]]
    return pieces


def build_arms(chair, level, material):
    """Both arms: a rest from the back to the front, on a post or a closed panel."""
    half_x = chair.width / 2 * (0.8 if chair.seat_shape == "round" else 1.0)
    half_y = chair.depth / 2 * (0.72 if chair.seat_shape == "round" else 1.0)
    width, rest = chair.arm_width, 0.6 * chair.arm_width
    top = level + chair.arm_height
    back_y = half_y + chair.back_lean * chair.arm_height - 0.6 * chair.back_thickness
    front_y = -half_y * 0.85
    if chair.arms == "panels":
        half, start_y, end_y = 0.9 * width / 2, front_y, half_y * 0.96
    else:
        half, start_y, end_y = 0.8 * width / 2, front_y + 0.02, front_y + 0.02 + 0.8 * width
    pieces = []
    for side in (-1, 1):
        x = side * (half_x - 0.3 * width)
        low, high = (x - half, start_y, level - 0.01), (x + half, end_y, top - 0.5 * rest)
        pieces.append(box(low, high, *material["supports"]))
        pieces.append(box((x - width / 2, front_y - 0.015, top - rest), (x + width / 2, back_y, top), *material["arms"]))
    return pieces


def build_table(table):
    """The pieces of a table, a list of meshes in metres."""
    material = _materials(TABLE_PARTS, table.colours)
    half_x, half_y = table.width / 2, table.depth / 2
    underside = table.height - table.thickness
    ring = _top_outline(table.top_shape, half_x, half_y)
    pieces = [slab(ring, underside, table.height, *material["surface"])]
    reach = REACH[table.top_shape]
    half_x, half_y = half_x * reach, half_y * reach
    pieces += build_base(table.base, half_x, half_y, underside + 0.005, material)

    inner_x = half_x - table.base.inset - table.base.width
    inner_y = half_y - table.base.inset - 0.5 * table.base.width
    if table.shelf_height:
        z = table.shelf_height * table.height
        pieces.append(box((-inner_x - 0.01, -inner_y, z - 0.02), (inner_x + 0.01, inner_y, z), *material["shelf"]))
    if table.drawers == "row":
        low, high = (-inner_x, -inner_y, underside - 0.13), (inner_x, inner_y, underside)
        pieces += build_drawers(low, high, table.num_drawers, 1, material)
    elif table.drawers in ("right", "both"):
        block_width = min(0.4, 0.7 * inner_x)
        bottom = underside - 0.78 * underside
        for side in (1,) if table.drawers == "right" else (-1, 1):
            left, right = sorted((side * (inner_x - block_width), side * inner_x))
            low, high = (left, -inner_y, bottom), (right, inner_y, underside)
            pieces += build_drawers(low, high, 1, table.num_drawers, material)
    return pieces


def build_drawers(low, high, num_columns, num_rows, material):
    """A block of drawers between two opposite corners (3,), with fronts and knobs towards -y."""
    low, high = np.array(low), np.array(high)
    pieces = [box(low, high, *material["drawers"])]
    cell = (high - low)[[0, 2]] / [num_columns, num_rows]
    front = low[1]
    for column_and_row in np.ndindex(num_columns, num_rows):
        corner = low[[0, 2]] + cell * column_and_row
        (x0, z0), (x1, z1) = corner + 0.012, corner + cell - 0.012
        pieces.append(box((x0, front - 0.018, z0), (x1, front + 0.01, z1), *material["fronts"]))
        x, z = (x0 + x1) / 2, (z0 + z1) / 2
        pieces.append(box((x - 0.05, front - 0.04, z - 0.012), (x + 0.05, front - 0.01, z + 0.012), *material["drawers"]))
    return pieces


def build_base(base, half_x, half_y, top, material):
    """Pieces from the floor up to `top`, under a surface of half extents (half_x, half_y)."""
    x, y = (half - base.inset - base.width / 2 for half in (half_x, half_y))  # of a leg's axis at its top
    if base.kind == "pedestal":
        return build_pedestal(base, min(half_x, half_y), top, material)
    if base.kind == "sled":
        return build_sled(base, x, y, top, material)
    if base.kind == "panels":
        half = 0.35 * base.width
        panels = [box((side - half, -y, 0), (side + half, y, top), *material["legs"]) for side in (-x, x)]
        return [*panels, box((-x, y - 0.05, 0.55 * top), (x, y - 0.02, top), *material["stretchers"])]

    if base.kind == "three legs":
        angle = np.deg2rad([-90.0, 30.0, 150.0])
        feet = np.stack([x * np.cos(angle), y * np.sin(angle)], axis=-1)
    else:
        feet = np.array([[-x, -y], [x, -y], [x, y], [-x, y]])
    half = base.width / 2
    ring = outline(half, half, 12) if base.round else outline(half, half)

    def axis(foot, z):
        """A leg's axis (3,) at height z."""
        return np.append(foot + np.sign(foot) * base.splay * (top - z), z)

    pieces = [bar(axis(foot, 0.0), axis(foot, top), *material["legs"], ring * base.taper, ring) for foot in feet]
    if base.apron:
        half, low = 0.55 * base.width / 2, top - base.apron  # four boards between the axes of the legs
        pieces += [box((-x, side - half, low), (x, side + half, top), *material["apron"]) for side in (-y, y)]
        pieces += [box((side - half, -y, low), (side + half, y, top), *material["apron"]) for side in (-x, x)]
    if base.stretcher != "none":
        z = base.stretcher_height * top
        front_left, front_right, back_right, back_left = (axis(foot, z) for foot in feet)
        between = [(front_left, back_left), (front_right, back_right)]
        if base.stretcher == "H":
            between.append(((front_left + back_left) / 2, (front_right + back_right) / 2))
        elif base.stretcher == "box":
            between += [(front_left, front_right), (back_left, back_right)]
        thin = outline(0.26 * base.width, 0.26 * base.width)
        pieces += [bar(start, end, *material["stretchers"], thin) for start, end in between]
    return pieces


def build_pedestal(base, reach, top, material):
    """A column on a star of feet or on a disc."""
    pieces = [slab(outline(1.1 * base.width, 1.1 * base.width, ROUND), 0.03, top, *material["legs"])]
    if base.foot == "disc":
        radii_and_heights = (0.75 * reach, 0.0), (0.75 * reach, 0.02), (1.3 * base.width, 0.06)
        rings = [np.insert(outline(r, r, ROUND), 2, z, axis=1) for r, z in radii_and_heights]
        return [*pieces, loft(rings, *material["stretchers"])]
    for angle in 2 * np.pi * (np.arange(base.num_feet) + 0.5) / base.num_feet - np.pi / 2:
        tip = 0.95 * reach * np.array([np.cos(angle), np.sin(angle)])
        thick, thin = outline(0.5 * base.width, 0.55 * base.width), outline(0.35 * base.width, 0.3 * base.width)
        pieces.append(bar((0, 0, 0.6 * base.width + 0.02), (*tip, 0.3 * base.width), *material["stretchers"], thick, thin))
    return pieces


def build_sled(base, x, y, top, material):
    """Two posts and a runner on the floor at each side, and one bar across the back."""
    half = 0.4 * base.width
    runner = 0.9 * half
    pieces = []
    for side in (-x, x):
        for end in (-y, y):
            pieces.append(box((side - half, end - half, 0), (side + half, end + half, top), *material["legs"]))
        pieces.append(box((side - runner, -y, 0), (side + runner, y, 2 * half), *material["stretchers"]))
    height = base.stretcher_height * top
    pieces.append(box((-x, y - 0.7 * half, height), (x, y + 0.7 * half, height + 1.4 * half), *material["stretchers"]))
    return pieces


def _top_outline(shape, half_x, half_y):
    if shape == "round":
        return outline(half_x, half_y, 2 * ROUND)
    return outline(half_x, half_y, bevel=0.16 * min(half_x, half_y) if shape == "bevelled" else 0.0)
