"""The kinds of chairs and tables, and what their random parameters are drawn from.

A parameter is given as {choice: weight}, as (low, high) of a uniform number, or as a constant; a choice can be (low, high).
Lengths are in metres, depths relative to the width. In an image of 64 x 64 pixels, a pixel is about 2 cm of a chair, 1.5 cm
of a side table and 3 cm of a dining table: legs, arms, slats and the gaps between them are wide enough to be seen.
"""

BASE = {
    "kind": {"legs": 0.54, "sled": 0.1, "cantilever": 0.1, "panels": 0.08, "cross": 0.08, "star": 0.1},
    "width": (0.055, 0.085),
    "taper": {1.0: 0.5, (0.7, 0.9): 0.5},
    "round": {True: 0.45, False: 0.55},
    "splay": {0.0: 0.6, (0.05, 0.12): 0.4},
    "inset": (0.005, 0.04),
    "num_feet": {4: 0.5, 5: 0.5},
    "apron": {0.0: 0.5, (0.05, 0.08): 0.5},
    "stretcher": {"none": 0.6, "sides": 0.12, "H": 0.14, "box": 0.14},
    "stretcher_height": (0.2, 0.45),
}
UNSUITABLE = {  # bases under a seat or top of each shape
    "rectangle": ["three legs"],
    "bevelled": ["three legs"],
    "round": ["sled", "cantilever", "panels"],
}

CHAIR = {
    "width": (0.46, 0.54),
    "depth": (0.88, 1.06),
    "seat_height": (0.43, 0.47),
    "seat_thickness": (0.06, 0.09),
    "shape": {"rectangle": 0.5, "bevelled": 0.3, "round": 0.2},
    "cushion": {0.0: 0.7, (0.03, 0.05): 0.3},
    "back": {"solid": 0.2, "framed": 0.1, "splat": 0.1, "slats": 0.15, "framed slats": 0.15, "ladder": 0.3},
    "back_height": (0.42, 0.52),
    "back_lean": (0.04, 0.22),
    "back_bow": {0.0: 0.5, (0.02, 0.06): 0.5},
    "back_crest": {0.0: 0.5, (0.02, 0.08): 0.5},
    "back_thickness": (0.04, 0.06),
    "gap": (0.06, 0.08),
    "rail": (0.07, 0.12),
    "arms": "none",
    "arm_height": (0.20, 0.25),
    "arm_width": (0.08, 0.11),
    "arm_round": {True: 0.3, False: 0.7},
}
STOOL = CHAIR | {
    "width": (0.34, 0.42),
    "seat_height": {(0.42, 0.5): 0.6, (0.6, 0.7): 0.4},
    "seat_thickness": (0.05, 0.07),
    "cushion": {0.0: 0.5, (0.03, 0.05): 0.5},
    "shape": {"rectangle": 0.3, "bevelled": 0.1, "round": 0.6},
    "back": "none",
}
STOOL_BASE = BASE | {
    "kind": {"legs": 0.5, "three legs": 0.15, "disc": 0.15, "star": 0.1, "cross": 0.1},
    "width": (0.045, 0.06),
    "apron": 0.0,
    "stretcher": {"none": 0.3, "H": 0.2, "box": 0.5},
}
SWIVEL = CHAIR | {
    "seat_height": (0.46, 0.54),
    "seat_thickness": (0.08, 0.11),
    "shape": {"rectangle": 0.3, "bevelled": 0.7},
    "back": "padded",
    "back_height": (0.42, 0.6),
    "back_thickness": (0.06, 0.08),
}
SWIVEL_BASE = BASE | {"kind": {"castors": 1.0}, "width": (0.06, 0.07), "num_feet": 5}
ARMCHAIR = CHAIR | {"width": (0.52, 0.6), "shape": {"rectangle": 0.6, "bevelled": 0.4}, "arms": {"posts": 0.6, "panels": 0.4}}
EASY_CHAIR = ARMCHAIR | {
    "width": (0.66, 0.8),
    "seat_height": (0.32, 0.38),
    "seat_thickness": (0.14, 0.18),
    "cushion": {0.0: 0.4, (0.06, 0.1): 0.6},
    "back": "solid",
    "back_thickness": (0.1, 0.14),
    "arms": "panels",
    "arm_width": (0.12, 0.16),
}
EASY_BASE = BASE | {"kind": {"legs": 0.7, "block": 0.3}, "apron": 0.0, "stretcher": "none"}

TABLE = {
    "width": (1.1, 1.7),
    "depth": (0.5, 0.7),
    "height": (0.7, 0.78),
    "thickness": (0.03, 0.06),
    "shape": {"rectangle": 0.4, "bevelled": 0.15, "round": 0.45},
    "shelf_height": 0.0,
    "storage": "none",
    "storage_height": (0.2, 0.26),
    "num_columns": {2: 0.6, 3: 0.4},
    "num_rows": 1,
    "is_open": {True: 0.25, False: 0.75},
    "rim": (0.035, 0.045),
}
TABLE_BASE = BASE | {
    "kind": {
        "legs": 0.4,
        "three legs": 0.1,
        "sled": 0.1,
        "panels": 0.1,
        "trestle": 0.2,
        "cross": 0.12,
        "star": 0.08,
        "disc": 0.1,
    },
    "width": (0.07, 0.1),
    "apron": {0.0: 0.5, (0.07, 0.1): 0.5},
}
LOW_BASE = TABLE_BASE | {
    "kind": {"legs": 0.5, "three legs": 0.1, "sled": 0.12, "panels": 0.1, "cross": 0.1, "disc": 0.1, "block": 0.05},
    "width": (0.05, 0.075),
}
UPRIGHT = {"splay": 0.0, "taper": 1.0, "stretcher": "none", "apron": 0.0, "inset": 0.01}  # with drawers between the legs
UPRIGHT |= {"kind": {"legs": 0.5, "panels": 0.3, "sled": 0.2}}
ANGULAR = {"rectangle": 0.7, "bevelled": 0.3}
SHELF = {0.0: 0.4, (0.2, 0.35): 0.6}
COFFEE_TABLE = TABLE | {"width": (0.8, 1.2), "depth": (0.55, 1.0), "height": (0.36, 0.48), "shelf_height": SHELF}
SIDE_TABLE = TABLE | {
    "width": (0.4, 0.55),
    "depth": (0.8, 1.0),
    "height": (0.48, 0.65),
    "thickness": (0.02, 0.035),
    "shelf_height": SHELF,
    "rim": (0.022, 0.028),
}
SIDE_BASE = LOW_BASE | {"width": (0.035, 0.05), "apron": {0.0: 0.5, (0.04, 0.06): 0.5}}
WRITING_TABLE = TABLE | {"shape": ANGULAR, "storage": "row"}
DESK = TABLE | {
    "shape": ANGULAR,
    "storage": {"left": 0.3, "right": 0.3, "both": 0.4},
    "storage_height": (0.6, 0.85),
    "num_rows": {2: 0.5, 3: 0.5},
}
NIGHTSTAND = SIDE_TABLE | {
    "shape": ANGULAR,
    "shelf_height": 0.0,
    "storage": "row",
    "storage_height": (0.35, 0.7),
    "num_columns": 1,
    "num_rows": {1: 0.4, 2: 0.6},
}
CONSOLE = WRITING_TABLE | {"width": (0.9, 1.3), "depth": (0.3, 0.38), "shelf_height": SHELF}

# {kind: (share, parameters, parameters of its base)}. Kinds with arms are neighbours, and so are kinds with drawers: a few
# objects, whose kinds are spread evenly over this order, then hold their share of arms and drawers.
KINDS = {
    "Chair": {
        "chair": (0.53, CHAIR, BASE),
        "stool": (0.08, STOOL, STOOL_BASE),
        "swivel chair": (0.05, SWIVEL, SWIVEL_BASE),
        "swivel armchair": (0.07, SWIVEL | {"arms": "centred"}, SWIVEL_BASE),
        "armchair": (0.21, ARMCHAIR, BASE),
        "easy chair": (0.06, EASY_CHAIR, EASY_BASE),
    },
    "Table": {
        "dining table": (0.28, TABLE | {"width": (1.0, 1.5), "depth": (0.55, 1.0)}, TABLE_BASE),
        "coffee table": (0.14, COFFEE_TABLE, LOW_BASE),
        "side table": (0.13, SIDE_TABLE, SIDE_BASE),
        "writing table": (0.11, WRITING_TABLE, TABLE_BASE | UPRIGHT),
        "desk": (0.13, DESK, TABLE_BASE | UPRIGHT),
        "nightstand": (0.11, NIGHTSTAND, SIDE_BASE | UPRIGHT),
        "console": (0.1, CONSOLE, TABLE_BASE | UPRIGHT | {"width": (0.05, 0.07)}),
    },
}
