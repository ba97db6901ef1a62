"""Measure how fast images are read from PNG files, memory and the mapped cache, and how fast a split opens.

    python -m bench.data                                      # a split of balls, made in a temporary folder
    python -m bench.data --data_root data/Chair/Chair.train   # an existing split
    python -m bench.data --reference                          # compared with the published method
    python -m bench.data --index 6000x250                     # time to open a split of 6000 instances with 250 views each

Prints Markdown tables. Batches are those of training: shuffled, with random rays. Files that were just written or read
come from the system's page cache. A split of 6000 x 250 takes 12 GB of disk while it is measured.

The reference is the published method: every access decodes the PNG, parses pose and intrinsics and returns all rays of
the image, without worker processes.
"""

import argparse
import os
import tempfile
import time
import warnings
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from tqdm import tqdm

import data_util
import dataio
import geometry
import options as common
import util
from bench import command_line, measuring
from datasets.storage import processes, split_index

STORES = {"PNG": {}, "RAM": {"preload": True}, "mapped cache": {"cache": True}}
NUM_CLASSES = 3  # of the balls: background, upper half, lower half
FOCAL, DISTANCE = 1.2, 1.3


def times(text):
    """Type of an option such as 6000x250."""
    try:
        num_instances, num_views = (int(number) for number in text.split("x"))
    except ValueError:
        num_instances = num_views = 0
    if min(num_instances, num_views) < 1:
        raise argparse.ArgumentTypeError(f"expected INSTANCESxVIEWS such as 6000x250, found {text!r}")
    return num_instances, num_views


def build_parser():
    parser = command_line.parser("data", __doc__, device=False)
    add, positive = parser.add_argument, common.positive_int
    add("--data_root", help="split to read (default: one made in a temporary folder)")
    add("--instances", type=positive, default=8, help="instances to make, or to read of --data_root")
    add("--views", type=positive, default=50, help="views of each instance")
    add("--sidelength", type=positive, default=128, help="side of the images in pixels")
    add("--rays_per_image", type=common.at_least(0), default=256, help="random rays of each image; 0: all")
    add("--foreground_fraction", type=common.fraction, default=0.6, help="share of the rays in the foreground")
    add("--batch_size", type=positive, default=16, help="images per batch")
    add("--workers", type=common.comma_separated(int), default="0,1,2,4", help="numbers of worker processes, comma-separated")
    add("--seconds", type=float, default=3.0, help="seconds to measure each combination")
    add("--index", type=times, metavar="NxV", help="only measure opening a split of N instances with V views each")
    add("--temporary", help="folder for temporary files (default: the system's)")
    command_line.add_reference(parser)
    return parser


# Splits of balls


def write_split(root, num_instances, num_views, sidelength):
    """Write a split of shaded balls with label maps; speckles make the images about as compressible as renderings."""
    rng = np.random.default_rng(0)
    for i in tqdm(range(num_instances), "write balls", unit="instance", delay=2, leave=False):
        folder, colour = start_instance(root, i, sidelength), rng.uniform(0.3, 1, 3)
        (folder / "seg").mkdir()
        for view in range(num_views):
            rgba, seg_labels = draw_ball(sidelength, colour, rng)
            iio.imwrite(folder / "rgb" / f"{view:06d}.png", rgba, compress_level=1)
            np.save(folder / "seg" / f"{view:06d}.npy", seg_labels)
            (folder / "pose" / f"{view:06d}.txt").write_text(pose_text(rng))


def start_instance(root, i, sidelength):
    folder = root / f"ball_{i:05d}"
    for kind in ("rgb", "pose"):
        (folder / kind).mkdir(parents=True)
    half = sidelength / 2
    (folder / "intrinsics.txt").write_text(
        f"{FOCAL * sidelength} {half} {half} 0.\n0. 0. 0.\n1.\n{sidelength} {sidelength}\n"
    )
    return folder


def draw_ball(side, colour, rng):
    """A speckled ball lit from the viewer: (side, side, 4) uint8 RGBA and (side, side) uint8 labels."""
    v, u = (np.mgrid[:side, :side] + 0.5) / side * 2 - 1 + rng.uniform(-0.1, 0.1, (2, 1, 1))
    height = np.sqrt(np.clip(0.6**2 - u**2 - v**2, 0, None)) / 0.6
    hit = height > 0
    rgb = (0.3 + 0.7 * height)[..., None] * colour * 255 + rng.integers(-3, 4, (side, side, 1))
    rgba = np.dstack([rgb.clip(0, 255) * hit[..., None], 255 * hit]).astype(np.uint8)
    return rgba, np.where(hit, np.where(v < 0, 1, 2), 0).astype(np.uint8)


def pose_text(rng):
    azimuth_deg, elevation_deg = torch.tensor(rng.uniform((0, -60), (360, 60)), dtype=torch.float32)
    pose = geometry.look_at(geometry.on_sphere(azimuth_deg, elevation_deg, DISTANCE))
    return "".join(" ".join(f"{number:.9g}" for number in row) + "\n" for row in pose.tolist())


def write_large_split(root, num_instances, num_views):
    """Write a split with all files but tiny images of 8 x 8. The instances differ only in the order of their poses."""
    rng = np.random.default_rng(0)
    pngs = [iio.imwrite("<bytes>", rng.integers(256, size=(8, 8, 4), dtype=np.uint8), extension=".png") for _ in range(16)]
    poses = [pose_text(rng) for _ in range(251)]

    def write(i):
        folder = start_instance(root, i, 8)
        for view in range(num_views):
            (folder / "rgb" / f"{view:06d}.png").write_bytes(pngs[view % len(pngs)])
            (folder / "pose" / f"{view:06d}.txt").write_text(poses[(i + view) % len(poses)])

    written = processes.ordered(write, num_instances, len(os.sched_getaffinity(0)))
    for _ in tqdm(written, f"write {root}", num_instances, unit="instance", delay=2, leave=False):
        pass


# Measurements


class PublishedDataset(dataio.SceneClassDataset):
    """Keeps only the names of the files."""

    def __getitem__(self, key):
        item = super().__getitem__(key.index)  # whole images
        instance = self.instances[item["instance_idx"]]
        _, view = self.files.locate(key.index)
        intrinsics = data_util.load_intrinsics(instance.folder / "intrinsics.txt")
        item["intrinsics"] = intrinsics.matrix(self.sidelength)
        item["cam2world"] = data_util.load_poses([instance.path("pose", view)], intrinsics.poses_are_world2cam)[0]
        return item


def measure_reading(options, root, cache):
    """A dict per store and number of workers: images/s and rays/s of training batches."""
    with_labels = all((folder / "seg").is_dir() for folder in dataio.instance_folders(root, options.instances))
    instances = dataio.index_split(
        root, options.instances, with_labels=with_labels, max_num_observations=options.views, cached=not options.data_root
    )
    num_classes = 2**15 if with_labels and options.data_root else NUM_CLASSES if with_labels else None
    what = instances, options.sidelength, dataio.dataset_settings(root), num_classes
    draw = options.rays_per_image, options.foreground_fraction
    rows = []

    def measure(mode, name, dataset, workers, seconds_to_fill=None):
        for num_workers in workers:
            images_per_s = throughput(dataset, options.batch_size, num_workers, options.seconds)
            rays = dataset.rays_per_image or options.sidelength**2
            rows.append(
                {
                    "mode": mode,
                    "from": name,
                    "workers": num_workers,
                    "images_per_s": images_per_s,
                    "rays_per_s": images_per_s * rays,
                    "seconds_to_fill": seconds_to_fill,
                }
            )

    for name, kept in STORES.items():
        start = time.perf_counter()
        dataset = dataio.SceneClassDataset(*what, *draw, **kept | ({"cache": cache} if "cache" in kept else {}))
        measure("fast", name, dataset, options.workers, time.perf_counter() - start)
    if options.reference:
        measure("reference", "PNG", PublishedDataset(*what), [0])
        for row in rows[:-1]:
            row["ratio"] = row["images_per_s"] / rows[-1]["images_per_s"]
    return rows


def throughput(dataset, batch_size, num_workers, seconds):
    """Images per second of training batches, after each worker has started."""
    warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores are measured on purpose
    batches = iter(dataio.training_batches(dataset, batch_size, 0, 10**9, num_workers=num_workers))
    for _ in range(2 * num_workers + 1):
        next(batches)
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or not count:
        next(batches)
        count += 1
    return count * batch_size / (time.perf_counter() - start)


def measure_opening(root, with_labels, repeats=3):
    """Seconds and peak memory to open a split: without an index, writing one, and reading it."""
    return [
        {"index": "none, nothing kept", **opened(root, with_labels, cached=False)},
        *([] if split_index.path_of(root).exists() else [{"index": "none, written", **opened(root, with_labels)}]),
        {"index": "read", **min((opened(root, with_labels) for _ in range(repeats)), key=lambda row: row["seconds"])},
    ]


def opened(root, with_labels, cached=True):
    """`open_here` in a new process."""
    return measuring.in_own_process(open_here, str(root), with_labels, cached)


def open_here(root, with_labels, cached):
    """Open a split in this process; returns a dict of observations, seconds, mb_before and mb_peak (MiB)."""
    before, start = measuring.forget_peak(), time.perf_counter()
    instances = dataio.index_split(root, with_labels=with_labels, cached=cached)
    dataset = dataio.SceneClassDataset(instances, 128, data_util.DatasetSettings(), NUM_CLASSES if with_labels else None)
    seconds = time.perf_counter() - start
    return {"observations": len(dataset), "seconds": seconds, "mb_before": before, "mb_peak": measuring.peak_memory()}


# Tables


READING = {
    "mode": ("mode", ""),
    "from": ("images from", ""),
    "workers": ("workers", ""),
    "images_per_s": ("images/s", ",.0f"),
    "rays_per_s": ("rays/s", ",.0f"),
    "seconds_to_fill": ("seconds to fill", ".1f"),
    "ratio": ("fast/reference", ".2f"),
}
OPENING = {
    "index": ("index", ""),
    "observations": ("observations", ","),
    "seconds": ("seconds to open", ".2f"),
    "mb_before": ("MiB before", ",.0f"),
    "mb_peak": ("peak MiB", ",.0f"),
}


def tables(figures):
    """[(title, rows, columns)]; with --index there is no table of reading."""
    reading = [("Reading images", figures.get("reading", []), READING)] if "reading" in figures or not figures else []
    return [*reading, ("Opening a split", figures.get("opening", []), OPENING)]


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    figures = measuring.start(options)
    try:
        temporary = tempfile.TemporaryDirectory(dir=options.temporary, prefix="bench_data_")
    except OSError as error:
        raise util.InputError(f"--temporary {options.temporary}: cannot be written ({error.strerror})") from None
    with temporary as folder:
        root = Path(options.data_root or Path(folder) / "Ball" / "Ball.train")
        if options.index:
            start = time.perf_counter()
            root = Path(folder) / "Ball" / "Ball.train"
            write_large_split(root, *options.index)
            print(f"wrote {options.index[0]} x {options.index[1]} views in {time.perf_counter() - start:.0f} s\n")
        elif not options.data_root:
            write_split(root, options.instances, options.views, options.sidelength)
        if not options.index:
            figures["reading"] = measure_reading(options, root, Path(folder) / "cache")
        if not options.data_root:
            split_index.path_of(root).unlink(missing_ok=True)
        figures["opening"] = measure_opening(root, with_labels=False)
    measuring.finish(options, figures, tables(figures))


if __name__ == "__main__":
    main()
