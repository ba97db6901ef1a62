"""Scores of an evaluation: kept per image and per point cloud, averaged once, written as tables."""

import collections
import csv
import json
import math
from pathlib import Path

import numpy as np
import torch

import util
import visual
from evaluation import metrics
from evaluation.score_names import CATEGORY_SCORES, IMAGE_SCORES, LABEL_SCORES, SCORES_3D, TITLES

PUBLISHED_COLUMNS = ("instance_num", "instance_id", "miou", "stdiou", "psnr", "ssim", "max_classes")


def image_scores(rgb, target):
    """The IMAGE_SCORES of rendered images, a dict of floats for each.

    rgb:    (B, 3 or 4, H, W) in [-1, 1] as rendered
    target: (B, 4, H, W)

    psnr and ssim are over R, G and B of the two 8-bit pictures that are written, so that anyone can take them
    again from the files. psnr_rgba and ssim_rgba are the published ones, of the floats over four channels; a
    rendering of three counts with a constant alpha of 1. An alpha that is nearly constant tells nothing and lifts
    PSNR by up to 1.25 dB. A rendering with nan in it scores nan.
    """
    written, truth = visual.in_8_bits(rgb), visual.in_8_bits(target)
    broken = rgb.isnan().flatten(1).any(dim=1)
    rgba = metrics.with_alpha(rgb)
    columns = (
        metrics.psnr(written, truth).masked_fill(broken, math.nan),
        metrics.ssim(written, truth).masked_fill(broken, math.nan),
        metrics.psnr(rgba, target),
        metrics.ssim(rgba, target),
    )
    return [dict(zip(IMAGE_SCORES, row)) for row in zip(*(column.tolist() for column in columns))]


class Scores:
    """The scores of an evaluation, a row per observation; means are taken once, when they are asked for.

    mIoU counts background (class 0) as a class, as published; `_no_background` leaves it out of the mean.
    Observations without labels have no mIoU: they are missing from its means, and a mean over nothing is nan.

    class_names: by id; where a name repeats, each gets its id after it
    instances:   names in the order of the result folders, for instance_num (default: in the order of `add`)
    """

    def __init__(self, class_names=None, instances=()):
        self.class_names = _distinct(class_names) if class_names else None
        self._number = {name: number for number, name in enumerate(instances)}
        self._rows = collections.defaultdict(dict)  # instance -> observation -> scores
        self._confusion = {}  # instance -> (K, K), summed over its observations
        self._clouds = {}  # instance -> (K + 1, K + 1) of clouds.compare, mean distance

    def add(self, instance, observation, image_scores, confusion=None):
        """Record one observation: names, {psnr, ssim, ...}, and (K, K) confusion counts where there are labels."""
        if observation in self._rows[instance]:
            raise ValueError(f"instance {instance}: observation {observation} has been scored before")
        row = {score: float(image_scores[score]) for score in IMAGE_SCORES}
        row |= dict(miou=math.nan, miou_no_background=math.nan, num_classes=0, iou=None)
        if confusion is not None:
            confusion = torch.as_tensor(confusion).cpu()
            self._name_classes(len(confusion))
            row["miou"] = metrics.mean_iou(confusion).item()
            row["miou_no_background"] = metrics.mean_iou(confusion, with_background=False).item()
            row["num_classes"] = int((confusion.sum(dim=1) > 0).sum())
            row["iou"] = metrics.iou_per_class(confusion).numpy()
            self._confusion[instance] = self._confusion.get(instance, 0) + confusion
        self._rows[instance][observation] = row

    def add_cloud(self, instance, confusion, distance):
        """Record what clouds.compare says of an instance's point cloud."""
        self._name_classes(len(confusion) - 1)
        self._clouds[instance] = (confusion, float(distance))

    def per_observation(self):
        """A list of dicts, by instance: instance_id, observation, the scores, and part_iou, a dict by class."""
        scores = (*IMAGE_SCORES[:2], *LABEL_SCORES, *IMAGE_SCORES[2:])
        return [
            dict(instance_id=instance, observation=observation)
            | {score: row[score] for score in scores}
            | dict(part_iou=self._by_class(row["iou"]))
            for instance, rows in self._rows.items()
            for observation, row in rows.items()
        ]

    def per_instance(self):
        """A list of dicts, instances in the order of their first observation.

        PUBLISHED_COLUMNS: miou, psnr and ssim are means over the instance's observations, stdiou the deviation
            of its mIoUs, max_classes the most classes in one of its true label maps, background included
        miou_no_background, psnr_rgba, ssim_rgba, num_images
        part_iou:          {class: IoU}, intersections and unions summed over the instance's observations
        miou_3d, cloud_distance, part_iou_3d: of its point cloud (clouds.compare); nan, nan, {} where it has none
        """
        return [
            self._of_instance(self._number.get(instance, number), instance, list(rows.values()))
            for number, (instance, rows) in enumerate(self._rows.items())
        ]

    def _of_instance(self, number, instance, rows):
        means = {score: _mean(rows, score) for score in (*IMAGE_SCORES, *LABEL_SCORES)}
        cloud, distance = self._clouds.get(instance, (None, math.nan))
        iou = metrics.iou_per_class(self._confusion[instance]) if instance in self._confusion else None
        iou_3d = _iou_3d(cloud)
        return dict(
            instance_num=number,
            instance_id=instance,
            miou=means["miou"],
            stdiou=_std(rows, "miou"),
            psnr=means["psnr"],
            ssim=means["ssim"],
            max_classes=max(row["num_classes"] for row in rows) or math.nan,
            miou_no_background=means["miou_no_background"],
            psnr_rgba=means["psnr_rgba"],
            ssim_rgba=means["ssim_rgba"],
            num_images=len(rows),
            part_iou=self._by_class(iou),
            miou_3d=math.nan if iou_3d is None else iou_3d.nanmean().item(),
            cloud_distance=distance,
            part_iou_3d=self._by_class(iou_3d),
        )

    def summary(self):
        """A dict of plain numbers.

        num_images, num_instances
        psnr, ssim, psnr_rgba, ssim_rgba, miou, miou_no_background: means over images
        psnr_instances, ..., miou_no_background_instances: means over instances of the instances' means
        category_miou, category_miou_no_background: the mean of part_iou
        part_iou:         {class: IoU}, intersections and unions summed over all images; nan for a class never seen
        num_clouds:       how many instances have a labelled point cloud
        miou_3d, cloud_distance: means over these instances
        category_miou_3d: the mean of part_iou_3d
        part_iou_3d:      {class: IoU}, intersections and unions summed over all clouds
        """
        instances = self.per_instance()
        images = [row for rows in self._rows.values() for row in rows.values()]
        summary = dict(num_images=len(images), num_instances=len(instances))
        for score in (*IMAGE_SCORES, *LABEL_SCORES):
            summary[score] = _mean(images, score)
            summary[f"{score}_instances"] = _mean(instances, score)

        confusion = sum(self._confusion.values()) if self._confusion else torch.zeros(0, 0)
        summary["category_miou"] = metrics.mean_iou(confusion).item()
        summary["category_miou_no_background"] = metrics.mean_iou(confusion, with_background=False).item()
        summary["part_iou"] = self._by_class(metrics.iou_per_class(confusion))

        clouds = [self._clouds[instance] for instance in self._rows if instance in self._clouds]
        iou_3d = _iou_3d(sum(confusion for confusion, _ in clouds) if clouds else None)
        summary["num_clouds"] = len(clouds)
        summary["miou_3d"] = _mean(instances, "miou_3d")
        summary["cloud_distance"] = _mean(instances, "cloud_distance")
        summary["category_miou_3d"] = math.nan if iou_3d is None else iou_3d.nanmean().item()
        summary["part_iou_3d"] = self._by_class(iou_3d)
        return summary

    def write(self, folder, run=None):
        """Write into `folder`:

        final_miou.csv     a row per instance, per_instance with iou_<class> for part_iou
        observations.csv   a row per image, likewise
        results.txt        the summary, to be read by people
        results.json       run (what was evaluated), the summary, instances; null where there is no finite number
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        summary, instances = self.summary(), self.per_instance()
        names = self.class_names if self._confusion else ()
        per_class = [f"iou_{name}" for name in names]
        columns = [*PUBLISHED_COLUMNS, "miou_no_background", "psnr_rgba", "ssim_rgba", "num_images", *per_class]
        if summary["num_clouds"]:
            columns += ["miou_3d", "cloud_distance", *(f"iou_3d_{name}" for name in self.class_names)]
        _write_csv(folder / "final_miou.csv", columns, instances)
        columns = ["instance_id", "observation", *IMAGE_SCORES[:2], *LABEL_SCORES, *IMAGE_SCORES[2:], *per_class]
        _write_csv(folder / "observations.csv", columns, self.per_observation())
        with util.replacing(folder / "results.txt") as temporary:
            temporary.write_text(format_summary(summary))
        everything = {"run": run or {}, **summary, "instances": instances}
        with util.replacing(folder / "results.json") as temporary:
            temporary.write_text(json.dumps(_finite_or_none(everything), indent=2, allow_nan=False) + "\n")

    def _name_classes(self, num_classes):
        self.class_names = self.class_names or [f"class {class_id}" for class_id in range(num_classes)]
        if len(self.class_names) != num_classes:
            raise ValueError(f"{num_classes} classes are scored; expected as many names, got {self.class_names}")

    def _by_class(self, iou):
        """{class name: IoU}; none where there are no scores of classes."""
        return {} if iou is None else dict(zip(self.class_names or (), iou.tolist()))


def format_summary(summary):
    """The summary of `Scores` as a table for people."""
    if not summary["num_images"]:
        return "No view was scored: all are input views.\n"
    lines = [f"instances: {summary['num_instances']}, images: {summary['num_images']}", ""]
    lines += [f"{'mean over':34}{'images':>12}{'instances':>12}"]
    for score in (*IMAGE_SCORES, *(LABEL_SCORES if summary["part_iou"] else ())):
        lines.append(f"{TITLES[score]:34}{summary[score]:12.4f}{summary[f'{score}_instances']:12.4f}")
    lines += ["", "PSNR and SSIM are over R, G and B of the written images; RGBA is the published figure."]

    if summary["part_iou"]:
        lines += ["", "IoU, intersections and unions summed over all images", *_class_lines(summary["part_iou"])]
        for score in CATEGORY_SCORES:
            lines.append(f"{TITLES[score]:34}{summary[score]:12.4f}")
    else:
        lines += ["", "No label maps, or no classes predicted, so no IoU."]
    if summary["num_clouds"]:
        lines += ["", f"IoU in 3-D, points summed over all labelled clouds ({summary['num_clouds']})"]
        lines += _class_lines(summary["part_iou_3d"])
        for score in SCORES_3D:
            lines.append(f"{TITLES[score]:34}{summary[score]:12.4f}")
    return "\n".join(lines) + "\n"


def _class_lines(iou_of):
    iou_of = {name: "       never seen" if math.isnan(iou) else f"{iou:12.4f}" for name, iou in iou_of.items()}
    return [f"  {name:32}{iou}" for name, iou in iou_of.items()]


def _distinct(names):
    return list(names) if len(set(names)) == len(names) else [f"{name} {i}" for i, name in enumerate(names)]


def _iou_3d(confusion):
    """IoU per class (K,) of (K + 1, K + 1) counts, of which the last class is "nothing was rendered"."""
    return None if confusion is None else metrics.iou_per_class(confusion)[:-1]


def _mean(rows, score):
    """A nan IoU is an image or a cloud without labels and left out. A nan PSNR or SSIM is a fault, and shows."""
    values = _values(rows, score)
    return float(np.mean(values)) if values else math.nan


def _std(rows, score):
    values = _values(rows, score)
    return float(np.std(values)) if values else math.nan


def _values(rows, score):
    return [row[score] for row in rows if score in IMAGE_SCORES or not math.isnan(row[score])]


def _write_csv(path, columns, rows):
    """Floats with six decimals; an empty field where there is no number. part_iou becomes iou_<class>."""
    with util.replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            row = row | {f"iou_{name}": iou for name, iou in row["part_iou"].items()}
            row |= {f"iou_3d_{name}": iou for name, iou in row.get("part_iou_3d", {}).items()}
            writer.writerow([_csv_field(row.get(column, "")) for column in columns])


def _csv_field(value):
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    return value


def _finite_or_none(value):
    if isinstance(value, dict):
        return {key: _finite_or_none(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite_or_none(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
