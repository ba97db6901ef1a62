"""The index of a split: the views and cameras of its instances, in one file beside the split folder.

Parsing a million pose files takes a minute; asking for the times of a million files takes seconds. The index
`.<split>.index.npz` in the class folder stores what was read, with the time and size of each file and the time of each
folder. Whatever has another time or size when the split is opened again is read again. Of images and label maps, which
are decoded later, the index stores that they looked sound. In a split of more than MANY_IMAGES views, an image that was
overwritten in place is found only when it is decoded.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data_util
import util
from datasets.storage import headers, processes

VERSION = 3
FILES = {  # subfolder: the plural of its files, their suffix
    "rgb": ("images", ".png"),
    "pose": ("poses", ".txt"),
    "seg": ("label maps", ".npy"),
    "params": ("latent vectors", ".txt"),
}
READ = ("rgb", "seg", "pose")  # subfolders whose files are read or looked at
UNSETTLED_NS = 2 * 10**9  # a file that changed so recently may change again without getting another time
MANY_IMAGES = 250_000  # beyond, their times are not asked for: each million of images or label maps takes a second
FILES_PER_PROCESS = 20_000  # with fewer, another process does not pay off


@dataclass(frozen=True)
class Entry:
    """What the index stores of an instance folder with V views. A mark or stamp of 0 equals that of no file.

    names:  {subfolder: (V,) sorted names of its files without suffix}, for the subfolders that were listed
    marks:  {subfolder: the mark in its stamp}, see `stamps_of`
    stamp:  of intrinsics.txt
    poses:  (V, 4, 4) float32 cam2world, 0 where not read
    stamps: (3, V, 2) int64, of the files in the subfolders READ, 0 where not read
    """

    names: dict
    marks: dict
    intrinsics: data_util.Intrinsics
    stamp: tuple
    poses: np.ndarray
    stamps: np.ndarray

    @property
    def views(self):
        return self.names["pose"]


def path_of(root):
    """The index file of a split folder: beside it, hidden."""
    root = Path(root).resolve()
    return root.parent / f".{root.name}.index.npz"


def open_split(root, folders, kinds, choose, cached=True):
    """A list of Entry, one for each of the instance folders `folders` of the split `root`, all of them checked.

    kinds:  the subfolders to use, "pose" among them; the views are the files of the first one
    choose: (number of views, folder) -> indices of the views to use; only their files are read
    cached: use and update the index; otherwise every file is read
    raises  util.InputError for the first instance whose files do not match or cannot be read
    """
    known = load(root) if cached else {}
    found = [known.get(folder.name) for folder in folders]
    is_many = sum(len(entry.views) for entry in found if entry) > MANY_IMAGES
    num_files = sum(len(entry.views) if entry else FILES_PER_PROCESS // 100 for entry in found)
    num_processes = min(len(os.sched_getaffinity(0)), 1 + num_files // FILES_PER_PROCESS)
    survey, shared, changed = Survey(kinds, choose, is_many), {}, False
    entries = processes.ordered(lambda i: survey(folders[i], found[i]), len(folders), num_processes)
    bar = tqdm(entries, total=len(folders), desc=f"index of {Path(root).name}", unit="instance", delay=2, leave=False)
    for i, entry in enumerate(bar):
        if entry is not None:  # most instances have the same names, which are then held once
            names = {kind: shared.setdefault(names, names) for kind, names in entry.names.items()}
            found[i], changed = dataclasses.replace(entry, names=names), True
    if cached and changed:
        save(root, known | {folder.name: entry for folder, entry in zip(folders, found)})
    return found


@dataclass
class Survey:
    """survey(folder, entry) returns the new Entry of an instance folder, or None where the known one still holds."""

    kinds: tuple  # see `open_split`
    choose: Callable
    is_many: bool  # do not ask for the times of images and label maps that were looked at
    sound_heads: set = dataclasses.field(default_factory=set)  # of label maps, see headers.check_seg_labels

    def __call__(self, folder, known):
        now = time.time_ns()
        stamp, *of_folders = settled(stamps_of(folder, ["intrinsics.txt", *self.kinds]), now).tolist()
        names, marks = self.list_views(folder, known, [mark for _, mark in of_folders])
        views = names[self.kinds[0]]
        rows = np.asarray(self.choose(len(views), folder), dtype=np.int64)

        same_camera = known is not None and tuple(stamp) == known.stamp != (0, 0)
        intrinsics = known.intrinsics if same_camera else data_util.load_intrinsics(folder / "intrinsics.txt")

        same_views = known is not None and known.views == views
        poses = known.poses if same_views else np.zeros((len(views), 4, 4), np.float32)
        stamps = known.stamps.copy() if same_views else np.zeros((len(READ), len(views), 2), np.int64)
        if same_views and known.intrinsics.poses_are_world2cam != intrinsics.poses_are_world2cam:
            stamps[READ.index("pose")] = 0
        num_read = 0
        for kind, of_kind in zip(READ, stamps):
            if kind not in self.kinds:
                continue
            same_folder = same_views and known.marks.get(kind) == marks[kind] != 0
            asked = rows[of_kind[rows, 0] == 0] if self.is_many and kind != "pose" and same_folder else rows
            found = stamps_of(folder / kind, [views[row] + FILES[kind][1] for row in asked])
            changed = (found != of_kind[asked]).any(axis=1) | (found == 0).all(axis=1)
            todo = asked[changed]
            if not len(todo):
                continue
            read = self.read(kind, [f"{folder}/{kind}/{views[row]}{FILES[kind][1]}" for row in todo], intrinsics)
            if kind == "pose":
                poses = poses.copy()
                poses[todo] = read
            of_kind[todo] = settled(found, now)[changed]
            num_read += len(todo)
        if num_read == 0 and same_views and same_camera and marks == known.marks:
            return None
        return Entry(names, marks, intrinsics, tuple(stamp), poses, stamps)

    def list_views(self, folder, known, marks_now):
        """(names, marks) of the subfolders, see Entry. Only those that have changed are listed; 0 in marks_now: changed."""
        names, marks = (dict(known.names), dict(known.marks)) if known else ({}, {})
        for kind, mark in zip(self.kinds, marks_now):
            if not mark or marks.get(kind) != mark:
                names[kind], marks[kind] = list_names(folder, kind), mark
        expect_same_names(folder, self.kinds, names)
        return names, marks

    def read(self, kind, paths, intrinsics):
        """Look at images and label maps; of poses returns (V, 4, 4) cam2world."""
        if kind == "pose":
            return data_util.load_poses(paths, intrinsics.poses_are_world2cam)
        for path in paths:
            if kind == "rgb":
                headers.check_png(path)
            else:
                headers.check_seg_labels(path, self.sound_heads)


def expect_same_names(folder, kinds, names):
    """Raise util.InputError unless there are views, and each view has a file in every subfolder."""
    leading, suffix = FILES[kinds[0]]
    views = names[kinds[0]]
    if not views:
        raise util.InputError(f"{folder}: no {leading}; expected {folder / kinds[0]}/*{suffix}")
    for kind in sorted(kinds, key=list(FILES).index):
        if names[kind] is not views and names[kind] != views:
            odd = sorted(set(names[kind]) ^ set(views))
            found = f"{len(views)} {leading} but {len(names[kind])} {FILES[kind][0]}"
            raise util.InputError(f"{folder}: {found}; each view needs both, see {', '.join(odd[:3])}")


def list_names(folder, kind):
    """Sorted names of the files in a subfolder without their suffix; () if there is no such folder."""
    suffix = FILES[kind][1]
    try:
        files = os.listdir(folder / kind)
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise util.InputError(f"{folder / kind}: cannot be read ({error.strerror}); expected a folder") from None
    return tuple(name[: -len(suffix)] for name in sorted(files) if name.endswith(suffix) and not name.startswith("."))


def stamps_of(folder, names):
    """(V, 2) int64 stamps (time in ns, mark) of files in a folder, 0 where there is no such file.

    The time is that of the last change of the content. The mark is the size plus the time of the last change of any
    kind, which no program can set back; it differs after every change.
    """

    def stamp(name):
        try:
            found = os.stat(name, dir_fd=directory)
        except OSError:
            return 0, 0
        return found.st_mtime_ns, found.st_ctime_ns + found.st_size

    try:
        directory = os.open(folder, os.O_RDONLY)  # so that the path of the folder is resolved only once
    except OSError:
        return np.zeros((len(names), 2), np.int64)
    try:
        return np.array([stamp(name) for name in names], np.int64).reshape(-1, 2)
    finally:
        os.close(directory)


def settled(stamps, now):
    """The stamps (V, 2), 0 where a further change may give the file the same stamp."""
    return np.where(stamps[:, :1] < now - UNSETTLED_NS, stamps, 0)


# The file: a JSON text and the two large arrays


def save(root, entries):
    """Write the entries {instance name: Entry} of those instances that the split still has."""
    path = path_of(root)
    there = {item.name for item in os.scandir(root)}
    entries = {name: entries[name] for name in sorted(entries) if name in there}
    listings = {}  # names of views: their number
    instances = {
        name: {
            "names": {kind: listings.setdefault(names, len(listings)) for kind, names in entry.names.items()},
            "marks": entry.marks,
            "intrinsics": dataclasses.asdict(entry.intrinsics),
            "stamp": entry.stamp,
        }
        for name, entry in entries.items()
    }
    text = json.dumps({"version": VERSION, "listings": list(listings), "instances": instances})
    try:
        with util.replacing(path) as temporary:
            np.savez(
                temporary,
                text=np.frombuffer(text.encode(), np.uint8),
                poses=np.concatenate([entry.poses for entry in entries.values()]),
                stamps=np.concatenate([entry.stamps for entry in entries.values()], axis=1),
            )
    except OSError as error:
        print(f"note: {path}: cannot be written ({error.strerror}); the split is read anew each time it is opened")


def load(root):
    """The entries {instance name: Entry} of a split's index; {} if there is none that can be used."""
    path = path_of(root)
    if not path.exists():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            return unpack(json.loads(file["text"].tobytes()), file["poses"], file["stamps"])
    except Exception as error:  # a zip file can be broken in many ways; the index is only a copy, and made anew
        print(f"note: {path}: not an index of this version ({type(error).__name__}); the split is read anew")
        return {}


def unpack(text, poses, stamps):
    """The entries that `save` wrote. Raises an error where the parts do not fit each other."""
    if text["version"] != VERSION:
        raise ValueError("another version")
    listings = [tuple(listing) for listing in text["listings"]]
    if any(os.sep in name or "\0" in name for listing in listings for name in listing):
        raise ValueError("a name that leads out of the folder")
    entries, start = {}, 0
    for name, stored in text["instances"].items():
        names = {kind: listings[number] for kind, number in stored["names"].items()}
        intrinsics = data_util.Intrinsics(**stored["intrinsics"])
        part = slice(start, start + len(names["pose"]))
        start = part.stop
        if not names["pose"] or not np.isfinite(dataclasses.astuple(intrinsics)).all():
            raise ValueError("no views or no camera")
        entries[name] = Entry(names, stored["marks"], intrinsics, tuple(stored["stamp"]), poses[part], stamps[:, part])
    for array, shape, dtype in ((poses, (start, 4, 4), np.float32), (stamps, (len(READ), start, 2), np.int64)):
        if (array.shape, array.dtype) != (shape, dtype) or not np.isfinite(array).all():
            raise ValueError("poses or stamps that do not fit the views")
    return entries
