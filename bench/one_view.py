"""Which way of fitting a code to one image reconstructs unseen objects best from other views?

    python -m bench.one_view                        # all runs of bench.seeds
    python -m bench.one_view Chair_0 --views 64,65

Every way fits the codes of all test objects to the same images with the solver of stage 3. Ways differ in the term that keeps
codes near the trained ones, in the starts, and in what becomes of several starts. Heads are those of the runs.
"""

import statistics
import time

import torch

import checkpoints
import dataio
import options as common
import util
from bench import command_line, measuring, trained
from evaluation import metrics
from kernels import backends
from rendering import renderer
from training import code_solver, objectives, observed_rays

WEIGHTS = objectives.Weights(classes=0.0)
RAYS_PER_STEP, MAX_STEPS = 256, 400  # as in train_configs/demo_codes.yml
SCORED_VIEWS = 12


class Gaussian(code_solver.RayLoss):
    """The loss with a normal distribution of the trained codes in place of the mean square of a code.

    trained: (T, D); shrinkage: share of the covariance that is replaced by a multiple of the identity with the same trace
    """

    def __init__(self, model, weights, trained, shrinkage):
        super().__init__(model, weights)
        self.mean = trained.mean(dim=0)
        centred = (trained - self.mean).double()
        covariance = centred.T @ centred / len(trained)
        isotropic = covariance.trace() / len(covariance) * torch.eye(len(covariance), dtype=torch.float64)
        values, vectors = torch.linalg.eigh((1 - shrinkage) * covariance + shrinkage * isotropic)
        self.whitening = (vectors * values.rsqrt()).float()

    def terms(self, z, drawn, scene=None):
        distance = ((z - self.mean) @ self.whitening).square().mean(dim=1)
        return super().terms(z, drawn, scene) | {"latent": self.weights.latent * distance}


def ways(model, codes):
    """{name: (RayLoss, number of starts, number of best starts whose mean is taken)}"""

    def published(weight):
        return code_solver.RayLoss(model, WEIGHTS._replace(latent=weight))

    found = {"mean square of the code, weight 1": (published(1.0), 4, 1)}
    found |= {f"the same, weight {weight:g}": (published(weight), 4, 1) for weight in (0.1, 10)}
    for shrinkage in (0.05, 0.3):
        for weight in (0.03, 0.3, 3):
            loss = Gaussian(model, WEIGHTS._replace(latent=weight), codes, shrinkage)
            found[f"normal distribution, {shrinkage:.0%} shrunk, weight {weight:g}"] = loss, 4, 1
    return found | {"12 starts": (published(1.0), 12, 1), "mean of the two best starts": (published(1.0), 4, 2)}


def fit(loss, observed, instances, codes, num_starts, num_averaged):
    """Codes (N, D) of the observed instances, a range."""
    first = codes.mean(dim=0).expand(len(instances), -1)
    starts = code_solver.find_starts(loss, observed, codes, first, num_starts, instances)
    fits = code_solver.CodeFits(loss, observed, starts, code_solver.spread_of(codes), num_rays=RAYS_PER_STEP)
    fits.begin()
    step = 0
    while step < MAX_STEPS and fits.num_active:
        step += 1
        fits.step(step)
    if num_averaged == 1:
        return fits.best()[0]
    best = fits.state["best_loss"].view(len(instances), -1).argsort(dim=1)[:, :num_averaged]
    candidates = fits.state["best_codes"].view(len(instances), -1, codes.shape[1])
    return torch.stack([candidates[i, best[i]].mean(dim=0) for i in instances])


def score(model, head, dataset, codes):
    """PSNR (dB) and mean IoU over the images of a data set, and their least over its instances."""
    rows = []
    for batch in dataio.ordered_batches(dataset, 16):
        outputs = renderer.render(model, batch | {"z": codes[batch["instance_idx"]]}, head)
        psnr = metrics.psnr(util.as_image(outputs["rgb"]), util.as_image(batch["rgb"][..., :3]))
        predicted = outputs["seg_logits"].argmax(dim=-1)
        miou = metrics.mean_iou(metrics.confusion_matrix(predicted, batch["seg_labels"], head.num_classes))
        rows += zip(batch["instance_idx"].tolist(), psnr.tolist(), miou.tolist())
    psnr, miou = (statistics.fmean(row[i] for row in rows) for i in (1, 2))
    worst = min(statistics.fmean(row[1] for row in rows if row[0] == i) for i in {row[0] for row in rows})
    return {"psnr": psnr, "miou": miou, "worst": worst}


def study(run, views):
    """Yields a dict of figures for each way."""
    model, root = run.srn.model.eval(), run.split("test")
    model.freeze_networks()
    head, _ = checkpoints.open_head(run.srn.path.parents[2] / "linear_update", model)
    codes, settings = model.latent_codes.weight.detach().clone(), dataio.dataset_settings(root)
    given = dataio.index_split(root, specific_observation_idcs=views)
    given = dataio.SceneClassDataset(given, trained.SIDE, settings)
    others = dataio.index_split(root, with_labels=True, max_num_observations=SCORED_VIEWS)
    others = dataio.SceneClassDataset(others, trained.SIDE, settings, run.num_classes)
    observed, instances = observed_rays.ObservedRays(given, torch.device("cpu")), range(len(given.instances))
    for name, (loss, num_starts, num_averaged) in ways(model, codes).items():
        torch.manual_seed(0)
        began = time.perf_counter()
        found = fit(loss, observed, instances, codes, num_starts, num_averaged)
        seconds = time.perf_counter() - began
        yield {"run": run.name, "way": name, "s": seconds} | score(model, head, others, found)


def tables(figures):
    columns = {"way": ("way", ""), "runs": ("runs", ""), "psnr": ("PSNR", ".2f"), "worst": ("worst object", ".2f")}
    table = []
    for way in {row["way"]: None for row in figures["rows"]}:
        same = [row for row in figures["rows"] if row["way"] == way]
        means = {name: statistics.fmean(row[name] for row in same) for name in ("psnr", "worst", "miou", "s")}
        table.append({"way": way, "runs": len(same)} | means)
    return [("Unseen objects, fitted to one image", table, columns | {"miou": ("mIoU", ".3f"), "s": ("seconds", ".0f")})]


def build_parser():
    parser = command_line.parser("one_view", __doc__, device=False)
    trained.add_runs(parser)
    parser.add_argument("--views", type=common.comma_separated(int), default="65", help="indices of the observed views")
    return parser


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    backends.select("auto", "cpu")
    figures = measuring.start(options) | {"rows": []}
    for run in trained.find(options.root, options.runs):
        for row in study(run, options.views):
            figures["rows"].append(row)
            measuring.write(options, figures)
    measuring.show(figures, tables(figures))


if __name__ == "__main__":
    main()
