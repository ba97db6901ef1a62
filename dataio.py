"""Data sets of posed images: a folder per instance, all instances of a class in a split folder.

Which folders and views are used, and what an item holds. The order of items is in datasets/storage/batches.py, whose
names can be imported from here too.
"""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

import data_util
import geometry
import util
from datasets.storage import image_stores, split_index
from datasets.storage.batches import BatchOrder as BatchOrder
from datasets.storage.batches import RayDraw
from datasets.storage.batches import collate as collate
from datasets.storage.batches import ordered_batches as ordered_batches
from datasets.storage.batches import prefetched as prefetched
from datasets.storage.batches import shard_of_instance as shard_of_instance
from datasets.storage.batches import training_batches as training_batches
from datasets.storage.batches import with_rows as with_rows

ALL = -1


@dataclass(frozen=True)
class Instance:
    """One object and the names of its files, views in sorted order."""

    name: str
    folder: Path
    views: tuple  # (V,) names such as "000065"; instances with equal names share the tuple
    poses: np.ndarray  # (V, 4, 4) float32 cam2world
    intrinsics: data_util.Intrinsics
    params: np.ndarray = None  # (V, D) float32 latent codes from params/, if indexed with them
    with_rgb: bool = False  # whether it was indexed with images

    def path(self, kind, view):
        """Path of the file of the view with this index, a str. kind: "rgb", "seg", "pose" or "params"."""
        return f"{self.folder}/{kind}/{self.views[view]}{split_index.FILES[kind][1]}"

    def with_views(self, chosen):
        """The same instance with some of its views, by their indices."""
        params = None if self.params is None else self.params[chosen]
        views = tuple(self.views[view] for view in chosen)
        return dataclasses.replace(self, views=views, poses=self.poses[chosen], params=params)


def find_class_list(data_root, obj_name):
    """Path of `<obj_name>-level-1.txt` beside the split folder."""
    return Path(data_root).resolve().parent / f"{obj_name}-level-1.txt"


def dataset_settings(data_root, blend_alpha=None):
    """data_util.DatasetSettings of the class folder of a split; blend_alpha overrides the one found there."""
    settings = data_util.load_dataset_settings(Path(data_root).resolve().parent)
    return settings if blend_alpha is None else dataclasses.replace(settings, blend_alpha=blend_alpha)


def subfolders(folder):
    """The folders in a folder, sorted, without hidden ones; util.InputError if it cannot be read."""
    if not os.path.isdir(folder):
        raise util.InputError(f"{folder}: no such folder; expected a split such as Chair/Chair.train")
    with util.reading(folder, "a folder", OSError, advice="; change its permissions"), os.scandir(folder) as entries:
        return sorted(Path(item) for item in entries if item.is_dir() and not item.name.startswith("."))


def instance_folders(root, max_num_instances=ALL, specific_ins=()):
    """Instance folders of a split, sorted: those named in specific_ins, then the first max_num_instances of them."""
    folders = subfolders(root)
    if not folders:
        raise util.InputError(f"{root}: no instance folders; expected {root}/<instance>/rgb, pose and intrinsics.txt")
    if specific_ins:
        missing = sorted(set(specific_ins) - {folder.name for folder in folders})
        if missing:
            raise util.InputError(
                f"{root}: has no instance named {', '.join(missing)}; correct --specific_ins or --label_selection"
            )
        folders = [folder for folder in folders if folder.name in set(specific_ins)]
    return folders if max_num_instances == ALL else folders[:max_num_instances]


def choose_views(num_views, max_num_observations=ALL, specific_observation_idcs=None, where=""):
    """Indices into the sorted views: the specific ones, or at most max_num_observations, spread evenly.

    where: the instance folder, for the message of the util.InputError
    """
    if specific_observation_idcs:
        wrong = [i for i in specific_observation_idcs if not 0 <= i < num_views]
        if wrong:
            found = f"has {num_views} views, 0 to {num_views - 1}; there is no {wrong[0]}"
            raise util.InputError(f"{where}: {found}; correct --specific_observation_idcs or --label_selection")
        return list(dict.fromkeys(specific_observation_idcs))
    if max_num_observations == ALL or max_num_observations >= num_views:
        return list(range(num_views))
    return np.linspace(0, num_views - 1, max_num_observations).round().astype(int).tolist()


def index_split(
    root,
    max_num_instances=ALL,
    specific_ins=(),
    with_labels=False,
    with_rgb=True,
    with_params=False,
    cached=True,
    views_of=None,
    **views,
):
    """The instances of a split, or the chosen ones: each view has all its files, the poses of the chosen views are read.

    The views are the files of rgb/, or those of seg/ without images. Files that are not indexed need not exist. `views`
    are options of `choose_views`; `views_of`, {instance: indices of its views}, replaces them and specific_ins. The result
    is stored in an index beside the split, so that only changed files are read again: see split_index. Without `cached`,
    everything is read, and nothing is stored.
    """

    def choose(num_views, folder):
        which = {"specific_observation_idcs": views_of[folder.name]} if views_of else views
        return choose_views(num_views, where=folder, **which)

    if views_of:
        max_num_instances, specific_ins = ALL, list(views_of)
    folders = instance_folders(root, max_num_instances, specific_ins)
    wanted = {"rgb": with_rgb, "seg": with_labels, "pose": True, "params": with_params}
    kinds = [kind for kind, is_wanted in wanted.items() if is_wanted]
    instances, shared = [], {}  # instances with the same names of views hold them once
    for folder, entry in zip(folders, split_index.open_split(root, folders, kinds, choose, cached)):
        chosen = choose(len(entry.views), folder)
        names = tuple(entry.views[i] for i in chosen)
        names = shared.setdefault(names, names)
        instance = Instance(folder.name, folder, names, entry.poses[chosen], entry.intrinsics, with_rgb=with_rgb)
        if with_params:
            paths = [instance.path("params", view) for view in range(len(names))]
            instance = dataclasses.replace(instance, params=data_util.load_latent_vectors(paths))
        instances.append(instance)
    widths = {instance.params.shape[1]: instance.folder for instance in instances if instance.params is not None}
    if len(widths) > 1:
        (one, here), (other, there) = list(widths.items())[:2]
        raise util.InputError(f"{there}/params: expected vectors of {one} numbers as in {here}/params, found {other}")
    return instances


@dataclass(eq=False, repr=False)
class SceneClassDataset(Dataset):
    """The posed images of all instances, flat: item i is one observation.

    dataset[i] is a dict for all R = S * S rays, dataset[RayDraw(i, seed)] for R = rays_per_image random ones:
        instance_idx    () int64, index into `instances`
        observation_idx () int64, i
        uv              (R, 2) float32
        cam2world       (4, 4) float32
        intrinsics      (3, 3) float32
        rgb             (R, 4) float32 in [-1, 1], only with images; see data_util.load_image
        seg_labels      (R,) int64, only with `num_classes`
        z               (D,) float32, only with `params`
    """

    instances: list  # from `index_split`; what was not asked for there, an item does not have
    sidelength: int  # S, images are S x S
    settings: data_util.DatasetSettings  # the half-pixel rule and how alpha is treated
    num_classes: int = None  # K, to read label maps (the instances must be indexed with them)
    rays_per_image: int = 0  # of an item for a RayDraw; 0: all
    foreground_fraction: float = 0.0  # of these, drawn from the foreground; the others from the whole image
    preload: bool = False  # hold decoded images in memory
    cache: str = None  # folder for decoded images, which are mapped into memory; see image_stores
    num_workers: int = 0  # processes that decode images for either
    preload_instances: np.ndarray = None  # preload only those of these indices; an item of another is then an IndexError

    def __post_init__(self):
        instances, sidelength = self.instances, self.sidelength
        self.uv = geometry.pixel_grid(sidelength, sidelength, self.settings.pixel_center).numpy()
        self.intrinsics = np.stack([instance.intrinsics.matrix(sidelength) for instance in instances])
        self.files = self.store = image_stores.Files(instances, sidelength, self.settings, self.num_classes)
        if self.preload:
            num_views, wanted = [len(instance.views) for instance in instances], None
            if self.preload_instances is not None:
                wanted = np.repeat(np.isin(np.arange(len(instances)), self.preload_instances), num_views)
            self.store = image_stores.preload(self.files, self.num_workers, wanted)
        elif self.cache:
            self.store = image_stores.open_cache(self.files, self.cache, self.num_workers)

    def __len__(self):
        return len(self.files)

    def name_of(self, index):
        """(instance name, view name) of an observation, such as ("chair_0003", "000065")."""
        instance_idx, view = self.files.locate(index)
        instance = self.instances[instance_idx]
        return instance.name, instance.views[view]

    def draw_pixels(self, seed, is_foreground):
        """Indices of `rays_per_image` pixels, the foreground share first. is_foreground: (S * S,) bool."""
        rng = np.random.default_rng(seed)
        foreground = np.flatnonzero(is_foreground) if self.foreground_fraction else ()
        num_foreground = round(self.foreground_fraction * self.rays_per_image) if len(foreground) else 0
        anywhere = rng.integers(len(self.uv), size=self.rays_per_image - num_foreground)
        return np.concatenate([rng.choice(foreground, num_foreground), anywhere]) if num_foreground else anywhere

    def __getitem__(self, key):
        draw = isinstance(key, RayDraw)
        index = key.index if draw else key
        instance_idx, view = self.files.locate(index)
        observation = self.store[index]
        pixels = self.draw_pixels(key.seed, observation.foreground) if draw and self.rays_per_image else slice(None)
        item = {
            "instance_idx": instance_idx,
            "observation_idx": index,
            "uv": self.uv[pixels],
            "cam2world": self.instances[instance_idx].poses[view],
            "intrinsics": self.intrinsics[instance_idx],
        }
        if observation.rgba is not None:
            item["rgb"] = observation.rgb(pixels)
        if self.instances[instance_idx].params is not None:
            item["z"] = self.instances[instance_idx].params[view]
        if observation.seg_labels is not None:
            item["seg_labels"] = observation.seg_labels[pixels].astype(np.int64)
        return item
