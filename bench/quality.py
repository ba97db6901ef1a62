"""How soon stage 1 gets to a validation PSNR: the published way, and what each change to it brings.

    python bench/quality.py [--budget 1200] [--json FILE] [--picture curve.png]     # on the data of `make demo`

Every variant trains in a process of its own until it has the best PSNR of the first one, the reference, or until its time is
up; the last one goes on to the end of its schedule. Seconds are those of training: validation does not count. The picture
needs matplotlib, which is in requirements-dev.txt.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

import options as common  # noqa: E402
import util  # noqa: E402

PUBLISHED = dict(
    img_sidelengths=64, max_steps_per_img_sidelength=100_000, batch_size_per_img_sidelength=4, rays_per_image=0,
    hidden_features=256, embedding_size=256, lr=4e-4, initial_distance=0, rays_per_block=0, steps_til_val=5,
)  # fmt: skip
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
}
LEVELS = (8, 10, 12, 14, 16, 18, 20, 21, 22, 23)  # dB that the table tells the time to


def build_parser():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--data", default=str(ROOT / "data" / "demo" / "Chair"), help="class folder: with .train, .train_val")
    parser.add_argument("--budget", type=float, default=1200.0, help="seconds of training for each variant")
    parser.add_argument("--variants", type=common.comma_separated(int), default=",".join(map(str, range(len(CHANGES)))),
                        help="which, counted from 0, the reference")  # fmt: skip
    parser.add_argument("--threads", type=common.positive, help="of the processor (default: PyTorch's)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--options", default="", help="more options for train.py of every variant, as on its command line")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
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


def train_variant(arguments, threads, budget, target):
    """Trains, and returns [(seconds of training, step, validation PSNR)]; ends at the target (dB) or the budget (s)."""
    import train
    import training
    import validation

    if threads:
        torch.set_num_threads(threads)
    curve, looking_s, started = [], 0.0, None
    first_fit, after_step = training.fit, training.Run.after_step

    def fit(*given, **named):
        nonlocal started
        started = time.perf_counter()
        return first_fit(*given, **named)

    def timed(run, step, losses, batch):
        nonlocal looking_s
        step_ended = time.perf_counter()
        run.seconds = step_ended - started - looking_s
        after_step(run, step, losses, batch)
        looking_s += time.perf_counter() - step_ended
        if run.seconds > budget or target is not None and curve and curve[-1][2] >= target:
            raise Enough

    def look(looker, step):
        curve.append((looker.run.seconds, step, looker.scores()["psnr"]))
        print(f"{curve[-1][0]:8.1f} s, step {step:6d}: {curve[-1][2]:.2f} dB", flush=True)

    training.fit, training.Run.after_step = fit, timed
    validation.Validation.__call__, validation.Preview.__call__ = look, lambda preview, step: None
    try:
        train.main(arguments)
    except Enough:
        pass
    return curve


def measure(options):
    """A dict per variant: name, curve, steps."""
    data, found, target = Path(options.data), [], None
    name = data.name
    for variant in options.variants:
        is_last = variant == options.variants[-1] and len(options.variants) > 1
        with tempfile.TemporaryDirectory(prefix="bench_quality_") as logs:
            given = options_of(variant) | dict(
                data_root=data / f"{name}.train", val_root=data / f"{name}.train_val", logging_root=logs, log_dir="run",
                device=options.device, class_weight=0, max_num_observations_val=1, steps_til_ckpt=10**9,
            )  # fmt: skip
            arguments = [f"--{key}={value}" for key, value in given.items()] + ["--preload", *options.options.split()]
            title = list(CHANGES)[variant]
            print(f"\n{title}", flush=True)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                job = arguments, options.threads, options.budget, None if is_last else target
                curve = pool.apply(train_variant, job)
        found.append({"variant": title, "curve": curve})
        if target is None:
            target = max(psnr for _, _, psnr in curve)
    return found


def seconds_to(curve, psnr):
    """Seconds until a curve first has that PSNR, None if it never has."""
    return next((seconds for seconds, _, found in curve if found >= psnr), None)


def table(found):
    """Markdown: the seconds of every variant to each PSNR that some variant has, and to the best of the first."""
    target = max(psnr for _, _, psnr in found[0]["curve"])
    levels = [level for level in LEVELS if any(seconds_to(row["curve"], level) is not None for row in found)]
    levels = sorted({round(target, 2), *levels})
    reference = seconds_to(found[0]["curve"], target)
    lines = [["variant", *(f"s to {level:g} dB" for level in levels), "best dB", f"times as fast to {target:.2f} dB"]]
    lines.append(["---"] * len(lines[0]))
    for row in found:
        times = [seconds_to(row["curve"], target if level == round(target, 2) else level) for level in levels]
        own = seconds_to(row["curve"], target)
        cells = ["" if seconds is None else f"{seconds:.0f}" for seconds in times]
        best = max(psnr for _, _, psnr in row["curve"])
        lines.append([row["variant"], *cells, f"{best:.2f}", f"{reference / own:.1f}" if own else ""])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def draw(found, path):
    try:
        import matplotlib
    except ImportError:
        raise util.InputError("--picture: needs matplotlib; pip install -r requirements-dev.txt") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5), layout="constrained")
    for row in found:
        seconds, _, psnr = zip(*row["curve"])
        axes.plot(seconds, psnr, marker=".", label=row["variant"])
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
    found = measure(options)
    print("\n" + table(found))
    if options.picture:
        draw(found, options.picture)
    if options.json:
        with util.replacing(options.json) as temporary:
            temporary.write_text(json.dumps({"options": vars(options), "variants": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
