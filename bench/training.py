"""Measure the speed of a training step: images/s, rays/s, peak memory, and GFLOP/s against the limit of the device.

    python -m bench.training                                  # the SRN at 128 x 128, batches of one and of four images
    python -m bench.training --semantic --reference           # with the U-Net, compared with the published method
    python -m bench.training --precision bfloat16 --compile   # on a GPU

The reference is the published method, with the same modules: float32, all rays and their activations at once, one
evaluation of the hypernetwork per view, torch.optim.SparseAdam for the codes and unfused torch.optim.Adam for the rest.
Each mode and batch size runs in new processes, since memory that one measurement has freed would speed up the next.
"""

import time

import torch

import options as common
import util
from bench import command_line, measuring, scene
from rendering.precision import PRECISIONS
from training import loop, objectives, row_adam

NUM_CLASSES = 7


def build_parser():
    parser = command_line.parser("training", __doc__)
    add, positive = parser.add_argument, common.positive_int
    add("--side", type=positive, default=128, help="side of the images in pixels")
    add("--batches", type=command_line.positives, default="1,4", help="batch sizes in images, comma-separated")
    add("--instances", type=positive, default=100, help="rows of the latent table; the views of a batch use different rows")
    command_line.add_model(parser)
    add("--semantic", action="store_true", help=f"add the segmentation U-Net with {NUM_CLASSES} classes")
    add("--rays_per_block", type=common.at_least(0), help="as in train.py (default: depends on the device)")
    add("--kept_rays", type=common.at_least(0), help="as in train.py (default: depends on the device)")
    add("--precision", choices=sorted(PRECISIONS), default="float32", help="as in train.py")
    common.add_fused(parser)
    add("--compile", action="store_true", help="as in train.py")
    add("--checkpoint_marching", action="store_true", help="as in train.py")
    add("--steps", type=positive, help="measured steps per process, after the warm-up (default: 2 on a CPU, 10 on a GPU)")
    command_line.add_repeats(parser)
    command_line.add_reference(parser)
    return parser


class Clock:
    """Replaces progress.Run in loop.fit and measures the time after the first `num_skipped` steps."""

    def __init__(self, device, num_skipped):
        self.device, self.num_skipped = device, num_skipped
        self.begin = time.perf_counter()

    def to_device(self, batch):
        return batch

    def after_step(self, step, terms, num_rays):
        if step == self.num_skipped:
            measuring.synchronise(self.device)
            self.begin = time.perf_counter()

    def seconds(self):
        measuring.synchronise(self.device)
        return time.perf_counter() - self.begin


def step_here(options, mode, batch_size):
    """Train for some steps in this process; returns a dict of s_per_step, mb_before and mb_peak (MiB)."""
    device = util.pick_device(options.device)
    num_classes = NUM_CLASSES if options.semantic else None
    model = scene.make_model(scene.sizes_of(options, options.instances, num_classes), device)
    batch = scene.make_batch(batch_size, options.side, options.instances, device, num_classes)
    codes = [model.latent_codes.weight]
    if mode == "fast":
        util.keep_freed_memory()
        common.use_fused(options, device)
        rays_per_block, kept_rays = objectives.rays_at_once(options, device)
        precision = options.precision
        model.ray_marcher.checkpoint_steps = options.checkpoint_marching
        if options.compile:
            model.compile_rays()
        optimizers = [row_adam.RowAdam(codes), torch.optim.Adam(model.networks(), fused=True)]
    else:
        rays_per_block, kept_rays, precision, batch = 0, 0, "float32", scene.per_view(batch)
        optimizers = [torch.optim.SparseAdam(codes), torch.optim.Adam(model.networks())]
    objective = objectives.SRNObjective(
        model,
        objectives.Weights(),
        with_classes=options.semantic,
        rays_per_block=rays_per_block,
        precision=precision,
        kept_rays=kept_rays,
    )
    skipped = [batch] * (3 if device.type == "cuda" or options.compile and mode == "fast" else 1)
    num_steps = options.steps or (10 if device.type == "cuda" else 2)
    before = measuring.forget_peak(device)
    clock = Clock(device, len(skipped))
    loop.fit(objective, skipped + [batch] * num_steps, optimizers, clock)
    seconds = clock.seconds()
    return {"s_per_step": seconds / num_steps, "mb_before": before, "mb_peak": measuring.peak_memory(device)}


def measure(options):
    """A dict per batch size and mode, and {precision: the device's limit in GFLOP/s}."""
    limits = {precision: measuring.product_limit(options.device, precision) for precision in {options.precision, "float32"}}
    num_classes = NUM_CLASSES if options.semantic else None
    sizes = tuple(scene.sizes_of(options, options.instances, num_classes).items())
    rows = []
    for batch_size in options.batches:
        gflop = 3 * measuring.flops_of(batch_size, options.side**2, options.semantic, sizes) / 1e9
        for mode, medians in measuring.median_by_mode(options, step_here, batch_size).items():
            row = {"mode": mode, "batch": batch_size} | medians
            row["images_per_s"] = batch_size / row["s_per_step"]
            row["rays_per_s"] = row["images_per_s"] * options.side**2
            row["gflop_per_s"] = gflop / row["s_per_step"]
            row["share_of_limit"] = row["gflop_per_s"] / limits[options.precision if mode == "fast" else "float32"]
            rows.append(row)
    return measuring.with_ratios(rows, "s_per_step", ["batch"]), limits


COLUMNS = {
    "mode": ("mode", ""),
    "batch": ("batch", ""),
    "s_per_step": ("s/step", ".3f"),
    "images_per_s": ("images/s", ".2f"),
    "rays_per_s": ("rays/s", ",.0f"),
    "gflop_per_s": ("GFLOP/s", ",.0f"),
    "share_of_limit": ("of limit", ".0%"),
    "mb_peak": ("peak MiB", ",.0f"),
    "ratio": ("reference/fast", ".2f"),
}


def describe(options):
    model = "SRN and U-Net" if options["semantic"] else "SRN"
    text = f"{model}, {options['side']} x {options['side']}, width {options['hidden_features']}, {options['precision']}"
    text += ", compiled" if options["compile"] else ""
    return text + (", PyTorch without C code" if options.get("fused") == "off" else "")


def tables(figures):
    return measuring.table_of_rows(figures, "Training step", COLUMNS, describe)


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    figures = measuring.start(options)
    figures["rows"], figures["limit_gflop_per_s"] = measure(options)
    limits = ", ".join(f"{limit:,.0f} GFLOP/s in {name}" for name, limit in figures["limit_gflop_per_s"].items())
    figures["notes"] = [f"Limit: matrix products reach {limits}. A step counts as three evaluations of the model."]
    measuring.finish(options, figures, tables(figures))


if __name__ == "__main__":
    main()
