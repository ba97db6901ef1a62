"""Run the demo with several seeds, and show the mean and the spread of its scores.

    python -m bench.seeds                                   # procedural chairs, seeds 0, 1 and 2
    python -m bench.seeds --obj_name Table --seeds 0,1,2,3,4
    CONFIG=published_demo python -m bench.seeds --name published
    python -m bench.seeds --name no_encoding --pretrain "--positional_encoding 0"

A seed determines the objects (of the furniture: their variants), the weights and the choice of rays. Each run is a folder
`<name>_<seed>` with data/ and logs/ below --root. A run that is there is read, not repeated. The largest drop says how stable
training is: how far the validation PSNR of stage 1 falls below its highest value so far.
"""

import json
import shlex
import statistics
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import demo
import options as common
import util
from bench import command_line, measuring

SETS = {"train_val": "training objects, new views", "single_shot": "unseen objects from one view"}


def build_parser():
    parser = command_line.parser("seeds", __doc__, device=False)
    add = parser.add_argument
    add("--data", choices=sorted(demo.MAKE_DATA), default="procedural", help="as in demo.py")
    add("--obj_name", choices=("Chair", "Table"), default="Chair", help="as in demo.py")
    add("--seeds", type=common.comma_separated(common.at_least(0)), default="0,1,2", help="comma-separated")
    add("--root", type=Path, default=Path("logs/seeds"), help="folder of the runs")
    add("--name", help="first part of the runs' names (default: the class, or furniture)")
    add("--pretrain", type=shlex.split, default="", help="further options of stage 1")
    add("--segment", type=shlex.split, default="", help="further options of stage 2")
    add("--fit", type=shlex.split, default="", help="further options of stage 3")
    return parser


def summary_of(options, seed):
    """The summary of the demo with this seed, from its folder if it has been run."""
    folder = options.root / f"{options.name}_{seed}"
    logs = folder / "logs"
    arguments = ["--data", options.data, "--obj_name", options.obj_name, "--seed", str(seed), "--folder", str(folder)]
    more = {"1 pretrain": options.pretrain, "2 segment": options.segment, "3 fit codes": options.fit}
    if not (logs / "summary.json").is_file():
        demo.run(demo.build_parser().parse_args(arguments), more)
    summary = json.loads((logs / "summary.json").read_text())
    return summary | {"largest_drop": largest_drop(logs / options.obj_name / "vanilla_srn" / "events")}


def largest_drop(events):
    """By how many dB the validation PSNR falls below an earlier value, at most. events: the folder of tensorboard's files"""
    accumulator = EventAccumulator(str(events)).Reload()
    highest = drop = 0.0
    for scalar in accumulator.Scalars("val_psnr") if "val_psnr" in accumulator.Tags()["scalars"] else ():
        highest = max(highest, scalar.value)
        drop = max(drop, highest - scalar.value)
    return drop


def numbers_of(summary):
    """{(set, score): number} of a summary, the seconds included."""
    numbers = {("", "seconds"): summary["seconds"], ("", "largest drop of the validation PSNR"): summary["largest_drop"]}
    for name in SETS:
        scores = summary[name]
        numbers |= {(name, score): scores[score] for score in ("psnr", "ssim", "miou")}
        numbers |= {(name, f"IoU {part}"): iou for part, iou in scores["part_iou"].items()}
    return numbers


def rows_of(summaries):
    """A row per score: mean, standard deviation, least and largest over the seeds; a class that no run saw is left out."""
    rows = []
    for what, score in numbers_of(summaries[0]):
        values = [numbers_of(summary).get((what, score)) for summary in summaries]
        values = [value for value in values if value is not None]
        if values:
            row = {
                "set": SETS.get(what, "all stages"),
                "score": score,
                "mean": statistics.fmean(values),
                "seeds": len(values),
            }
            spread = statistics.stdev(values) if len(values) > 1 else None
            rows.append(row | {"deviation": spread, "least": min(values), "largest": max(values)})
    return rows


def tables(figures):
    digits = {name: (title, ".3f") for name, title in (("mean", "mean"), ("deviation", "deviation"), ("least", "least"))}
    columns = {"set": ("", ""), "score": ("score", "")} | digits | {"largest": ("largest", ".3f"), "seeds": ("seeds", "")}
    return measuring.table_of_rows(figures, "Scores over seeds", columns, lambda options: options["name"])


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    options.name = options.name or ("furniture" if options.data == "furniture" else options.obj_name)
    figures = measuring.start(options)
    summaries = [summary_of(options, seed) for seed in options.seeds]
    figures |= {"rows": rows_of(summaries)}
    measuring.finish(options, figures, tables(figures))


if __name__ == "__main__":
    main()
