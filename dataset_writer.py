"""Renders objects and writes them as a class folder, in the layout that the data set reader expects.

A class folder is built beside its place and renamed at the end, so nothing half-written bears the final name.
Every instance is rendered by itself, from its own mesh and poses: the number of processes changes no byte.
"""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from tqdm import tqdm

import data_util
import geometry
import meshes
import raycasting
import util

FOCAL = 1.025  # focal length per side of the image, as ShapeNet of SRN: 131.25 at 128 pixels
DISTANCE = 1.15  # of the cameras from the origin: objects have a diagonal of 1, and just fit the picture
ELEVATION_DEG = (-10.0, 60.0)

FRONT_VIEW = 65  # the test view that one-shot reconstruction starts from
FRONT_AZIMUTH_DEG, FRONT_ELEVATION_DEG = 35.0, 25.0
POINTS_PER_CLOUD = 10_000
SPIRAL_TURNS = 7  # of the numbers tried, the one that keeps the views furthest apart


@dataclass(frozen=True)
class Instance:
    """One object in one split: where it goes, how its mesh is made, and from where it is seen."""

    split: str                  # "train", "train_val", "val" or "test"
    name: str
    make_mesh: Callable         # () -> meshes.Mesh; runs in another process, so it must pickle
    cam2world: torch.Tensor     # (V, 4, 4) float32


def random_cameras(num_views, rng):
    """Poses (V, 4, 4) spread evenly over the area of the sphere between the ELEVATION_DEG."""
    low, high = np.sin(np.deg2rad(ELEVATION_DEG))
    elevation_deg = np.rad2deg(np.arcsin(rng.uniform(low, high, num_views)))
    return _cameras(rng.uniform(0, 360, num_views), elevation_deg)


def spiral_cameras(num_views):
    """Poses (V, 4, 4) on a closed spiral that climbs and descends between the ELEVATION_DEG, evenly by area.

    View FRONT_VIEW shows the object from the right of its front, slightly from above, for any number of views.
    """
    low, high, front = np.sin(np.deg2rad([*ELEVATION_DEG, FRONT_ELEVATION_DEG]))
    progress = (np.arange(num_views) - FRONT_VIEW) / num_views
    phase = (progress + (front - low) / (high - low) / 2) % 1  # up in the first half, down in the second
    height = low + (high - low) * (1 - np.abs(2 * phase - 1))
    return _cameras(FRONT_AZIMUTH_DEG + 360 * SPIRAL_TURNS * progress, np.rad2deg(np.arcsin(height)))


def _cameras(azimuth_deg, elevation_deg):
    azimuth_deg, elevation_deg = (torch.tensor(x, dtype=torch.float32) for x in (azimuth_deg, elevation_deg))
    return geometry.look_at(geometry.on_sphere(azimuth_deg, elevation_deg, DISTANCE))


def intrinsics_of(sidelength):
    """(3, 3) float32 of a square image."""
    focal, centre = FOCAL * sidelength, sidelength / 2
    return torch.tensor([[focal, 0, centre], [0, focal, centre], [0, 0, 1]], dtype=torch.float32)


def write_class(out, obj_name, class_names, instances, sidelength, description,
                num_workers=1, overwrite=False, texts=None):
    """Renders `instances` into the class folder <out>/<obj_name> and returns its path.

    class_names: by id, background first
    description: what dataset.json says about the making, beside the conventions
    texts:       {file name: content}, further files of the class folder
    """
    raycasting.require_embree()
    with new_folder(Path(out) / obj_name, overwrite) as folder:
        facts = {"pixel_center": raycasting.PIXEL_CENTER, "blend_alpha": True, **description,
                 "sidelength": sidelength, "camera_distance": DISTANCE, "elevation_deg": ELEVATION_DEG,
                 "splits": _count(instances)}
        class_list = "".join(f"{i} {name}\n" for i, name in enumerate(class_names))
        own_texts = {f"{obj_name}-level-1.txt": class_list, "dataset.json": json.dumps(facts, indent=2) + "\n"}
        for name, text in {**(texts or {}), **own_texts}.items():
            (folder / name).write_text(text, encoding="utf-8")
        jobs = [(folder / f"{obj_name}.{i.split}" / i.name, i.make_mesh, i.cam2world.numpy(), sidelength)
                for i in instances]
        num_views = sum(len(i.cam2world) for i in instances)
        finished = _run(jobs, min(num_workers, len(jobs)))
        with contextlib.closing(finished), tqdm(total=num_views, unit="view", desc=obj_name) as progress:
            for written in finished:
                progress.update(written)
    return Path(out) / obj_name


def _count(instances):
    """{split: {"instances": ..., "views": ...}}, `views` per instance."""
    splits = {}
    for instance in instances:
        split = splits.setdefault(instance.split, {"instances": 0, "views": len(instance.cam2world)})
        split["instances"] += 1
    return splits


def _run(jobs, num_workers):
    """Yields the number of views that each finished job has written."""
    if num_workers <= 1:
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # tensors are too small here to be shared between threads
        try:
            yield from (write_instance(*job) for job in jobs)
        finally:
            torch.set_num_threads(num_threads)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, spawn, initializer=_start_worker) as pool:
        try:
            for done in as_completed([pool.submit(write_instance, *job) for job in jobs]):
                yield done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _start_worker():
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which then ends the workers


def write_instance(folder, make_mesh, cam2world, sidelength):
    """Renders one object into rgb/, seg/ and pose/ of `folder`, and samples its surface into point_cloud/.

    cam2world: (V, 4, 4) float32 array
    """
    for name in ("rgb", "seg", "pose"):
        (folder / name).mkdir(parents=True)
    centre = sidelength / 2
    (folder / "intrinsics.txt").write_text(
        f"{FOCAL * sidelength!r} {centre!r} {centre!r} 0.\n0. 0. 0.\n1.\n{sidelength} {sidelength}\n"
    )
    mesh = make_mesh()
    write_point_cloud(folder, mesh)
    scene, intrinsics = raycasting.Scene(mesh), intrinsics_of(sidelength)
    for i, pose in enumerate(cam2world):
        rgba, seg_labels = raycasting.render(scene, torch.from_numpy(pose), intrinsics, sidelength, sidelength)
        iio.imwrite(folder / "rgb" / f"{i:06d}.png", rgba, compress_level=1)
        np.save(folder / "seg" / f"{i:06d}.npy", seg_labels)
        np.savetxt(folder / "pose" / f"{i:06d}.txt", pose, fmt="%.9g")
    return len(cam2world)


def write_point_cloud(folder, mesh):
    """Writes POINTS_PER_CLOUD labelled surface points of an instance, in the coordinates of its poses.

    A line of the points is x y z nx ny nz r g b a; colour and alpha are 0 to 255, alpha always 255. The random
    numbers depend on the instance's name alone, so an object has the same cloud in train and in train_val. An object
    without labels has none.
    """
    cloud = meshes.sample_surface(mesh, POINTS_PER_CLOUD, np.random.default_rng(list(folder.name.encode())))
    if not len(cloud.points):
        return
    rgba = np.pad(np.rint(255 * cloud.colours), ((0, 0), (0, 1)), constant_values=255)
    numbers = np.concatenate([cloud.points, cloud.normals, rgba], axis=1)
    line = "%.5f %.5f %.5f %.3f %.3f %.3f %.0f %.0f %.0f %.0f\n"
    points_path, labels_path = folder / data_util.CLOUD_POINTS, folder / data_util.CLOUD_LABELS[0]
    points_path.parent.mkdir()
    points_path.write_text(line * len(numbers) % tuple(numbers.ravel().tolist()))
    labels_path.write_text("%d\n" * len(numbers) % tuple(cloud.labels.tolist()))


def check_target(path, overwrite):
    """An InputError where `path` exists and may not be replaced."""
    if Path(path).exists() and not overwrite:
        raise util.InputError(f"{path} exists already; choose another --out, or pass --overwrite to replace it")


@contextlib.contextmanager
def new_folder(path, overwrite=False):
    """Yields a temporary folder beside `path`; it takes that name when the block succeeds, and else goes away."""
    path = Path(path)
    check_target(path, overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise util.InputError(f"cannot write to {path.parent}: {error.strerror}; choose another --out") from None
    try:
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        yield temporary
        if path.exists():
            replaced = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            path.rename(replaced / path.name)
            temporary.rename(path)
            shutil.rmtree(replaced)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
