"""Results on disk: point clouds and pictures."""

import collections
import concurrent.futures
import threading
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import plyfile
import torch

import util

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
    """Makes and writes pictures in a few threads while the caller renders on. Use it in a `with` statement.

    Leaving the block waits for all that is queued. What fails raises its error, at the latest there.
    """

    def __init__(self, num_threads=4, max_waiting=256):
        self.max_waiting = max_waiting
        self._waiting = collections.deque()
        self._pool = concurrent.futures.ThreadPoolExecutor(num_threads)

    def write(self, path, picture):
        """Queue a picture, see `do`."""
        self.do(write_picture, path, picture.copy())

    def do(self, function, *arguments):
        """Queue any work; waits for the oldest of it where `max_waiting` are queued."""
        self._waiting.append(self._pool.submit(function, *arguments))
        while len(self._waiting) > self.max_waiting or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def __enter__(self):
        return self

    def __exit__(self, error_type, error, traceback):
        self._pool.shutdown(wait=True, cancel_futures=error_type is not None)
        if error_type is None:
            for future in self._waiting:
                future.result()
