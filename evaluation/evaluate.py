"""Renders the views of a data set once, scores them, and writes their pictures and point clouds."""

import hashlib
import math
from dataclasses import dataclass

import torch
from tqdm import tqdm

import dataio
import util
import visual
from evaluation import clouds, contact_sheet, metrics, picture_writer, scoring


@dataclass(frozen=True)
class Plan:
    """What is evaluated, and what is written. A view is named by a tuple (instance, view)."""

    dataset: dataio.SceneClassDataset  # all its views are rendered
    input_views: set  # views that the latent codes were fitted to; written to input/
    excluded_views: set  # input views that are not scored
    input_kind: str  # picture that the codes were fitted to: "rgb_gt" or "seg_gt"
    class_names: list | None  # by class id
    num_classes: int  # of predicted and true labels, 0 if there are none
    labelled_clouds: dict  # {instance: data_util.LabelledCloud}, scored in 3-D
    num_written: int  # of the instances, the first ones, whose pictures and point clouds are written
    write_clouds: bool

    def scored_views(self):
        """The views that are scored, in order."""
        views = (self.dataset.name_of(i) for i in range(len(self.dataset)))
        return [view for view in views if view not in self.excluded_views]

    def facts(self):
        """Facts about the views, for results.json. Runs with equal digests scored views of the same names."""
        scored, instances = self.scored_views(), {instance.name for instance in self.dataset.instances}
        lines = "".join(f"{instance}/{view}\n" for instance, view in sorted(scored))
        return {
            "num_scored_views": len(scored),
            "num_given_views": sum(instance in instances for instance, _ in self.input_views),
            "views_digest": hashlib.sha256(lines.encode()).hexdigest()[:16],
        }


class Evaluation:
    """Collects the results of a Plan. `run` renders; `write` writes the tables and the contact sheet.

    folder: of the run; instance number i writes to <folder>/<i, six digits>
    """

    def __init__(self, plan, folder):
        instances = plan.dataset.instances
        self.plan, self.folder = plan, folder
        self.folder_of = {instance.name: folder / f"{i:06d}" for i, instance in enumerate(instances)}
        self.written = {instance.name for instance in instances[: plan.num_written]}
        self.scores = scoring.Scores(plan.class_names, [instance.name for instance in instances])
        self.sheet = contact_sheet.Sheet(instances, plan.input_views, plan.input_kind)
        with_cloud = plan.labelled_clouds.keys() | (self.written if plan.write_clouds else set())
        self.collector = clouds.Collector({x.name: x.views for x in instances if x.name in with_cloud})

    @torch.inference_mode()
    def run(self, render, batch_size, num_workers=0, after_batch=None):
        """Render every view once, in order; score it, and write its pictures and point clouds.

        render: takes a batch on the CPU; returns it on the model's device, and the model's outputs (renderer.render)
        after_batch: called with the number of views so far and of all views; may raise an error to end here
        """
        dataset = self.plan.dataset
        batches = dataio.prefetched(dataio.ordered_batches(dataset, batch_size, num_workers))
        with picture_writer.PictureWriter() as writer, tqdm(total=len(dataset), desc=self.folder.name, unit="image") as bar:
            for batch in batches:
                views = [dataset.name_of(i) for i in batch["observation_idx"].tolist()]
                on_device, outputs = render(batch)
                self._score(views, outputs, on_device)
                shown = visual.to_host(outputs)
                for i, (instance, view) in enumerate(views):
                    if instance in self.written or self.sheet.needs(instance, view):
                        writer.do(self._write_pictures, instance, view, shown, batch, i)
                    cloud = self.collector.add(instance, view, shown, i)
                    if cloud is not None:
                        self._finish_cloud(instance, cloud)
                bar.update(len(views))
                if after_batch is not None:
                    after_batch(bar.n, len(dataset))

    def _score(self, views, outputs, batch):
        """Add the scores of a batch's views, without the excluded ones."""
        rows = scoring.image_scores(util.as_image(outputs["rgb"]), util.as_image(batch["rgb"]))
        confusions = [None] * len(views)
        if "seg_logits" in outputs and "seg_labels" in batch:
            seg_logits = outputs["seg_logits"]
            predicted, num_classes = seg_logits.argmax(dim=-1), seg_logits.shape[-1]
            confusions = metrics.confusion_matrix(predicted, batch["seg_labels"], num_classes).cpu()
        for view, row, confusion in zip(views, rows, confusions):
            if view not in self.plan.excluded_views:
                self.scores.add(*view, row, confusion)

    def _write_pictures(self, instance, view, shown, batch, i):
        """Make the pictures of observation i of a batch, and write those that are wanted. Runs in a writer's thread."""
        pictures = visual.of_observation(shown, batch, i, self.plan.num_classes)
        pictures["comparison"] = visual.strip(list(pictures.values()))
        if self.sheet.needs(instance, view):
            self.sheet.add(instance, view, pictures)
        if instance not in self.written:
            return
        if (instance, view) in self.plan.input_views:
            pictures["input"] = pictures[self.plan.input_kind]
        for kind, picture in pictures.items():
            picture_writer.write_picture(self.folder_of[instance] / kind / f"{view}.png", picture)

    def _finish_cloud(self, instance, cloud):
        """Write the point cloud of an instance, and score it, as planned."""
        if self.plan.write_clouds and instance in self.written:
            cloud.write(self.folder_of[instance], self.plan.num_classes)
        if instance in self.plan.labelled_clouds:
            labelled = self.plan.labelled_clouds[instance]
            self.scores.add_cloud(instance, *clouds.compare(cloud, labelled, self.plan.num_classes))

    def means(self):
        """The mean PSNR, SSIM and mIoU over the scored images, a dict of floats; without those of which there are none."""
        summary = self.scores.summary()
        return {name: summary[name] for name in ("psnr", "ssim", "miou") if not math.isnan(summary[name])}

    def write(self, run):
        """Write the tables and contact_sheet.png, and print the summary. `run`: facts about the run for results.json."""
        self.scores.write(self.folder, run)
        path = self.folder / "contact_sheet.png"
        picture_writer.write_picture(path, self.sheet.draw(self.folder.name, self.scores, self.plan.class_names))
        print(scoring.format_summary(self.scores.summary()), end="")
        print(f"contact sheet: {path}")
