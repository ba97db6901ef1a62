"""Which label maps teach most? Those of suggest_labels.py against the first instances and against random ones.

    python -m bench.selection                       # all runs of bench.seeds
    python -m bench.selection seed_0 --instances 5 --draws 5

A linear head learns from three label maps of each chosen instance and is scored on unseen instances, whose codes were
fitted to one image: mean IoU per instance, its mean and its least value, and the least IoU of a class.
"""

import numpy as np
import torch

import options as common
import suggest_labels
import util
from bench import command_line, measuring, trained
from bench.penalties import HeldOut, score
from evaluation import metrics
from kernels import backends
from training import logistic_regression

FEATURES, SIDE = "points+all", 32
MAX_RAYS = 2**15


def build_parser():
    parser = command_line.parser("selection", __doc__, device=False)
    trained.add_runs(parser)
    add = parser.add_argument
    add("--instances", type=common.positive_int, default=10, help="instances to label")
    add("--draws", type=common.positive_int, default=5, help="random choices")
    add("--penalty", type=common.positive_float, default=1e-4, help="on the head's squared weights")
    return parser


def selections(run, options):
    """{(how, number of the draw): {instance: views}}"""
    root = run.split("train")
    names = [path.name for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    rng, views = np.random.default_rng(0), list(trained.LABELLED_VIEWS)
    arguments = ["--checkpoint_path", str(run.srn.path), "--data_root", str(root)]
    suggested = suggest_labels.select(
        suggest_labels.build_parser().parse_args([*arguments, "--num_instances", str(options.instances)])
    )
    found = {("first", 0): {name: views for name in names[: options.instances]}}
    for draw in range(options.draws):
        found["random", draw] = {name: views for name in rng.choice(names, options.instances, replace=False).tolist()}
    return found | {("suggested", 0): suggested, ("suggested, views 0, 1, 2", 0): dict.fromkeys(suggested, views)}


def study(run, options):
    """Yields a dict of figures for each selection."""
    unseen = trained.read_rays(run, run.fitted, "test", FEATURES, SIDE, max_num_observations=30)
    for (how, draw), selection in selections(run, options).items():
        rays = trained.read_rays(run, run.srn, "train", FEATURES, SIDE, views_of=selection).some(MAX_RAYS)
        layer = logistic_regression.fit(rays.inputs, rays.labels, run.num_classes, options.penalty, tolerance=1e-4)
        scored: HeldOut = score((layer.weight, layer.bias), unseen, unseen.instances)
        per_class = metrics.iou_per_class(scored.confusion.sum(dim=0))
        rarest = per_class[~per_class.isnan()].min().item()
        facts = {"run": run.name, "how": how, "draw": draw, "instances": list(selection)}
        yield facts | {"mean": scored.mean, "worst": scored.ious.min().item(), "category": scored.category, "rarest": rarest}


def tables(figures):
    columns = {"how": ("labelled instances", ""), "runs": ("heads", "")}
    for name, title in (
        ("mean", "mean IoU"),
        ("worst", "worst instance"),
        ("category", "summed IoU"),
        ("rarest", "worst class"),
    ):
        columns |= {name: (title, ".3f"), f"{name} least": ("least", ".3f")}
    table = []
    for how in {row["how"]: None for row in figures["rows"]}:
        same = [row for row in figures["rows"] if row["how"] == how]
        line = {"how": how, "runs": len(same)}
        for name in ("mean", "worst", "category", "rarest"):
            values = [row[name] for row in same]
            line |= {name: float(np.mean(values)), f"{name} least": min(values)}
        table.append(line)
    return [("Heads on unseen instances, by the choice of label maps", table, columns)]


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    backends.select("auto", "cpu")
    torch.manual_seed(0)
    figures = measuring.start(options) | {"rows": []}
    for run in trained.find(options.root, options.runs):
        for row in study(run, options):
            figures["rows"].append(row)
            measuring.write(options, figures)
    measuring.show(figures, tables(figures))


if __name__ == "__main__":
    main()
