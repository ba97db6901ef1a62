"""Point clouds of rendered objects: gathered over some views, written to files, compared with labelled clouds."""

import math
from dataclasses import dataclass

import scipy.spatial
import torch

import dataio
import visual
from evaluation import metrics, picture_files

VIEWS_PER_POINT_CLOUD = 10
BACKGROUND_WHITE = 0.9  # of -1..1: without classes, brighter surface points are taken for background


@dataclass(frozen=True)
class Cloud:
    """Surface points of one object in world space, background left out."""

    points: torch.Tensor  # (N, 3) float32, N may be 0
    rgb: torch.Tensor  # (N, 3) uint8
    classes: torch.Tensor = None  # (N,) int64, where classes are predicted

    def write(self, folder, num_classes):
        """Write point_cloud_rgb and, where there are classes, point_cloud_seg, each as .txt and .ply."""
        folder.mkdir(parents=True, exist_ok=True)
        picture_files.write_point_cloud(folder / "point_cloud_rgb", self.points, self.rgb)
        if self.classes is not None:
            colors = visual.label_colors(self.classes, num_classes)
            picture_files.write_point_cloud(folder / "point_cloud_seg", self.points, colors, labels=self.classes)


def foreground(outputs, i):
    """The Cloud of observation i of a rendered batch: each ray's surface point, unless it is background."""
    points, rgb = outputs["points"][i].float().cpu(), outputs["rgb"][i, :, :3].float().cpu().clamp(-1, 1)
    classes = outputs["seg_logits"][i].argmax(dim=-1).cpu() if "seg_logits" in outputs else None
    solid = classes != 0 if classes is not None else rgb.min(dim=-1).values < BACKGROUND_WHITE
    solid &= points.isfinite().all(dim=-1)
    rgb = ((rgb[solid] + 1) * 127.5).round().to(torch.uint8)
    return Cloud(points[solid], rgb, classes[solid] if classes is not None else None)


class Collector:
    """Joins the foreground of some views of each instance, spread evenly, VIEWS_PER_POINT_CLOUD at the most.

    views: {instance: names of its views} of the instances that are to have a cloud
    """

    def __init__(self, views):
        self.waiting = {
            instance: {names[view] for view in dataio.choose_views(len(names), VIEWS_PER_POINT_CLOUD)}
            for instance, names in views.items()
        }
        self.parts = {}

    def add(self, instance, view, outputs, i):
        """Take observation i of a rendered batch if it is one of the views. The last one returns the Cloud."""
        waiting = self.waiting.get(instance, ())
        if view not in waiting:
            return None
        waiting.remove(view)
        self.parts.setdefault(instance, []).append(foreground(outputs, i))
        if waiting:
            return None
        parts = self.parts.pop(instance)
        classes = torch.cat([part.classes for part in parts]) if parts[0].classes is not None else None
        return Cloud(torch.cat([part.points for part in parts]), torch.cat([part.rgb for part in parts]), classes)


def compare(cloud, labelled, num_classes):
    """Part labels in 3-D: each point of a labelled cloud takes the class of the nearest point of a rendered one.

    labelled: data_util.LabelledCloud, in the coordinates of the poses
    returns   (K + 1, K + 1) int64 counts, rows truth, columns prediction, of which the last class is "nothing was
              rendered"; and the mean distance to the nearest point, nan where there is none. A cloud in other
              coordinates than the poses shows in that distance
    """
    if len(cloud.points):
        distances, nearest = scipy.spatial.cKDTree(cloud.points.numpy()).query(labelled.points)
        predicted, distance = cloud.classes[torch.from_numpy(nearest)], distances.mean().item()
    else:
        predicted, distance = torch.full((len(labelled.points),), num_classes), math.nan
    labels = torch.from_numpy(labelled.labels)
    return metrics.confusion_matrix(predicted[None], labels[None], num_classes + 1)[0], distance
