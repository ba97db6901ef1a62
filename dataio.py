"""Data sets of posed images: a folder per instance, all instances of a class in a split folder.

Which folders and views are used, what one training item holds, and in which order items come. The order and the
choice of random rays depend on the seed and the step alone, so that a resumed run sees what a run-through sees.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import data_util
import geometry
import util

ALL = -1


@dataclass(frozen=True)
class Instance:
    """The files of one object, views in sorted order."""

    name: str
    folder: Path
    views: tuple  # names of the views, such as "000065"
    poses: np.ndarray  # (V, 4, 4) cam2world
    intrinsics: data_util.Intrinsics
    rgb_paths: tuple = ()  # a file per view; empty where images are not asked for
    seg_paths: tuple = ()  # the same of label maps
    params: np.ndarray = None  # (V, D) float32 latent codes from params/, where they are asked for


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
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
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
    """
    kinds = {"images": ("rgb", ".png", with_rgb), "poses": ("pose", ".txt", True),
             "label maps": ("seg", ".npy", with_labels), "latent vectors": ("params", ".txt", with_params)}  # fmt: skip
    found = {
        kind: sorted((folder / subfolder).glob(f"*{suffix}"))
        for kind, (subfolder, suffix, wanted) in kinds.items() if wanted
    }  # fmt: skip
    leading = "images" if with_rgb else "label maps"
    names = [path.stem for path in found[leading]]
    if not names:
        subfolder, suffix, _ = kinds[leading]
        raise util.InputError(f"{folder}: no {leading}; expected {folder / subfolder}/*{suffix}")
    for kind, paths in found.items():
        if [path.stem for path in paths] != names:
            odd = sorted({path.stem for path in paths} ^ set(names))
            raise util.InputError(
                f"{folder}: {len(names)} {leading} but {len(paths)} {kind}; each view needs both, see {', '.join(odd[:3])}"
            )

    intrinsics = data_util.load_intrinsics(folder / "intrinsics.txt")
    chosen = choose_views(len(names), where=folder, **views)
    of_chosen = {kind: tuple(paths[i] for i in chosen) for kind, paths in found.items()}
    for path in of_chosen.get("images", ()):
        data_util.check_png(path)
    for path in of_chosen.get("label maps", ()):
        data_util.open_seg_labels(path, mmap_mode="r")
    return Instance(
        name=folder.name,
        folder=folder,
        views=tuple(names[i] for i in chosen),
        poses=np.stack([data_util.load_pose(path, intrinsics.poses_are_world2cam) for path in of_chosen["poses"]]),
        intrinsics=intrinsics,
        rgb_paths=of_chosen.get("images", ()),
        seg_paths=of_chosen.get("label maps", ()),
        params=data_util.load_latent_vectors(of_chosen["latent vectors"]) if with_params else None,
    )


def index_split(root, max_num_instances=ALL, specific_ins=(), **what):
    """Every instance of a split (or the chosen ones), each folder checked. For `what`, see `read_instance`."""
    instances = [read_instance(folder, **what) for folder in instance_folders(root, max_num_instances, specific_ins)]
    widths = {instance.params.shape[1]: instance.folder for instance in instances if instance.params is not None}
    if len(widths) > 1:
        (one, here), (other, there) = list(widths.items())[:2]
        raise util.InputError(
            f"latent vectors of {one} numbers in {here}/params, of {other} in {there}/params; expected one size"
        )
    return instances


class SceneClassDataset(Dataset):
    """The posed images of all instances, flat: item i is one observation.

    instances:  from `index_split`; what was not asked for there, an item does not have
    sidelength: S, images are S x S (None: the native side, for images of one size)
    settings:   data_util.DatasetSettings, the half-pixel rule and how alpha is treated
    num_classes: K, if label maps are to be read (the instances must have been indexed with them)
    rays_per_image, foreground_fraction: how many rays a RayDraw gets (0 = all), and which share of them is drawn
        from the foreground; the others are drawn from the whole image
    preload:    hold decoded images in memory (uint8 at the native side, float32 where they are resized)

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
        self, instances, sidelength, settings, num_classes=None, rays_per_image=0, foreground_fraction=0.0, preload=False
    ):
        self.instances = instances
        self.sidelength = sidelength
        self.settings = settings
        self.num_classes = num_classes
        self.rays_per_image = rays_per_image
        self.foreground_fraction = foreground_fraction
        self.observations = [(i, v) for i, instance in enumerate(instances) for v in range(len(instance.views))]
        self.uv = geometry.pixel_grid(sidelength, sidelength, settings.pixel_center).numpy()
        self.intrinsics = [instance.intrinsics.matrix(sidelength) for instance in instances]
        self.loaded = [self.load(i) for i in range(len(self))] if preload else None

    def __len__(self):
        return len(self.observations)

    def name_of(self, index):
        """(instance name, view name) of an observation, such as ("chair_0003", "000065")."""
        instance_idx, view = self.observations[index]
        instance = self.instances[instance_idx]
        return instance.name, instance.views[view]

    def load(self, index):
        """Decode one observation: rgba (S*S, 4) uint8 or float32, foreground pixel indices, seg_labels (S*S,) int16.

        rgba or seg_labels are None where they are not asked for; without images, all but background is foreground.
        """
        instance_idx, view = self.observations[index]
        instance = self.instances[instance_idx]
        rgba = seg_labels = covered = None
        if instance.rgb_paths:
            rgba, covered = data_util.load_image(instance.rgb_paths[view], self.sidelength, self.settings.blend_alpha)
            as_uint8 = np.round((rgba + 1) * 127.5).astype(np.uint8)
            rgba = (as_uint8 if np.array_equal(from_uint8(as_uint8), rgba) else rgba).reshape(-1, 4)
        if self.num_classes is not None:
            path = instance.seg_paths[view]
            seg_labels = data_util.load_seg_labels(path, self.sidelength, self.settings.pixel_center).reshape(-1)
            if seg_labels.min() < util.UNLABELLED or seg_labels.max() >= self.num_classes:
                raise util.InputError(
                    f"{path}: labels from {seg_labels.min()} to {seg_labels.max()}, but the class list ends at "
                    f"{self.num_classes - 1}; add the class to the list or mend the label map"
                )
            seg_labels = seg_labels.astype(np.int16)
        foreground = covered if covered is not None else seg_labels > 0
        return rgba, np.flatnonzero(foreground).astype(np.int32), seg_labels

    def draw_pixels(self, seed, foreground):
        """Indices of `rays_per_image` pixels, the foreground share first."""
        rng = np.random.default_rng(seed)
        num_foreground = round(self.foreground_fraction * self.rays_per_image) if len(foreground) else 0
        anywhere = rng.integers(len(self.uv), size=self.rays_per_image - num_foreground)
        return np.concatenate([rng.choice(foreground, num_foreground), anywhere]) if num_foreground else anywhere

    def __getitem__(self, key):
        draw = isinstance(key, RayDraw)
        index = key.index if draw else key
        instance_idx, view = self.observations[index]
        rgba, foreground, seg_labels = self.loaded[index] if self.loaded else self.load(index)
        pixels = self.draw_pixels(key.seed, foreground) if draw and self.rays_per_image else slice(None)
        item = {
            "instance_idx": instance_idx,
            "observation_idx": index,
            "uv": self.uv[pixels],
            "cam2world": self.instances[instance_idx].poses[view],
            "intrinsics": self.intrinsics[instance_idx],
        }
        if rgba is not None:
            item["rgb"] = from_uint8(rgba[pixels])
        if self.instances[instance_idx].params is not None:
            item["z"] = self.instances[instance_idx].params[view]
        if seg_labels is not None:
            item["seg_labels"] = seg_labels[pixels].astype(np.int64)
        return item


def from_uint8(image):
    """uint8 0..255 to float32 in [-1, 1], as load_image maps it; float32 stays as it is."""
    return 2 * (image.astype(np.float32) / 255) - 1 if image.dtype == np.uint8 else image


class BatchOrder:
    """Batches of RayDraws for steps start_step .. end_step - 1: shuffled epochs, one after the other, no remainder.

    A batch may reach from one epoch into the next, and a data set smaller than a batch repeats, each time with
    other rays. What step s gets depends on the seed and s alone.
    """

    def __init__(self, num_observations, batch_size, start_step, end_step, seed):
        self.num_observations, self.batch_size = num_observations, batch_size
        self.start_step, self.end_step = start_step, end_step
        self.seed = seed

    def __len__(self):
        return max(0, self.end_step - self.start_step)

    def __iter__(self):
        epoch, order = None, None
        for step in range(self.start_step, self.end_step):
            batch = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                if position // self.num_observations != epoch:
                    epoch = position // self.num_observations
                    order = np.random.default_rng((self.seed, epoch)).permutation(self.num_observations)
                batch.append(RayDraw(int(order[position % self.num_observations]), (self.seed, position)))
            yield batch


def training_batches(dataset, batch_size, start_step, end_step, seed=0, num_workers=0):
    """Iterates over collated batches (dicts of tensors with a leading B) for steps start_step .. end_step - 1."""
    order = BatchOrder(len(dataset), batch_size, start_step, end_step, seed)
    return DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=one_thread,
    )


def ordered_batches(dataset, batch_size, num_workers=0):
    """Iterates once over all observations in order, whole images, for validation and rendering."""
    return DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, worker_init_fn=one_thread)


def one_thread(_worker):
    torch.set_num_threads(1)
