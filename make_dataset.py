"""Makes data sets with part labels: renders objects into the layout that train.py and test.py read.

    python make_dataset.py procedural --obj_name Chair --out data/procedural --instances 200 --views 30
    python make_dataset.py furniture --obj_name Table --out data/furniture --variants 4
    python make_dataset.py meshes models/ --parts parts.yml --obj_name Mug --out data/mugs --test_instances 5
    python make_dataset.py convert photographs/mug_01 --obj_name Mug --out data/mine --recentre

All but convert make the class folder <out>/<obj_name> with the splits train, train_val (the training objects from other
views), val and test (other objects). Test objects are all seen from the same path of cameras.
"""

import argparse
import functools
import signal
import sys
from pathlib import Path

import numpy as np

import util
from datasets.conversion import convert
from datasets.making import atomic_folders, carpentry, from_meshes, furniture, procedural, render_options
from datasets.making.class_folder import Instance
from datasets.making.render_options import SPLITS
from datasets.meshes import triangle_mesh


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    makers = parser.add_subparsers(dest="maker", required=True, metavar="MAKER")

    maker = _add_maker(makers, "procedural", make_procedural, "chairs and tables built from random parameters")
    render_options.add_options(maker, views=30, sidelength=64, obj_names=sorted(carpentry.CLASS_NAMES))
    maker.add_argument("--instances", type=render_options.whole(1), default=200, help="number of training objects")
    maker.add_argument("--val_instances", type=render_options.whole(1), default=10, help="number of validation objects")
    maker.add_argument("--test_instances", type=render_options.whole(1), default=20, help="number of test objects")

    maker = _add_maker(makers, "furniture", make_furniture, "chairs and tables of Sweet Home 3D, with textures")
    render_options.add_options(maker, views=50, sidelength=128, obj_names=sorted(carpentry.CLASS_NAMES))
    maker.add_argument(
        "--variants", type=render_options.whole(0), default=0, help="recoloured and stretched copies of each training object"
    )
    maker.add_argument(
        "--archive_dir",
        default=None,
        help="folder with the .sh3f archives, or the Debian package sweethome3d-furniture 1.8; "
        "without it, apt-get downloads the package into <out>/.cache",
    )

    maker = _add_maker(makers, "meshes", from_meshes.make, "OBJ, GLB and PLY files: PartNet, ShapeNet, your own")
    from_meshes.add_options(maker)

    maker = _add_maker(makers, "convert", convert.make, "posed images: transforms.json and COLMAP models, and back")
    convert.add_options(maker)
    return parser


def _add_maker(makers, name, make, summary):
    maker = makers.add_parser(name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    maker.set_defaults(make=make)
    return maker


def make_procedural(options):
    """Random objects: every split draws its own, train_val has those of train."""
    counts = {
        "train": options.instances,
        "train_val": options.instances,
        "val": options.val_instances,
        "test": options.test_instances,
    }
    instances = [
        Instance(
            split,
            f"{options.obj_name.lower()}_{i:04d}",
            functools.partial(procedural_mesh, options.obj_name, options.seed, split, i),
            render_options.cameras(options, split, i),
        )
        for split in SPLITS
        for i in range(counts[split])
    ]
    render_options.write(options, carpentry.CLASS_NAMES[options.obj_name], instances)


def procedural_mesh(obj_name, seed, split, index):
    """The mesh of the `index`-th object of a split."""
    owner = SPLITS.index("train" if split == "train_val" else split)
    rng = np.random.default_rng([seed, render_options.OBJECTS, owner, index])
    return triangle_mesh.LoadedMesh(carpentry.build(procedural.draw(obj_name, rng)))


def make_furniture(options):
    """Modelled objects in the splits that labels.json proposes, training objects with variants."""
    atomic_folders.check_target(Path(options.out) / options.obj_name, options.overwrite)  # before any download
    category = options.obj_name.lower()
    classes, models = furniture.catalogue()
    models = {name: entry for name, entry in models.items() if entry["category"] == category}
    archives = furniture.find_archives(
        {entry["archive"] for entry in models.values()}, options.archive_dir, cache=Path(options.out) / ".cache"
    )
    instances, entries = [], {}
    for split in SPLITS:
        members = furniture_members(models, "train" if split == "train_val" else split, options.variants)
        for i, (name, entry, variant) in enumerate(members):
            make_mesh = functools.partial(furniture_mesh, archives[entry["archive"]], entry, options.seed, variant)
            instances.append(Instance(split, name, make_mesh, render_options.cameras(options, split, i)))
            entries[name] = entry
    render_options.write(
        options,
        classes[category],
        instances,
        {"variants": options.variants},
        texts={"ATTRIBUTION.md": furniture.attribution(entries)},
    )


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
    rng = None if variant is None else np.random.default_rng([seed, render_options.VARIANTS, *variant])
    return triangle_mesh.LoadedMesh(furniture.load(archive_path, entry, rng))


@util.command
def main(argv=None):
    options = build_parser().parse_args(render_options.with_negative_values(sys.argv[1:] if argv is None else argv))
    options.make(options)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up, as after Ctrl-C
    main()
