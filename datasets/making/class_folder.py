"""Renders objects and writes them as a class folder, in the layout that the data set reader expects.

A class folder is built beside its place and renamed at the end, so nothing half-written bears the final name. What
is finished when the making is interrupted stays there, and the same command goes on from it. Every instance is
rendered by itself, from its own mesh and poses: neither the number of processes nor an interruption changes a byte.
"""

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from tqdm import tqdm

import data_util
import util
from datasets.making import atomic_folders, viewpoints
from datasets.meshes import raycasting, triangle_mesh
from datasets.storage import processes

POINTS_PER_CLOUD = 10_000
JOURNAL = "journal.jsonl"  # of an unfinished class folder, a line per Outcome
LEFT_OUT = "left_out.txt"  # what --skip_broken left out of a class folder
NAMED_AT_ONCE = 20  # faults that are printed; a long list helps nobody


@dataclass(frozen=True)
class Instance:
    """One object in one split: where it goes, how its mesh is made, and from where it is seen."""

    split: str  # "train", "train_val", "val" or "test"
    name: str
    load: Callable  # () -> triangle_mesh.LoadedMesh; runs in another process, so it must pickle
    cam2world: torch.Tensor  # (V, 4, 4) float32


@dataclass(frozen=True)
class Style:
    """How views are taken, and what is written of them."""

    sidelength: int
    focal: float = viewpoints.FOCAL  # per side of the image
    light: tuple = tuple(raycasting.LIGHT)  # unit vector towards the light; None for colours without shading
    with_labels: bool = True  # seg/ and, where there are labels, point_cloud/
    with_depth: bool = False  # depth/ and normals/


@dataclass(frozen=True)
class Outcome:
    """What became of an instance: a line of the journal."""

    split: str
    name: str
    views: int  # written
    faults: tuple  # sentences; with views 0 they are why the instance is not there


def write_class(
    out,
    obj_name,
    class_names,
    instances,
    style,
    description,
    num_workers=1,
    overwrite=False,
    skip_broken=False,
    texts=None,
    identity=None,
):
    """Renders `instances` into the class folder <out>/<obj_name>; returns the Outcome of each.

    class_names: by id, background first; None for data without labels
    description: what dataset.json says about the making, beside the conventions
    skip_broken: leave out instances whose mesh cannot be used, and what is broken of others, instead of an InputError
    texts:       {file name: content}, further files of the class folder
    identity:    what else tells, with all the above, whether an unfinished folder is of these very instances
    """
    raycasting.require_embree()
    plan = {
        "description": description,
        "style": asdict(style),
        "classes": class_names,
        "identity": identity,
        "instances": [[i.split, i.name, hashlib.sha256(i.cam2world.numpy().tobytes()).hexdigest()] for i in instances],
    }
    with atomic_folders.unfinished_folder(Path(out) / obj_name, plan, has_views, overwrite) as folder:
        outcomes = _finish(folder, obj_name, instances, style, num_workers, skip_broken)
        told = list(dict.fromkeys(f"{outcome.name}: {fault}" for outcome in outcomes for fault in outcome.faults))
        for line in told[:NAMED_AT_ONCE]:
            print(line)
        if len(told) > NAMED_AT_ONCE:
            print(f"... and {len(told) - NAMED_AT_ONCE} more")
        names, unusable = {outcome.name for outcome in outcomes}, {o.name for o in outcomes if not o.views}
        if told and not skip_broken:
            raise util.InputError(
                f"{len(unusable)} of {len(names)} objects cannot be used as they are, the first: {told[0]}; mend what is "
                f"named and run this again, or leave it out with --skip_broken"
            )
        if unusable == names:
            raise util.InputError(f"none of {len(names)} objects can be used, the first: {told[0]}")
        facts = {
            "pixel_center": raycasting.PIXEL_CENTER,
            "blend_alpha": True,
            **description,
            "sidelength": style.sidelength,
            "splits": _count(outcomes),
        }
        files = {**(texts or {}), "dataset.json": json.dumps(facts, indent=2) + "\n"}
        if class_names:
            files[f"{obj_name}-level-1.txt"] = "".join(f"{i} {name}\n" for i, name in enumerate(class_names))
        if told:
            files[LEFT_OUT] = "".join(f"{line}\n" for line in told)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / JOURNAL).unlink()
    return outcomes


def has_views(folder):
    """Whether an unfinished class folder holds an object that need not be made again."""
    return any(outcome.views for outcome in read_journal(folder / JOURNAL))


def _count(outcomes):
    """{split: {"instances": ..., "views": ...}}, `views` per instance."""
    splits = {}
    for outcome in outcomes:
        if outcome.views:
            split = splits.setdefault(outcome.split, {"instances": 0, "views": outcome.views})
            split["instances"] += 1
    return splits


def _finish(folder, obj_name, instances, style, num_workers, skip_broken):
    """Renders what an unfinished class folder still lacks, and returns the Outcome of every instance, in order."""
    done = {
        (outcome.split, outcome.name): outcome
        for outcome in read_journal(folder / JOURNAL)
        if outcome.views and (skip_broken or not outcome.faults)
    }  # the others may have been mended meanwhile
    if done:
        print(f"note: {len(done)} of {len(instances)} objects are there from an earlier, unfinished run; going on")
    jobs = [
        (folder / f"{obj_name}.{i.split}" / i.name, i.split, i.load, i.cam2world.numpy(), style, skip_broken)
        for i in instances
        if (i.split, i.name) not in done
    ]
    num_views = sum(len(job[3]) for job in jobs)
    with tqdm(total=num_views, unit="view", desc=obj_name) as bar, open(folder / JOURNAL, "a") as journal:

        def note(outcome):
            journal.write(json.dumps(asdict(outcome)) + "\n")
            journal.flush()
            done[outcome.split, outcome.name] = outcome
            bar.update(outcome.views)

        _run(jobs, min(num_workers, len(jobs)), note)
    return [done[instance.split, instance.name] for instance in instances]


def read_journal(path):
    """The Outcomes in a journal; a last line that an interruption cut short is not one."""
    lines = path.read_text().splitlines() if path.exists() else []
    outcomes = []
    for line in lines:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            outcomes.append(Outcome(entry["split"], entry["name"], entry["views"], tuple(entry["faults"])))
    return outcomes


def _run(jobs, num_workers, note):
    """Calls `note` with the Outcome of each finished job."""
    if num_workers <= 1:
        num_threads = torch.get_num_threads()
        torch.set_num_threads(1)  # tensors are too small here to be shared between threads
        try:
            for job in jobs:
                note(write_instance(*job))
        finally:
            torch.set_num_threads(num_threads)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, spawn, initializer=_start_worker, initargs=(os.getpid(),)) as pool:
        waiting = {pool.submit(write_instance, *job) for job in jobs}
        try:
            for future in as_completed(set(waiting)):
                waiting.discard(future)
                note(future.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)  # after the objects at hand, whose work is kept
            for future in waiting:
                if future.done() and not future.cancelled() and future.exception() is None:
                    note(future.result())
            raise


def _start_worker(parent):
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which then ends the workers
    processes.end_with(parent)


def write_instance(folder, split, load, cam2world, style, skip_broken=False):
    """Renders one object into `folder`, under a temporary name until it is complete, and returns its Outcome.

    There are rgb/ and pose/; with labels seg/ and point_cloud/; with depth depth/ and normals/. An object with faults
    is not rendered, unless skip_broken is set and there is a mesh nonetheless.
    cam2world: (V, 4, 4) float32 array
    """
    temporary = folder.with_name(f".{folder.name}")
    for left_over in (temporary, folder):  # of an earlier run; what is to stay of it is not asked for again
        shutil.rmtree(left_over, ignore_errors=True)
    try:
        loaded = load()
    except util.InputError as error:
        return Outcome(split, folder.name, 0, (str(error),))
    if loaded.faults and not skip_broken:
        return Outcome(split, folder.name, 0, loaded.faults)
    _render_views(temporary, loaded.mesh, cam2world, style)
    if style.with_labels:
        write_point_cloud(temporary, loaded.mesh, seed=list(folder.name.encode()))
    temporary.rename(folder)
    return Outcome(split, folder.name, len(cam2world), loaded.faults)


def _render_views(folder, mesh, cam2world, style):
    kinds = ["rgb", "pose"] + ["seg"] * style.with_labels + ["depth", "normals"] * style.with_depth
    for kind in kinds:
        (folder / kind).mkdir(parents=True)
    side, centre = style.sidelength, style.sidelength / 2
    (folder / "intrinsics.txt").write_text(f"{style.focal * side!r} {centre!r} {centre!r} 0.\n0. 0. 0.\n1.\n{side} {side}\n")
    light = None if style.light is None else np.array(style.light)
    scene, intrinsics = raycasting.Scene(mesh, light), viewpoints.intrinsics_of(side, style.focal)
    for i, pose in enumerate(cam2world):
        view = scene, torch.from_numpy(pose), intrinsics, side, side
        rgba, seg_labels = raycasting.render(*view)
        iio.imwrite(folder / "rgb" / f"{i:06d}.png", rgba, compress_level=1)
        np.savetxt(folder / "pose" / f"{i:06d}.txt", pose, fmt="%.9g")
        if style.with_labels:
            np.save(folder / "seg" / f"{i:06d}.npy", seg_labels)
        if style.with_depth:
            depth, normals = raycasting.render_geometry(*view)
            np.save(folder / "depth" / f"{i:06d}.npy", depth)
            np.save(folder / "normals" / f"{i:06d}.npy", normals.astype(np.float16))


def write_point_cloud(folder, mesh, seed):
    """Writes POINTS_PER_CLOUD labelled surface points of an instance, in the coordinates of its poses.

    A line of the points is x y z nx ny nz r g b a; colour and alpha are 0 to 255, alpha always 255. The random
    numbers depend on the instance's name alone, so an object has the same cloud in train and in train_val. An object
    without labels has none.
    """
    cloud = triangle_mesh.sample_surface(mesh, POINTS_PER_CLOUD, np.random.default_rng(seed))
    if not len(cloud.points):
        return
    rgba = np.pad(np.rint(255 * cloud.colours), ((0, 0), (0, 1)), constant_values=255)
    numbers = np.concatenate([cloud.points, cloud.normals, rgba], axis=1)
    line = "%.5f %.5f %.5f %.3f %.3f %.3f %.0f %.0f %.0f %.0f\n"
    points_path, labels_path = folder / data_util.CLOUD_POINTS, folder / data_util.CLOUD_LABELS[0]
    points_path.parent.mkdir()
    points_path.write_text(line * len(numbers) % tuple(numbers.ravel().tolist()))
    labels_path.write_text("%d\n" * len(numbers) % tuple(cloud.labels.tolist()))
