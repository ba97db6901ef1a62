"""Chairs and tables from random parameters, which datasets/making/carpentry.py builds.

The choices that matter most are spread evenly over a split, so that a few objects already show the whole range. Colours
say nothing about parts: an object has one to three colours from one palette, and each group of pieces (the legs, the
apron, the slats ...) takes one of them at random.
"""

import functools

import numpy as np

from datasets.making import bases, carpentry, kinds, render_options
from options import positive_int

WOODS = [222, 190, 150], [196, 148, 98], [160, 108, 66], [120, 76, 48], [88, 58, 42], [176, 122, 104]
GREYS = [236, 232, 222], [204, 200, 192], [148, 148, 146], [92, 94, 98], [62, 62, 66]
PAINTS = [126, 152, 172], [74, 104, 136], [128, 156, 122], [84, 112, 88], [206, 176, 92], [184, 96, 72], [152, 70, 74]
PALETTE = np.array([*WOODS, *GREYS, *PAINTS]) / 255  # (N, 3) sRGB in [0, 1]
# Multiples of each of these, modulo 1, fill [0, 1) evenly: Kronecker sequences. That of the golden ratio does so best.
STEPS = np.array([(1 + np.sqrt(5)) / 2, np.sqrt(2), np.sqrt(3)])


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
    return carpentry.build(draw(obj_name, seed, split, index))


def draw(obj_name, seed, split, index):
    """The parameters of the `index`-th object of a split, a carpentry.Chair or a carpentry.Table.

    Its kind, its back or storage and its base are spread evenly over consecutive objects; the rest is random.
    """
    split_id = render_options.SPLITS.index(split)
    rng = np.random.default_rng([seed, render_options.OBJECTS, split_id, index])
    offsets = np.random.default_rng([seed, render_options.KINDS, split_id]).random(len(STEPS))
    at_kind, at_style, at_base = (offsets + index * STEPS) % 1

    shares = {kind: share for kind, (share, _, _) in kinds.KINDS[obj_name].items()}
    _, parameters, base = kinds.KINDS[obj_name][sample(shares, rng, at_kind)]
    position = {"back": at_style, "storage": at_style, "kind": at_base}
    drawn = {name: sample(value, rng, position.get(name)) for name, value in parameters.items()}
    suitable = {kind: weight for kind, weight in base["kind"].items() if kind not in kinds.UNSUITABLE[drawn["shape"]]}
    base = {name: sample(value, rng, position.get(name)) for name, value in (base | {"kind": suitable}).items()}
    drawn["depth"] *= drawn["width"]
    furniture = {"Chair": carpentry.Chair, "Table": carpentry.Table}[obj_name]
    return furniture(**drawn, base=bases.Base(**base), colours=draw_colours(rng))


def sample(value, rng, position=None):
    """A value of a parameter as kinds.py gives it. position: in [0, 1), of a choice among the weights; None: random."""
    if isinstance(value, tuple):
        return rng.uniform(*value)
    if not isinstance(value, dict):
        return value
    up_to = np.cumsum(list(value.values()))
    position = rng.random() if position is None else position
    return sample(list(value)[np.searchsorted(up_to[:-1], position * up_to[-1], side="right")], rng)


def draw_colours(rng):
    """An sRGB colour for each of carpentry.GROUPS: one to three different ones, assigned regardless of the part."""
    num_colours = rng.choice([1, 2, 3], p=[0.25, 0.5, 0.25])
    chosen = PALETTE[rng.choice(len(PALETTE), num_colours, replace=False)]
    chosen = np.clip(chosen * rng.uniform(0.9, 1.1, (num_colours, 1)), 0, 1)
    return tuple(tuple(colour) for colour in chosen[rng.integers(num_colours, size=len(carpentry.GROUPS))].tolist())
