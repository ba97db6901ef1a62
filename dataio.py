"""Data sets of posed images: a folder per instance, all instances of a class in a split folder.

Which folders and views are used, what one training item holds, and in which order items come. The order and the
choice of random rays depend on the seed and the step alone, so that a resumed run sees what a run-through sees.
"""

import contextlib
import dataclasses
import multiprocessing
import queue
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

import data_util
import geometry
import util
from datasets.storage import image_stores, split_index

ALL = -1


@dataclass(frozen=True)
class Instance:
    """One object, views in sorted order. Of its files it knows the names only."""

    name: str
    folder: Path
    views: tuple  # (V,) names of the views, such as "000065"; instances with the same ones share them
    poses: np.ndarray  # (V, 4, 4) float32 cam2world
    intrinsics: data_util.Intrinsics
    params: np.ndarray = None  # (V, D) float32 latent codes from params/, where they are asked for
    with_rgb: bool = False  # whether there are images, and whether these were asked for
    with_labels: bool = False  # the same of label maps

    def path(self, kind, view):
        """The file of view number `view`, a str. kind: "rgb", "seg", "pose" or "params"."""
        return f"{self.folder}/{kind}/{self.views[view]}{split_index.FILES[kind][1]}"

    @property
    def rgb_paths(self):
        return tuple(Path(self.path("rgb", view)) for view in range(len(self.views))) if self.with_rgb else ()

    @property
    def seg_paths(self):
        return tuple(Path(self.path("seg", view)) for view in range(len(self.views))) if self.with_labels else ()


class RayDraw(NamedTuple):
    """Asks a data set for random rays of observation `index`; the same `seed` draws the same rays."""

    index: int
    seed: tuple


def find_class_list(data_root, obj_name):
    """Path of `<obj_name>-level-1.txt` beside the split folder."""
    return Path(data_root).resolve().parent / f"{obj_name}-level-1.txt"


def dataset_settings(data_root, blend_alpha=None):
    """data_util.DatasetSettings of the class folder that a split lies in; blend_alpha, if not None, wins."""
    settings = data_util.load_dataset_settings(Path(data_root).resolve().parent)
    return settings if blend_alpha is None else dataclasses.replace(settings, blend_alpha=blend_alpha)


def instance_folders(root, max_num_instances=ALL, specific_ins=()):
    """Instance folders of a split, sorted: the named ones, or the first so many."""
    root = Path(root)
    if not root.is_dir():
        raise util.InputError(f"{root}: no such folder; expected a split such as Chair/Chair.train")
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise util.InputError(f"{root}: cannot be read ({error.strerror}); see to its rights") from None
    if not folders:
        raise util.InputError(f"{root}: no instance folders; expected {root}/<instance>/rgb, pose and intrinsics.txt")
    if specific_ins:
        missing = sorted(set(specific_ins) - {folder.name for folder in folders})
        if missing:
            raise util.InputError(f"--specific_ins: {root} has no instance named {', '.join(missing)}")
        folders = [folder for folder in folders if folder.name in set(specific_ins)]
    return folders if max_num_instances == ALL else folders[:max_num_instances]


def choose_views(num_views, max_num_observations=ALL, specific_observation_idcs=None, where=""):
    """Indices into the sorted views: the specific ones, or at most so many spread evenly."""
    if specific_observation_idcs:
        wrong = [i for i in specific_observation_idcs if not 0 <= i < num_views]
        if wrong:
            raise util.InputError(
                f"--specific_observation_idcs: {where} has {num_views} views, 0 to {num_views - 1}; there is no {wrong[0]}"
            )
        return list(dict.fromkeys(specific_observation_idcs))
    if max_num_observations == ALL or max_num_observations >= num_views:
        return list(range(num_views))
    return np.linspace(0, num_views - 1, max_num_observations).round().astype(int).tolist()


def read_instance(folder, with_labels=False, with_rgb=True, with_params=False, **views):
    """Index one instance: which files there are, whether they belong together, and the chosen views' poses.

    The views are those of rgb/, or of seg/ where images are not asked for; what is not asked for need not be there.
    `views` are options of `choose_views`. The folder itself is read, whatever an index says.
    """
    folder = Path(folder)
    return _open_instances(folder.parent, [folder], with_labels, with_rgb, with_params, views, cached=False)[0]


def index_split(
    root, max_num_instances=ALL, specific_ins=(), with_labels=False, with_rgb=True, with_params=False, cached=True, **views
):
    """Every instance of a split (or the chosen ones), each folder checked. See `read_instance`.

    What was read is kept in a file beside the split, and only what has changed since is read again: see split_index.
    Without `cached`, everything is read, and nothing is kept.
    """
    folders = instance_folders(root, max_num_instances, specific_ins)
    instances = _open_instances(root, folders, with_labels, with_rgb, with_params, views, cached)
    widths = {instance.params.shape[1]: instance.folder for instance in instances if instance.params is not None}
    if len(widths) > 1:
        (one, here), (other, there) = list(widths.items())[:2]
        raise util.InputError(
            f"latent vectors of {one} numbers in {here}/params, of {other} in {there}/params; expected one size"
        )
    return instances


def _open_instances(root, folders, with_labels, with_rgb, with_params, views, cached):
    def choose(num_views, folder):
        return choose_views(num_views, where=folder, **views)

    wanted = {"rgb": with_rgb, "seg": with_labels, "pose": True, "params": with_params}
    kinds = [kind for kind, is_wanted in wanted.items() if is_wanted]
    instances, shared = [], {}
    for folder, entry in zip(folders, split_index.open_split(root, folders, kinds, choose, cached)):
        chosen = choose(len(entry.views), folder)
        all_in_order = list(chosen) == list(range(len(entry.views)))
        names = entry.views if all_in_order else tuple(entry.views[i] for i in chosen)
        instance = Instance(
            name=folder.name,
            folder=folder,
            views=shared.setdefault(names, names),
            poses=entry.poses if all_in_order else entry.poses[chosen],
            intrinsics=entry.intrinsics,
            with_rgb=with_rgb,
            with_labels=with_labels,
        )
        if with_params:
            paths = [instance.path("params", view) for view in range(len(names))]
            instance = dataclasses.replace(instance, params=data_util.load_latent_vectors(paths))
        instances.append(instance)
    return instances


class SceneClassDataset(Dataset):
    """The posed images of all instances, flat: item i is one observation.

    instances:  from `index_split`; what was not asked for there, an item does not have
    sidelength: S, images are S x S
    settings:   data_util.DatasetSettings, the half-pixel rule and how alpha is treated
    num_classes: K, if label maps are to be read (the instances must have been indexed with them)
    rays_per_image, foreground_fraction: how many rays a RayDraw gets (0 = all), and which share of them is drawn
        from the foreground; the others are drawn from the whole image
    preload:    hold decoded images in memory; `preload_instances`: of these alone, indices into `instances`, which then are
        the only ones to be asked for (default: all)
    cache:      a folder, to keep decoded images in files there, which are mapped into memory; see image_stores
    num_workers: processes that decode images for either

    dataset[i] is a dict for all R = S * S rays, dataset[RayDraw(i, seed)] for R = rays_per_image random ones:
        instance_idx    () int64, index into `instances`
        observation_idx () int64, i
        uv              (R, 2) float32
        cam2world       (4, 4) float32
        intrinsics      (3, 3) float32
        rgb             (R, 4) float32 in [-1, 1]; see data_util.load_image. Only where there are images
        seg_labels      (R,) int64, only with `num_classes`
        z               (D,) float32, only with `params`
    """

    def __init__(
        self,
        instances,
        sidelength,
        settings,
        num_classes=None,
        rays_per_image=0,
        foreground_fraction=0.0,
        preload=False,
        cache=None,
        num_workers=0,
        preload_instances=None,
    ):
        self.instances = instances
        self.sidelength = sidelength
        self.settings = settings
        self.num_classes = num_classes
        self.rays_per_image = rays_per_image
        self.foreground_fraction = foreground_fraction
        self.uv = geometry.pixel_grid(sidelength, sidelength, settings.pixel_center).numpy()
        self.intrinsics = np.stack([instance.intrinsics.matrix(sidelength) for instance in instances])
        self.files = self.store = image_stores.Files(instances, sidelength, settings, num_classes)
        if preload:
            num_views, wanted = [len(instance.views) for instance in instances], None
            if preload_instances is not None:
                wanted = np.repeat(np.isin(np.arange(len(instances)), preload_instances), num_views)
            self.store = image_stores.preload(self.files, num_workers, wanted)
        elif cache:
            self.store = image_stores.open_cache(self.files, cache, num_workers)

    def __len__(self):
        return len(self.files)

    def name_of(self, index):
        """(instance name, view name) of an observation, such as ("chair_0003", "000065")."""
        instance_idx, view = self.files.locate(index)
        instance = self.instances[instance_idx]
        return instance.name, instance.views[view]

    def draw_pixels(self, seed, foreground):
        """Indices of `rays_per_image` pixels, the foreground share first."""
        rng = np.random.default_rng(seed)
        num_foreground = round(self.foreground_fraction * self.rays_per_image) if len(foreground) else 0
        anywhere = rng.integers(len(self.uv), size=self.rays_per_image - num_foreground)
        return np.concatenate([rng.choice(foreground, num_foreground), anywhere]) if num_foreground else anywhere

    def __getitem__(self, key):
        draw = isinstance(key, RayDraw)
        index = key.index if draw else key
        instance_idx, view = self.files.locate(index)
        rgba, foreground, seg_labels = self.store[index]
        pixels = self.draw_pixels(key.seed, foreground) if draw and self.rays_per_image else slice(None)
        item = {
            "instance_idx": instance_idx,
            "observation_idx": index,
            "uv": self.uv[pixels],
            "cam2world": self.instances[instance_idx].poses[view],
            "intrinsics": self.intrinsics[instance_idx],
        }
        if rgba is not None:
            rgba = rgba[pixels]
            item["rgb"] = data_util.compose(rgba, self.settings.blend_alpha) if rgba.dtype == np.uint8 else np.array(rgba)
        if self.instances[instance_idx].params is not None:
            item["z"] = self.instances[instance_idx].params[view]
        if seg_labels is not None:
            item["seg_labels"] = seg_labels[pixels].astype(np.int64)
        return item


class BatchOrder:
    """Batches of RayDraws for steps start_step .. end_step - 1: shuffled epochs, one after the other, no remainder.

    A batch may reach from one epoch into the next, and a data set smaller than a batch repeats, each time with
    other rays. What step s gets depends on the seed and s alone.

    num_shards: processes can share a step: the observations are dealt to so many shards, each of which gives the same
                number of them to every batch, in epochs of its own
    shards:     those whose part of each batch is wanted (default: all). What a shard gives does not depend on this
    shard_of:   (num_observations,) the shard of each observation, where there are several
    """

    def __init__(self, num_observations, batch_size, start_step, end_step, seed, num_shards=1, shards=None, shard_of=None):
        if batch_size % num_shards:
            raise util.InputError(
                f"--batch_size_per_img_sidelength: {batch_size} images cannot be dealt evenly to {num_shards} processes; "
                f"choose a multiple of {num_shards}, or start another number of processes"
            )
        shard_of = np.zeros(num_observations, dtype=int) if shard_of is None else np.asarray(shard_of)
        self.members = [np.flatnonzero(shard_of == shard) for shard in range(num_shards)]
        if not all(map(len, self.members)):
            raise util.InputError(
                f"of {num_shards} processes, {sum(len(members) > 0 for members in self.members)} would have instances to "
                f"train on; start as many, or use more instances"
            )
        self.batch_size, self.num_shards = batch_size, num_shards
        self.shards = range(num_shards) if shards is None else shards
        self.start_step, self.end_step = start_step, end_step
        self.seed = seed

    def __len__(self):
        return max(0, self.end_step - self.start_step)

    def __iter__(self):
        share = self.batch_size // self.num_shards
        orders = {}  # of each shard, the epoch and its order
        for step in range(self.start_step, self.end_step):
            batch = []
            for shard in self.shards:
                members = self.members[shard]
                for place in range(share):
                    epoch, position = divmod(step * share + place, len(members))
                    if orders.get(shard, (None,))[0] != epoch:
                        # a zero at the end changes nothing: shard 0 of 1 is shuffled as (seed, epoch) says
                        shuffled = np.random.default_rng((self.seed, epoch, shard)).permutation(len(members))
                        orders[shard] = epoch, members[shuffled]
                    ray_seed = self.seed, step * self.batch_size + shard * share + place
                    batch.append(RayDraw(int(orders[shard][1][position]), ray_seed))
            yield batch


def deal(num_instances, num_shards):
    """The shard of each instance, (N,) int: they are dealt like cards."""
    return np.arange(num_instances) % num_shards


def training_batches(dataset, batch_size, start_step, end_step, seed=0, num_workers=0, num_shards=1, shards=None):
    """Iterates over collated batches (dicts of tensors with a leading B) for steps start_step .. end_step - 1.

    Instances are dealt as `deal` says; a process that is given its `shards` gets its part of each batch, and all
    of them together get what one without gets. See BatchOrder and `collate`.
    """
    num_views = [len(instance.views) for instance in dataset.instances]
    shard_of = np.repeat(deal(len(num_views), num_shards), num_views)
    order = BatchOrder(len(dataset), batch_size, start_step, end_step, seed, num_shards, shards, shard_of)
    return DataLoader(
        dataset,
        batch_sampler=order,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else it would draw from the one that dropout draws from
        **_workers(num_workers),
    )


def collate(items):
    """Items of a data set as a batch: a dict of tensors with a leading B, sorted by instance, and two more entries.

    instances    (M,) int64, the different instance_idx of the batch, ascending
    instance_of  (B,) int64, where in `instances` each observation's is: what is made of an instance is made once
    """
    batch = default_collate(sorted(items, key=lambda item: item["instance_idx"]))
    instances, instance_of = torch.unique(batch["instance_idx"], return_inverse=True)
    return batch | {"instances": instances, "instance_of": instance_of}


def with_rows(batch, rows):
    """The batch with rows of a latent table as its instance_idx and `instances`, which may then repeat in any order.

    rows: (N,) int64, the row of each instance of the data set
    """
    rows = rows.to(batch["instance_idx"].device)
    return batch | {name: rows[batch[name]] for name in ("instance_idx", "instances")}


def ordered_batches(dataset, batch_size, num_workers=0):
    """Iterates over all observations in order, whole images, for validation and rendering; each time anew.

    The processes that read live on between two times. Observations are numbered by instance: `collate` keeps their order.
    """
    return DataLoader(
        dataset, batch_size=batch_size, collate_fn=collate, persistent_workers=num_workers > 0, **_workers(num_workers)
    )


def prefetched(batches, depth=2):
    """The same batches, of which a thread makes the next ones while one is in use. Its errors are raised here."""
    waiting, stopped = queue.Queue(depth), threading.Event()

    def put(entry):
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                return waiting.put(entry, timeout=0.1)

    def work():
        try:
            for batch in batches:
                put((batch, None))
                if stopped.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:
            put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            batch, error = waiting.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield batch
    finally:
        stopped.set()


def _workers(num_workers):
    if not num_workers:
        return {}
    # forked ones share what is held in memory; started in another way, each would be sent a copy
    forks = "fork" in multiprocessing.get_all_start_methods()
    return dict(num_workers=num_workers, worker_init_fn=one_thread, multiprocessing_context="fork" if forks else None)


def one_thread(_worker):
    torch.set_num_threads(1)
