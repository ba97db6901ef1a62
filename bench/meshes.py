"""Measure how long `make_dataset.py meshes` takes to render a thousand 128 px views of meshes of 50,000 faces in two parts.

python -m bench.meshes [--views 1000] [--faces 50000] [--sidelength 128] [--json FILE]
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import options as common
import util
from bench import command_line, measuring

ROOT = Path(__file__).resolve().parent.parent
OBJECTS = 4  # that share the views, so that several processes have work
COLUMNS = {
    key: (key.replace("_", " "), ",")
    for key in ("faces", "views", "sidelength", "num_workers", "seconds", "cpu_ms_per_view", "peak_mib_per_process")
}
TOP_AND_REST = "classes: [rest, top]\nparts: {top: top, rest: rest}\n"


def build_parser():
    parser = command_line.parser("meshes", __doc__, device=False)
    add = parser.add_argument
    add("--views", type=common.at_least(OBJECTS), default=1000, help=f"rendered views of all {OBJECTS} objects together")
    add("--faces", type=common.positive_int, default=50_000, help="faces of each object, approximately")
    add("--sidelength", type=common.positive_int, default=128, help="side of the images in pixels")
    add("--num_workers", type=common.positive_int, default=os.cpu_count(), help="processes (default: one per core)")
    return parser


def bumpy_ball(num_faces):
    """OBJ text of a surface of about `num_faces` triangles in two objects: `top`, the upper half, and `rest`."""
    rings = round((num_faces / 4) ** 0.5)
    around = np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False)
    polar, azimuth = np.meshgrid(np.linspace(0.01, np.pi - 0.01, rings + 1), around, indexing="ij")
    radius = 1 + 0.1 * np.cos(9 * azimuth) * np.sin(7 * polar)
    x, y, z = radius * np.sin(polar) * np.cos(azimuth), radius * np.cos(polar), radius * np.sin(polar) * np.sin(azimuth)
    lines = [f"v {a:.6f} {b:.6f} {c:.6f}" for a, b, c in zip(x.ravel(), y.ravel(), z.ravel())]
    for ring in range(rings):
        if ring in (0, rings // 2):
            lines.append("o rest" if ring else "o top")
        here = 1 + ring * 2 * rings + np.arange(2 * rings)
        following = 1 + ring * 2 * rings + (np.arange(2 * rings) + 1) % (2 * rings)
        for a, b in zip(here, following):
            lines += [f"f {a} {b} {b + 2 * rings}", f"f {a} {b + 2 * rings} {a + 2 * rings}"]
    return "\n".join(lines) + "\n"


def tables(figures):
    return [("Rendering meshes", [figures], COLUMNS)]


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "models"
        source.mkdir()
        text = bumpy_ball(options.faces)
        for i in range(OBJECTS):
            (source / f"ball_{i}.obj").write_text(text)
        (Path(scratch) / "parts.yml").write_text(TOP_AND_REST)
        command = [
            sys.executable,
            str(ROOT / "make_dataset.py"),
            "meshes",
            str(source),
            "--parts",
            f"{scratch}/parts.yml",
            "--obj_name",
            "Ball",
            "--out",
            scratch,
            "--views",
            str(options.views // OBJECTS),
            "--train_val_views",
            "0",
            "--sidelength",
            str(options.sidelength),
            "--num_workers",
            str(options.num_workers),
        ]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
    num_views = options.views // OBJECTS * OBJECTS
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "faces": text.count("\nf "),
        "views": num_views,
        "sidelength": options.sidelength,
        "num_workers": options.num_workers,
        "seconds": round(seconds, 1),
        "cpu_ms_per_view": round(1000 * (used.ru_utime + used.ru_stime) / num_views, 1),
        "peak_mib_per_process": round(used.ru_maxrss / 1024),
    }
    measuring.finish(options, figures, tables(figures))


if __name__ == "__main__":
    main()
