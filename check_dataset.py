"""Checks a data set: counts, images, label maps, poses, cameras. Prints a summary, and every fault with its file.

    python check_dataset.py data/mine/Chair                                  # all splits of a class
    python check_dataset.py data/mine/Chair/Chair.train --picture chairs.png

The exit code is 0 without faults, 2 with faults.
"""

import argparse
import os
from collections import Counter
from pathlib import Path

import numpy as np
from tqdm import tqdm

import data_util
import dataio
import options as common
import util
from datasets.checks import camera_checks, camera_facts, contents, split_folders
from datasets.storage import processes

FAR_OFF = 3  # factor from the usual distance of cameras, up or down


def build_parser():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("root", metavar="DIR", help="a split such as data/Chair/Chair.train, or a class folder: all its splits")
    add("--obj_name", help="class of the list <obj_name>-level-1.txt (default: from the folders' names)")
    add("--num_workers", type=common.at_least(0), default=os.cpu_count() or 1, help="number of processes")
    add("--quick", action="store_true", help="check names, headers and cameras only; decode no image or label map")
    add("--max_faults", type=common.at_least(1), default=10, metavar="N", help="faults of each kind to print")
    add("--picture", metavar="PNG", help="file to draw the cameras of an instance to, with some of its images")
    add("--instance", metavar="NAME", help="the instance to draw (default: the first without a fault)")
    return parser


class Split:
    """The reports on the instances of a split, and their faults."""

    def __init__(self, root, reports):
        self.root, self.reports = root, reports
        contents.check_for_images(reports)
        self.distances = {report.folder: camera_facts.distances_of(report.poses) for report in reports if len(report.poses)}
        of_cameras = camera_checks.faults_of([report for report in reports if report.intrinsics is not None])
        self.faults = [fault for report in reports for fault in report.faults] + of_cameras
        broken = {path for fault in of_cameras for path in (fault.path, *fault.path.parents)}
        self.broken = [report for report in reports if report.faults or report.folder in broken]

    def row(self):
        """A row of the table: {title: text}."""
        reports = self.reports
        cameras = [report.intrinsics for report in reports if report.intrinsics is not None]
        return {
            "split": self.root.name,
            "instances": str(len(reports)),
            "views": span([report.num_views for report in reports]),
            "sides": sides(set().union(*(report.sides for report in reports))),
            "label maps": str(sum(report.num_label_maps for report in reports)),
            "focal length": span([camera.focal for camera in cameras]),
            "field of view": some(camera_facts.field_of_view(camera) for camera in cameras),
            "distance": span(np.concatenate(list(self.distances.values())).tolist()) if self.distances else "-",
        }

    def notes(self):
        """Sentences on what is worth knowing but no fault."""
        name = self.root.name
        blank = [report for report in self.reports if report.num_blank]
        if blank:
            yield f"{sum(r.num_blank for r in blank)} images show nothing but background, the first in {blank[0].folder}"
        unseen = [report for report in self.reports if report.num_label_maps and not report.num_images]
        if unseen:
            yield f"{name}: {len(unseen)} instances have label maps and no images, such as {unseen[0].name}"
        fewest = min(self.reports, key=lambda report: report.num_views)
        if any(report.num_views > fewest.num_views for report in self.reports):
            yield f"{name}: instances differ in their number of views; {fewest.name} has the fewest, {fewest.num_views}"
        means = {folder: distances.mean() for folder, distances in self.distances.items()}
        usual = np.median(list(means.values())) if means else 0.0
        odd = [folder for folder, mean in means.items() if not usual / FAR_OFF <= mean <= usual * FAR_OFF]
        if odd:
            yield (
                f"{name}: {len(odd)} of {len(means)} instances have cameras more than {FAR_OFF} times farther or nearer than "
                f"usual ({odd[0].name} {means[odd[0]]:.3g} world units, usually {usual:.3g}); the unit of length may differ"
            )
        for report in self.reports:
            camera = report.intrinsics
            if camera is not None and report.sides - {(camera.height, camera.width)}:
                yield (
                    f"{report.folder}: intrinsics.txt is for {camera.width} x {camera.height} pixels, images are "
                    f"{sides(report.sides)}; the stages scale it"
                )
                return


def span(values):
    """The value, or the range of values, as text."""
    if not len(values):
        return "-"
    low, high = (f"{x:.4g}" for x in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def some(texts):
    """The different ones of the texts as one text; three of them at most."""
    texts = list(dict.fromkeys(texts))
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "") or "-"


def sides(shapes):
    """(height, width) of images as text `width x height`."""
    return some(f"{width} x {height}" for height, width in sorted(shapes))


def check_split(root, num_classes, decode, num_workers):
    """The Split of a folder. Shows its progress on stderr."""
    folders = dataio.subfolders(root)
    reports = processes.ordered(
        lambda i: contents.check_folder(folders[i], num_classes, decode), len(folders), num_workers, chunksize=4
    )
    return Split(root, list(tqdm(reports, root.name, len(folders), unit="instance")))


def table(rows):
    """Lines of aligned text; rows are dicts with the same titles. The first column is aligned left."""
    first, *others = [[title, *(row[title] for row in rows)] for title in rows[0]]
    columns = [[text.ljust(max(map(len, first))) for text in first]]
    columns += [[text.rjust(max(map(len, column))) for text in column] for column in others]
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns))


def class_rows(splits, class_names):
    """Rows of the table of classes: the share of each class in the pixels of all label maps of each split."""
    counts = [sum((report.pixels for report in split.reports), Counter()) for split in splits]
    seen = sorted(set().union(*counts), key=lambda i: (i < 0, i))
    names = dict(enumerate(class_names or []))
    return [
        {"class": "unlabelled" if i < 0 else f"{i} {names.get(i, '')}".strip()}
        | {split.root.name: f"{100 * count[i] / max(sum(count.values()), 1):.2f} %" for split, count in zip(splits, counts)}
        for i in list(dict.fromkeys([*names, *seen]))
        if seen
    ]


def print_faults(faults, max_faults):
    for kind in dict.fromkeys(fault.kind for fault in faults):
        of_kind = [fault for fault in faults if fault.kind == kind]
        print(f"\n{kind} ({len(of_kind)})", *of_kind[:max_faults], sep="\n  ")
        if len(of_kind) > max_faults:
            print(f"  and {len(of_kind) - max_faults} more; --max_faults N prints more of them")


def instance_to_draw(splits, name=None):
    """(Split, Report) of the named instance, else of the first without a fault that has images and cameras."""
    suited = [
        (split, report)
        for split in sorted(splits, key=lambda split: not split.root.name.endswith("train"))
        for report in split.reports
        if report.num_images and len(report.views) and report.intrinsics is not None and name in (None, report.name)
    ]
    if not suited:
        raise util.InputError(f"--picture: no instance{f' {name}' if name else ''} with readable images and cameras to draw")
    return min(suited, key=lambda pair: pair[1] in pair[0].broken)


def write_picture(path, splits, settings, class_names, name=None):
    """Draw the cameras of the instance `name` (None: a suitable one) with some of its images."""
    camera_picture = util.load_library("datasets.checks.camera_picture", "--picture")
    split, report = instance_to_draw(splits, name)
    if report.num_label_maps and not class_names:
        class_names = [f"class {i}" for i in range(1 + max(max(r.pixels, default=0) for r in split.reports))]
    class_names = class_names if report.num_label_maps else None
    num_classes, shown = len(class_names) if class_names else None, []
    num_shown = camera_picture.NUM_WITH_LABELS if class_names else camera_picture.NUM_WITHOUT
    for index in camera_picture.choose_views(report.poses, num_shown):
        try:
            shown.append(camera_picture.load_view(report.folder, index, report.views[index], num_classes))
        except util.InputError as error:
            print(f"note: left out of the picture: {error}")
    if not shown:
        raise util.InputError(f"--picture: none of the chosen images of {report.folder} can be read")
    cloud = report.attempt("point cloud", data_util.load_labelled_cloud, report.folder, num_classes) if class_names else None
    facts = [
        ("instances", str(len(split.reports))),
        ("views of each", span([r.num_views for r in split.reports])),
        *camera_facts.facts_of(report.poses, report.intrinsics, settings.pixel_center),
    ]
    title = f"{split.root.name}: the cameras of {report.name}"
    figure = camera_picture.sheet(report.poses, report.intrinsics, shown, title, facts, class_names, cloud)
    try:
        with util.replacing(path) as temporary:
            figure.savefig(temporary, format="png")
    except OSError as error:
        raise util.InputError(f"--picture {path}: cannot be written ({error.strerror}); choose another path") from None
    print(f"wrote {path}: the cameras of {report.folder}")


def open_class(root, obj_name):
    """(split folders, DatasetSettings, class names or None, faults of the files beside the splits)."""
    folders = split_folders.find_splits(root)
    faults, settings = split_folders.empty_splits(root, folders, obj_name), data_util.DatasetSettings()
    try:
        settings = dataio.dataset_settings(folders[0])
    except util.InputError as error:
        faults.append(contents.fault_of(error, "dataset.json"))
    path = split_folders.find_class_list(folders[0], obj_name)
    return folders, settings, None if path is None else data_util.load_class_names(path), faults


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    root = Path(options.root)
    folders, settings, class_names, faults = open_class(root, options.obj_name)
    num_classes = len(class_names) if class_names else None
    splits = [check_split(folder, num_classes, not options.quick, options.num_workers) for folder in folders]

    print(
        f"{root}: pixel_center {settings.pixel_center:g}, half-transparent pixels "
        f"{'over white' if settings.blend_alpha else 'as they are'}, "
        f"{f'{num_classes} classes' if num_classes else 'no class list'}\n"
    )
    print(table([split.row() for split in splits]))
    print("sides (width x height) and focal length in pixels, distance of cameras from what they look at in world units")
    rows = class_rows(splits, class_names)
    if rows:
        print(f"\n{table(rows)}")
    for split in splits:
        for note in split.notes():
            print(f"note: {note}")

    faults += [fault for split in splits for fault in split.faults]
    print_faults(faults, options.max_faults)
    if options.picture:
        write_picture(options.picture, splits, settings, class_names, options.instance)
    if faults:
        num_broken, num_instances = sum(len(s.broken) for s in splits), sum(len(s.reports) for s in splits)
        found = f"{len(faults)} fault{'s' * (len(faults) > 1)} in {num_broken} of {num_instances} instances"
        raise util.InputError(f"{found} of {root}; see above")
    print(f"\nno faults{' among names, headers and cameras' if options.quick else ''}")


if __name__ == "__main__":
    main()
