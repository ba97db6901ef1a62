"""The whole system on two cores: make data, run the stage scripts that users run, print what came out.

`make demo` calls it; `make demo DATA=furniture` with --data furniture. Everything lands in data/ and logs/demo/.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import util

ROOT = Path(__file__).resolve().parent
SCRIPTS = (  # stage, script
    ("1 pretrain", "training_scripts/vanilla_srn.sh"),
    ("2 segment", "seg_scripts/linear_update.sh"),
    ("3 fit codes", "test_scripts/single_shot.sh"),
    ("4 training chairs", "result_scripts/train_val.sh"),
    ("4 single shot", "result_scripts/single_shot.sh"),
)
MAKE_DATA = {
    "procedural": [
        "procedural",
        "--obj_name",
        "Chair",
        "--instances",
        "32",
        "--views",
        "30",
        "--train_val_views",
        "6",
        "--val_instances",
        "2",
        "--test_instances",
        "8",
        "--test_views",
        "70",
        "--sidelength",
        "64",
    ],
    "furniture": [
        "furniture",
        "--obj_name",
        "Chair",
        "--views",
        "50",
        "--train_val_views",
        "6",
        "--test_views",
        "70",
        "--variants",
        "1",
        "--sidelength",
        "64",
    ],
}


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=sorted(MAKE_DATA), default="procedural", help="which chairs")
    return parser


def run_step(command, environment):
    """Run one command to its end and return its seconds; its own error is all the user needs to see."""
    print(f"\n$ {' '.join(command)}", flush=True)
    started = time.perf_counter()
    if subprocess.run(command, cwd=ROOT, env=environment).returncode:
        raise util.InputError(f"{command[0]} failed, see above")
    return time.perf_counter() - started


def scores_of(folder):
    """{"psnr", "ssim", "miou"} that test.py wrote for a run."""
    results = json.loads((folder / "results.json").read_text())
    return {name: results[name] for name in ("psnr", "ssim", "miou")}


def print_table(stages, scores):
    print(f"\n{'stage':24}{'seconds':>9}{'PSNR':>9}{'SSIM':>8}{'mIoU':>8}")
    for name, seconds in stages.items():
        row = scores.get(name)
        cells = f"{row['psnr']:9.2f}{row['ssim']:8.3f}{row['miou']:8.3f}" if row else ""
        print(f"{name:24}{seconds:9.0f}{cells}")
    print(f"{'all':24}{sum(stages.values()):9.0f}")


@util.command
def main(argv=None):
    options = build_parser().parse_args(argv)
    name = {"procedural": "demo", "furniture": "demo_furniture"}[options.data]
    data, logs = ROOT / "data" / name, ROOT / "logs" / name
    environment = os.environ | {
        "OBJ": "Chair",
        "DATA": str(data),
        "LOGS": str(logs),
        "PYTHON": sys.executable,
        "CONFIG": name,
    }
    stages = {}
    if not (data / "Chair").exists():
        maker = [sys.executable, "make_dataset.py", *MAKE_DATA[options.data], "--out", str(data)]
        stages["0 make data"] = run_step(maker, environment)
    for stage, script in SCRIPTS:
        stages[stage] = run_step([f"./{script}"], environment)

    runs = logs / "Chair"
    train_val, single_shot = scores_of(runs / "train_val_results"), scores_of(runs / "single_shot_results")
    print_table(stages, {"4 training chairs": train_val, "4 single shot": single_shot})
    summary = {"seconds": sum(stages.values()), "stages": stages, "train_val": train_val, "single_shot": single_shot}
    with util.replacing(logs / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    print(f"\nThese figures:       {logs / 'summary.json'}")
    print(f"Look at this first:  {runs / 'single_shot_results' / 'contact_sheet.png'}")
    print(f"and at this:         {runs / 'train_val_results' / 'contact_sheet.png'}")


if __name__ == "__main__":
    main()
