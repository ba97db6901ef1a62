"""Results on disk: point clouds, pictures, and the scores of an evaluation."""

import collections
import concurrent.futures
import csv
import json
import math
import threading
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import plyfile
import torch

import metrics
import util

CSV_COLUMNS = ("instance_num", "instance_id", "miou", "stdiou", "psnr", "ssim", "max_classes")


# Point clouds


def write_point_cloud(stem, points, rgb, labels=None, normals=None):
    """Write `<stem>.txt`, a line `x y z r g b` per point, and `<stem>.ply` for MeshLab, CloudCompare or Open3D.

    points:  (N, 3) float, N may be 0
    rgb:     (N, 3) uint8
    labels:  (N,) integer class ids, in the PLY only
    normals: (N, 3) float, in the PLY only
    Tensors or arrays. The PLY is binary, and keeps every bit of float32 coordinates.
    """
    columns = {"points": points, "rgb": rgb, "labels": labels, "normals": normals}
    columns = {name: _as_array(values) for name, values in columns.items() if values is not None}
    count = len(columns["points"])
    for name, values in columns.items():
        expected = (count,) if name == "labels" else (count, 3)
        if values.shape != expected:
            raise ValueError(f"{stem}: {name} of shape {values.shape}, expected {expected}")
    if columns["rgb"].dtype != np.uint8:
        raise ValueError(f"{stem}: rgb is {columns['rgb'].dtype}, expected uint8 from 0 to 255")

    fields = {
        "points": [("x", "<f4"), ("y", "<f4"), ("z", "<f4")],
        "normals": [("nx", "<f4"), ("ny", "<f4"), ("nz", "<f4")],
        "rgb": [("red", "u1"), ("green", "u1"), ("blue", "u1")],
        "labels": [("label", "<i4")],
    }
    fields = {name: properties for name, properties in fields.items() if name in columns}
    vertices = np.empty(count, dtype=[field for properties in fields.values() for field in properties])
    for name, properties in fields.items():
        for (field, _), values in zip(properties, columns[name].reshape(count, len(properties)).T):
            vertices[field] = values
    element = plyfile.PlyElement.describe(vertices, "vertex")
    with util.replacing(f"{stem}.ply") as temporary:
        plyfile.PlyData([element], text=False, byte_order="<").write(temporary)

    # One format operation over all points: several times faster than numpy.savetxt.
    numbers = np.concatenate([columns["points"], columns["rgb"]], axis=1, dtype=np.float64)
    with util.replacing(f"{stem}.txt") as temporary:
        temporary.write_text("%.7g %.7g %.7g %d %d %d\n" * count % tuple(numbers.ravel().tolist()))


def _as_array(values):
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


# Pictures

_RENAMING = threading.Lock()  # util.replacing looks at the umask, which all threads of a process share


def write_picture(path, picture):
    """Write an (H, W, 3) uint8 picture as PNG. The folder is made where it does not exist."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded = iio.imwrite("<bytes>", picture, extension=".png")
    with _RENAMING, util.replacing(path) as temporary:
        temporary.write_bytes(encoded)


class PictureWriter:
    """Writes pictures in a few threads while the caller renders on. Use it in a `with` statement.

    Leaving the block waits for every picture. A failed one raises its error, at the latest there.
    """

    def __init__(self, num_threads=4, max_waiting=256):
        self.max_waiting = max_waiting
        self._waiting = collections.deque()
        self._pool = concurrent.futures.ThreadPoolExecutor(num_threads)

    def write(self, path, picture):
        """Queue a picture; waits for the oldest one where `max_waiting` are queued."""
        self._waiting.append(self._pool.submit(write_picture, path, picture.copy()))
        while len(self._waiting) > self.max_waiting or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def __enter__(self):
        return self

    def __exit__(self, error_type, error, traceback):
        self._pool.shutdown(wait=True, cancel_futures=error_type is not None)
        if error_type is None:
            for future in self._waiting:
                future.result()


# Scores


class Scores:
    """The scores of an evaluation, one row per observation; means are taken once, when they are asked for.

    mIoU counts background (class 0) as a class, as published; `_no_background` leaves it out of the mean.
    Observations without labels have no mIoU: they are missing from its means, and a mean over nothing is nan.
    """

    def __init__(self):
        self._rows = {}  # (instance, observation) -> scores
        self._confusion = None  # (K, K), summed over all observations

    def add(self, instance, observation, psnr, ssim, confusion=None):
        """Record one observation: names, psnr in dB, ssim, and (K, K) confusion counts where there are labels."""
        if (instance, observation) in self._rows:
            raise ValueError(f"instance {instance}: observation {observation} has been scored before")
        row = dict(psnr=float(psnr), ssim=float(ssim), miou=math.nan, miou_no_background=math.nan, num_classes=0)
        if confusion is not None:
            confusion = torch.as_tensor(confusion).cpu()
            row["miou"] = metrics.mean_iou(confusion).item()
            row["miou_no_background"] = metrics.mean_iou(confusion, with_background=False).item()
            row["num_classes"] = int((confusion.sum(dim=1) > 0).sum())
            self._confusion = confusion if self._confusion is None else self._confusion + confusion
        self._rows[instance, observation] = row

    def per_observation(self):
        """A list of dicts in the order of `add`: instance_id, observation, psnr, ssim, miou, ..."""
        return [dict(instance_id=key[0], observation=key[1], **row) for key, row in self._rows.items()]

    def per_instance(self):
        """A list of dicts with the keys CSV_COLUMNS, instances in the order of their first observation.

        miou, psnr and ssim are means over the instance's observations, stdiou the standard deviation of its
        mIoUs, max_classes the most classes in one ground-truth label map of it, background included.
        """
        return [
            dict(
                instance_num=number,
                instance_id=instance,
                miou=_mean(rows, "miou"),
                stdiou=_std(rows, "miou"),
                psnr=_mean(rows, "psnr"),
                ssim=_mean(rows, "ssim"),
                max_classes=max(row["num_classes"] for row in rows) or math.nan,
            )
            for number, (instance, rows) in enumerate(self._by_instance().items())
        ]

    def summary(self, class_names=None):
        """A dict of plain numbers.

        num_images, num_instances
        psnr, ssim, miou, miou_no_background:      means over images
        psnr_instances, ..., miou_..._instances:   means over instances of the instances' means
        part_iou:      {class: IoU}, intersections and unions summed over all images; nan for a class never seen
        category_miou, category_miou_no_background: the mean of part_iou
        """
        images, instances = list(self._rows.values()), list(self._by_instance().values())
        summary = dict(num_images=len(images), num_instances=len(instances))
        for score in ("psnr", "ssim", "miou", "miou_no_background"):
            summary[score] = _mean(images, score)
            of_instances = [{score: _mean(rows, score)} for rows in instances]
            summary[f"{score}_instances"] = _mean(of_instances, score)

        confusion = torch.zeros(0, 0) if self._confusion is None else self._confusion
        summary["category_miou"] = metrics.mean_iou(confusion).item()
        summary["category_miou_no_background"] = metrics.mean_iou(confusion, with_background=False).item()
        part_iou = metrics.iou_per_class(confusion).tolist()
        names = list(class_names or [f"class {class_id}" for class_id in range(len(part_iou))])
        if part_iou and (len(names) != len(part_iou) or len(set(names)) != len(names)):
            raise ValueError(f"{len(part_iou)} classes were scored; expected as many different names, got {names}")
        summary["part_iou"] = dict(zip(names, part_iou))
        return summary

    def write(self, folder, class_names=None):
        """Write into `folder`:

        final_miou.csv     a row per instance
        observations.csv   a row per image
        results.txt        the summary, to be read by people
        results.json       the summary; null where there is no finite number
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        summary = self.summary(class_names)
        _write_csv(folder / "final_miou.csv", CSV_COLUMNS, self.per_instance())
        columns = ("instance_id", "observation", "psnr", "ssim", "miou", "miou_no_background")
        _write_csv(folder / "observations.csv", columns, self.per_observation())
        with util.replacing(folder / "results.txt") as temporary:
            temporary.write_text(format_summary(summary))
        with util.replacing(folder / "results.json") as temporary:
            temporary.write_text(json.dumps(_finite_or_none(summary), indent=2, allow_nan=False) + "\n")

    def _by_instance(self):
        by_instance = collections.defaultdict(list)
        for (instance, _), row in self._rows.items():
            by_instance[instance].append(row)
        return by_instance


def format_summary(summary):
    """The summary of `Scores` as a table for people."""
    lines = [f"instances: {summary['num_instances']}, images: {summary['num_images']}", ""]
    lines += [f"{'mean over':32}{'images':>12}{'instances':>12}"]
    scores = {"psnr": "PSNR (dB)", "ssim": "SSIM"}
    if summary["part_iou"]:
        scores |= {"miou": "mIoU", "miou_no_background": "mIoU without background"}
    for score, label in scores.items():
        lines.append(f"{label:32}{summary[score]:12.4f}{summary[f'{score}_instances']:12.4f}")

    if not summary["part_iou"]:
        return "\n".join([*lines, "", "No label maps, so no IoU."]) + "\n"
    lines += ["", "IoU, intersections and unions summed over all images"]
    for name, iou in summary["part_iou"].items():
        lines.append(f"  {name:30}" + ("       never seen" if math.isnan(iou) else f"{iou:12.4f}"))
    lines += [
        f"{'category mIoU':32}{summary['category_miou']:12.4f}",
        f"{'category mIoU without background':32}{summary['category_miou_no_background']:12.4f}",
    ]
    return "\n".join(lines) + "\n"


def _mean(rows, score):
    """A nan mIoU is an observation without labels and is left out. A nan PSNR or SSIM is a fault, and shows."""
    values = _values(rows, score)
    return float(np.mean(values)) if values else math.nan


def _std(rows, score):
    values = _values(rows, score)
    return float(np.std(values)) if values else math.nan


def _values(rows, score):
    return [row[score] for row in rows if not (score.startswith("miou") and math.isnan(row[score]))]


def _write_csv(path, columns, rows):
    """Floats with six decimals; an empty field where there is no number."""
    with util.replacing(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_csv_field(row[column]) for column in columns])


def _csv_field(value):
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6f}"
    return value


def _finite_or_none(value):
    if isinstance(value, dict):
        return {key: _finite_or_none(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
