"""`run.json` in a run's folder: what the run is, how far it is, what came out of it so far."""

import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import util

RECORD = "run.json"
RUNNING, FINISHED, STOPPED, FAILED = "running", "finished", "stopped", "failed"
SECONDS_PER_UPDATE = 5.0  # between two updates that only say how far the run is
NUMBER = (int, float)
TYPES = dict(state=str, unit=str, step=int, steps=int, rate=NUMBER, eta_s=NUMBER, seconds=NUMBER, scores=dict, inputs=dict)
TYPES |= dict(started=str, ended=str, updated=str, checkpoint=str, host=str, process=int)  # of facts that are read
PROJECT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "numpy")


def read(folder):
    """The record of the run in a folder, a dict without what is not of its TYPES; None where none can be read."""
    try:
        found = json.loads((Path(folder) / RECORD).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return {name: value for name, value in found.items() if isinstance(value, TYPES.get(name, object))}


class Record:
    """The record of a run that this process writes.

    folder: of the run; options: the namespace as used; program: such as "train.py"; inputs: see folders.start
    earlier: the record of the run that goes on, or None
    """

    def __init__(self, folder, options, program, inputs, earlier=None):
        self.path, self.written_at, self.is_told = Path(folder) / RECORD, 0.0, False
        earlier = earlier or {}
        self.seconds_before, self.begun_at = earlier.get("seconds") or 0, time.monotonic()
        self.facts = {
            "program": program,
            "state": RUNNING,
            "message": None,
            "step": earlier.get("step", 0),
            "steps": None,
            "unit": "step",
            "rate": None,  # per second
            "eta_s": None,
            "seconds": self.seconds_before,
            "checkpoint": earlier.get("checkpoint"),
            "scores": earlier.get("scores", {}),
            "started": earlier.get("started") or now(),
            "updated": None,
            "ended": None,
            "process": os.getpid(),
            "host": socket.gethostname(),
            "command": [sys.executable, *sys.argv],
            "seed": getattr(options, "seed", None),
            "options": vars(options),
            "inputs": inputs,
            "git": revision(),
            "versions": versions(),
        }

    def update(self, every_s=0.0, **facts):
        """Change facts, and write the file unless it was written less than `every_s` seconds ago."""
        self.facts |= facts
        if time.monotonic() - self.written_at < every_s:
            return
        self.written_at = time.monotonic()
        self.facts |= {"updated": now(), "seconds": round(self.seconds_before + self.written_at - self.begun_at, 1)}
        try:
            with util.replacing(self.path) as temporary:
                temporary.write_text(json.dumps(self.facts, indent=1, default=str) + "\n")
        except OSError as error:  # the run itself may still be able to go on
            if not self.is_told:
                print(f"note: {self.path} cannot be written ({error.strerror}), so it does not say how far this run is")
            self.is_told = True

    def end(self, state, message=None):
        self.update(state=state, message=message, ended=now(), eta_s=None)


def mark_finished(folder):
    """Say that a run has ended whose last process was killed before it could."""
    facts = read(folder)
    if facts is not None and facts.get("state") != FINISHED:
        facts |= {"state": FINISHED, "message": None, "ended": facts.get("updated"), "eta_s": None}
        with util.replacing(Path(folder) / RECORD) as temporary:
            temporary.write_text(json.dumps(facts, indent=1) + "\n")


def now():
    """The time as ISO 8601, with the offset from UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")


def revision():
    """The git commit of the project, with "-dirty" where files differ from it; None without git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def versions():
    """{name: version} of the project, of Python and of PACKAGES."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    found = {project["name"]: project["version"], "python": platform.python_version()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}
