"""Prints the runs below a folder as a table: their state, how far they are, how long they still take, their scores.

python status.py logs
python status.py logs --watch
"""

import argparse
import json
import os
import socket
import sys
import time
from pathlib import Path

import options as common
import util
from runs import checkpoint_files, folders, locks, record

LOST = "lost"  # was running, but its process has ended without a word
OLD = "-"  # of a version that kept no record
UNHEARD_S = 600.0  # of a run on another machine, after which it is taken for lost
COLUMNS = ("run", "state", "step", "rate", "left", "scores", "checkpoint")


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", nargs="?", default="logs", help="folder below which runs are looked for (default: logs)")
    seconds = {"nargs": "?", "type": common.positive_float, "const": 5.0, "metavar": "SECONDS"}
    parser.add_argument("--watch", **seconds, help="print the table every SECONDS (default: 5) until Ctrl-C")
    parser.add_argument("--json", action="store_true", help="print the records of all runs as JSON")
    return parser


def find_runs(root):
    """The folders of runs at `root` and below it, sorted."""
    found = []
    for folder, names, files in os.walk(root):
        if folders.PARAMS in files:
            found.append(Path(folder))
        names[:] = [name for name in names if name not in ("checkpoints", "events") and not name.startswith(".")]
    return sorted(found)


def facts_of(folder):
    """The record of a run, with the state LOST or OLD where that is known."""
    facts = record.read(folder)
    if facts is None or "state" not in facts:
        files = checkpoint_files.files_in(folder)
        return {"state": OLD, "step": max(map(checkpoint_files.steps_in_name, files), default=None)}
    if facts.get("state") == record.RUNNING and has_ended(folder, facts):
        facts["state"] = LOST
    return facts


def has_ended(folder, facts):
    """Whether the process of a run has ended: looked for on this machine, or not heard of for a while."""
    if facts.get("host") == socket.gethostname():
        return locks.has_ended(facts)
    return time.time() - (folder / record.RECORD).stat().st_mtime > UNHEARD_S


def row_of(root, folder, facts):
    """A row of COLUMNS, each a str."""
    step, steps, rate, eta_s = (facts.get(name) for name in ("step", "steps", "rate", "eta_s"))
    unit = facts.get("unit", "step")
    is_running = facts["state"] == record.RUNNING
    scores = facts.get("scores") or {}
    return (
        str(folder.relative_to(root)) if folder != root else folder.resolve().name,
        str(facts["state"]),
        "" if step is None else f"{step}/{steps}" if steps else str(step),
        f"{rate:.2f} {unit}/s" if rate and is_running else "",
        duration(eta_s) if eta_s is not None and is_running else "",
        " ".join(f"{name} {value:.3g}" for name, value in scores.items() if isinstance(value, (int, float))),
        Path(facts["checkpoint"]).name if facts.get("checkpoint") else "",
    )


def duration(seconds):
    """12 s, 3 min, 4 h 05 min or 2 d 03 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60:02d} h"


def table(rows):
    rows = [COLUMNS, *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    root = Path(options.logs)
    if not root.is_dir():
        raise util.InputError(f"{root}: no such folder; give one that holds runs, such as logs")
    while True:
        runs = {folder: facts_of(folder) for folder in find_runs(root)}
        if options.json:
            print(json.dumps({str(folder): facts for folder, facts in runs.items()}, indent=1))
        else:
            text = table([row_of(root, *run) for run in runs.items()]) if runs else f"{root}: no runs here or below"
            print(("\033[H\033[2J" if options.watch and sys.stdout.isatty() else "") + text, flush=True)
        if not options.watch:
            return
        time.sleep(options.watch)


if __name__ == "__main__":
    main()
