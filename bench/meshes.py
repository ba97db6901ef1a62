"""How long rendering a mesh takes: a thousand 128 px views of 50,000 faces in two parts, as `make_dataset.py meshes` does.

python -m bench.meshes [--views 1000] [--faces 50000] [--sidelength 128] [--json FILE]
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
OBJECTS = 4  # among which the views are shared, so that processes have something to share
TOP_AND_REST = "classes: [rest, top]\nparts: {top: top, rest: rest}\n"


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--views", type=int, default=1000, help="in all")
    parser.add_argument("--faces", type=int, default=50_000, help="of each object")
    parser.add_argument("--sidelength", type=int, default=128, help="of the images, in pixels")
    parser.add_argument("--num_workers", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    return parser


def bumpy_ball(num_faces):
    """OBJ text of a closed surface of about so many triangles, its upper half an object of its own."""
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
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "faces": text.count("\nf "),
        "views": options.views // OBJECTS * OBJECTS,
        "sidelength": options.sidelength,
        "num_workers": options.num_workers,
        "seconds": round(seconds, 1),
        "cpu_ms_per_view": round(1000 * (used.ru_utime + used.ru_stime) / options.views, 1),
        "peak_mib_per_process": round(used.ru_maxrss / 1024),
    }
    print("| " + " | ".join(figures) + " |\n|" + "---|" * len(figures))
    print("| " + " | ".join(f"{value:,}" for value in figures.values()) + " |")
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
