"""Measure the speed of rendering colours and the classes of a linear head: images/s, ms per image, peak memory.

    python -m bench.rendering                                  # sides of 64 to 512 pixels
    python -m bench.rendering --sides 64,1024 --reference      # compared with the published method

The reference is the published method, with the same modules: all rays of a batch of 32 views at once, one evaluation of
the hypernetwork per view. If the batch does not fit into memory, a smaller one is used and shown in the table. Images
are not written to files. Each mode and side runs in new processes.
"""

import functools

import torch

import options as common
import srns
import util
from bench import command_line, measuring, scene
from kernels import backends
from rendering import renderer
from rendering.precision import PRECISIONS

NUM_CLASSES = 7
PUBLISHED_BATCH = 32
TENSORS_AT_ONCE = 6  # tensors as wide as phi that an evaluation without gradients holds at a time
PIXELS = {"cpu": 2**16, "cuda": 2**22}  # of all measured views together, the default of --views


def build_parser():
    parser = command_line.parser("rendering", __doc__)
    add = parser.add_argument
    add(
        "--sides",
        type=command_line.positives,
        default="64,128,256,512",
        help="sides of the images in pixels, comma-separated",
    )
    add(
        "--views",
        type=common.positive_int,
        help="rendered views of one object (default: up to 32, together at most 65,536 pixels on a CPU, 4 million on a GPU)",
    )
    command_line.add_model(parser)
    add("--precision", choices=sorted(PRECISIONS), default="float32", help="precision of matrix products")
    command_line.add_repeats(parser)
    command_line.add_reference(parser)
    return parser


def views_of(options, side):
    pixels = PIXELS[torch.device(options.device).type]
    return options.views or max(1, min(PUBLISHED_BATCH, pixels // side**2))


def published_batch(options, side, num_views):
    """Views at once: 32, or as many as fit into half of the available memory."""
    bytes_per_view = TENSORS_AT_ONCE * 4 * options.hidden_features * side**2
    return max(1, min(PUBLISHED_BATCH, num_views, measuring.free_memory(options.device) // 2 // bytes_per_view))


def render_here(options, mode, side):
    """Render in this process; returns a dict of views, at_once, s_per_image, mb_before and mb_peak (MiB)."""
    device = util.pick_device(options.device)
    model = scene.make_model(scene.sizes_of(options, 1), device).eval()
    head = srns.LinearHead(options.hidden_features, NUM_CLASSES).to(device)
    num_views = views_of(options, side)
    batch_size = published_batch(options, side, num_views) if mode == "reference" else min(PUBLISHED_BATCH, num_views)
    batch = scene.make_batch(num_views, side, 1, device)
    if mode == "reference":
        batch = scene.per_view(batch)
    else:
        util.keep_freed_memory()
        backends.select("auto", device)
    fast = functools.partial(renderer.render, model, head=head, precision=options.precision)
    render = fast if mode == "fast" else functools.partial(render_as_published, model, head)

    def render_some(first, last, rays=slice(None)):
        per_view = {name: x[first:last] for name, x in batch.items() if name != "instances"}
        render(batch | per_view | {"uv": per_view["uv"][:, rays]})

    def render_all():
        for first in range(0, num_views, batch_size):
            render_some(first, first + batch_size)

    render_some(0, 1, slice(0, 256))
    if device.type == "cuda":
        render_all()
    before = measuring.forget_peak(device)
    seconds = measuring.timed(render_all, device) / num_views
    return {
        "views": num_views,
        "at_once": batch_size,
        "s_per_image": seconds,
        "mb_before": before,
        "mb_peak": measuring.peak_memory(device),
    }


@torch.no_grad()
def render_as_published(model, head, batch):
    outputs = model(batch)
    return outputs["rgb"], head(outputs["features"]).argmax(dim=-1)


def measure(options):
    """A dict per side and mode."""
    rows = []
    for side in options.sides:
        for mode, medians in measuring.median_by_mode(options, render_here, side).items():
            row = {"side": side, "mode": mode} | medians
            rows.append(row | {"fps": 1 / row["s_per_image"], "ms_per_image": 1000 * row["s_per_image"]})
    return measuring.with_ratios(rows, "s_per_image", ["side"])


COLUMNS = {
    "side": ("side", ""),
    "mode": ("mode", ""),
    "views": ("views", ""),
    "at_once": ("at once", ""),
    "fps": ("fps", ".2f"),
    "ms_per_image": ("ms/image", ",.1f"),
    "mb_peak": ("peak MiB", ",.0f"),
    "ratio": ("reference/fast", ".2f"),
}


def describe(options):
    return f"width {options['hidden_features']}, {options['precision']}"


def tables(figures):
    return measuring.table_of_rows(figures, "Rendering colours and classes", COLUMNS, describe)


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    figures = measuring.start(options)
    figures["rows"] = measure(options)
    smaller = [str(row["side"]) for row in figures["rows"] if row["mode"] == "reference" and row["at_once"] < row["views"]]
    if smaller:
        sides = ", ".join(smaller)
        figures["notes"] = [
            f"At {sides} px the published batch of 32 views does not fit into memory; the reference renders fewer at once."
        ]
    measuring.finish(options, figures, tables(figures))


if __name__ == "__main__":
    main()
