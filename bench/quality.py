"""How soon stage 1 gets to a validation PSNR: the published way, and what each change to it brings.

    python -m bench.quality --json FILE --picture curve.png                 # on the data of `make demo`, two hours
    python -m bench.quality --json FILE --variants 4,5 --budget 300         # two of them again; the others' curves stay

Every variant trains in a process of its own until its time is up or its schedule ends. Seconds are those of training:
validation does not count. The picture needs matplotlib, which is in requirements-dev.txt.
"""

import argparse
import contextlib
import json
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch

import options as common
import util
from bench import measuring

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = dict(
    img_sidelengths=64,
    max_steps_per_img_sidelength=100_000,
    batch_size_per_img_sidelength=4,
    rays_per_image=0,
    hidden_features=256,
    embedding_size=256,
    lr=4e-4,
    initial_distance=0,
    rays_per_block=0,
    fused="off",
    steps_til_val=10,
)
DEMO = dict(max_steps_per_img_sidelength=2300)  # what the schedule of train_configs/demo.yml is made for
CHANGES = {  # each on top of those before it
    "reference": {},
    "+ arithmetic: blocks of rays": dict(rays_per_block=None),
    "+ start: rays aimed at the object": dict(initial_distance=None),
    "+ rays: 64 random ones of 32 images": dict(
        rays_per_image=64, batch_size_per_img_sidelength=32, foreground_fraction=0.6, steps_til_val=15
    ),
    "+ width: 96 of 256, codes of 64": dict(hidden_features=96, embedding_size=64, steps_til_val=20),
    "+ schedule: rate 1.5e-3, warm-up, decay": dict(lr=1.5e-3, lr_warmup_steps=100, lr_decay_fraction=0.4) | DEMO,
    "+ fused: layers and march in C": dict(fused="auto"),
}
LEVELS = (10, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24)  # dB that the table tells the time to


def build_parser():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", default=str(ROOT / "data" / "demo" / "Chair"), help="class folder: with .train, .train_val")
    parser.add_argument(
        "--budget",
        type=common.comma_separated(float),
        default="1200",
        help="seconds of training for each variant, or as many numbers as variants",
    )
    parser.add_argument(
        "--variants",
        type=common.comma_separated(int),
        default=",".join(map(str, range(len(CHANGES)))),
        help="which, counted from 0, the reference",
    )
    parser.add_argument("--threads", type=common.positive_int, help="of the processor (default: PyTorch's)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--options", default="", help="more options for train.py of every variant, as on its command line")
    parser.add_argument("--json", metavar="FILE", help="keep the curves there; those of other variants in it are told too")
    parser.add_argument("--picture", metavar="PNG", help="draw the curves")
    return parser


def options_of(variant):
    """The options of train.py of a variant, all changes up to it."""
    options = dict(PUBLISHED)
    for change in list(CHANGES.values())[: variant + 1]:
        options |= change
    return {name: value for name, value in options.items() if value is not None}


class Enough(Exception):
    """Training has gone on for as long as it should."""


def train_variant(arguments, threads, budget, keeps_memory=True):
    """Trains, and returns [(seconds of training, step, validation PSNR)]; ends when the budget (s) is spent."""
    import train
    from training import loop, watch

    if threads:
        torch.set_num_threads(threads)
    curve, looking_s, started = [], 0.0, None
    first_fit, after_step = loop.fit, loop.Run.after_step

    def fit(*given, **named):
        nonlocal started
        started = time.perf_counter()
        return first_fit(*given, **named)

    def timed(run, step, terms, num_rays):
        nonlocal looking_s
        step_ended = time.perf_counter()
        run.seconds = step_ended - started - looking_s
        after_step(run, step, terms, num_rays)
        looking_s += time.perf_counter() - step_ended
        if run.seconds > budget:
            raise Enough

    def look(looker, step):
        curve.append((looker.run.seconds, step, looker.scores()["psnr"]))
        print(f"{curve[-1][0]:8.1f} s, step {step:6d}: {curve[-1][2]:.2f} dB", flush=True)

    replaced = [
        (loop, "fit", fit),
        (loop.Run, "after_step", timed),
        (watch.Validation, "__call__", look),
        (watch.Preview, "__call__", lambda preview, step: None),
    ]
    if not keeps_memory:
        replaced.append((util, "keep_freed_memory", lambda: False))
    with contextlib.ExitStack() as stack:
        for owner, name, function in replaced:
            stack.enter_context(mock.patch.object(owner, name, function))
        stack.enter_context(contextlib.suppress(Enough))
        train.main(arguments)
    return curve


def measure(options):
    """The curves of the variants that are asked for: {name: [(seconds, step, PSNR)]}, one after the other."""
    data = Path(options.data)
    budgets = options.budget * (len(options.variants) if len(options.budget) == 1 else 1)
    for variant, budget in zip(options.variants, budgets):
        with tempfile.TemporaryDirectory(prefix="bench_quality_") as logs:
            given = options_of(variant) | dict(
                data_root=data / f"{data.name}.train",
                val_root=data / f"{data.name}.train_val",
                logging_root=logs,
                log_dir="run",
                device=options.device,
                class_weight=0,
                max_num_observations_val=1,
                steps_til_ckpt=10**9,
            )
            arguments = [f"--{key}={value}" for key, value in given.items()] + ["--preload", *options.options.split()]
            title = list(CHANGES)[variant]
            print(f"\n{title}", flush=True)
            yield title, measuring.in_own_process(train_variant, arguments, options.threads, budget, variant > 0)


def seconds_to(curve, psnr):
    """Seconds until a curve first has that PSNR, None if it never has."""
    return next((seconds for seconds, _, found in curve if found >= psnr), None)


def tables(figures):
    """[(title, rows, columns)]: when each variant has each PSNR, and how many times as fast as the reference that is.

    `> 1200`: not within 1200 seconds; `> 60`: the reference was 60 times as long at it and still had not come to it.
    """
    curves = {name: figures["curves"][name] for name in CHANGES if name in figures.get("curves", ())}
    found = {
        name: {level: seconds_to(curve, level) for level in LEVELS} | {"end": curve[-1][0], "best": max(p for *_, p in curve)}
        for name, curve in curves.items()
    }
    levels = [level for level in LEVELS if any(row[level] is not None for row in found.values())]
    reference = found.get("reference")

    def seconds(row, level):
        return f"> {row['end']:.0f}" if row[level] is None else f"{row[level]:.0f}"

    def times(row, level):
        if row[level] is None or reference is None:
            return None
        reached = reference[level]
        return f"> {reference['end'] / row[level]:.1f}" if reached is None else f"{reached / row[level]:.1f}"

    columns = {"variant": ("variant", "")} | {level: (f"{level} dB", "") for level in levels}

    def rows(cell):
        return [
            {"variant": name, "best": row["best"]} | {level: cell(row, level) for level in levels}
            for name, row in found.items()
        ]

    return [
        ("Seconds of training to a PSNR of views not trained on", rows(seconds), columns | {"best": ("best dB", ".2f")}),
        ("Times as fast as the reference", rows(times), columns),
    ]


def draw(curves, path):
    try:
        import matplotlib
    except ImportError:
        raise util.InputError("--picture: needs matplotlib; pip install -r requirements-dev.txt") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for name, curve in ((name, curves[name]) for name in CHANGES if name in curves):
        seconds, _, psnr = zip(*curve)
        axes.plot(seconds, psnr, marker=".", label=name)
    axes.set(xscale="log", xlabel="seconds of training", ylabel="PSNR of views not trained on (dB)")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    with util.replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    if not Path(options.data).is_dir():
        raise util.InputError(f"--data {options.data}: no such folder; `make demo` makes it, or name a class folder")
    wrong = [variant for variant in options.variants if not 0 <= variant < len(CHANGES)]
    if wrong or not options.variants:
        raise util.InputError(f"--variants: expected numbers from 0 to {len(CHANGES) - 1}, found {wrong or 'none'}")
    if len(options.budget) not in (1, len(options.variants)):
        raise util.InputError(f"--budget: expected 1 number or {len(options.variants)}, found {len(options.budget)}")
    figures = {"curves": {}}
    if options.json and Path(options.json).is_file():
        figures = json.loads(Path(options.json).read_text())
    figures |= measuring.start(options)
    for name, curve in measure(options):
        figures["curves"][name] = curve
        measuring.write(options, figures)
    measuring.show(figures, tables(figures))
    if options.picture:
        draw(figures["curves"], options.picture)


if __name__ == "__main__":
    main()
