"""How fast whole images are rendered, colours and classes by a linear head: frames a second, ms, peak memory.

    python -m bench.rendering                                  # 64 to 512 pixels a side
    python -m bench.rendering --sides 64,1024 --reference      # and the published way beside it

The published way, with the same modules: all rays of a batch of 32 views at once, the hypernetwork once per view. Where
that does not fit into memory, the batch is smaller, and the table shows it. Nothing is written to files. Each mode of
each side is measured in processes of its own, by turns.
"""

import functools

import torch

import options as common
import srns
import util
from bench import measuring, scene
from kernels import backends
from rendering import renderer
from rendering.precision import PRECISIONS

NUM_CLASSES = 7
PUBLISHED_BATCH = 32
TENSORS_AT_ONCE = 6  # of the width of phi, that an evaluation without gradients holds at a time
PIXELS = {"cpu": 2**16, "cuda": 2**22}  # of all views that are measured, where --views leaves it open


def build_parser():
    parser = measuring.parser(__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sides", type=measuring.positives, default="64,128,256,512", help="of the images, with commas")
    add(
        "--views",
        type=common.positive_int,
        help="views of one object that are rendered (default: at most 32, and so many as "
        "have 65536 pixels on a CPU, 4 million on a GPU)",
    )
    measuring.add_model(parser)
    add("--precision", choices=sorted(PRECISIONS), default="float32", help="of the products of matrices")
    add("--repeats", type=common.positive_int, default=1, help="processes of each mode; medians are told")
    measuring.add_reference(parser, "measure the published way too")
    return parser


def views_of(options, side):
    pixels = PIXELS[torch.device(options.device).type]
    return options.views or max(1, min(PUBLISHED_BATCH, pixels // side**2))


def published_batch(options, side, num_views):
    """Views at once: 32, or what half of the free memory holds."""
    bytes_per_view = TENSORS_AT_ONCE * 4 * options.hidden_features * side**2
    return max(1, min(PUBLISHED_BATCH, num_views, measuring.free_memory(options.device) // 2 // bytes_per_view))


def render_here(settings, mode, side):
    """A dict of seconds per image and peak memory of a mode, in this process. settings: the options, a dict."""
    options = build_parser().parse_args([])
    vars(options).update(settings)
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
    modes = measuring.MODES if options.reference else measuring.MODES[:1]
    rows = []
    for side in options.sides:
        run = functools.partial(measuring.in_own_process, render_here, vars(options))
        found = measuring.interleaved(modes, options.repeats, lambda mode: run(mode, side))
        for mode in modes:
            row = {"side": side, "mode": mode} | measuring.medians(found[mode])
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


def tables(figures):
    title, options = "Rendering, colours and classes", figures.get("options")
    if options:
        title += f": width {options['hidden_features']}, {options['precision']}"
    return [(title, figures.get("rows", []), COLUMNS)]


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    figures = measuring.start(options)
    figures["rows"] = measure(options)
    smaller = [str(row["side"]) for row in figures["rows"] if row["mode"] == "reference" and row["at_once"] < row["views"]]
    if smaller:
        sides = ", ".join(smaller)
        figures["notes"] = [f"At {sides} px the published batch of views does not fit into memory: fewer at once."]
    measuring.finish(options, figures, tables(figures))


if __name__ == "__main__":
    main()
