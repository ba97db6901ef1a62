"""Run the whole system: make data, run the stage scripts in order, print seconds and scores.

`make demo` calls it; `make demo DATA=furniture` with --data furniture. The environment variable CONFIG chooses the options of
the stages: demo, or published_demo for the published way. It writes to data/demo and logs/<config>, or to data/demo_furniture
and logs/<config>.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import util
from runs import record, stopping

ROOT = Path(__file__).resolve().parent
SCRIPTS = {  # stage: script
    "1 pretrain": "training_scripts/vanilla_srn.sh",
    "2 choose labels": "seg_scripts/suggest_labels.sh",
    "2 segment": "seg_scripts/linear_update.sh",
    "3 fit codes": "test_scripts/single_shot.sh",
    "4 training objects": "result_scripts/train_val.sh",
    "4 single shot": "result_scripts/single_shot.sh",
}
ANEW = "if that is about a run made with other options, `demo.py --anew` or `make demo ANEW=1` moves it aside"
GO_ON = "the same command goes on from there, and leaves what is done"
MAKE_DATA = {  # 108 test views: of the 70 that test_configs/demo*.yml spreads over them, 64, 65 and 104 are input views
    "procedural": "procedural --instances 64 --views 15 --val_instances 2 --test_instances 8",
    "furniture": "furniture --views 50 --variants 1",
}
FOR_BOTH = "--train_val_views 6 --test_views 108 --sidelength 64"
CONFIGS = {"procedural": ("demo", "published_demo"), "furniture": ("demo_furniture",)}  # the first one is the default


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", choices=sorted(MAKE_DATA), default="procedural", help="objects of random parameters, or real ones")
    add("--obj_name", choices=("Chair", "Table"), default="Chair", help="class of the procedural objects")
    add("--seed", type=int, default=0, help="of the objects, of training and of the choice of rays")
    add("--folder", type=Path, help="write to data/ and logs/ in this folder")
    add("--anew", action="store_true", help="move runs aside that are there, instead of going on with them")
    return parser


def run_step(command, environment):
    """Run one command and return its seconds. The command prints its own errors. A signal stops it, and then the demo."""
    print(f"\n$ {' '.join(command)}", flush=True)
    started = time.perf_counter()
    if stopping.wait_for(subprocess.Popen(command, cwd=ROOT, env=environment), GO_ON):
        raise util.InputError(f"{command[0]} failed: its error is printed above; {ANEW}")
    return time.perf_counter() - started


def seconds_before(runs, script):
    """Seconds that the run of a script took in all, where it was stopped in between or had ended before; 0 if not known."""
    name = Path(script).stem + "_results" * script.startswith("result_scripts/")
    return (record.read(runs / name) or {}).get("seconds", 0)


def scores_of(folder):
    """{"psnr", "ssim", "miou", "part_iou": {class: IoU}} from the results.json of a run."""
    results = json.loads((folder / "results.json").read_text())
    return {name: results[name] for name in ("psnr", "ssim", "miou", "part_iou")}


def print_table(stages, scores):
    print(f"\n{'stage':24}{'seconds':>9}{'PSNR':>9}{'SSIM':>8}{'mIoU':>8}")
    for name, seconds in stages.items():
        row = scores.get(name)
        cells = f"{row['psnr']:9.2f}{row['ssim']:8.3f}{row['miou']:8.3f}" if row else ""
        print(f"{name:24}{seconds:9.0f}{cells}")
    print(f"{'all':24}{sum(stages.values()):9.0f}")


def config_for(data):
    """The value of CONFIG, or the default. Raises util.InputError if it is not for these data."""
    config = os.environ.get("CONFIG") or CONFIGS[data][0]
    if config not in CONFIGS[data]:
        expected = " or ".join(CONFIGS[data])
        raise util.InputError(f"CONFIG={config}: expected {expected} with --data {data}; unset CONFIG for the default")
    return config


def scripts_of(config):
    """{stage: script}. The published way labels the first ten objects."""
    return {stage: script for stage, script in SCRIPTS.items() if config != "published_demo" or stage != "2 choose labels"}


def run(options, more=None):
    """Run all stages, print the table and write summary.json.

    options: of `build_parser`
    more:    {stage: list of further options of its script}
    returns  what summary.json holds: seconds, stages, train_val and single_shot, see `scores_of`
    """
    name = options.obj_name
    if options.data == "furniture" and name != "Chair":
        raise util.InputError(f"--obj_name {name}: the furniture of the demo is chairs; leave it out, or --data furniture")
    config = config_for(options.data)
    if options.folder:
        data, logs = options.folder.resolve() / "data", options.folder.resolve() / "logs"
    else:
        data, logs = ROOT / "data" / CONFIGS[options.data][0], ROOT / "logs" / config
    environment = {"OBJ": name, "DATA": str(data), "LOGS": str(logs), "PYTHON": sys.executable, "CONFIG": config}
    environment = os.environ | environment
    seed, stages, runs = ["--seed", str(options.seed)], {}, logs / name
    if not (data / name).exists():
        maker = [sys.executable, "make_dataset.py", *MAKE_DATA[options.data].split(), *FOR_BOTH.split(), *seed]
        stages["0 make data"] = run_step([*maker, "--obj_name", name, "--out", str(data)], environment)
    for stage, script in scripts_of(config).items():
        seeded = stage in ("1 pretrain", "2 segment", "3 fit codes")
        anew = ["--resume", "never"] if options.anew and stage != "2 choose labels" else []
        command = [f"./{script}", *(seed if seeded else []), *anew, *(more or {}).get(stage, [])]
        seconds = run_step(command, environment)
        stages[stage] = max(seconds, seconds_before(runs, script))

    train_val, single_shot = scores_of(runs / "train_val_results"), scores_of(runs / "single_shot_results")
    print_table(stages, {"4 training objects": train_val, "4 single shot": single_shot})
    summary = {"seconds": sum(stages.values()), "stages": stages, "train_val": train_val, "single_shot": single_shot}
    with util.replacing(logs / "summary.json") as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n")
    print(f"\nscores:          {logs / 'summary.json'}")
    print(f"unseen objects:  {runs / 'single_shot_results' / 'contact_sheet.png'}")
    print(f"training ones:   {runs / 'train_val_results' / 'contact_sheet.png'}")
    print("next:            source .venv/bin/activate; tensorboard --logdir logs; `make help` lists the other targets")
    return summary


@util.command
def main(argv=None):
    with stopping.listening():
        run(build_parser().parse_args(argv))


if __name__ == "__main__":
    main()
