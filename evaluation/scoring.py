"""Scores of an evaluation: kept per image and per point cloud, averaged once, written as tables."""

import csv
import json
import math

import numpy as np
import torch

import util
import visual
from evaluation import metrics
from evaluation.score_names import CATEGORY_SCORES, IMAGE_SCORES, LABEL_SCORES, SCORES_3D, TITLES

PUBLISHED_COLUMNS = ("instance_num", "instance_id", "miou", "stdiou", "psnr", "ssim", "max_classes")
OTHER_COLUMNS = ("miou_no_background", "psnr_rgba", "ssim_rgba", "num_images")


def image_scores(rgb, target):
    """The IMAGE_SCORES of rendered images, a dict of floats for each.

    rgb:    (B, 3 or 4, H, W) in [-1, 1] as rendered
    target: (B, 4, H, W)

    psnr and ssim compare R, G and B of the two 8-bit pictures as written, so they can be recomputed from the files.
    psnr_rgba and ssim_rgba are the published scores, of floats and four channels; a rendering without alpha gets
    alpha 1 (see metrics). A rendering with nan in it scores nan.
    """
    written, truth = visual.in_8_bits(rgb), visual.in_8_bits(target)
    broken = rgb.isnan().flatten(1).any(dim=1)
    rgba = metrics.with_alpha(rgb)
    columns = [
        metrics.psnr(written, truth).masked_fill(broken, math.nan),
        metrics.ssim(written, truth).masked_fill(broken, math.nan),
        metrics.psnr(rgba, target),
        metrics.ssim(rgba, target),
    ]
    return [dict(zip(IMAGE_SCORES, row)) for row in torch.stack(columns, dim=1).tolist()]


class Scores:
    """The scores of an evaluation, a row per observation, from which means are computed on request.

    mIoU counts background (class 0) as a class, as published; `_no_background` leaves it out of the mean.
    Observations without labels have mIoU nan, which the means leave out. A mean over nothing is nan.

    class_names: by id; if a name repeats, each gets its id appended
    instances:   names in the order of the result folders, for instance_num (default: in the order of `add`)
    """

    def __init__(self, class_names=None, instances=()):
        self.class_names = _distinct(class_names) if class_names else None
        self._number = {name: number for number, name in enumerate(instances)}
        self._rows = {}  # (instance, observation) -> a row of per_observation
        self._confusion = {}  # instance -> (K, K), summed over its observations
        self._clouds = {}  # instance -> (K + 1, K + 1) of clouds.compare, mean distance

    def add(self, instance, observation, image_scores, confusion=None):
        """Record one observation: names, {psnr, ssim, ...}, and (K, K) confusion counts if it has labels.

        Raises ValueError if it is recorded already, or if K is not the number of class names.
        """
        if (instance, observation) in self._rows:
            raise ValueError(f"instance {instance}: observation {observation} has been scored before")
        row = dict(instance_id=instance, observation=observation, miou=math.nan, miou_no_background=math.nan)
        row |= {score: float(image_scores[score]) for score in IMAGE_SCORES} | dict(num_classes=0, part_iou={})
        if confusion is not None:
            confusion = torch.as_tensor(confusion).cpu()
            self._name_classes(len(confusion))
            row |= dict(
                miou=metrics.mean_iou(confusion).item(),
                miou_no_background=metrics.mean_iou(confusion, with_background=False).item(),
                num_classes=int((confusion.sum(dim=1) > 0).sum()),
                part_iou=self._part_iou(confusion),
            )
            self._confusion[instance] = self._confusion.get(instance, 0) + confusion
        self._rows[instance, observation] = row

    def add_cloud(self, instance, confusion, distance):
        """Record the result of clouds.compare for an instance."""
        self._name_classes(len(confusion) - 1)
        self._clouds[instance] = (confusion, float(distance))

    def per_observation(self):
        """A list of dicts in the order of `add`: instance_id, observation, the scores, num_classes in the true label
        map, and part_iou, {class: IoU}.
        """
        return list(self._rows.values())

    def per_instance(self):
        """A list of dicts, instances in the order of their first observation.

        PUBLISHED_COLUMNS: miou, psnr and ssim are means over the instance's observations, stdiou is the standard
            deviation of their mIoUs, max_classes the most classes in one true label map, background included
        OTHER_COLUMNS
        part_iou:          {class: IoU}, intersections and unions summed over the instance's observations
        miou_3d, cloud_distance, part_iou_3d: of its point cloud (clouds.compare); nan, nan, {} if it has none
        """
        rows_of = {}
        for (instance, _), row in self._rows.items():
            rows_of.setdefault(instance, []).append(row)
        table = []
        for number, (instance, rows) in enumerate(rows_of.items()):
            row = dict(instance_num=self._number.get(instance, number), instance_id=instance, num_images=len(rows))
            row |= {score: _mean(rows, score) for score in (*IMAGE_SCORES, *LABEL_SCORES)}
            row |= dict(stdiou=_mean(rows, "miou", np.std), max_classes=max(x["num_classes"] for x in rows) or math.nan)
            row = {column: row[column] for column in (*PUBLISHED_COLUMNS, *OTHER_COLUMNS)}
            row["part_iou"] = self._part_iou(self._confusion.get(instance))
            confusion_3d, distance = self._clouds.get(instance, (None, math.nan))
            part_iou_3d = self._part_iou(confusion_3d)
            table.append(row | dict(miou_3d=_nanmean(part_iou_3d), cloud_distance=distance, part_iou_3d=part_iou_3d))
        return table

    def summary(self):
        """A dict of plain numbers.

        num_images, num_instances, num_clouds
        IMAGE_SCORES, LABEL_SCORES:  means over images; <score>_instances: over instances of the instances' means
        part_iou:     {class: IoU}, intersections and unions summed over all images; nan for a class never seen
        part_iou_3d:  {class: IoU}, points summed over all labelled clouds
        category_miou, category_miou_no_background, category_miou_3d: means of part_iou and part_iou_3d
        miou_3d, cloud_distance: means over the instances with a labelled point cloud
        """
        instances = self.per_instance()
        summary = dict(num_images=len(self._rows), num_instances=len(instances))
        for score in (*IMAGE_SCORES, *LABEL_SCORES):
            summary[score] = _mean(self._rows.values(), score)
            summary[f"{score}_instances"] = _mean(instances, score)

        confusion = sum(self._confusion.values()) if self._confusion else torch.zeros(0, 0)
        clouds = [self._clouds[row["instance_id"]][0] for row in instances if row["instance_id"] in self._clouds]
        part_iou_3d = self._part_iou(sum(clouds) if clouds else None)
        return summary | dict(
            category_miou=metrics.mean_iou(confusion).item(),
            category_miou_no_background=metrics.mean_iou(confusion, with_background=False).item(),
            part_iou=self._part_iou(confusion),
            num_clouds=len(clouds),
            miou_3d=_mean(instances, "miou_3d"),
            cloud_distance=_mean(instances, "cloud_distance"),
            category_miou_3d=_nanmean(part_iou_3d),
            part_iou_3d=part_iou_3d,
        )

    def write(self, folder, run=None):
        """Write into `folder`:

        final_miou.csv     a row per instance, as per_instance, with iou_<class> for part_iou
        observations.csv   a row per image, as per_observation
        results.txt        the summary as text
        results.json       run (facts about the run), the summary, instances; null replaces nan and infinity
        """
        summary, instances = self.summary(), self.per_instance()
        per_class = [f"iou_{name}" for name in self.class_names] if self._confusion else []
        columns = [*PUBLISHED_COLUMNS, *OTHER_COLUMNS, *per_class]
        if summary["num_clouds"]:
            columns += ["miou_3d", "cloud_distance", *(f"iou_3d_{name}" for name in self.class_names)]
        _write_csv(folder / "final_miou.csv", columns, instances)
        columns = ["instance_id", "observation", *IMAGE_SCORES[:2], *LABEL_SCORES, *IMAGE_SCORES[2:], *per_class]
        _write_csv(folder / "observations.csv", columns, self.per_observation())
        with util.replacing(folder / "results.txt") as temporary:
            temporary.write_text(format_summary(summary))
        text = json.dumps({"run": run or {}, **summary, "instances": instances})
        contents = json.loads(text, parse_constant=lambda constant: None)  # NaN and Infinity are not JSON
        with util.replacing(folder / "results.json") as temporary:
            temporary.write_text(json.dumps(contents, indent=2) + "\n")

    def _name_classes(self, num_classes):
        self.class_names = self.class_names or [f"class {class_id}" for class_id in range(num_classes)]
        if len(self.class_names) != num_classes:
            raise ValueError(f"{num_classes} classes are scored; expected as many names, found {self.class_names}")

    def _part_iou(self, confusion):
        """{class: IoU} of (K, K) counts, or of the first K classes of (K + 1, K + 1) counts; {} for None."""
        return {} if confusion is None else dict(zip(self.class_names or (), metrics.iou_per_class(confusion).tolist()))


def format_summary(summary):
    """The summary of `Scores` as text."""
    if not summary["num_images"]:
        return "No view was scored: all are input views.\n"
    lines = [f"instances: {summary['num_instances']}, images: {summary['num_images']}", ""]
    lines += [f"{'mean over':34}{'images':>12}{'instances':>12}"]
    for score in (*IMAGE_SCORES, *(LABEL_SCORES if summary["part_iou"] else ())):
        lines.append(f"{TITLES[score]:34}{summary[score]:12.4f}{summary[f'{score}_instances']:12.4f}")
    lines += ["", "PSNR and SSIM: R, G and B of the written images. RGBA: as published."]

    if summary["part_iou"]:
        lines += ["", "IoU, intersections and unions summed over all images"]
        lines += _iou_lines(summary, "part_iou", CATEGORY_SCORES)
    else:
        lines += ["", "No IoU: there are no label maps, or no classes are predicted."]
    if summary["num_clouds"]:
        lines += ["", f"IoU in 3-D, points summed over all labelled clouds ({summary['num_clouds']})"]
        lines += _iou_lines(summary, "part_iou_3d", SCORES_3D)
    return "\n".join(lines) + "\n"


def _iou_lines(summary, part_iou, scores):
    """The IoU of each class, then the scores that summarize them."""
    texts = {name: "       never seen" if math.isnan(iou) else f"{iou:12.4f}" for name, iou in summary[part_iou].items()}
    lines = [f"  {name:32}{text}" for name, text in texts.items()]
    return lines + [f"{TITLES[score]:34}{summary[score]:12.4f}" for score in scores]


def _distinct(names):
    return list(names) if len(set(names)) == len(names) else [f"{name} {i}" for i, name in enumerate(names)]


def _mean(rows, score, mean=np.mean):
    """nan marks an image or cloud without labels, which is left out; a nan PSNR or SSIM is an error and must show."""
    values = [row[score] for row in rows if score in IMAGE_SCORES or not math.isnan(row[score])]
    return float(mean(values)) if values else math.nan


def _nanmean(part_iou):
    values = [iou for iou in part_iou.values() if not math.isnan(iou)]
    return float(np.mean(values)) if values else math.nan


def _write_csv(path, columns, rows):
    """Floats with six decimals, an empty field for nan. part_iou becomes iou_<class>."""
    with util.replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            row = row | {f"iou_{name}": iou for name, iou in row["part_iou"].items()}
            row |= {f"iou_3d_{name}": iou for name, iou in row.get("part_iou_3d", {}).items()}
            fields = [row.get(column, "") for column in columns]
            writer.writerow([f"{x:.6f}".replace("nan", "") if isinstance(x, float) else x for x in fields])
