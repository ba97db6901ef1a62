"""Where the pixels of an observation come from: its files, memory, or a memory-mapped cache on disk.

A store is a sequence of observations. store[i] is
    rgba        (R, 4): uint8 as in the file where that has the side asked for, to be composed by data_util.compose, of
                the rays that are used only; else float32 in [-1, 1], averaged. None where images are not asked for
    foreground  (F,) integer indices of foreground pixels, ascending; without images, all but background
    seg_labels  (R,) integer class ids, or None
for R = sidelength ** 2. All stores give the same numbers.

An image of 128 x 128 takes 64 KiB as uint8. One that is averaged takes 16 bytes a pixel: 64 KiB at 64 x 64, 256 KiB at
128 x 128. Label maps add a byte a pixel, foreground indices 2 bytes (4 beyond 256 x 256) for each pixel of the object.
"""

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import shutil
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data_util
import util
from datasets.storage import processes

VERSION = 1
UNSETTLED_S = 2  # a file that changed so recently may change once more without another time
GB = 1e9


class Files:
    """Decodes the files of an observation each time it is asked for.

    instances:   from dataio.index_split, with the kinds of files that are to be read
    sidelength:  S
    settings:    data_util.DatasetSettings
    num_classes: K, if label maps are to be read
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
        rgba = seg_labels = covered = None
        if instance.with_rgb:
            path = instance.path("rgb", view)
            rgba = data_util.decode_image(path)
            if len(rgba) == self.sidelength:
                covered = data_util.find_foreground(rgba)
            else:
                rgba, covered = data_util.average_image(rgba, self.sidelength, self.settings.blend_alpha)
            rgba = rgba.reshape(-1, 4)
        if self.num_classes is not None:
            seg_labels = self.load_labels(instance.path("seg", view))
        foreground = covered if covered is not None else seg_labels > 0
        return rgba, np.flatnonzero(foreground), seg_labels

    def load_labels(self, path):
        """(R,) class ids, int8 or, of more than 128 classes, int16."""
        seg_labels = data_util.load_seg_labels(path, self.sidelength, self.settings.pixel_center).reshape(-1)
        if seg_labels.min() < util.UNLABELLED or seg_labels.max() >= self.num_classes:
            raise util.InputError(
                f"{path}: labels from {seg_labels.min()} to {seg_labels.max()}, but the class list ends at "
                f"{self.num_classes - 1}; add the class to the list or mend the label map"
            )
        return seg_labels.astype(self.label_dtype)

    @property
    def label_dtype(self):
        return np.dtype(np.int8 if self.num_classes <= 128 else np.int16)

    @property
    def foreground_dtype(self):
        return np.dtype(np.uint16 if self.sidelength <= 256 else np.int32)

    def is_native(self):
        """Whether the first image of every instance has the side asked for, as its header tells."""
        sides = (data_util.square_crop(*data_util.png_sides(i.path("rgb", 0)))[2] for i in self.instances if i.with_rgb)
        return all(side == self.sidelength for side in sides)

    def layout(self, native):
        """{name: (shape, dtype)} of the arrays that hold all observations decoded, but for the foreground."""
        num_observations, num_rays = len(self), self.sidelength**2
        layout = {"foreground_ends": ((num_observations,), np.dtype(np.int64))}
        if self.instances[0].with_rgb:
            layout["rgba"] = (num_observations, num_rays, 4), np.dtype(np.uint8 if native else np.float32)
        if self.num_classes is not None:
            layout["seg_labels"] = (num_observations, num_rays), self.label_dtype
        return layout


class OtherSide(Exception):
    """An image is not of the side that the first one of its instance has, so that its pixels must be averaged."""


class Arrays:
    """Observations in arrays, as Files.layout has them, and `foreground`: the indices of all, one after the other."""

    def __init__(self, foreground, foreground_ends, rgba=None, seg_labels=None, wanted=None):
        self.foreground, self.foreground_ends = foreground, foreground_ends
        self.rgba, self.seg_labels, self.wanted = rgba, seg_labels, wanted

    def __len__(self):
        return len(self.foreground_ends)

    def __getitem__(self, index):
        if self.wanted is not None and not self.wanted[index]:
            raise IndexError(f"observation {index} is not among those that were wanted")
        begin = self.foreground_ends[index - 1] if index else 0
        return (
            None if self.rgba is None else self.rgba[index],
            self.foreground[begin : self.foreground_ends[index]],
            None if self.seg_labels is None else self.seg_labels[index],
        )


def decode_all(files, arrays, num_workers, description, wanted=None):
    """Fills the arrays, which lie in shared memory, and yields the foreground of each observation, in order.

    wanted: (num_observations,) bool, those to decode (default: all); where the others go stays untouched
    raises OtherSide for an image that must be averaged where rgba is uint8
    """

    def decode(index):
        if wanted is not None and not wanted[index]:
            return np.empty(0, files.foreground_dtype)
        rgba, foreground, seg_labels = files[index]
        if rgba is not None:
            held = arrays["rgba"]
            if rgba.dtype != held.dtype:
                if held.dtype == np.uint8:
                    raise OtherSide
                rgba = data_util.compose(rgba, files.settings.blend_alpha)
            held[index] = rgba
        if seg_labels is not None:
            arrays["seg_labels"][index] = seg_labels
        return foreground.astype(files.foreground_dtype)

    end = 0
    decoded = processes.ordered(decode, len(files), num_workers)
    with contextlib.closing(decoded), tqdm(decoded, description, len(files), unit="image", delay=2, leave=False) as bar:
        for index, foreground in enumerate(bar):
            end += len(foreground)
            arrays["foreground_ends"][index] = end
            yield foreground


# Memory


def preload(files, num_workers=0, wanted=None):
    """Observations decoded in memory, which the processes of a data loader share, as Arrays.

    wanted: (num_observations,) bool, those that will be asked for (default: all); others take no memory
    """
    share = 1 if wanted is None else np.mean(wanted)
    for native in (True, False) if files.is_native() else (False,):
        layout = files.layout(native)
        expect_memory(share * sum(num_bytes(*what) for what in layout.values()))
        arrays = {name: in_shared_memory(*what) for name, what in layout.items()}
        try:
            foreground = list(decode_all(files, arrays, num_workers, "decode", wanted))
            return Arrays(np.concatenate(foreground), **arrays, wanted=wanted)
        except OtherSide:
            continue


def in_shared_memory(shape, dtype):
    return np.ndarray(shape, dtype, buffer=mmap.mmap(-1, num_bytes(shape, dtype)))


def num_bytes(shape, dtype):
    return int(np.prod(shape)) * dtype.itemsize


def expect_memory(needed):
    """An InputError where Linux says that there is less memory than that."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return  # another system, which does not tell
    if needed > available:
        raise util.InputError(
            f"--preload: the images take {needed / GB:.1f} GB of memory, but {available / GB:.1f} GB are available; use "
            f"--cache DIR in its place, or fewer views"
        )


# The cache


def open_cache(files, folder, num_workers=0):
    """All observations decoded in files below `folder`, filled now if they are not there or an image has changed.

    Another run that is filling the same ones is waited for. Raises util.InputError where the disk is too small.
    """
    place = Path(folder) / f"{files.instances[0].folder.parent.name}-{files.sidelength}-{identity_of(files)[:16]}"
    digest, newest = stamp_of(files)
    mapped = open_filled(files, place, digest)
    if mapped is None:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with locked(place):
                mapped = open_filled(files, place, digest)
                if mapped is None:
                    time.sleep(min(max(0, newest / 1e9 + UNSETTLED_S - time.time()), UNSETTLED_S))
                    fill(files, place, digest, num_workers)
                    mapped = open_filled(files, place, digest)
        except OSError as error:
            raise util.InputError(f"--cache {folder}: cannot be written ({error.strerror}); choose another folder") from None
    return mapped


def identity_of(files):
    """A digest of what is asked for: which observations, of which split, at which side, treated how."""
    digest = hashlib.sha256()
    root = os.path.realpath(files.instances[0].folder.parent)
    digest.update(repr((VERSION, root, files.sidelength, files.settings, files.num_classes)).encode())
    for instance in files.instances:
        digest.update(repr((instance.name, instance.views, instance.with_rgb)).encode())
    return digest.hexdigest()


def stamp_of(files):
    """A digest of times and sizes of all files that are read, and the youngest time in ns."""
    kinds = ["rgb"] * files.instances[0].with_rgb + ["seg"] * (files.num_classes is not None)

    def stamp(i):
        instance = files.instances[i]
        stamps = np.array([file_stamp(instance.path(kind, v)) for kind in kinds for v in range(len(instance.views))])
        return hashlib.sha256(stamps.tobytes()).digest(), int(stamps[:, 0].max())

    num_processes = min(processes.available(), 1 + len(files) // 20_000)
    stamps = list(processes.ordered(stamp, len(files.instances), num_processes))
    return hashlib.sha256(b"".join(digest for digest, _ in stamps)).hexdigest(), max(newest for _, newest in stamps)


def file_stamp(path):
    try:
        found = os.stat(path)
    except OSError as error:
        raise util.InputError(f"{path}: cannot be read ({error.strerror})") from None
    return found.st_mtime_ns, found.st_ctime_ns + found.st_size  # as split_index.stamp_of has it


class Mapped(Arrays):
    """Arrays in files. Other processes open these themselves, nothing of them is sent."""

    def __init__(self, place, layout):
        self.place, self.layout = place, layout
        super().__init__(**{name: np.asarray(map_file(place / f"{name}.bin", *what)) for name, what in layout.items()})

    def __reduce__(self):
        return Mapped, (self.place, self.layout)


def map_file(path, shape, dtype, mode="r"):
    """The array of that shape in a file, which must be just as long. An array of no bytes cannot be mapped."""
    if os.path.getsize(path) != num_bytes(shape, dtype):
        raise ValueError(f"{path} has another length")
    return np.memmap(path, dtype, mode, shape=shape) if num_bytes(shape, dtype) else np.zeros(shape, dtype)


def open_filled(files, place, digest):
    """What an earlier run has filled, or None where there is nothing, or nothing that is still true."""
    try:
        facts = json.loads((place / "cache.json").read_text())
        if facts["files"] != digest:
            return None
        layout = files.layout(bool(facts["native"]))
        layout["foreground"] = (int(facts["num_foreground"]),), files.foreground_dtype
        mapped = Mapped(place, layout)
        return mapped if mapped.foreground_ends[-1] == facts["num_foreground"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def fill(files, place, digest, num_workers):
    """Decodes all observations into files in a folder beside `place`, which takes its name when all is there."""
    filling = place.with_name(f".{place.name}.filling")
    for leftover in (filling, place):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        for native in (True, False) if files.is_native() else (False,):
            filling.mkdir()
            try:
                fill_folder(files, filling, native, digest, num_workers)
                break
            except OtherSide:
                shutil.rmtree(filling)
        if stamp_of(files)[0] != digest:
            raise util.InputError(f"{files.instances[0].folder.parent}: images changed while they were read; start again")
        filling.rename(place)
    finally:
        shutil.rmtree(filling, ignore_errors=True)


def fill_folder(files, folder, native, digest, num_workers):
    layout = files.layout(native)
    sure = sum(num_bytes(*what) for what in layout.values())
    most = sure + len(files) * files.sidelength**2 * files.foreground_dtype.itemsize
    free = shutil.disk_usage(folder).free
    if most > free:
        raise util.InputError(
            f"--cache {folder.parent}: the images take {sure / GB:.1f} to {most / GB:.1f} GB there, but {free / GB:.1f} GB "
            f"are free; choose another folder, or fewer views"
        )
    arrays = {}
    for name, what in layout.items():
        with open(folder / f"{name}.bin", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, num_bytes(*what))  # a full disk is an error now, not a crash later
        arrays[name] = map_file(folder / f"{name}.bin", *what, mode="r+")
    num_foreground = 0
    with open(folder / "foreground.bin", "wb") as file:
        for foreground in decode_all(files, arrays, num_workers, f"fill {folder.parent}"):
            num_foreground += len(foreground)
            file.write(foreground.tobytes())
    for array in arrays.values():
        array.flush()
    facts = {"files": digest, "native": native, "num_foreground": num_foreground}
    (folder / "cache.json").write_text(json.dumps(facts) + "\n")


@contextlib.contextmanager
def locked(place):
    """Holds the lock of a place in the cache; the system gives it back when a process dies."""
    with open(place.with_name(f".{place.name}.lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"note: another run is filling {place}; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
