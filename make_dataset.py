"""Makes data sets with part labels: renders objects into the layout that train.py and test.py read.

    python make_dataset.py procedural --obj_name Chair --out data/procedural --instances 200 --views 30
    python make_dataset.py furniture --obj_name Table --out data/furniture --variants 4

Each makes the class folder <out>/<obj_name> with the splits train, train_val (the training objects from other
views), val and test (other objects). Test objects are all seen from the same path of cameras.
"""

import argparse
import functools
import os
import signal
import sys
from pathlib import Path

import numpy as np

import carpentry
import dataset_writer
import furniture
import procedural
import util
from dataset_writer import Instance

SPLITS = ("train", "train_val", "val", "test")
OBJECTS, VIEWS, VARIANTS = range(3)  # what a random generator is for
MIN_TEST_VIEWS = 70  # observation 65 is what one-shot reconstruction starts from


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    makers = parser.add_subparsers(dest="maker", required=True, metavar="MAKER")

    maker = _add_maker(makers, "procedural", make_procedural, "chairs and tables built from random parameters")
    _add_common(maker, views=30, sidelength=64)
    maker.add_argument("--instances", type=_whole(1), default=200, help="number of training objects")
    maker.add_argument("--val_instances", type=_whole(1), default=10, help="number of validation objects")
    maker.add_argument("--test_instances", type=_whole(1), default=20, help="number of test objects")

    maker = _add_maker(makers, "furniture", make_furniture, "chairs and tables of Sweet Home 3D, with textures")
    _add_common(maker, views=50, sidelength=128)
    maker.add_argument("--variants", type=_whole(0), default=0,
                       help="recoloured and stretched copies of each training object")
    maker.add_argument("--archive_dir", default=None,
                       help="folder with the .sh3f archives, or the Debian package sweethome3d-furniture 1.8; "
                            "without it, apt-get downloads the package into <out>/.cache")
    return parser


def _add_maker(makers, name, make, summary):
    maker = makers.add_parser(
        name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    maker.set_defaults(make=make)
    return maker


def _add_common(maker, views, sidelength):
    maker.add_argument("--obj_name", choices=sorted(carpentry.CLASS_NAMES), required=True, help="what to make")
    maker.add_argument("--out", required=True, help="folder in which the class folder <out>/<obj_name> is made")
    maker.add_argument("--views", type=_whole(1), default=views, help="views per training object")
    maker.add_argument("--train_val_views", type=_whole(1), default=10,
                       help="views per object of train_val and val")
    maker.add_argument("--test_views", type=_whole(MIN_TEST_VIEWS), default=100,
                       help=f"views per test object, at least {MIN_TEST_VIEWS}")
    maker.add_argument("--sidelength", type=_whole(8), default=sidelength, help="side of the images, in pixels")
    maker.add_argument("--seed", type=_whole(0), default=0, help="the same seed gives the same bytes")
    maker.add_argument("--num_workers", type=_whole(1), default=os.cpu_count() or 1, help="number of processes")
    maker.add_argument("--overwrite", action="store_true", help="replace an existing class folder")


def _whole(least):
    """An argparse type: a whole number that is at least `least`."""

    def parse(text):
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < least:
            raise argparse.ArgumentTypeError(f"{text!r} given, expected a whole number of at least {least}")
        return number

    return parse


def make_procedural(options):
    """Random objects: every split draws its own, train_val has those of train."""
    counts = {"train": options.instances, "train_val": options.instances,
              "val": options.val_instances, "test": options.test_instances}
    instances = [
        Instance(split, f"{options.obj_name.lower()}_{i:04d}",
                 functools.partial(procedural_mesh, options.obj_name, options.seed, split, i),
                 cameras(options, split, i))
        for split in SPLITS for i in range(counts[split])
    ]
    write(options, carpentry.CLASS_NAMES[options.obj_name], instances)


def procedural_mesh(obj_name, seed, split, index):
    """The mesh of the `index`-th object of a split."""
    owner = SPLITS.index("train" if split == "train_val" else split)
    rng = np.random.default_rng([seed, OBJECTS, owner, index])
    return carpentry.build(procedural.draw(obj_name, rng))


def make_furniture(options):
    """Modelled objects in the splits that labels.json proposes, training objects with variants."""
    dataset_writer.check_target(Path(options.out) / options.obj_name, options.overwrite)  # before any download
    category = options.obj_name.lower()
    classes, models = furniture.catalogue()
    models = {name: entry for name, entry in models.items() if entry["category"] == category}
    archives = furniture.find_archives({entry["archive"] for entry in models.values()}, options.archive_dir,
                                       cache=Path(options.out) / ".cache")
    instances, entries = [], {}
    for split in SPLITS:
        members = furniture_members(models, "train" if split == "train_val" else split, options.variants)
        for i, (name, entry, variant) in enumerate(members):
            make_mesh = functools.partial(furniture_mesh, archives[entry["archive"]], entry, options.seed, variant)
            instances.append(Instance(split, name, make_mesh, cameras(options, split, i)))
            entries[name] = entry
    write(options, classes[category], instances, {"variants": options.variants},
          texts={"ATTRIBUTION.md": furniture.attribution(entries)})


def furniture_members(models, split, variants):
    """(instance name, entry, variant) of a split; variant is None or (number of the model, number of the copy)."""
    members = []
    for i, (name, entry) in enumerate(sorted(models.items())):
        if entry["split"] == split:
            name = name.replace("/", "-")
            members.append((name, entry, None))
            copies = range(1, variants + 1) if split == "train" else ()
            members += [(f"{name}-v{copy}", entry, (i, copy)) for copy in copies]
    return members


def furniture_mesh(archive_path, entry, seed, variant):
    """The mesh of a model, or of a variant of it."""
    rng = None if variant is None else np.random.default_rng([seed, VARIANTS, *variant])
    return furniture.load(archive_path, entry, rng)


def cameras(options, split, index):
    """Poses (V, 4, 4) of the views of the `index`-th object of a split."""
    if split == "test":
        return dataset_writer.spiral_cameras(options.test_views)
    rng = np.random.default_rng([options.seed, VIEWS, SPLITS.index(split), index])
    return dataset_writer.random_cameras(options.views if split == "train" else options.train_val_views, rng)


def write(options, class_names, instances, description=None, texts=None):
    """Renders instances into the class folder that the options name."""
    folder = dataset_writer.write_class(
        options.out, options.obj_name, class_names, instances, options.sidelength,
        description={"maker": options.maker, "seed": options.seed, **(description or {})},
        num_workers=options.num_workers, overwrite=options.overwrite, texts=texts,
    )
    print(f"wrote {folder}: {len(instances)} instances, {sum(len(i.cam2world) for i in instances)} views")


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    options.make(options)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up, as after Ctrl-C
    main()
