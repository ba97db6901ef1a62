"""Makes data sets: renders objects with part labels, or converts posed images, to the layout that train.py and test.py read.

    python make_dataset.py procedural --obj_name Chair --out data/procedural --instances 200 --views 30
    python make_dataset.py furniture --obj_name Table --out data/furniture --variants 4
    python make_dataset.py meshes models/ --parts parts.yml --obj_name Mug --out data/mugs --test_instances 5
    python make_dataset.py convert photographs/mug_01 --obj_name Mug --out data/mine --recentre

The first three write the class folder <out>/<obj_name> with the splits train, train_val (new views of the training
objects), val and test (other objects). All test objects are seen from the same path of cameras.
"""

import argparse
import sys

import options
import util
from datasets.conversion import convert
from datasets.making import from_meshes, furniture, procedural
from runs import stopping

MAKERS = {  # module, summary, required arguments
    "procedural": (procedural, "chairs and tables from random parameters", "--obj_name {Chair,Table} --out OUT"),
    "furniture": (furniture, "textured models of chairs and tables from Sweet Home 3D", "--obj_name {Chair,Table} --out OUT"),
    "meshes": (from_meshes, "OBJ, GLB or PLY files of PartNet, ShapeNet, or your own", "SOURCE --obj_name NAME --out OUT"),
    "convert": (convert, "posed images from transforms.json or COLMAP models, and back", "SOURCE --out OUT"),
}
MAY_BE_NEGATIVE = ("--up", "--front", "--elevation_deg", "--light")


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    makers = parser.add_subparsers(dest="maker", required=True, metavar="MAKER")
    for name, (module, summary, required) in MAKERS.items():
        about = {"help": summary, "description": f"Makes a data set: {summary}.", "usage": f"%(prog)s {required} [options]"}
        maker = makers.add_parser(name, formatter_class=options.HelpFormatter, **about)
        module.add_options(maker)
        maker.set_defaults(make=module.make)
    return parser


def with_negative_values(arguments):
    """The arguments with `--front -z` and `--elevation_deg -10,60` as argparse understands them: `--front=-z`."""
    joined = []
    for argument in arguments:
        if joined and joined[-1] in MAY_BE_NEGATIVE and argument.startswith("-"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


@util.command
def main(argv=None):
    parsed = build_parser().parse_args(with_negative_values(sys.argv[1:] if argv is None else argv))
    with stopping.listening():
        parsed.make(parsed)


if __name__ == "__main__":
    main()
