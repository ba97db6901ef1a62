"""Point clouds of rendered instances: collected over several views, written to files, compared with labelled ones."""

import math
from dataclasses import dataclass

import numpy as np
import plyfile
import scipy.spatial
import torch

import dataio
import util
import visual
from evaluation import metrics

VIEWS_PER_POINT_CLOUD = 10
BACKGROUND_WHITE = 0.9  # of -1..1: without classes, points whose R, G and B are above this are background


@dataclass(frozen=True)
class Cloud:
    """Surface points of one instance in world space, without the background."""

    points: torch.Tensor  # (N, 3) float32, N may be 0
    rgb: torch.Tensor  # (N, 3) uint8
    classes: torch.Tensor = None  # (N,) int64, if classes are predicted

    def write(self, folder, num_classes):
        """Write point_cloud_rgb and, if there are classes, point_cloud_seg, each as .txt and .ply."""
        write_point_cloud(folder / "point_cloud_rgb", self.points, self.rgb)
        if self.classes is not None:
            colors = visual.label_colors(self.classes, num_classes)
            write_point_cloud(folder / "point_cloud_seg", self.points, colors, self.classes)


def write_point_cloud(stem, points, rgb, labels=None):
    """Write `<stem>.ply`, binary with exact float32 coordinates, and `<stem>.txt`, a line `x y z r g b` per point.

    points: (N, 3) float, N may be 0
    rgb:    (N, 3) uint8
    labels: (N,) integer class ids, in the PLY only
    Tensors on the CPU or arrays. Raises ValueError if their lengths differ or rgb is not uint8.
    """
    points, rgb = np.asarray(points), np.asarray(rgb)
    if rgb.dtype != np.uint8:
        raise ValueError(f"{stem}: rgb is {rgb.dtype}, expected uint8 from 0 to 255")
    fields = [(axis, "<f4") for axis in "xyz"] + [(channel, "u1") for channel in ("red", "green", "blue")]
    columns = [*points.T, *rgb.T]
    if labels is not None:
        fields, columns = [*fields, ("label", "<i4")], [*columns, np.asarray(labels)]
    element = plyfile.PlyElement.describe(np.rec.fromarrays(columns, dtype=fields), "vertex")
    with util.replacing(f"{stem}.ply") as temporary:
        plyfile.PlyData([element], text=False, byte_order="<").write(temporary)

    # One format operation over all points is several times faster than numpy.savetxt.
    numbers = np.concatenate([points, rgb], axis=1, dtype=np.float64)
    with util.replacing(f"{stem}.txt") as temporary:
        temporary.write_text("%.7g %.7g %.7g %d %d %d\n" * len(points) % tuple(numbers.ravel().tolist()))


def foreground(shown, i):
    """The Cloud of observation i: each ray's surface point, unless it is background or not finite.

    shown: visual.to_host of the model's outputs
    """
    points, rgb = shown["points"][i].float(), shown["rgb"][i].float().clamp(-1, 1)
    classes = shown["seg_labels"][i] if "seg_labels" in shown else None
    solid = classes != 0 if classes is not None else rgb.min(dim=-1).values < BACKGROUND_WHITE
    solid &= points.isfinite().all(dim=-1)
    rgb = ((rgb[solid] + 1) * 127.5).round().to(torch.uint8)
    return Cloud(points[solid], rgb, classes[solid] if classes is not None else None)


class Collector:
    """Joins the foreground of up to VIEWS_PER_POINT_CLOUD evenly spread views of each instance.

    views: {instance: names of its views}, for the instances that need a cloud
    """

    def __init__(self, views):
        self.waiting = {
            instance: {names[view] for view in dataio.choose_views(len(names), VIEWS_PER_POINT_CLOUD)}
            for instance, names in views.items()
        }
        self.parts = {}

    def add(self, instance, view, shown, i):
        """Add observation i of `shown` if its view is needed. Returns the Cloud with the last view, else None."""
        waiting = self.waiting.get(instance, ())
        if view not in waiting:
            return None
        waiting.remove(view)
        self.parts.setdefault(instance, []).append(foreground(shown, i))
        if waiting:
            return None
        parts = self.parts.pop(instance)
        classes = torch.cat([part.classes for part in parts]) if parts[0].classes is not None else None
        return Cloud(torch.cat([part.points for part in parts]), torch.cat([part.rgb for part in parts]), classes)


def compare(cloud, labelled, num_classes):
    """Part labels in 3-D: each point of a labelled cloud takes the class of the nearest rendered point.

    labelled: data_util.LabelledCloud, in the coordinates of the poses
    returns   (K + 1, K + 1) int64 counts, rows truth, columns prediction, whose last class is "nothing rendered";
              and the mean distance to the nearest point, nan if nothing was rendered. A large distance reveals a
              cloud in other coordinates than the poses
    """
    if len(cloud.points):
        distances, nearest = scipy.spatial.cKDTree(cloud.points.numpy()).query(labelled.points)
        predicted, distance = cloud.classes[torch.from_numpy(nearest)], distances.mean().item()
    else:
        predicted, distance = torch.full((len(labelled.points),), num_classes), math.nan
    labels = torch.from_numpy(labelled.labels)
    return metrics.confusion_matrix(predicted[None], labels[None], num_classes + 1)[0], distance
