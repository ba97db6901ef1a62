"""The index of a split: which views its instances have, and their cameras, in one file beside the split folder.

Reading a million pose files, and looking at as many images, takes a minute; asking for the times of them all takes
seconds. So what was read is kept, in `.<split>.index.npz` of the class folder, with the times and the size that each file
had, and the times of each folder of files. Whatever has other ones when the split is opened again is read again. Of images
and label maps, which are decoded later in any case, the index knows that they looked sound; where there are more than
MANY_IMAGES, that one of them was overwritten in its place is found when it is decoded.
"""

import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data_util
import util
from datasets.storage import processes

VERSION = 2
FILES = {  # subfolder: what its files are called, their suffix
    "rgb": ("images", ".png"),
    "pose": ("poses", ".txt"),
    "seg": ("label maps", ".npy"),
    "params": ("latent vectors", ".txt"),
}
READ = ("pose", "rgb", "seg")  # subfolders whose files have been read or looked at, where their stamp is not 0
UNSETTLED_NS = 2 * 10**9  # what changed so shortly before it was read may change once more without another time
MAX_POSE_BYTES = 4096  # of a plain one, which has some 200
MANY_IMAGES = 250_000  # of which the times are no longer asked for: a second for each million of images and of label maps
FILES_PER_PROCESS = 20_000  # for fewer, a process more does not pay


@dataclass(frozen=True)
class Entry:
    """What is known of an instance folder with V views. A stamp or time of 0 fits no file: it is to be read.

    names:  {subfolder: (V,) names of its files without suffix, sorted}, of the subfolders that were looked into
    times:  {subfolder: the mark of its stamp, see stamp_of}
    stamp:  that of intrinsics.txt
    """

    names: dict
    times: dict
    intrinsics: data_util.Intrinsics
    stamp: tuple
    poses: np.ndarray  # (V, 4, 4) float32 cam2world, where read
    stamps: np.ndarray  # (3, V, 2) int64, of the files of READ

    @property
    def views(self):
        return self.names["pose"]


def path_of(root):
    """Where the index of a split folder lies: beside it, hidden."""
    root = Path(root).resolve()
    return root.parent / f".{root.name}.index.npz"


def open_split(root, folders, kinds, choose, cached=True):
    """The entries of the instance folders `folders` of the split `root`, each of them checked.

    kinds:  subfolders that are asked for, "pose" among them; the views are those of the first
    choose: (number of views, folder) -> indices of the views that are asked for; only these are read
    cached: read and write the split's index; else every file is read
    raises  util.InputError for the first instance whose files do not belong together or cannot be used
    """
    old = load(root) if cached else {}
    found = [old.get(folder.name) for folder in folders]
    survey = Survey(folders, found, kinds, choose, is_many(folders, found, choose))
    num_files = sum(len(entry.views) if entry else FILES_PER_PROCESS // 100 for entry in found)
    num_processes = min(processes.available(), 1 + num_files // FILES_PER_PROCESS)
    surveyed = processes.ordered(survey, len(folders), num_processes)
    same_names = {}  # shared by the entries, most of which have the same
    changed = False
    bar = tqdm(surveyed, total=len(folders), desc=f"index of {Path(root).name}", unit="instance", delay=2, leave=False)
    for i, entry in enumerate(bar):
        if entry is not None:
            names = {kind: same_names.setdefault(names, names) for kind, names in entry.names.items()}
            found[i], changed = replace(entry, names=names), True
    if cached and changed:
        save(root, old | {folder.name: entry for folder, entry in zip(folders, found)})
    return found


def is_many(folders, entries, choose):
    """Whether more than MANY_IMAGES are asked for, as far as the entries that are known (not None) tell."""

    def count(folder, num_views):
        try:
            return len(choose(num_views, folder))
        except util.InputError:  # there may be other views by now: the survey tells
            return num_views

    return sum(count(folder, len(entry.views)) for folder, entry in zip(folders, entries) if entry) > MANY_IMAGES


class Survey:
    """survey(i) looks at folder i: the new Entry, or None where the one that is known still holds."""

    def __init__(self, folders, entries, kinds, choose, is_many):
        self.folders, self.entries, self.kinds, self.choose, self.is_many = folders, entries, kinds, choose, is_many
        self.sound_heads, self.last_names = set(), {}

    def __call__(self, i):
        folder, old = self.folders[i], self.entries[i]
        now = time.time_ns()
        names, times = dict(old.names) if old else {}, dict(old.times) if old else {}
        for kind in self.kinds:
            _, seen = settled(stamp_of(folder / kind), now)
            if not seen or times.get(kind) != seen:
                names[kind], times[kind] = list_names(folder, kind), seen
        expect_same_names(folder, self.kinds, names)
        views = names[self.kinds[0]]

        path = folder / "intrinsics.txt"
        stamp = settled(stamp_of(path), now)
        same_camera = old is not None and stamp == old.stamp != (0, 0)
        intrinsics = old.intrinsics if same_camera else data_util.load_intrinsics(path)
        rows = np.asarray(self.choose(len(views), folder), dtype=np.int64)

        same_views = old is not None and old.views == views
        poses = old.poses if same_views else np.zeros((len(views), 4, 4), np.float32)
        stamps = old.stamps.copy() if same_views else np.zeros((len(READ), len(views), 2), np.int64)
        if same_views and old.intrinsics.poses_are_world2cam != intrinsics.poses_are_world2cam:
            stamps[READ.index("pose")] = 0
        num_read = 0
        for kind in [kind for kind in ("rgb", "seg", "pose") if kind in self.kinds]:
            known, asked = stamps[READ.index(kind)], rows
            if self.is_many and kind != "pose" and same_views and old.times.get(kind) == times[kind] != 0:
                asked = rows[known[rows, 0] == 0]
                if not len(asked):
                    continue
            found = stamps_of(folder / kind, self.file_names(views, kind, asked))
            changed = (found != known[asked]).any(axis=1) | (found == 0).all(axis=1)
            todo = asked[changed]
            paths = [f"{folder}/{kind}/{views[row]}{FILES[kind][1]}" for row in todo]
            if kind == "pose" and len(todo):
                poses = poses.copy()
                poses[todo] = read_poses(paths, intrinsics.poses_are_world2cam)
            for path in paths if kind == "rgb" else ():
                data_util.check_png(path)
            for path in paths if kind == "seg" else ():
                data_util.check_seg_labels(path, self.sound_heads)
            found[found[:, 0] >= now - UNSETTLED_NS] = 0
            known[todo] = found[changed]
            num_read += len(todo)
        if num_read == 0 and same_views and same_camera and times == old.times:
            return None
        return Entry(names, times, intrinsics, stamp, poses, stamps)

    def file_names(self, views, kind, rows):
        """Names of the chosen files, which are the same in most instances."""
        of, chosen, names = self.last_names.get(kind, (None, None, None))
        if of is not views or not np.array_equal(chosen, rows):
            names = [views[row] + FILES[kind][1] for row in rows]
            self.last_names[kind] = views, rows, names
        return names


def expect_same_names(folder, kinds, names):
    """An InputError unless there are views, and each view is there in every kind."""
    leading, suffix = FILES[kinds[0]]
    views = names[kinds[0]]
    if not views:
        raise util.InputError(f"{folder}: no {leading}; expected {folder / kinds[0]}/*{suffix}")
    for kind in sorted(kinds, key=list(FILES).index):
        if names[kind] is not views and names[kind] != views:
            odd = sorted(set(names[kind]) ^ set(views))
            raise util.InputError(
                f"{folder}: {len(views)} {leading} but {len(names[kind])} {FILES[kind][0]}; each view needs both, see "
                f"{', '.join(odd[:3])}"
            )


def list_names(folder, kind):
    """Names of the files of a subfolder without their suffix, in the order of their names; () if there is no such folder."""
    suffix = FILES[kind][1]
    try:
        files = os.listdir(folder / kind)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise util.InputError(f"{folder / kind}: cannot be read ({error.strerror})") from None
    return tuple(name[: -len(suffix)] for name in sorted(files) if name.endswith(suffix) and not name.startswith("."))


def read_poses(paths, poses_are_world2cam):
    """Poses (V, 4, 4) float32 cam2world of files."""
    numbers, plain = np.zeros((len(paths), 16)), np.zeros(len(paths), bool)
    for i, path in enumerate(paths):
        try:
            file = os.open(path, os.O_RDONLY)
            try:
                text = os.read(file, MAX_POSE_BYTES)
            finally:
                os.close(file)
        except OSError:
            continue  # load_pose tells what is wrong with it
        parsed = data_util.parse_plain_pose(text) if len(text) < MAX_POSE_BYTES else None
        if parsed is not None:
            numbers[i], plain[i] = parsed, True
    matrices = numbers.reshape(-1, 4, 4)
    plain &= abs(np.linalg.det(matrices[:, :3, :3])) >= 1e-9
    poses = np.zeros(matrices.shape, np.float32)
    poses[plain] = np.linalg.inv(matrices[plain]) if poses_are_world2cam else matrices[plain]
    for i in np.flatnonzero(~plain):
        poses[i] = data_util.load_pose(paths[i], poses_are_world2cam)
    return poses


def stamp_of(path):
    """(time in ns, mark) of a file or folder; (0, 0) where there is none.

    The time is that of the last change of its content. The mark is another after any change: the time of the last
    change of whatever kind, which no program can set back, plus the size.
    """
    try:
        found = os.stat(path)
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_ctime_ns + found.st_size


def stamps_of(folder, names):
    """(V, 2) int64 stamps of files of a folder, 0 where there is no such file."""
    ask = os.stat
    try:
        directory = os.open(folder, os.O_RDONLY)
        try:
            found = [ask(name, dir_fd=directory) for name in names]
        finally:
            os.close(directory)
    except OSError:
        return np.array([stamp_of(folder / name) for name in names], np.int64)
    stamps = np.empty((len(names), 2), np.int64)
    stamps[:, 0] = [each.st_mtime_ns for each in found]
    stamps[:, 1] = [each.st_ctime_ns + each.st_size for each in found]
    return stamps


def settled(stamp, now):
    """The stamp, or (0, 0) where a further change may bear the same one."""
    return stamp if stamp[0] < now - UNSETTLED_NS else (0, 0)


# The file


def save(root, entries):
    """Writes the entries {instance name: Entry} of the instances that the split still has."""
    root, path = Path(root), path_of(root)
    there = {item.name for item in os.scandir(root)}
    entries = {name: entries[name] for name in sorted(entries) if name in there}
    id_of = {}
    listings = [
        [id_of.setdefault(e.names[kind], len(id_of)) if kind in e.names else -1 for kind in FILES] for e in entries.values()
    ]
    cameras = [[getattr(e.intrinsics, name) for name in data_util.Intrinsics.__annotations__] for e in entries.values()]
    arrays = {
        "version": np.array(VERSION),
        "text": np.frombuffer(json.dumps({"instances": list(entries), "names": list(id_of)}).encode(), np.uint8),
        "listings": np.array(listings, np.int32),
        "times": np.array([[e.times.get(kind, 0) for kind in FILES] for e in entries.values()], np.int64),
        "cameras": np.array(cameras, np.float64),
        "stamps": np.array([e.stamp for e in entries.values()], np.int64),
        "poses": np.concatenate([e.poses for e in entries.values()]),
        "file_stamps": np.concatenate([e.stamps for e in entries.values()], axis=1),
    }
    try:
        with util.replacing(path) as temporary:
            np.savez(temporary, **arrays)
    except OSError as error:
        print(f"note: {path} cannot be written ({error.strerror}), so the split is read anew each time it is opened")


def load(root):
    """The entries {instance name: Entry} of a split's index; {} where there is none that can be used."""
    path = path_of(root)
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return unpack(arrays)
    except Exception as error:  # a zip file can be broken in many ways, and none of them matters
        print(f"note: {path} is no index of this version ({type(error).__name__}), so the split is read anew")
        return {}


def unpack(arrays):
    """The inverse of what `save` does; raises ValueError or KeyError where the arrays do not fit each other."""
    if arrays["version"] != VERSION:
        raise ValueError("another version")
    text = json.loads(arrays["text"].tobytes())
    names, instances = [tuple(listing) for listing in text["names"]], text["instances"]
    if any(os.sep in name or "\0" in name for listing in names for name in listing):
        raise ValueError("a name that leads elsewhere")
    if not all(len(arrays[name]) == len(instances) for name in ("listings", "times", "cameras", "stamps")):
        raise ValueError("arrays of other lengths")
    pose_listings = arrays["listings"][:, list(FILES).index("pose")]
    if (pose_listings < 0).any() or not np.isfinite(arrays["cameras"]).all():
        raise ValueError("no views or no camera")
    num_views = [len(names[i]) for i in pose_listings]
    rows = sum(num_views)
    if (arrays["poses"].shape, arrays["poses"].dtype) != ((rows, 4, 4), np.float32) or not np.isfinite(arrays["poses"]).all():
        raise ValueError("other poses")
    if (arrays["file_stamps"].shape, arrays["file_stamps"].dtype) != ((len(READ), rows, 2), np.int64):
        raise ValueError("other stamps")
    entries, start = {}, 0
    per_instance = (arrays[name].tolist() for name in ("listings", "times", "cameras", "stamps"))
    for name, count, listing, times, camera, stamp in zip(instances, num_views, *per_instance):
        focal, cx, cy, height, width, flag = camera
        part = slice(start, start + count)
        entries[name] = Entry(
            names={kind: names[i] for kind, i in zip(FILES, listing) if i >= 0},
            times={kind: when for kind, when, i in zip(FILES, times, listing) if i >= 0},
            intrinsics=data_util.Intrinsics(focal, cx, cy, int(height), int(width), bool(flag)),
            stamp=tuple(stamp),
            poses=arrays["poses"][part],
            stamps=arrays["file_stamps"][:, part],
        )
        start += count
    return entries
