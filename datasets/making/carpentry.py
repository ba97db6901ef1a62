"""Builds chairs and tables from parameters, as pieces with the label of a part and the colour of a group of pieces.

Lengths are in metres until the object is scaled to unit diagonal. Axes: x to the right as seen from the front, y to the
back, z up, the floor at z = 0.
"""

from dataclasses import dataclass

import numpy as np

from datasets.making.bases import AT_CORNERS, ROUND, Base, build_base, leg_axis
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

REACH = {"rectangle": 1.0, "bevelled": 0.92, "round": 0.72}  # fraction of the half extents where legs are under the surface
BACKS = {  # posts, whether there is a rail at the top, what is between them
    "solid": ("none", False, "panel"),
    "padded": ("centre", False, "raised panel"),
    "framed": ("sides", True, "raised panel"),
    "splat": ("sides", True, "board"),
    "slats": ("none", True, "upright slats"),
    "framed slats": ("sides", True, "upright slats"),
    "ladder": ("sides", False, "level slats"),
}
POST_WIDTH = 0.052  # of a back


@dataclass(frozen=True)
class Chair:
    """Lengths in metres."""

    width: float
    depth: float
    seat_height: float
    seat_thickness: float
    shape: str  # one of REACH
    cushion: float  # height, 0 for none
    base: Base
    back: str  # one of BACKS, or "none"
    back_height: float  # above the seat
    back_lean: float  # towards +y per metre of height
    back_bow: float  # distance of the middle behind the sides
    back_crest: float  # height of the top's middle above its sides
    back_thickness: float
    gap: float  # between slats, which are at least as wide
    rail: float  # height of the rail, in backs that have one
    arms: str  # "none", "posts", "panels", "centred"
    arm_height: float  # above the seat
    arm_width: float
    arm_round: bool  # cross-section of the rests
    colours: tuple  # sRGB ((r, g, b), ...) in [0, 1], in the order of GROUPS


@dataclass(frozen=True)
class Table:
    """Lengths in metres."""

    width: float
    depth: float
    height: float
    thickness: float
    shape: str  # one of REACH
    base: Base
    shelf_height: float  # relative to the height, 0 for none; only bases AT_CORNERS can carry a shelf
    storage: str  # under the top: "none", "row", "left", "right", "both"
    storage_height: float  # relative to the height of the table
    num_columns: int  # of drawers, in a row
    num_rows: int  # of drawers
    is_open: bool  # compartments instead of drawers
    rim: float  # around drawers and compartments
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
    ring = _top_outline(chair.shape, half_x, half_y)

    pieces = [slab(ring, underside, chair.seat_height, *material["surface"])]
    if chair.cushion:
        pieces.append(slab(ring * 0.94, chair.seat_height, level, *material["cushion"]))
    reach = REACH[chair.shape]
    pieces += build_base(chair.base, half_x * reach, half_y * reach, underside + 0.005, material)
    if chair.back != "none":
        pieces += build_back(chair, chair.seat_height - 0.5 * chair.seat_thickness, level, material)
    if chair.arms != "none":
        pieces += build_arms(chair, underside, level, material)
    return pieces


def build_back(chair, bottom, level, material):
    """Pieces of the back from `bottom`, a height inside the seat; `level` is the height of the seat's top."""
    posts, has_rail, infill = BACKS[chair.back]
    thickness, top = chair.back_thickness, level + chair.back_height
    half_x = chair.width / 2 * (0.8 if chair.shape == "round" else 0.97)
    start_y = chair.depth / 2 * (0.8 if chair.shape == "round" else 1.0) - thickness

    def panel(left, right, low, high, group, depth=1.0, crest=0.0):
        """A piece between two positions across and two heights; its depth is relative to the back's thickness."""
        across = np.linspace(left, right, 9 if right - left > 0.3 * half_x else 2)[:, None]
        middle = 1 - (across / half_x) ** 2  # 1 in the middle of the back, 0 at its sides
        z, half = np.array([low, low, high, high]), depth * thickness / 2
        bow = chair.back_bow * middle * np.clip((z - bottom) / 0.2, 0, 1)  # none at the seat
        y = start_y + chair.back_lean * (z - bottom) + bow + [-half, half, half, -half]
        z = z + crest * middle * [0, 0, 1, 1]
        return loft(np.stack(np.broadcast_arrays(across, y, z), axis=-1), *material[group])

    framed = posts == "sides"
    inner, side = half_x - POST_WIDTH * framed, half_x - 0.5 * POST_WIDTH * framed  # pieces end inside the posts
    raised, rail_bottom = level + chair.gap, top - chair.rail * has_rail
    pieces = []
    if framed:
        pieces += [panel(-half_x, -inner, bottom, top, "posts"), panel(inner, half_x, bottom, top, "posts")]
    elif posts == "centre":
        pieces.append(panel(-0.06, 0.06, bottom, raised + 0.1, "posts", depth=0.6))
    if has_rail:
        pieces.append(panel(-side, side, rail_bottom, top - 0.004, "rail", 0.9, chair.back_crest))
    spans = {  # left, right, low, high
        "panel": [(-half_x, half_x, bottom, top)],
        "raised panel": [(-side, side, raised, rail_bottom)],
        "board": [(-0.35 * half_x, 0.35 * half_x, bottom, rail_bottom + 0.005)],
        "upright slats": [(*slat, bottom, rail_bottom + 0.005) for slat in spread(-inner, inner, chair.gap, framed, framed)],
        "level slats": [(-side, side, *slat) for slat in spread(level, top, chair.gap, True, False)],
    }[infill]
    depth = 0.45 if framed or has_rail else 1.0
    crests = [0.0] * (len(spans) - 1) + [0.0 if has_rail else chair.back_crest]  # the highest piece has it
    return pieces + [panel(*span, "back", depth, crest) for span, crest in zip(spans, crests)]


def spread(start, end, gap, starts_with_gap, ends_with_gap):
    """(start, end) of as many slats as fit into a length, `gap` apart and at least as wide."""
    more_gaps = starts_with_gap + ends_with_gap - 1  # than slats
    count = max(1, int(((end - start) / gap - more_gaps) // 2))
    width = (end - start - (count + more_gaps) * gap) / count
    starts = start + gap * starts_with_gap + (width + gap) * np.arange(count)
    return [(low, low + width) for low in starts]


def build_arms(chair, underside, level, material):
    """Both arms: a rest on a post or a closed panel."""
    half_x, half_y, width = chair.width / 2, chair.depth / 2, chair.arm_width
    top, rest = level + chair.arm_height, 0.6 * width
    front = -0.85 * half_y
    back = half_y + chair.back_lean * chair.arm_height - 0.6 * chair.back_thickness
    (start, end), low, back = {  # of the support along y, its lower end, where the rest ends
        "posts": ((front + 0.02, front + 0.02 + 0.8 * width), level - 0.01, back),
        "panels": ((front, 0.96 * half_y), underside - 0.01, back),
        "centred": ((-0.45 * width, 0.55 * width), level - 0.06, 0.6 * half_y),
    }[chair.arms]
    section = outline(width / 2, rest / 2, 12 if chair.arm_round else 4)
    pieces = []
    for side in (-1, 1):
        x, half = side * (half_x - 0.3 * width), 0.42 * width
        pieces.append(box((x - half, start, low), (x + half, end, top - 0.5 * rest), *material["supports"]))
        ends = (x, front - 0.015, top - rest / 2), (x, back, top - rest / 2)
        pieces.append(bar(*ends, *material["arms"], section))
    return pieces


def build_table(table):
    """The pieces of a table, a list of meshes in metres."""
    material = _materials(TABLE_PARTS, table.colours)
    half_x, half_y = table.width / 2, table.depth / 2
    underside = table.height - table.thickness
    pieces = [slab(_top_outline(table.shape, half_x, half_y), underside, table.height, *material["surface"])]
    reach = REACH[table.shape]
    half_x, half_y = half_x * reach, half_y * reach
    pieces += build_base(table.base, half_x, half_y, underside + 0.005, material)
    if table.shelf_height and table.base.kind in AT_CORNERS:
        z = table.shelf_height * table.height
        extents = leg_axis(table.base, half_x, half_y, underside - z)
        ring = outline(*extents) if table.shape != "round" else np.sqrt(2) * outline(*extents, 2 * ROUND)
        pieces.append(slab(ring, z - 0.5 * table.rim, z + 0.5 * table.rim, *material["shelf"]))

    inner_x, inner_y = (axis - 0.4 * table.base.width for axis in leg_axis(table.base, half_x, half_y))
    inner_y += 0.3 * table.base.width
    block = 0.6 * inner_x
    spans = {  # from left to right
        "none": [],
        "row": [(-inner_x, inner_x)],
        "left": [(-inner_x, -inner_x + block)],
        "right": [(inner_x - block, inner_x)],
        "both": [(-inner_x, -inner_x + block), (inner_x - block, inner_x)],
    }[table.storage]
    bottom = underside - table.storage_height * table.height
    for left, right in spans:
        pieces += build_storage(table, (left, -inner_y, bottom), (right, inner_y, underside), material)
    return pieces


def build_storage(table, low, high, material):
    """Drawers or open compartments between two opposite corners (3,), with their fronts towards -y."""
    low, high = np.array(low), np.array(high)
    columns_and_rows = table.num_columns if table.storage == "row" else 1, table.num_rows
    rim, sizes = table.rim, high - low
    if table.is_open:
        pieces = [box((low[0], high[1] - rim, low[2]), high, *material["drawers"])]
        for axis, count in zip((0, 2), columns_and_rows):
            for at in np.linspace(low[axis], high[axis] - rim, count + 1):
                corner, size = low.copy(), sizes.copy()
                corner[axis], size[axis] = at, rim
                pieces.append(box(corner, corner + size, *material["drawers"]))
        return pieces
    pieces = [box(low, high, *material["drawers"])]
    cell = sizes[[0, 2]] / columns_and_rows
    front = low[1]
    for column_and_row in np.ndindex(columns_and_rows):
        corner = low[[0, 2]] + cell * column_and_row
        (x0, z0), (x1, z1) = corner + rim / 2, corner + cell - rim / 2
        pieces.append(box((x0, front - rim, z0), (x1, front + 0.01, z1), *material["fronts"]))
        x, z, half = (x0 + x1) / 2, (z0 + z1) / 2, min(0.3 * cell[0], 3 * rim)
        handle = (x - half, front - 2 * rim, z - rim / 2), (x + half, front - 0.9 * rim, z + rim / 2)
        pieces.append(box(*handle, *material["drawers"]))
    return pieces


def _top_outline(shape, half_x, half_y):
    if shape == "round":
        return outline(half_x, half_y, 2 * ROUND)
    return outline(half_x, half_y, bevel=0.16 * min(half_x, half_y) if shape == "bevelled" else 0.0)
