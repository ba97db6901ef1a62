"""Suggest which views to label for stage 2, from the latent codes of a trained SRN; labels are not read.

    python suggest_labels.py --checkpoint_path logs/demo/Chair/vanilla_srn --data_root data/demo/Chair/Chair.train

With --out, a file holds {instance: [indices of views]}, the most typical instance in front; `train.py --label_selection`
reads it.
"""

import json

import options as common
import util
from options import comma_separated, count_or_all, positive_int


def build_parser():
    parser = common.parser(__doc__.splitlines()[0])
    add = parser.add
    add("--checkpoint_path", required=True, help="SRN of stage 1: a .pth file, or a folder, whose latest one is taken")
    add("--data_root", required=True, help="split that it was trained on, such as data/Chair/Chair.train")
    add("--out", help="JSON file for the selection (default: print it alone)")
    add("--num_instances", type=positive_int, default=10, help="instances to label")
    add("--num_views", type=positive_int, default=3, help="views of each instance to label")
    add("--max_num_instances", type=count_or_all, default=-1, help="choose among the first ones; -1: all")
    add("--specific_ins", type=comma_separated(str), default=[], help="choose among these, names with commas between them")
    return parser


def select(options):
    """{instance: indices of its views} as the options ask for it."""
    import checkpoints
    import dataio
    from training import label_selection

    srn = checkpoints.open_srn(options.checkpoint_path, options.data_root)
    if srn.model.latent_codes is None:
        raise util.InputError(
            f"{srn.path}: has no latent codes, by which instances are chosen; choose the label maps yourself"
        )
    instances = dataio.index_split(options.data_root, options.max_num_instances, options.specific_ins)
    fewest = min(instances, key=lambda instance: len(instance.views))
    if options.num_instances > len(instances):
        found = f"{options.data_root} has {len(instances)}"
        raise util.InputError(f"--num_instances {options.num_instances}: {found}; ask for fewer")
    if options.num_views > len(fewest.views):
        found = f"{fewest.folder} has {len(fewest.views)}"
        raise util.InputError(f"--num_views {options.num_views}: {found}; ask for fewer")
    rows = srn.rows([instance.name for instance in instances], options.data_root)
    codes = srn.model.latent_codes.weight.detach()[rows].double().numpy()
    chosen = [instances[i] for i in label_selection.medoids(codes, options.num_instances)]
    return {instance.name: label_selection.spread_views(instance.poses, options.num_views) for instance in chosen}


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    selection = select(options)
    for name, views in selection.items():
        print(f"{name}: views {', '.join(map(str, views))}")
    if options.out:
        with util.replacing(options.out) as temporary:
            temporary.write_text(json.dumps(selection, indent=2) + "\n")
        print(f"selection: {options.out}; learn from it with train.py --label_selection {options.out}")


if __name__ == "__main__":
    main()
