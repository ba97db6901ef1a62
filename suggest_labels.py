"""Suggest which views to label for stage 2: given a trained SRN and no label, those that together show most of the class.

    python suggest_labels.py --checkpoint_path logs/demo/Chair/vanilla_srn --data_root data/demo/Chair/Chair.train

With --out, a file holds {instance: [indices of views]}, the instance to label first in front; `train.py --label_selection`
reads it.
"""

import json

import options as common
import util
from options import at_least, comma_separated, count_or_all, positive_int

SIDE = 16  # of the images whose rays are compared, in pixels
MAX_INSTANCES, MAX_VIEWS = 500, 12  # that are compared, spread evenly


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
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    add("--num_workers", type=at_least(0), default=0, help="processes that read the cameras; 0: the main process reads")
    common.add_fused(parser)
    return parser


def select(options):
    """{instance: indices of its views} as the options ask for it."""
    import checkpoints
    import dataio
    from training import label_selection

    device = util.pick_device(options.device)
    common.use_fused(options, device)
    srn = checkpoints.open_srn(options.checkpoint_path, options.data_root)
    which = options.max_num_instances, options.specific_ins
    instances = dataio.index_split(options.data_root, *which, with_params=srn.model.sizes["has_params"])
    instances = [instances[i] for i in dataio.choose_views(len(instances), MAX_INSTANCES)]
    compared = {instance.name: dataio.choose_views(len(instance.views), MAX_VIEWS) for instance in instances}
    dataset = dataio.SceneClassDataset(
        [instance.with_views(compared[instance.name]) for instance in instances],
        SIDE,
        dataio.dataset_settings(options.data_root),
    )
    rows = srn.rows(list(compared), options.data_root)
    shares = label_selection.describe(srn.model.to(device).eval(), dataset, rows, device)
    shows = [dataset.name_of(i)[0] for i in range(len(dataset))]
    try:
        chosen = label_selection.choose(shares, shows, options.num_instances, options.num_views)
    except ValueError as error:
        raise util.InputError(f"--num_instances, --num_views: {options.data_root}: {error}; ask for fewer") from None
    return {name: [compared[name][view] for view in views] for name, views in chosen.items()}


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
