"""Which rule finds the penalty of the linear layer that segments *other* objects best?

    python -m bench.penalties                       # all runs of bench.seeds
    python -m bench.penalties seed_0 seed_1 --labelled 5,10

For each trained SRN, kind of features and number of labelled instances, layers with many penalties are fitted to three label
maps of each labelled instance. They are scored on the other training instances and on unseen instances, whose codes were
fitted to one image. A rule sees the labelled instances alone, by cross-validation over them. Its regret is the score of the
best penalty minus that of the penalty that it chooses.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

import util
from bench import command_line, measuring, trained
from evaluation import metrics
from kernels import backends
from training import logistic_regression

PENALTIES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
FOLDS = 5
MAX_RAYS = 2**14  # that a layer is fitted to
SCORED_RAYS = 2**16
TOLERANCE, ITERATIONS = 1e-4, 100
PLATEAU = 0.005


class HeldOut(NamedTuple):
    """Scores of one penalty on groups of rays: confusion (G, K, K) and mean cross-entropy (G,)."""

    confusion: torch.Tensor
    cross_entropy: torch.Tensor

    @property
    def ious(self):
        return metrics.mean_iou(self.confusion)

    @property
    def mean(self):
        return self.ious.mean().item()

    @property
    def category(self):
        return metrics.mean_iou(self.confusion.sum(dim=0)).item()

    @property
    def entropy(self):
        return self.cross_entropy.mean().item()


def fit_path(rays, num_classes, is_balanced=False):
    """{penalty: (weight, bias)}, each fit started from the one before, with the larger penalty."""
    if is_balanced:
        counts = torch.bincount(rays.labels, minlength=num_classes).double()
        chosen = torch.multinomial(counts[rays.labels].rsqrt(), min(MAX_RAYS, len(rays.labels)), generator=generator())
        rays = trained.Rays(rays.inputs[chosen], rays.labels[chosen], rays.instances[chosen], rays.names)
    rays, layers, layer = rays.some(MAX_RAYS), {}, None
    for penalty in PENALTIES:
        found = logistic_regression.fit(
            rays.inputs, rays.labels, num_classes, penalty, layer, tolerance=TOLERANCE, max_iterations=ITERATIONS
        )
        layers[penalty] = layer = found.weight, found.bias
    return layers


def generator():
    return torch.Generator().manual_seed(0)


def score(layer, rays, groups):
    """The HeldOut of a layer on rays in groups (L,), numbered from 0 without gaps."""
    weight, bias = layer
    logits = torch.addmm(bias, rays.inputs, weight.T)
    entropy, counts = torch.zeros(2, int(groups.max()) + 1, dtype=torch.float64)
    entropy.index_add_(0, groups, F.cross_entropy(logits, rays.labels, reduction="none").double())
    counts.index_add_(0, groups, torch.ones(len(groups), dtype=torch.float64))
    predicted, num_classes = logits.argmax(dim=1), len(weight)
    cell = (groups * num_classes + rays.labels) * num_classes + predicted
    confusion = torch.bincount(cell, minlength=len(counts) * num_classes**2).view(-1, num_classes, num_classes)
    return HeldOut(confusion, entropy / counts)


def cross_validate(rays, num_classes):
    """{penalty: HeldOut}, over the instances, or over thirds of the rays of a single one; every group is held out once."""
    names, groups = rays.instances.unique(return_inverse=True)
    if len(names) == 1:
        groups = torch.arange(len(groups)) * 3 // len(groups)
    num_groups, found = int(groups.max()) + 1, {penalty: [] for penalty in PENALTIES}
    for fold in range(min(FOLDS, num_groups)):
        is_held = groups % FOLDS == fold
        rest, held = (trained.Rays(*(x[which] for x in rays[:3]), rays.names) for which in (~is_held, is_held))
        held_groups = groups[is_held].unique(return_inverse=True)[1]
        for penalty, layer in fit_path(rest, num_classes).items():
            found[penalty].append(score(layer, held, held_groups))
    return {penalty: HeldOut(*map(torch.cat, zip(*scores))) for penalty, scores in found.items()}


# Rules: {penalty: HeldOut} -> penalty. Penalties fall from the first to the last.


def best(name):
    sign = -1 if name == "entropy" else 1
    return lambda held: max(held, key=lambda penalty: sign * getattr(held[penalty], name))


def one_standard_error(held):
    """The largest penalty whose mean IoU is below the best by no more than the standard error of the difference."""
    ious = {penalty: one.ious for penalty, one in held.items()}
    of_best = ious[best("mean")(held)]

    def is_as_good(values):
        deficit = of_best - values
        return deficit.mean() <= max(PLATEAU, deficit.std().nan_to_num().item() / len(deficit) ** 0.5)

    return next(penalty for penalty in held if is_as_good(ious[penalty]))


def nearest(usual):
    """The penalty nearest to the usual one whose mean IoU is within the plateau of the best."""

    def rule(held):
        top = max(one.mean for one in held.values())
        good = [penalty for penalty, one in held.items() if one.mean >= top - PLATEAU]
        return min(good, key=lambda penalty: abs(np.log(penalty / usual)))

    return rule


RULES = {
    "one standard error of mean IoU": one_standard_error,
    "best mean IoU": best("mean"),
    "best IoU summed over instances": best("category"),
    "best cross-entropy": best("entropy"),
    "within 0.005 of the best mean IoU, nearest to 1e-4": nearest(1e-4),
} | {f"always {penalty:.0e}": lambda held, penalty=penalty: penalty for penalty in PENALTIES}


def study(run, features, labelled, is_balanced=False):
    """Yields a dict of figures for each number of labelled instances."""
    views = dict(specific_observation_idcs=trained.LABELLED_VIEWS)
    known = trained.read_rays(run, run.srn, "train", features, **views)
    new_views = trained.read_rays(run, run.srn, "train_val", features, max_num_observations=3)
    unseen = trained.read_rays(run, run.fitted, "test", features, max_num_observations=10).some(SCORED_RAYS)
    for number in labelled:
        if number > len(known.names):
            continue
        rays = known.of(range(number))
        layers = fit_path(rays, run.num_classes, is_balanced)
        held = cross_validate(rays.some(MAX_RAYS), run.num_classes)
        others = {"unseen": unseen}
        if number < len(known.names):
            others["training"] = new_views.of(range(number, len(known.names))).some(SCORED_RAYS)
        scores = {}
        for kind, rays in others.items():
            groups = rays.instances.unique(return_inverse=True)[1]
            scored = {f"{penalty:.0e}": score(layer, rays, groups) for penalty, layer in layers.items()}
            scores[kind] = {penalty: [one.mean, one.category] for penalty, one in scored.items()}
        chosen = {name: f"{rule(held):.0e}" for name, rule in RULES.items()}
        facts = {"run": run.name, "features": features, "labelled": number, "balanced": is_balanced}
        yield facts | {"scores": scores, "chosen": chosen}


# Tables


def regret_rows(rows):
    """A row per rule: mean and largest regret of each kind of features, in mean IoU and in IoU summed over instances."""
    rows = [row for row in rows if not row["balanced"]]
    table = []
    for name in RULES:
        line = {"rule": name}
        for features in {row["features"]: None for row in rows}:
            losses = [losses_of(row, name) for row in rows if row["features"] == features]
            for i, measure in enumerate(("mean", "category")):
                values = np.array([loss[i] for of_row in losses for loss in of_row])
                line[f"{features} {measure}"], line[f"{features} {measure} worst"] = values.mean(), values.max()
        table.append(line)
    return table


def losses_of(row, rule):
    """[(regret in mean IoU, regret in IoU summed over instances)] of a rule, for each kind of other objects."""
    return [
        [max(one[i] for one in scores.values()) - scores[row["chosen"][rule]][i] for i in range(2)]
        for scores in row["scores"].values()
    ]


def score_rows(rows, kind):
    """A row per kind of features and number of labelled instances: scores at each penalty, means over the runs."""
    table = []
    for key in {(row["features"], row["balanced"], row["labelled"]): None for row in rows}:
        same = [row for row in rows if (row["features"], row["balanced"], row["labelled"]) == key and kind in row["scores"]]
        line = {"features": key[0] + (", balanced" if key[1] else ""), "labelled": key[2], "runs": len(same)}
        for penalty in (f"{penalty:.0e}" for penalty in PENALTIES) if same else ():
            mean, category = np.mean([row["scores"][kind][penalty] for row in same], axis=0)
            line[penalty] = f"{mean:.3f} ({category:.3f})"
        table.append(line)
    return table


def tables(figures):
    rows = figures["rows"]
    columns = {"rule": ("rule", "")}
    for features in {row["features"]: None for row in rows}:
        for measure, title in (("mean", "mean IoU"), ("category", "summed IoU")):
            columns[f"{features} {measure}"] = f"{features}: {title} lost", ".4f"
            columns[f"{features} {measure} worst"] = "at most", ".3f"
    found = [("Regret of each rule", regret_rows(rows), columns)]
    columns = {name: (name, "") for name in ("features", "labelled", "runs", *(f"{p:.0e}" for p in PENALTIES))}
    for kind, title in (
        ("training", "other training instances, new views"),
        ("unseen", "unseen instances, fitted to one image"),
    ):
        found.append((f"Mean IoU (IoU summed over instances) by penalty: {title}", score_rows(rows, kind), columns))
    return found


def build_parser():
    parser = command_line.parser("penalties", __doc__, device=False)
    trained.add_runs(parser)
    parser.add_argument("--features", type=command_line.names_among(("last", "all", "points+all")), default="last,points+all")
    parser.add_argument("--labelled", type=command_line.positives, default="1,2,5,10,20,32", help="numbers of instances")
    parser.add_argument("--balanced", action="store_true", help="also fit to rays drawn by 1 / sqrt(rays of their class)")
    return parser


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    backends.select("auto", "cpu")
    figures = measuring.start(options) | {"rows": []}
    for run in trained.find(options.root, options.runs):
        for features in options.features:
            for is_balanced in (False, True) if options.balanced else (False,):
                for row in study(run, features, options.labelled, is_balanced):
                    figures["rows"].append(row)
                    measuring.write(options, figures)
    measuring.show(figures, tables(figures))


if __name__ == "__main__":
    main()
