"""What grows with a data set: memory and time of a step over instances, over rays, and bytes of an image over its side.

    python -m bench.scale                                     # up to a million latent codes of 256
    python -m bench.scale --instances 10,1000 --optimizers row_adam,sparse_adam

Three tables and their slopes. Over instances: a latent table of random codes alone, a step of its optimizer for a batch
of codes; each size in a process of its own. Over rays: a step of a narrow SRN, in blocks and all at once. Over the side:
what --cache and --preload hold of an image and its label map.
"""

import functools
import tempfile
from pathlib import Path

import torch
from torch import nn

import data_util
import dataio
import options as common
import util
from bench import data, measuring, scene
from kernels import backends
from training import objectives, row_adam

OPTIMIZERS = {
    "row_adam": row_adam.RowAdam,
    "sparse_adam": torch.optim.SparseAdam,
    "adam": functools.partial(torch.optim.Adam, fused=True),
}
TENSORS = {"row_adam": 3, "sparse_adam": 3, "adam": 5}  # as large as the table, at most: codes, moments, gradient
WAYS = {"blocks": None, "all at once": 0}  # rays_per_block
MIB = measuring.MIB


def build_parser():
    parser = measuring.parser(__doc__.splitlines()[0])
    add, positive = parser.add_argument, common.positive_int
    add("--instances", type=measuring.positives, default="10,1000,100000,1000000", help="rows of the table, with commas")
    add("--optimizers", type=common.comma_separated(str), default="row_adam,sparse_adam,adam", help="with commas")
    add("--latent_dim", type=positive, default=256, help="numbers of a code")
    add("--codes", type=positive, default=16, help="of a step")
    add("--steps", type=positive, default=5, help="that are measured, after the first")
    add("--rays", type=measuring.positives, default="1024,4096,16384,65536", help="of a step, with commas")
    add("--hidden_features", type=positive, default=32, help="width of the SRN whose step is measured over rays")
    add("--sides", type=measuring.positives, default="32,64,128,256", help="of stored images, with commas")
    add("--images", type=positive, default=16, help="that are stored at each side")
    return parser


# Over instances


def step_of_table(settings, name, num_instances):
    """A dict of MiB of the table with its moments, at most, and of ms of a step, in this process."""
    options = build_parser().parse_args([])
    vars(options).update(settings)
    device = util.pick_device(options.device)
    torch.manual_seed(0)
    touch = nn.Embedding(2, options.latent_dim, sparse=name != "adam", device=device)
    steps_of(name, touch, options, device)(1)  # what is loaded late
    before = measuring.forget_peak(device)
    table = nn.Embedding(num_instances, options.latent_dim, sparse=name != "adam", device=device)
    step = steps_of(name, table, options, device)
    step(1)
    seconds = measuring.timed(lambda: step(options.steps), device)
    return {"mb": measuring.peak_memory(device) - before, "ms": 1000 * seconds / options.steps}


def steps_of(name, table, options, device):
    optimizer = OPTIMIZERS[name]([table.weight])

    def steps(number):
        for _ in range(number):
            rows = torch.randint(table.num_embeddings, (options.codes,), device=device)
            optimizer.zero_grad(set_to_none=True)
            table(rows).square().mean().backward()
            optimizer.step()

    return steps


def measure_instances(options):
    """A dict per optimizer and size; what would not fit into memory is left empty."""
    rows = []
    for name in options.optimizers:
        for num_instances in options.instances:
            row = {"optimizer": name, "instances": num_instances, "mb": None, "ms": None}
            needed = TENSORS[name] * 4 * options.latent_dim * num_instances
            if needed < 0.8 * measuring.free_memory(options.device):
                row |= measuring.in_own_process(step_of_table, vars(options), name, num_instances)
            rows.append(row)
    return rows


# Over rays


def step_of_rays(settings, way, num_rays):
    """A dict of MiB of a step, at most, and of its ms, in this process."""
    options = build_parser().parse_args([])
    vars(options).update(settings)
    device = util.pick_device(options.device)
    backends.select("auto" if WAYS[way] is None else "torch", device)
    sizes = {"num_instances": 4, "latent_dim": 16, "hidden_features": options.hidden_features}
    model = scene.make_model(sizes, device)
    rays_per_block = objectives.RAYS_PER_BLOCK[device.type] if WAYS[way] is None else WAYS[way]
    objective = objectives.SRNObjective(model, objectives.Weights(), rays_per_block=rays_per_block)
    sidelength = max(1, round((num_rays / 4) ** 0.5))
    batch = scene.make_batch(4, sidelength, 4, device)

    def step(batch):
        model.zero_grad(set_to_none=True)
        sum(objective(batch).values()).backward()

    step(batch if device.type == "cuda" else scene.make_batch(4, 4, 4, device))
    before = measuring.forget_peak(device)
    seconds = measuring.timed(lambda: step(batch), device)
    return {"rays": 4 * sidelength**2, "mb": measuring.peak_memory(device) - before, "ms": 1000 * seconds}


def measure_rays(options):
    """A dict per way and number of rays."""
    return [
        {"way": way} | measuring.in_own_process(step_of_rays, vars(options), way, num_rays)
        for way in WAYS
        for num_rays in options.rays
    ]


# Over the side


def measure_sides(options, folder):
    """A dict per side: bytes that an image and its label map take in the mapped cache."""
    rows = []
    for side in options.sides:
        root, cache = folder / str(side) / "Ball" / "Ball.train", folder / str(side) / "cache"
        data.write_split(root, 1, options.images, side)
        instances = dataio.index_split(root, with_labels=True, cached=False)
        dataio.SceneClassDataset(instances, side, data_util.DatasetSettings(), data.NUM_CLASSES, cache=cache)
        total = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
        rows.append({"side": side, "pixels": side**2, "bytes_per_image": total / options.images})
    return rows


# Slopes


def slopes_of(figures):
    """A dict per straight line through the figures: what grows, with what, and by how much."""
    found = []

    def add(what, rows, x, y, factor, unit):
        rows = [row for row in rows if row[y] is not None]
        if len({row[x] for row in rows}) > 1:
            slope, start = measuring.line_through([row[x] for row in rows], [row[y] for row in rows])
            found.append({"what": what, "slope": slope * factor, "unit": unit, "at_0": start})

    for name in dict.fromkeys(row["optimizer"] for row in figures["instances"]):
        rows = [row for row in figures["instances"] if row["optimizer"] == name]
        large = [row for row in rows if row["instances"] >= 1000] if len(rows) > 2 else rows
        add(f"memory of codes, {name}", large, "instances", "mb", MIB, "bytes per instance")
        add(f"step of codes, {name}", rows, "instances", "ms", 1e6, "ms per million instances")
    for way in WAYS:
        rows = [row for row in figures["rays"] if row["way"] == way]
        add(f"memory of rays, {way}", rows, "rays", "mb", 1000, "MiB per 1,000 rays")
        add(f"step of rays, {way}", rows, "rays", "ms", 1000, "ms per 1,000 rays")
    add("stored image and labels", figures["sides"], "pixels", "bytes_per_image", 1, "bytes per pixel")
    return found


INSTANCES = {
    "optimizer": ("optimizer", ""),
    "instances": ("instances", ","),
    "mb": ("MiB", ",.1f"),
    "ms": ("ms/step", ",.2f"),
}
RAYS = {"way": ("rays", ""), "rays": ("of a step", ","), "mb": ("MiB", ",.1f"), "ms": ("ms/step", ",.1f")}
SIDES = {"side": ("side", ""), "pixels": ("pixels", ","), "bytes_per_image": ("bytes/image", ",.0f")}
SLOPES = {"what": ("what grows", ""), "slope": ("slope", ",.3g"), "unit": ("", ""), "at_0": ("at 0", ",.3g")}


def tables(figures):
    return [
        ("Latent codes", figures.get("instances", []), INSTANCES),
        ("Rays of a step", figures.get("rays", []), RAYS),
        ("Stored images", figures.get("sides", []), SIDES),
        ("Slopes", figures.get("slopes", []), SLOPES),
    ]


@util.command
def main(argv=None):
    parser = build_parser()
    options = parser.parse_args(argv)
    unknown = sorted(set(options.optimizers) - set(OPTIMIZERS))
    if unknown:
        parser.error(f"--optimizers {unknown[0]}: choose among {', '.join(OPTIMIZERS)}")
    figures = measuring.start(options)
    figures["instances"] = measure_instances(options)
    figures["rays"] = measure_rays(options)
    with tempfile.TemporaryDirectory(prefix="bench_scale_") as folder:
        figures["sides"] = measure_sides(options, Path(folder))
    figures["slopes"] = slopes_of(figures)
    figures["notes"] = ["MiB are what came on top of the process before the step."]
    measuring.finish(options, figures, tables(figures))


if __name__ == "__main__":
    main()
