"""Chairs and tables from random parameters, which datasets/making/carpentry.py builds.

Colours say nothing about parts: an object has one to three colours from one palette, and each group of pieces (the
legs, the apron, the slats ...) takes one of them at random.
"""

import functools

import numpy as np

from datasets.making import carpentry, render_options
from datasets.making.carpentry import GROUPS, Base, Chair, Table
from options import positive_int

WOODS = [222, 190, 150], [196, 148, 98], [160, 108, 66], [120, 76, 48], [88, 58, 42], [176, 122, 104]
GREYS = [236, 232, 222], [204, 200, 192], [148, 148, 146], [92, 94, 98], [62, 62, 66]
PAINTS = [126, 152, 172], [74, 104, 136], [128, 156, 122], [84, 112, 88], [206, 176, 92], [184, 96, 72], [152, 70, 74]
PALETTE = np.array([*WOODS, *GREYS, *PAINTS]) / 255  # (N, 3) sRGB in [0, 1]
MAX_SPLAY = 0.12  # of legs, per metre of height


def add_options(parser):
    render_options.add_options(parser, views=30, sidelength=64, obj_names=sorted(carpentry.CLASS_NAMES))
    parser.add_argument("--instances", type=positive_int, default=200, help="number of training objects")
    parser.add_argument("--val_instances", type=positive_int, default=10, help="number of validation objects")
    parser.add_argument("--test_instances", type=positive_int, default=20, help="number of test objects")


def make(options):
    """Makes the class folder that the options describe."""
    counts = {"train": options.instances, "val": options.val_instances, "test": options.test_instances}
    name = options.obj_name
    loads = {
        split: {f"{name.lower()}_{i:04d}": functools.partial(load, name, options.seed, split, i) for i in range(count)}
        for split, count in counts.items()
    }
    render_options.write(options, carpentry.CLASS_NAMES[options.obj_name], loads)


def load(obj_name, seed, split, index):
    """The Mesh of the `index`-th object of a split; a split draws its own objects."""
    rng = np.random.default_rng([seed, render_options.OBJECTS, render_options.SPLITS.index(split), index])
    return carpentry.build(draw(obj_name, rng))


def draw(obj_name, rng):
    """Parameters of a random `obj_name`, "Chair" or "Table", from a numpy Generator."""
    return draw_chair(rng) if obj_name == "Chair" else draw_table(rng)


def draw_chair(rng):
    """A random Chair with thick legs: at 64 pixels a leg of 6 cm is two to three pixels wide, enough to score its label."""
    width = rng.uniform(0.43, 0.52)
    seat_shape = _pick(rng, {"rectangle": 0.5, "bevelled": 0.3, "round": 0.2})
    kinds = {"legs": 0.66, "three legs": 0.04, "sled": 0.06, "panels": 0.12, "pedestal": 0.12}
    base = draw_base(rng, kinds, width=rng.uniform(0.06, 0.09), apron=rng.uniform(0.05, 0.08))
    back = _pick(rng, {"solid": 0.4, "vertical slats": 0.3, "horizontal slats": 0.3})
    posts = back == "horizontal slats" or rng.random() < 0.5
    arms = _pick(rng, {"none": 0.8, "posts": 0.1, "panels": 0.1})
    return Chair(
        width=width,
        depth=width * rng.uniform(0.88, 1.08),
        seat_height=rng.uniform(0.43, 0.47),
        seat_thickness=rng.uniform(0.07, 0.10),
        seat_shape=seat_shape if arms != "panels" else "rectangle",
        cushion=rng.uniform(0.03, 0.05) if rng.random() < 0.3 else 0.0,
        base=base,
        back=back,
        back_height=rng.uniform(0.44, 0.52),
        back_lean=rng.uniform(0.04, 0.22),
        back_bow=rng.uniform(0.02, 0.06) if rng.random() < 0.5 else 0.0,
        back_thickness=rng.uniform(0.04, 0.065),
        num_slats=int(rng.integers(3, 5) if back == "vertical slats" else rng.integers(2, 4)),
        top_rail=rng.uniform(0.07, 0.12) if back == "vertical slats" or rng.random() < 0.4 else 0.0,
        posts=posts,
        arms=arms,
        arm_height=rng.uniform(0.20, 0.25),
        arm_width=rng.uniform(0.08, 0.11),
        colours=draw_colours(rng),
    )


def draw_table(rng):
    """A random Table."""
    height = rng.uniform(0.68, 0.78) if rng.random() < 0.65 else rng.uniform(0.38, 0.5)
    top_shape = _pick(rng, {"rectangle": 0.55, "bevelled": 0.2, "round": 0.25})
    width = rng.uniform(0.7, 1.1) if top_shape == "round" else rng.uniform(0.75, 1.6)
    depth = width * rng.uniform(0.9, 1.0) if top_shape == "round" else min(width, 0.9) * rng.uniform(0.62, 0.95)
    if top_shape == "round":
        kinds = {"legs": 0.6, "three legs": 0.15, "pedestal": 0.2}
    else:
        kinds = {"legs": 0.6, "pedestal": 0.2, "sled": 0.1, "panels": 0.2}
    base = draw_base(rng, kinds, width=rng.uniform(0.04, 0.075), apron=rng.uniform(0.06, 0.1))
    boxy = top_shape != "round" and base.kind in ("legs", "sled", "panels") and base.splay == 0
    drawers = _pick(rng, {"none": 0.4, "row": 0.3, "right": 0.15, "both": 0.15}) if boxy else "none"
    shelf = base.kind in ("legs", "sled", "panels") and drawers in ("none", "row") and rng.random() < 0.45
    return Table(
        width=width,
        depth=depth,
        height=height,
        thickness=rng.uniform(0.02, 0.06),
        top_shape=top_shape,
        base=base,
        shelf_height=rng.uniform(0.18, 0.42) if shelf else 0.0,
        drawers=drawers,
        num_drawers=int(rng.integers(2, 4)),
        colours=draw_colours(rng),
    )


def draw_base(rng, kinds, width, apron):
    """A random Base. kinds: {kind: weight}; width and apron in metres."""
    kind = _pick(rng, kinds)
    round_legs = bool(rng.random() < 0.45)
    legged = kind in ("legs", "three legs")
    return Base(
        kind=kind,
        width=width * (1.2 if round_legs else 1.0),
        taper=rng.uniform(0.6, 0.85) if legged and rng.random() < 0.5 else 1.0,
        round=round_legs,
        splay=rng.uniform(0.4, 1.0) * MAX_SPLAY if legged and rng.random() < 0.4 else 0.0,
        inset=rng.uniform(0.005, 0.04),
        foot=_pick(rng, {"star": 0.65, "disc": 0.35}),
        num_feet=int(rng.integers(4, 6)),
        apron=apron if kind == "legs" and rng.random() < 0.5 else 0.0,
        stretcher=_pick(rng, {"none": 0.7, "sides": 0.1, "H": 0.1, "box": 0.1}) if kind == "legs" else "none",
        stretcher_height=rng.uniform(0.2, 0.45),
    )


def draw_colours(rng):
    """An sRGB colour for each of GROUPS: one to three different ones, assigned regardless of the part."""
    num_colours = rng.choice([1, 2, 3], p=[0.25, 0.5, 0.25])
    chosen = PALETTE[rng.choice(len(PALETTE), num_colours, replace=False)]
    chosen = np.clip(chosen * rng.uniform(0.9, 1.1, (num_colours, 1)), 0, 1)
    return tuple(tuple(colour) for colour in chosen[rng.integers(num_colours, size=len(GROUPS))].tolist())


def _pick(rng, weights):
    names, chances = list(weights), np.array(list(weights.values()))
    return names[rng.choice(len(names), p=chances / chances.sum())]
