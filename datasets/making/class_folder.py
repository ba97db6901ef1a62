"""Renders instances into a class folder, in the layout that the data set reader expects.

The class folder gets its name when it is complete. An interrupted run keeps the finished instances beside it; the same
command resumes. An instance depends on its own mesh and poses only, so neither the number of processes nor an
interruption changes a byte.
"""

import contextlib
import fcntl
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass

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
POINT_FORMAT = "%.5f %.5f %.5f %.3f %.3f %.3f %.0f %.0f %.0f %.0f"  # x y z nx ny nz r g b a
JOURNAL = "journal.jsonl"  # in an unfinished class folder: an Outcome per line
LEFT_OUT = "left_out.txt"  # in a class folder: what --skip_broken left out
MAX_PRINTED_FAULTS = 20


@dataclass(frozen=True)
class RenderJob:
    """One instance to render. (dataio.Instance is an instance on disk.)"""

    split: str  # "train", "train_val", "val" or "test"
    name: str
    load: Callable  # () -> triangle_mesh.Mesh
    cam2world: torch.Tensor  # (V, 4, 4) float32


@dataclass(frozen=True)
class Style:
    """How views are rendered, and which files are written."""

    sidelength: int
    focal: float = viewpoints.FOCAL  # per side of the image
    light: tuple = tuple(raycasting.LIGHT)  # unit vector towards the light; None for colours without shading
    with_labels: bool = True  # write seg/ and, for meshes with labels, point_cloud/
    with_depth: bool = False  # write depth/ and normals/


@dataclass(frozen=True)
class Outcome:
    """The result of a RenderJob."""

    split: str
    name: str
    views: int  # written; 0 if the faults made the instance unusable
    faults: tuple  # sentences


def write_class(
    path, class_names, jobs, style, description, num_workers=1, overwrite=False, skip_broken=False, texts=None, identity=None
):
    """Renders the RenderJobs into the class folder `path`; returns the Outcome of each.

    class_names: by id, background first; None for data without labels
    description: entries of dataset.json beside the conventions, the image size and the counts
    skip_broken: leave out broken meshes and parts of meshes; otherwise they are an InputError
    texts:       {file name: content}, further files of the class folder
    identity:    anything else, as JSON, that must be the same when an unfinished folder is resumed
    """
    util.load_library("embreex", raycasting.PURPOSE)
    plan = {"description": description, "style": asdict(style), "classes": class_names, "identity": identity}
    plan["instances"] = [[job.split, job.name, hashlib.sha256(job.cam2world.numpy().tobytes()).hexdigest()] for job in jobs]
    with atomic_folders.unfinished_folder(path, overwrite, plan, has_views) as folder:
        outcomes = _render_missing(folder, path.name, jobs, style, num_workers, skip_broken)
        faults = _report_faults(outcomes, skip_broken)
        conventions = {"pixel_center": raycasting.PIXEL_CENTER, "blend_alpha": True}
        facts = {**conventions, **description, "sidelength": style.sidelength, "splits": _count(outcomes)}
        files = {**(texts or {}), "dataset.json": json.dumps(facts, indent=2) + "\n"}
        if class_names:
            files[f"{path.name}-level-1.txt"] = "".join(f"{i} {name}\n" for i, name in enumerate(class_names))
        if faults:
            files[LEFT_OUT] = "".join(f"{line}\n" for line in faults)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / JOURNAL).unlink()
    return outcomes


def has_views(folder):
    """Whether an unfinished class folder holds an instance that need not be rendered again."""
    return any(outcome.views for outcome in read_journal(folder / JOURNAL))


def _count(outcomes):
    """{split: {"instances": ..., "views": ...}}, `views` per instance."""
    written = [outcome for outcome in outcomes if outcome.views]
    counts = Counter(outcome.split for outcome in written)
    return {outcome.split: {"instances": counts[outcome.split], "views": outcome.views} for outcome in written}


def _report_faults(outcomes, skip_broken):
    """Prints the faults and returns them, a line each; an InputError unless they may be left out and something remains."""
    lines = list(dict.fromkeys(f"{outcome.name}: {fault}" for outcome in outcomes for fault in outcome.faults))
    for line in lines[:MAX_PRINTED_FAULTS]:
        print(line)
    if len(lines) > MAX_PRINTED_FAULTS:
        print(f"... and {len(lines) - MAX_PRINTED_FAULTS} more")
    names, unusable = {outcome.name for outcome in outcomes}, {o.name for o in outcomes if not o.views}
    if lines and not skip_broken:
        advice = "repair them and rerun the command, or leave them out with --skip_broken"
        raise util.InputError(f"{len(unusable)} of {len(names)} objects cannot be used, the first: {lines[0]}; {advice}")
    if unusable == names:
        raise util.InputError(f"none of {len(names)} objects can be used, the first: {lines[0]}")
    return lines


def _render_missing(folder, obj_name, jobs, style, num_workers, skip_broken):
    """Renders what an unfinished class folder lacks; returns the Outcome of every job, in order."""
    journal = folder / JOURNAL
    kept = [o for o in read_journal(journal) if o.views and (skip_broken or not o.faults)]  # the others may be repaired
    done = {(outcome.split, outcome.name): outcome for outcome in kept}
    if done:
        print(f"note: resuming an unfinished run, {len(done)} of {len(jobs)} instances are rendered already")
    missing = [job for job in jobs if (job.split, job.name) not in done]

    def render(index):
        outcome = write_instance(folder / f"{obj_name}.{missing[index].split}", missing[index], style, skip_broken)
        with open(journal, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # the processes share the journal
            file.write(json.dumps(asdict(outcome)) + "\n")
        return outcome

    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # here and in forked processes: the tensors are too small to share among threads
    try:
        with tqdm(total=sum(len(job.cam2world) for job in missing), unit="view", desc=obj_name) as bar:
            for outcome in processes.ordered(render, len(missing), num_workers, chunksize=1):
                done[outcome.split, outcome.name] = outcome
                bar.update(outcome.views)
    finally:
        torch.set_num_threads(num_threads)
    return [done[job.split, job.name] for job in jobs]


def read_journal(path):
    """The Outcomes in a journal. Lines that an interruption cut short are skipped."""
    outcomes = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with contextlib.suppress(ValueError):
            entry = json.loads(line)
            outcomes.append(Outcome(**{**entry, "faults": tuple(entry["faults"])}))
    return outcomes


def write_instance(split_folder, job, style, skip_broken=False):
    """Renders a RenderJob into <split_folder>/<name> and returns its Outcome.

    The instance folder holds intrinsics.txt, rgb/ and pose/; with labels seg/ and point_cloud/; with depth depth/ and
    normals/. It gets its name when it is complete. A mesh with faults is rendered only with skip_broken.
    """
    folder, temporary = split_folder / job.name, split_folder / f".{job.name}"
    for left_over in (temporary, folder):  # of an interrupted run; the journal does not list it
        shutil.rmtree(left_over, ignore_errors=True)
    try:
        mesh = job.load()
    except util.InputError as error:
        return Outcome(job.split, job.name, 0, (str(error),))
    if mesh.faults and not skip_broken:
        return Outcome(job.split, job.name, 0, mesh.faults)
    _render_views(temporary, mesh, job.cam2world, style)
    if style.with_labels:
        write_point_cloud(temporary, mesh, seed=list(job.name.encode()))
    temporary.rename(folder)
    return Outcome(job.split, job.name, len(job.cam2world), mesh.faults)


def _render_views(folder, mesh, cam2world, style):
    for kind in ["rgb", "pose"] + ["seg"] * style.with_labels + ["depth", "normals"] * style.with_depth:
        (folder / kind).mkdir(parents=True)
    side, centre = style.sidelength, style.sidelength / 2
    (folder / "intrinsics.txt").write_text(f"{style.focal * side!r} {centre!r} {centre!r} 0.\n0. 0. 0.\n1.\n{side} {side}\n")
    scene, intrinsics = raycasting.Scene(mesh, style.light), viewpoints.intrinsics_of(side, style.focal)
    for i, pose in enumerate(cam2world):
        rgba, seg_labels, depth, normals = raycasting.render(scene, pose, intrinsics, side, side, style.with_depth)
        iio.imwrite(folder / "rgb" / f"{i:06d}.png", rgba, compress_level=1)
        np.savetxt(folder / "pose" / f"{i:06d}.txt", pose.numpy(), fmt="%.9g")
        if style.with_labels:
            np.save(folder / "seg" / f"{i:06d}.npy", seg_labels)
        if style.with_depth:
            np.save(folder / "depth" / f"{i:06d}.npy", depth)
            np.save(folder / "normals" / f"{i:06d}.npy", normals.astype(np.float16))


def write_point_cloud(folder, mesh, seed):
    """Writes POINTS_PER_CLOUD labelled surface points of an instance, in world space; none for a mesh without labels.

    Colours are 0 to 255, alpha is 255. The random numbers depend on the instance's name only, so an object has the same
    cloud in train and in train_val.
    """
    cloud = triangle_mesh.sample_surface(mesh, POINTS_PER_CLOUD, np.random.default_rng(seed))
    if not len(cloud.points):
        return
    rgba = np.pad(np.rint(255 * cloud.colours), ((0, 0), (0, 1)), constant_values=255)
    points_path, labels_path = folder / data_util.CLOUD_POINTS, folder / data_util.CLOUD_LABELS[0]
    points_path.parent.mkdir()
    np.savetxt(points_path, np.concatenate([cloud.points, cloud.normals, rgba], axis=1), fmt=POINT_FORMAT)
    np.savetxt(labels_path, cloud.labels, fmt="%d")
