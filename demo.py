"""Run the whole system: make data, run the stage scripts in order, print seconds and scores.

`make demo` calls it; `make demo DATA=furniture` with --data furniture. It writes to data/demo and logs/demo, or to
data/demo_furniture and logs/demo_furniture.
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
MAKE_DATA = {  # 108 test views: of the 70 that test_configs/demo*.yml spreads over them, 64, 65 and 104 are input views
    "procedural": "procedural --instances 32 --views 30 --val_instances 2 --test_instances 8",
    "furniture": "furniture --views 50 --variants 1",
}
FOR_BOTH = "--obj_name Chair --train_val_views 6 --test_views 108 --sidelength 64"


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", choices=sorted(MAKE_DATA), default="procedural", help="chairs of random parameters, or real ones"
    )
    return parser


def run_step(command, environment):
    """Run one command and return its seconds. The command prints its own errors."""
    print(f"\n$ {' '.join(command)}", flush=True)
    started = time.perf_counter()
    if subprocess.run(command, cwd=ROOT, env=environment).returncode:
        raise util.InputError(f"{command[0]} failed: its error is printed above")
    return time.perf_counter() - started


def scores_of(folder):
    """{"psnr", "ssim", "miou"} from the results.json of a run."""
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
    environment = {"OBJ": "Chair", "DATA": str(data), "LOGS": str(logs), "PYTHON": sys.executable, "CONFIG": name}
    environment = os.environ | environment
    stages = {}
    if not (data / "Chair").exists():
        maker = [sys.executable, "make_dataset.py", *MAKE_DATA[options.data].split(), *FOR_BOTH.split(), "--out", str(data)]
        stages["0 make data"] = run_step(maker, environment)
    for stage, script in SCRIPTS:
        stages[stage] = run_step([f"./{script}"], environment)

    runs = logs / "Chair"
    train_val, single_shot = scores_of(runs / "train_val_results"), scores_of(runs / "single_shot_results")
    print_table(stages, {"4 training chairs": train_val, "4 single shot": single_shot})
    summary = {"seconds": sum(stages.values()), "stages": stages, "train_val": train_val, "single_shot": single_shot}
    with util.replacing(logs / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    print(f"\nscores:         {logs / 'summary.json'}")
    print(f"unseen chairs:  {runs / 'single_shot_results' / 'contact_sheet.png'}")
    print(f"training ones:  {runs / 'train_val_results' / 'contact_sheet.png'}")
    print("next:           source .venv/bin/activate; tensorboard --logdir logs; `make help` lists the other targets")


if __name__ == "__main__":
    main()
