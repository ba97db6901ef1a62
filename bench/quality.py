"""Measure how long stage 1 trains to reach a validation PSNR: with the published method, and with each change to it.

    python -m bench.quality --json FILE --picture curve.png                 # on the data of `make demo`; takes two hours
    python -m bench.quality --json FILE --variants 4,5 --budget 300         # only these; the file keeps the other curves

Each variant trains in a new process until its budget is spent or its schedule ends. The seconds are those of training,
without validation. The picture needs matplotlib, which is in requirements/dev.txt.
"""

import contextlib
import json
import tempfile
import time
from pathlib import Path
from unittest import mock

import torch

import options as common
import util
from bench import command_line, measuring

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
DEMO = dict(max_steps_per_img_sidelength=3800)  # as in train_configs/demo.yml
CHANGES = {  # each is added to those before it; None: the default of train.py
    "reference": {},
    "+ arithmetic: blocks of rays": dict(rays_per_block=None),
    "+ start: rays aimed at the object": dict(initial_distance=None),
    "+ rays: 64 random ones of 32 images": dict(
        rays_per_image=64, batch_size_per_img_sidelength=32, foreground_fraction=0.6, steps_til_val=15
    ),
    "+ width: 96 of 256, codes of 64": dict(hidden_features=96, embedding_size=64, steps_til_val=20),
    "+ schedule: rate 1.2e-3, warm-up, decay": dict(lr=1.2e-3, lr_warmup_steps=100, lr_decay_fraction=1.0) | DEMO,
    "+ encoding: 4 octaves": dict(positional_encoding=4),
    "+ fused: layers and march in C": dict(fused="auto"),
}
LEVELS = (10, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24)  # dB, a column each


def build_parser():
    parser = command_line.parser("quality", __doc__)
    parser.add_argument(
        "--data",
        default=str(ROOT / "data" / "demo" / "Chair"),
        help="class folder such as Chair, with Chair.train and Chair.train_val in it (default: data/demo/Chair)",
    )
    parser.add_argument(
        "--budget",
        type=common.comma_separated(float),
        default="1200",
        help="seconds of training: one number for all variants, or one per variant, comma-separated",
    )
    parser.add_argument(
        "--variants",
        type=common.comma_separated(int),
        default=",".join(map(str, range(len(CHANGES)))),
        help="variants to train, comma-separated; 0 is the reference",
    )
    parser.add_argument("--threads", type=common.positive_int, help="threads of PyTorch on a CPU (default: its own choice)")
    parser.add_argument("--options", default="", help="further options for train.py, for all variants")
    parser.add_argument("--picture", metavar="PNG", help="draw the curves in this file")
    return parser


def options_of(variant):
    """The options of train.py for a variant: the published ones and all changes up to this variant."""
    options = dict(PUBLISHED)
    for change in list(CHANGES.values())[: variant + 1]:
        options |= change
    return {name: value for name, value in options.items() if value is not None}


class BudgetSpent(Exception):
    """A variant has trained for its budget of seconds."""


def train_variant(arguments, threads, budget, keeps_memory=True):
    """Train for at most `budget` seconds; returns [(seconds of training, step, validation PSNR)].

    threads: of PyTorch, None for its default; keeps_memory: False for the allocator's default, as in the published method
    """
    import train
    from training import loop, progress, watch

    if threads:
        torch.set_num_threads(threads)
    curve, looking_s, started = [], 0.0, None
    first_fit, after_step = loop.fit, progress.Run.after_step

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
            raise BudgetSpent

    def look(looker, step):
        curve.append((looker.run.seconds, step, looker.scores()["psnr"]))
        print(f"{curve[-1][0]:8.1f} s, step {step:6d}: {curve[-1][2]:.2f} dB", flush=True)

    replaced = [
        (loop, "fit", fit),
        (progress.Run, "after_step", timed),
        (watch.Validation, "__call__", look),
        (watch.Preview, "__call__", lambda preview, step: None),
    ]
    if not keeps_memory:
        replaced.append((util, "keep_freed_memory", lambda: False))
    with contextlib.ExitStack() as stack:
        for owner, name, function in replaced:
            stack.enter_context(mock.patch.object(owner, name, function))
        stack.enter_context(contextlib.suppress(BudgetSpent))
        train.main(arguments)
    return curve


def measure(options):
    """Yield (name, curve) of each variant in --variants; a curve is [(seconds, step, PSNR)]."""
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
    """Seconds until a curve first reaches that PSNR, None if it never does."""
    return next((seconds for seconds, _, found in curve if found >= psnr), None)


def tables(figures):
    """[(title, rows, columns)]: the seconds of each variant to each PSNR, and its speed-up over the reference.

    `> 1200` seconds: not reached within 1200 s. Speed-up `> 60`: the reference had not reached it after 60 times as long.
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
        ("Seconds of training to a PSNR of held-out views", rows(seconds), columns | {"best": ("best dB", ".2f")}),
        ("Speed-up over the reference", rows(times), columns),
    ]


def draw(curves, path):
    try:
        import matplotlib
    except ImportError:
        raise util.InputError("--picture: needs matplotlib; pip install -r requirements/dev.txt") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for name, curve in ((name, curves[name]) for name in CHANGES if name in curves):
        seconds, _, psnr = zip(*curve)
        axes.plot(seconds, psnr, marker=".", label=name)
    axes.set(xscale="log", xlabel="seconds of training", ylabel="PSNR of held-out views (dB)")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    with util.replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)
    pyplot.close(figure)


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    if not Path(options.data).is_dir():
        raise util.InputError(f"--data {options.data}: no such folder; run `make demo`, or give a class folder")
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
