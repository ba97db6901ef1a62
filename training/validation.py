"""Looking at a model while it trains: pictures of training views, scores and pictures of held-out views."""

import numpy as np
import torch

import dataio
import util
from evaluation import metrics
from training import losses, summaries


class Preview:
    """Renders a few fixed observations of a data set for tensorboard.

    modules: what takes part, put into eval mode while it renders
    render: batch -> outputs, as renderer.render gives them
    rows:   rows of the latent table that the data set's instances have, a list of int
    """

    def __init__(self, modules, render, dataset, rows, run, prefix=""):
        self.modules, self.render, self.run, self.prefix = modules, render, run, prefix
        self.rows = torch.tensor(rows)
        self.num_classes = dataset.num_classes
        chosen = torch.linspace(0, len(dataset) - 1, min(len(dataset), summaries.NUM_PICTURES)).long().tolist()
        self.batch = dataio.collate([dataset[i] for i in chosen])

    def __call__(self, step):
        batch, outputs = render_in_eval_mode(self.modules, self.render, self.batch, self.rows, self.run)
        summaries.write_pictures(self.run.writer, outputs, batch, step, self.num_classes, self.prefix)


class Validation:
    """Scores a whole data set: val_psnr, val_ssim, val_dist_loss and, with labels, val_miou and val_class_loss."""

    def __init__(self, modules, render, batches, rows, run):
        self.modules, self.render, self.batches, self.run = modules, render, batches, run
        self.rows = torch.tensor(rows)

    def __call__(self, step):
        scores = self.scores()
        summaries.write_scores(self.run.writer, scores, step)
        self.run.shown |= {f"val_{name}": f"{scores[name]:.2f}" for name in ("psnr", "miou") if name in scores}

    def scores(self):
        """Means over observations, a dict of floats; an observation without a single label has no IoU and is left out."""
        scored = []
        for batch in self.batches:
            batch, outputs = render_in_eval_mode(self.modules, self.render, batch, self.rows, self.run)
            scored += score_images(outputs, batch)
        return {name: float(np.nanmean([row[name] for row in scored])) for name in scored[0]}


def render_in_eval_mode(modules, render, batch, rows, run):
    """The batch on the run's device with latent-table rows as its instance_idx, and what is rendered for it."""
    batch = run.to_device(dataio.with_rows(batch, rows))
    were_training = [module.training for module in modules]
    for module in modules:
        module.eval()
    outputs = render(batch)
    for module, was_training in zip(modules, were_training):
        module.train(was_training)
    return batch, outputs


def score_images(outputs, batch):
    """A dict of floats per observation of whole square images, PSNR and SSIM over R, G and B.

    Without images in the batch there are no such scores, without labels no scores of classes.
    """
    columns = {}
    if "rgb" in batch:
        rgb, target = (util.as_image(x["rgb"][..., :3]) for x in (outputs, batch))
        columns |= {
            "dist_loss": (rgb - target).square().flatten(1).mean(dim=1),
            "psnr": metrics.psnr(rgb, target),
            "ssim": metrics.ssim(rgb, target),
        }
    if "seg_logits" in outputs and "seg_labels" in batch:
        predicted, num_classes = outputs["seg_logits"].argmax(dim=-1), outputs["seg_logits"].shape[-1]
        columns["miou"] = metrics.mean_iou(metrics.confusion_matrix(predicted, batch["seg_labels"], num_classes))
        pairs = zip(outputs["seg_logits"], batch["seg_labels"])
        columns["class_loss"] = torch.stack([losses.segmentation_loss(*pair) for pair in pairs])
    columns = {name: values.tolist() for name, values in columns.items()}
    return [dict(zip(columns, row)) for row in zip(*columns.values())]
