"""Run the commands of bench/ one after the other, with their defaults, and write the tables of docs/speed.md.

    python -m bench.all                          # all but quality, on the CPU and, if there is one, on the GPU
    python -m bench.all --only training,scale    # only these; quality takes hours and runs only if it is named
    python -m bench.all --tables                 # run nothing, write the tables from the existing JSON

The figures are in logs/bench/<command>.<device>.json. The text between the two markers in docs/speed.md is replaced;
the rest of the file stays.
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

import options as common
import util
from bench import measuring

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
ON_DEVICES = {  # name of a measurement: script and its options
    "training": ["training", "--reference", "--repeats", "3"],
    "training_semantic": ["training", "--reference", "--semantic"],
    "rendering": ["rendering", "--reference"],
    "fitting": ["fitting", "--reference", "--budget", "300"],
    "fitting_128": ["fitting", "--reference", "--budget", "200", "--img_sidelength", "128"],
    "linear_update": ["linear_update", "--reference"],
    "scale": ["scale"],
}
ON_CPU = {"data": ["data", "--reference"], "meshes": ["meshes"], "startup": ["startup", "--reference"]}
ON_REQUEST = {"quality": ["quality"]}  # takes hours
STUDIES = ("seeds", "penalties", "selection", "one_view")  # of quality: docs/quality.md has their tables
COMMANDS = ON_DEVICES | ON_CPU | ON_REQUEST
DEVICES = ("cpu", "cuda")


def build_parser():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--only", type=common.comma_separated(str), default=[], metavar="NAME,...", help=f"of {', '.join(COMMANDS)}")
    add("--devices", type=common.comma_separated(str), help="cpu, cuda or both, comma-separated (default: all that exist)")
    add("--out", default="logs/bench", help="folder of the figures, from the project's root")
    add("--file", default="docs/speed.md", help="Markdown file whose tables are written, from the project's root")
    add("--tables", action="store_true", help="run nothing, write the tables from the existing figures")
    return parser


def jobs(only, devices):
    """[(name of the measurement, device)] in the order in which they run."""
    wanted = only or [*ON_DEVICES, *ON_CPU]
    return [(name, device) for name in COMMANDS if name in wanted for device in (devices if name in ON_DEVICES else ["cpu"])]


def run(name, device, out):
    """Run a command, whose output is shown; returns whether it succeeded."""
    place = path_of(out, name, device)
    script, *given = COMMANDS[name]
    command = [sys.executable, "-m", f"bench.{script}", *given, "--json", str(place)]
    if name in ON_DEVICES:
        command += ["--device", device]
    print(f"\n$ {' '.join(command)}", flush=True)
    started = time.perf_counter()
    failed = subprocess.run(command, cwd=ROOT).returncode
    if not failed:
        figures = json.loads(place.read_text())
        place.write_text(json.dumps({"machine": measuring.facts(device)} | figures, indent=2) + "\n")
    print(f"{'failed' if failed else 'done'} after {time.perf_counter() - started:.0f} s", flush=True)
    return not failed


def path_of(out, name, device):
    return out / f"{name}.{device}.json"


# Tables


def tables_of(name, figures):
    """[(title, Markdown)] of a command's figures."""
    module = importlib.import_module(f"bench.{COMMANDS[name][0]}")
    if name == "meshes":
        keys = "faces", "views", "sidelength", "num_workers", "seconds", "cpu_ms_per_view", "peak_mib_per_process"
        tables = [("Rendering a mesh", [figures], {key: (key.replace("_", " "), ",") for key in keys})]
    else:
        tables = module.tables(figures)
    return [(title, measuring.table(rows, columns)) for title, rows, columns in tables if rows]


def heading(name, device):
    script, *given = COMMANDS[name]
    return f"`{' '.join(['python -m', f'bench.{script}', *given])}`" + (f" on {device}" if name in ON_DEVICES else "")


def section(name, device, figures):
    """Markdown of a command: a heading, the machine, the tables, the notes."""
    lines = [f"### {heading(name, device)}", "", *([about(figures["machine"]), ""] if "machine" in figures else [])]
    for title, table in tables_of(name, figures):
        lines += [f"{title}:", "", table, ""]
    for note in figures.get("notes", ()):
        lines += [note, ""]
    return "\n".join(lines)


def about(machine):
    where = machine["processor"] if machine["device"] == "cpu" else f"{machine['device_name']}, {machine['processor']}"
    return f"{where}, {machine['cores']} cores, {machine['threads']} threads, PyTorch {machine['torch']}, {machine['date']}."


def sections(out):
    """Markdown of all existing figures, in a fixed order, and a line that names the commands without figures."""
    found, missing = [], []
    for name, device in jobs(COMMANDS, DEVICES):
        path = path_of(out, name, device)
        if path.is_file():
            found.append(section(name, device, json.loads(path.read_text())))
        else:
            missing.append(heading(name, device))
    return "\n".join(found + ([f"Not measured: {', '.join(missing)}.\n"] if missing else []))


def write_tables(path, text):
    """Replace the text between the markers; a file without markers gets them at its end."""
    whole = path.read_text() if path.is_file() else "# Speed\n\nWritten by `python -m bench.all`.\n"
    if (BEGIN in whole) != (END in whole) or whole.find(BEGIN) > whole.find(END):
        raise util.InputError(f"{path}: expected {BEGIN} and, after it, {END}; restore them, or remove both")
    if BEGIN not in whole:
        whole += f"\n{BEGIN}\n{END}\n"
    before, rest = whole.split(BEGIN, 1)
    with util.replacing(path) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.split(END, 1)[1]}")


@util.command
def main(argv=None):
    parser = build_parser()
    options = parser.parse_args(argv)
    unknown = sorted(set(options.only) - set(COMMANDS))
    if unknown:
        parser.error(f"--only {unknown[0]}: unknown command; expected one of {', '.join(COMMANDS)}")
    devices = options.devices or DEVICES[: 1 + torch.cuda.is_available()]
    if set(devices) - set(DEVICES):
        parser.error(f"--devices {','.join(devices)}: expected cpu, cuda or both")
    out, file = ROOT / options.out, ROOT / options.file
    failed = []
    if not options.tables:
        out.mkdir(parents=True, exist_ok=True)
        failed = [f"{name} on {device}" for name, device in jobs(options.only, devices) if not run(name, device, out)]
    write_tables(file, sections(out))
    print(f"\nwrote the tables of {options.file}")
    if failed:
        raise util.InputError(f"{', '.join(failed)}: failed, as printed above; the tables show earlier figures, if any")


if __name__ == "__main__":
    main()
