"""Where the pixels of an observation come from: its files, memory, or a memory-mapped cache on disk.

A store is a sequence of Observations, and every store holds the same numbers. R = sidelength ** 2.

An image of 128 x 128 takes 64 KiB as uint8. Images that are resized are averaged, and take 16 bytes per pixel: 64 KiB at
64 x 64, 256 KiB at 128 x 128. Label maps add a byte per pixel, the foreground adds a bit.
"""

import contextlib
import hashlib
import json
import mmap
import os
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import data_util
import util
from datasets.storage import headers, processes, split_index
from runs import locks

VERSION = 2
UNSETTLED_S = split_index.UNSETTLED_NS / 1e9
GB = 1e9


class Observation(NamedTuple):
    """The pixels of one posed view, row by row."""

    rgba: np.ndarray  # (R, 4) uint8 as in the file, or float32 in [-1, 1] where averaged; None without images
    foreground: np.ndarray  # (R,) bool: what the object covers; without images, all labels but background
    seg_labels: np.ndarray  # (R,) int8 or int16 class ids; None without label maps
    blend_alpha: bool  # how half-transparent pixels are composed

    def rgb(self, pixels=slice(None)):
        """The chosen pixels, composed over white: (len(pixels), 4) float32 in [-1, 1], a copy; None without images."""
        if self.rgba is None:
            return None
        rgba = self.rgba[pixels]
        return data_util.compose(rgba, self.blend_alpha) if rgba.dtype == np.uint8 else np.array(rgba)


class Files:
    """Decodes the files of an observation each time it is read.

    instances:   from dataio.index_split, indexed with the kinds of files to read
    sidelength:  S
    settings:    data_util.DatasetSettings
    num_classes: K, to read label maps
    """

    def __init__(self, instances, sidelength, settings, num_classes=None):
        self.instances, self.sidelength, self.settings, self.num_classes = instances, sidelength, settings, num_classes
        self.first = np.cumsum([0] + [len(instance.views) for instance in instances])  # observation of each instance

    def __len__(self):
        return int(self.first[-1])

    def locate(self, index):
        """(index of the instance, index into its views) of an observation."""
        if not 0 <= index < len(self):
            raise IndexError(f"observation {index} of {len(self)}")
        instance_idx = int(np.searchsorted(self.first, index, side="right")) - 1
        return instance_idx, index - int(self.first[instance_idx])

    def __getitem__(self, index):
        instance_idx, view = self.locate(index)
        instance = self.instances[instance_idx]
        rgba = seg_labels = foreground = None
        if instance.with_rgb:
            path = instance.path("rgb", view)
            rgba, foreground = data_util.load_image(path, self.sidelength, self.settings.blend_alpha)
            rgba, foreground = rgba.reshape(-1, 4), foreground.reshape(-1)
        if self.num_classes is not None:
            seg_labels = self.load_labels(instance.path("seg", view))
        return Observation(rgba, seg_labels > 0 if rgba is None else foreground, seg_labels, self.settings.blend_alpha)

    def load_labels(self, path):
        """(R,) class ids, int8 or, for more than 128 classes, int16."""
        seg_labels = data_util.load_seg_labels(path, self.sidelength, self.settings.pixel_center).reshape(-1)
        if seg_labels.min() < util.UNLABELLED or seg_labels.max() >= self.num_classes:
            found = f"labels from {seg_labels.min()} to {seg_labels.max()}, but the class list ends at {self.num_classes - 1}"
            raise util.InputError(f"{path}: {found}; add the class to the list or correct the label map")
        return seg_labels.astype(self.label_dtype)

    @property
    def label_dtype(self):
        return np.dtype(np.int8 if self.num_classes <= 128 else np.int16)

    def layout(self):
        """{name: (shape, dtype)} of the arrays that hold all observations decoded."""
        num_observations, num_rays = len(self), self.sidelength**2
        layout = {"foreground": ((num_observations, -(-num_rays // 8)), np.dtype(np.uint8))}  # packed bits
        if self.instances[0].with_rgb:
            paths = (instance.path("rgb", view) for instance in self.instances for view in range(len(instance.views)))
            sides = (data_util.square_crop(*headers.check_png(path))[2] for path in paths)
            is_averaged = any(side != self.sidelength for side in sides)
            layout["rgba"] = (num_observations, num_rays, 4), np.dtype(np.float32 if is_averaged else np.uint8)
        if self.num_classes is not None:
            layout["seg_labels"] = (num_observations, num_rays), self.label_dtype
        return layout


class Arrays:
    """Observations in arrays as Files.layout describes them; `rgba` and `seg_labels` may be missing.

    wanted: (num_observations,) bool, those that were decoded (default: all)
    """

    def __init__(self, arrays, blend_alpha, wanted=None):
        self.arrays, self.blend_alpha, self.wanted = arrays, blend_alpha, wanted

    def __len__(self):
        return len(self.arrays["foreground"])

    def __getitem__(self, index):
        if self.wanted is not None and not self.wanted[index]:
            raise IndexError(f"observation {index} was not decoded: it is not among those wanted")
        rgba, seg_labels = (self.arrays[name][index] if name in self.arrays else None for name in ("rgba", "seg_labels"))
        num_rays = len(seg_labels if rgba is None else rgba)
        foreground = np.unpackbits(self.arrays["foreground"][index], count=num_rays).view(bool)
        return Observation(rgba, foreground, seg_labels, self.blend_alpha)


def decode_all(files, arrays, num_workers, description, wanted=None):
    """Decode observations into the arrays of `files.layout()`, which lie in shared memory or in files."""
    indices = np.arange(len(files)) if wanted is None else np.flatnonzero(wanted)

    def decode(i):
        index = int(indices[i])
        observation = files[index]
        arrays["foreground"][index] = np.packbits(observation.foreground)
        if "rgba" in arrays:
            pixels = observation.rgba if arrays["rgba"].dtype == np.uint8 else observation.rgb()
            np.copyto(arrays["rgba"][index], pixels, casting="no")
        if "seg_labels" in arrays:
            arrays["seg_labels"][index] = observation.seg_labels

    decoded = processes.ordered(decode, len(indices), num_workers)
    with contextlib.closing(decoded), tqdm(decoded, description, len(indices), unit="image", delay=2, leave=False) as bar:
        for _ in bar:
            pass


def num_bytes(shape, dtype):
    return int(np.prod(shape)) * dtype.itemsize


# Memory


def preload(files, num_workers=0, wanted=None):
    """Arrays in memory that the processes of a data loader share.

    wanted: (num_observations,) bool, those that will be read (default: all); the others take no memory
    raises  util.InputError where the memory is too small
    """
    layout = files.layout()
    expect_memory((1 if wanted is None else np.mean(wanted)) * sum(num_bytes(*what) for what in layout.values()))
    arrays = {
        name: np.ndarray(shape, dtype, buffer=mmap.mmap(-1, num_bytes(shape, dtype)))
        for name, (shape, dtype) in layout.items()
    }
    decode_all(files, arrays, num_workers, "decode", wanted)
    return Arrays(arrays, files.settings.blend_alpha, wanted)


def expect_memory(needed):
    """Raise util.InputError where Linux reports fewer available bytes than that."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return  # another system
    if needed > available:
        found = f"the images take {needed / GB:.1f} GB of memory, but {available / GB:.1f} GB are available"
        raise util.InputError(f"--preload: {found}; use --cache DIR instead, or fewer views")


# The cache: a folder of .npy files per data set, and cache.json with the digest of the files that were decoded


def open_cache(files, folder, num_workers=0):
    """Arrays of all observations, mapped from files below `folder`. Decodes them if missing, or if a file has changed.

    If another run is decoding the same ones, waits for it. Raises util.InputError where the disk is too small.
    """
    place = Path(folder) / f"{files.instances[0].folder.parent.name}-{files.sidelength}-{identity_of(files)[:16]}"
    digest, newest_ns = stamp_of(files)
    mapped = open_filled(files, place, digest)
    if mapped is None:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            note = f"note: {place}: another run is filling this cache; waiting for it"
            with locks.held_in_turn(place.with_name(f".{place.name}.lock"), note):
                mapped = open_filled(files, place, digest)
                if mapped is None:
                    time.sleep(min(max(0, newest_ns / 1e9 + UNSETTLED_S - time.time()), UNSETTLED_S))
                    fill(files, place, digest, num_workers)
                    mapped = open_filled(files, place, digest)
        except OSError as error:
            raise util.InputError(f"--cache {folder}: cannot be written ({error.strerror}); choose another folder") from None
    return mapped


def identity_of(files):
    """A digest of the request: which observations of which split, at which side, with which settings."""
    root = os.path.realpath(files.instances[0].folder.parent)
    request = [VERSION, root, files.sidelength, files.settings, files.num_classes]
    request += [(instance.name, instance.views, instance.with_rgb) for instance in files.instances]
    return hashlib.sha256(repr(request).encode()).hexdigest()


def stamp_of(files):
    """A digest of times and sizes of all files that are read, and the latest time in ns."""
    kinds = ["rgb"] * files.instances[0].with_rgb + ["seg"] * (files.num_classes is not None)

    def stamp(i):
        instance = files.instances[i]
        names = {kind: [view + split_index.FILES[kind][1] for view in instance.views] for kind in kinds}
        stamps = np.concatenate([split_index.stamps_of(instance.folder / kind, names[kind]) for kind in kinds])
        return hashlib.sha256(stamps.tobytes()).digest(), int(stamps[:, 0].max())

    num_processes = min(len(os.sched_getaffinity(0)), 1 + len(files) // split_index.FILES_PER_PROCESS)
    digests, times_ns = zip(*processes.ordered(stamp, len(files.instances), num_processes))
    return hashlib.sha256(b"".join(digests)).hexdigest(), max(times_ns)


def open_filled(files, place, digest):
    """What an earlier run decoded, in mapped Arrays; None where there is nothing, or nothing valid."""
    kinds = {"foreground": True, "rgba": files.instances[0].with_rgb, "seg_labels": files.num_classes is not None}
    names = [name for name, is_there in kinds.items() if is_there]
    with contextlib.suppress(OSError, ValueError):
        if json.loads((place / "cache.json").read_text()) == {"files": digest}:
            mapped = {name: np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in names}
            return Arrays({name: np.asarray(array) for name, array in mapped.items()}, files.settings.blend_alpha)
    return None


def fill(files, place, digest, num_workers):
    """Decode all observations into a folder beside `place`, which is renamed to `place` at the end."""
    filling = place.with_name(f".{place.name}.filling")
    for leftover in (filling, place):
        shutil.rmtree(leftover, ignore_errors=True)
    layout = files.layout()
    needed, free = sum(num_bytes(*what) for what in layout.values()), shutil.disk_usage(place.parent).free
    if needed > free:
        found = f"the images take {needed / GB:.1f} GB there, but {free / GB:.1f} GB are free"
        raise util.InputError(f"--cache {place.parent}: {found}; choose another folder, or fewer views")
    try:
        filling.mkdir()
        arrays = {}
        for name, (shape, dtype) in layout.items():
            path = filling / f"{name}.npy"
            arrays[name] = np.lib.format.open_memmap(path, "w+", dtype, shape)
            with open(path, "r+b") as file:  # a full disk is an error now, not a crash when a page is written
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
        decode_all(files, arrays, num_workers, f"fill {place}")
        for array in arrays.values():
            array.flush()
        if stamp_of(files)[0] != digest:
            raise util.InputError(f"{files.instances[0].folder.parent}: images changed while they were read; start again")
        (filling / "cache.json").write_text(json.dumps({"files": digest}) + "\n")
        filling.rename(place)
    finally:
        shutil.rmtree(filling, ignore_errors=True)
