"""Measure how memory and time of a step grow with instances and rays, and the size of stored images with their side.

    python -m bench.scale                                     # up to a million latent codes of 256 numbers
    python -m bench.scale --instances 10,1000 --optimizers row_adam,sparse_adam

Prints three tables and the slopes of lines through them. Instances: optimizer steps of a table of random latent codes,
each size in a new process. Rays: a step of a narrow SRN, in blocks of rays and with all rays at once. Sides: the bytes
that --cache stores per image with its label map.
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
from bench import command_line, data, measuring, scene
from kernels import backends
from training import objectives, row_adam

OPTIMIZERS = {
    "row_adam": row_adam.RowAdam,
    "sparse_adam": torch.optim.SparseAdam,
    "adam": functools.partial(torch.optim.Adam, fused=True),
}
TENSORS = {"row_adam": 3, "sparse_adam": 3, "adam": 5}  # of the table's size at the peak: codes, moments, gradients
WAYS = {"blocks": None, "all at once": 0}  # rays_per_block
MIB = measuring.MIB


def build_parser():
    parser = command_line.parser("scale", __doc__)
    add, positive, positives = parser.add_argument, common.positive_int, command_line.positives
    add("--instances", type=positives, default="10,1000,100000,1000000", help="rows of the latent table, comma-separated")
    names = ",".join(OPTIMIZERS)
    add("--optimizers", type=command_line.names_among(OPTIMIZERS), default=names, help="optimizers, comma-separated")
    add("--latent_dim", type=positive, default=256, help="size of a latent code")
    add("--codes", type=positive, default=16, help="latent codes per optimizer step")
    add("--steps", type=positive, default=5, help="measured optimizer steps, after one to warm up")
    add("--rays", type=positives, default="1024,4096,16384,65536", help="rays per step, comma-separated")
    add("--hidden_features", type=positive, default=32, help="width of the SRN for the table of rays")
    add("--sides", type=positives, default="32,64,128,256", help="sides of stored images in pixels, comma-separated")
    add("--images", type=positive, default=16, help="stored images per side")
    return parser


# Over instances


def step_of_table(options, name, num_instances):
    """Step an optimizer in this process; returns a dict of mb, the peak in MiB of table and moments, and ms per step."""
    device = util.pick_device(options.device)
    torch.manual_seed(0)
    small = nn.Embedding(2, options.latent_dim, sparse=name != "adam", device=device)
    take_steps(1, small, OPTIMIZERS[name]([small.weight]), options)  # loads libraries, whose memory is not the table's
    before = measuring.forget_peak(device)
    table = nn.Embedding(num_instances, options.latent_dim, sparse=name != "adam", device=device)
    optimizer = OPTIMIZERS[name]([table.weight])
    take_steps(1, table, optimizer, options)
    seconds = measuring.timed(lambda: take_steps(options.steps, table, optimizer, options), device)
    return {"mb": measuring.peak_memory(device) - before, "ms": 1000 * seconds / options.steps}


def take_steps(num_steps, table, optimizer, options):
    for _ in range(num_steps):
        rows = torch.randint(table.num_embeddings, (options.codes,), device=table.weight.device)
        optimizer.zero_grad(set_to_none=True)
        table(rows).square().mean().backward()
        optimizer.step()


def measure_instances(options):
    """A dict per optimizer and size; mb and ms are None if the table would not fit into memory."""
    rows = []
    for name in options.optimizers:
        for num_instances in options.instances:
            row = {"optimizer": name, "instances": num_instances, "mb": None, "ms": None}
            needed = TENSORS[name] * 4 * options.latent_dim * num_instances
            if needed < 0.8 * measuring.free_memory(options.device):
                row |= measuring.in_own_process(step_of_table, options, name, num_instances)
            rows.append(row)
    return rows


# Over rays


def step_of_rays(options, way, num_rays):
    """Compute one step in this process; returns a dict of rays, mb, the peak of the step in MiB, and ms."""
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
    """A dict per way to compute rays and number of rays."""
    return [
        {"way": way} | measuring.in_own_process(step_of_rays, options, way, num_rays)
        for way in WAYS
        for num_rays in options.rays
    ]


# Over the side


def measure_sides(options, folder):
    """A dict per side: bytes of an image and its label map in the mapped cache."""
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
    """A dict per line fitted to the figures: what, slope, unit, and at_0, its intercept."""
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
RAYS = {"way": ("rays", ""), "rays": ("rays/step", ","), "mb": ("MiB", ",.1f"), "ms": ("ms/step", ",.1f")}
SIDES = {"side": ("side", ""), "pixels": ("pixels", ","), "bytes_per_image": ("bytes/image", ",.0f")}
SLOPES = {"what": ("what grows", ""), "slope": ("slope", ",.3g"), "unit": ("", ""), "at_0": ("at 0", ",.3g")}


def tables(figures):
    return [
        ("Latent codes", figures.get("instances", []), INSTANCES),
        ("Rays per step", figures.get("rays", []), RAYS),
        ("Stored images", figures.get("sides", []), SIDES),
        ("Slopes", figures.get("slopes", []), SLOPES),
    ]


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    figures = measuring.start(options)
    figures["instances"] = measure_instances(options)
    figures["rays"] = measure_rays(options)
    with tempfile.TemporaryDirectory(prefix="bench_scale_") as folder:
        figures["sides"] = measure_sides(options, Path(folder))
    figures["slopes"] = slopes_of(figures)
    figures["notes"] = ["MiB: peak memory above that of the process before the step."]
    measuring.finish(options, figures, tables(figures))


if __name__ == "__main__":
    main()
