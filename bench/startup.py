"""Measure how long train.py and test.py take to start: until --help ends, until the first step or images, and per import.

    python -m bench.startup [--reference] [--repeats 3] [--top 8] [--json FILE]

The data are two balls of 16 x 16 pixels and the SRN is tiny, all on the CPU, so that the start takes most of the time.

The reference runs the same programs without compiled code and with all rays of a step at once.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import options as common
import util
from bench import command_line, data, measuring

ROOT = Path(__file__).resolve().parent.parent
SIDE = 16
TINY = ["--hidden_features", "16", "--embedding_size", "8", "--tracing_steps", "3"]
ONE_STEP = ["--img_sidelengths", str(SIDE), "--max_steps_per_img_sidelength", "1", "--batch_size_per_img_sidelength", "2"]
# Python code that runs a program and exits after its first step or images
FIRST = {
    "train.py": "import os, train; from training import progress\n"
    "progress.Run.after_step = lambda *_: os._exit(0); train.main()",
    "test.py": "import os, test; from rendering import renderer; render = renderer.render\n"
    "renderer.render = lambda *a, **k: (render(*a, **k), os._exit(0)); test.main()",
}
WORK = {"train.py": "first step", "test.py": "first images"}
PUBLISHED = {"train.py": ["--fused", "off", "--rays_per_block", "0"], "test.py": ["--fused", "off"]}
IMPORT_LINE = re.compile(r"import time:\s*(\d+) \|\s*(\d+) \|\s*(\S+)")


def build_parser():
    parser = command_line.parser("startup", __doc__, device=False)
    command_line.add_repeats(parser, default=3)
    command_line.add_reference(parser)
    parser.add_argument("--top", type=common.positive_int, default=8, help="packages listed in the table of imports")
    return parser


def run(arguments):
    """Run Python with some arguments; returns what it prints on stderr. Raises util.InputError if it fails."""
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise util.InputError(f"{' '.join(map(str, arguments))}: failed ({done.stderr.strip().splitlines()[-1:]})")
    return done.stderr


def commands(folder, modes=measuring.MODES[:1]):
    """{(mode, program, until): arguments of Python}; makes the data and the checkpoint in `folder`."""
    split = folder / "Ball" / "Ball.train"
    data.write_split(split, 2, 4, SIDE)
    place = ["--data_root", split, "--logging_root", folder / "logs", "--device", "cpu"]
    train = [*place, *ONE_STEP, *TINY, "--no_check"]
    run(["train.py", *train, "--log_dir", "srn"])
    arguments_of = {
        "train.py": [*train, "--log_dir", "again"],
        "test.py": [*place, "--checkpoint_path", folder / "logs" / "srn", "--img_sidelength", SIDE, "--log_dir", "results"],
    }
    found = {}
    for program, arguments in arguments_of.items():
        found["fast", program, "--help"] = [program, "--help"]
        for mode in modes:
            published = PUBLISHED[program] if mode == "reference" else []
            found[mode, program, WORK[program]] = ["-c", FIRST[program], *arguments, *published]
    return found


def measure(options, folder):
    """A dict per command: its median seconds and, with --reference, the ratio."""
    arguments_of = commands(folder, measuring.modes_of(options))

    def seconds(key):
        return {"s": measuring.timed(lambda: run(arguments_of[key]))}

    found = measuring.interleaved(arguments_of, options.repeats, seconds)
    rows = [
        {"program": program, "until": until, "mode": mode} | measuring.medians(timings)
        for (mode, program, until), timings in found.items()
    ]
    return measuring.with_ratios(rows, "s", ["program", "until"])


def measure_imports(program, top):
    """A dict per package: seconds to import its modules, without the modules of other packages that they import."""
    begin = time.perf_counter()
    written = run(["-X", "importtime", "-c", f"import {program.removesuffix('.py')}"])
    wall = time.perf_counter() - begin
    spent = {}
    for microseconds, _, name in IMPORT_LINE.findall(written):
        package = name.split(".")[0]
        spent[package] = spent.get(package, 0) + int(microseconds) / 1e6
    largest = sorted(spent, key=spent.get, reverse=True)
    rows = [{"program": program, "package": name, "s": spent[name]} for name in largest[:top]]
    rest = {"program": program, "package": f"{max(0, len(largest) - top)} others", "s": sum(map(spent.get, largest[top:]))}
    return [*rows, rest, {"program": program, "package": "whole process", "s": wall}]


STARTS = {
    "program": ("program", ""),
    "until": ("until", ""),
    "mode": ("mode", ""),
    "s": ("s", ".2f"),
    "ratio": ("reference/fast", ".2f"),
}
IMPORTS = {"program": ("program", ""), "package": ("package", ""), "s": ("s", ".3f")}


def tables(figures):
    return [("Start-up", figures.get("starts", []), STARTS), ("Imports", figures.get("imports", []), IMPORTS)]


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    figures = measuring.start(options)
    with tempfile.TemporaryDirectory(prefix="bench_startup_") as folder:
        figures["starts"] = measure(options, Path(folder))
    figures["imports"] = sum((measure_imports(program, options.top) for program in FIRST), [])
    measuring.finish(options, figures, tables(figures))


if __name__ == "__main__":
    main()
