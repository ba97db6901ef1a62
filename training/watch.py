"""Watching a model while it trains: tensorboard's scalars and images, latent codes, validation scores.

The tags are those of the published system.
"""

import functools

import numpy as np
import torch

import dataio
import util
import visual
from evaluation import metrics
from rendering import renderer
from training import distributed, losses, stage_data

NUM_PICTURES = 4  # observations per image summary
VALIDATION_BATCH = 16  # images


def attach(plan, data, run, model, head=None, rows=None, with_classes=True, fitted=None):
    """Have the run write pictures of training views, latent codes, and validation scores and pictures.

    data:   stage_data.StageData
    rows:   rows of the latent table for the training instances (default: all, in order)
    fitted: an SRN and the rows of its table for the validation instances (default: `model`, which has them by name)
    """
    if not distributed.is_main():
        run.every.append((plan.schedule.steps_til_val, lambda step: None))  # takes part in what all processes do before
        return
    names = stage_data.names_of(data.train)
    rows = rows or list(range(len(names)))
    side, every = plan.schedule.img_sidelengths[-1], plan.schedule.steps_til_val
    dataset = stage_data.make_dataset(plan.sources, data, data.train, side)
    render = functools.partial(render_in_eval_mode, run, model, head, rows, with_classes=with_classes)
    run.every.append((every, Preview(render, dataset, run)))
    if model.latent_codes is not None:
        codes = model.latent_codes.weight

        def write_code_range(step):
            run.writer.add_scalar("embed_min", codes[rows].min().item(), step)
            run.writer.add_scalar("embed_max", codes[rows].max().item(), step)

        def write_code_projector(step):
            run.writer.add_embedding(codes[rows].detach().cpu(), metadata=names, global_step=step, tag="latent_codes")

        run.every += [(every, write_code_range), (run.num_steps, write_code_projector)]
    if data.val:
        if fitted is None:
            row_of = dict(zip(names, rows))
            fitted = model, [row_of.get(name, 0) for name in stage_data.names_of(data.val)]  # 0: codes come with the data
        render = functools.partial(render_in_eval_mode, run, fitted[0], head, fitted[1], with_classes=with_classes)
        dataset = stage_data.make_dataset(plan.sources, data, data.val, side, keeps_images=True)
        batches = dataio.ordered_batches(dataset, VALIDATION_BATCH, plan.sources.num_workers)
        run.every.append((every, Validation(render, batches, run)))
        run.every.append((every, Preview(render, dataset, run, prefix="val_")))


class Preview:
    """Renders a few fixed observations of a data set for tensorboard. render: batch -> see `render_in_eval_mode`."""

    def __init__(self, render, dataset, run, prefix=""):
        self.render, self.run, self.prefix = render, run, prefix
        self.num_classes = dataset.num_classes
        chosen = torch.linspace(0, len(dataset) - 1, min(len(dataset), NUM_PICTURES)).long().tolist()
        self.batch = dataio.collate([dataset[i] for i in chosen])

    def __call__(self, step):
        batch, outputs = self.render(self.batch)
        write_pictures(self.run.writer, outputs, batch, step, self.num_classes, self.prefix)


class Validation:
    """Scores a whole data set: val_psnr, val_ssim, val_dist_loss and, with labels, val_miou and val_class_loss."""

    def __init__(self, render, batches, run):
        self.render, self.batches, self.run = render, batches, run

    def __call__(self, step):
        scores = self.scores()
        for name, value in scores.items():
            self.run.writer.add_scalar(f"val_{name}", value, step)
        self.run.add_scores({f"val_{name}": value for name, value in scores.items()})
        self.run.shown |= {f"val_{name}": f"{scores[name]:.2f}" for name in ("psnr", "miou") if name in scores}

    def scores(self):
        """Means over observations, a dict of floats; an observation without labels has no IoU and is left out."""
        scored = []
        for batch in self.batches:
            batch, outputs = self.render(batch)
            scored += score_images(outputs, batch)
        return {name: float(np.nanmean([row[name] for row in scored])) for name in scored[0]}


def render_in_eval_mode(run, model, head, rows, batch, with_classes=True):
    """The batch on the run's device, with rows of the latent table as its instance_idx, and what is rendered for it.

    head: None for the model's own classes; rows: of the data set's instances, a list of int
    """
    batch = run.to_device(dataio.with_rows(batch, torch.tensor(rows)))
    modules = [model] if head is None else [model, head]
    were_training = [module.training for module in modules]
    for module in modules:
        module.eval()
    outputs = renderer.render(model, batch, head=head, with_classes=with_classes)
    for module, was_training in zip(modules, were_training):
        module.train(was_training)
    return batch, outputs


def score_images(outputs, batch):
    """A dict of floats per observation of whole square images; PSNR and SSIM over R, G and B.

    Without images in the batch there are no image scores, without labels no class scores.
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


def write_pictures(writer, outputs, batch, step, num_classes=None, prefix=""):
    """Write pictures of the first observations of whole square images, as renderer.render returns them.

    Comparisons with images or labels that the batch does not have are left out.
    """

    def add(tag, pictures):
        writer.add_image(prefix + tag, pictures, step, dataformats="HWC")

    rgb = util.as_image(outputs["rgb"][:NUM_PICTURES, :, :3])
    depth = util.as_image(outputs["depth"][:NUM_PICTURES])
    normals = visual.camera_normals(outputs["points"], batch["cam2world"])[:NUM_PICTURES]
    if "rgb" in batch:
        target = util.as_image(batch["rgb"][:NUM_PICTURES, :, :3])
        error = (rgb - target).abs().mean(dim=1, keepdim=True)
        add("Output_vs_gt", visual.grid([visual.to_uint8(x) for x in (*rgb, *target)], len(rgb)))
        add("rgb_error_fig", visual.strip([visual.to_uint8(x.expand(3, -1, -1) - 1) for x in error]))
    add("pred_depth", visual.strip([visual.depth_picture(x) for x in depth]))
    add("normals", visual.strip([visual.normal_picture(x) for x in normals]))
    steps = util.as_image(outputs["depth_steps"][:, 0])  # (S, 1, H, W) of one observation
    add("raycast_progress", visual.strip([visual.depth_picture(x) for x in steps]))
    writer.add_histogram(prefix + "stopping_distances", outputs["depth"], step)
    if "seg_logits" in outputs and "seg_labels" in batch:
        predicted = util.as_image(outputs["seg_logits"][:NUM_PICTURES].argmax(dim=-1, keepdim=True))
        labels = util.as_image(batch["seg_labels"][:NUM_PICTURES, :, None])
        pictures = [visual.label_colors(x[0], num_classes) for x in (*predicted, *labels)]
        add("Output_vs_gt_seg", visual.grid(pictures, len(predicted)))
