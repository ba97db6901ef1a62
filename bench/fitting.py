"""Measure how long fitting latent codes of unseen objects (stage 3) takes to reach a PSNR, and score the novel views.

    python -m bench.fitting                                    # the demo's unseen chairs, view 65 of each
    python -m bench.fitting --reference                        # compared with the published method
    python -m bench.fitting --data_root ... --checkpoint_path ... --img_sidelength 128 --specific_observation_idcs 64,104

Further options are passed to train.py, in mode fast only. The reference is the published method, with the same modules:
codes start near 0, batches of 4 whole images, all rays at once, a learning rate of 4e-4. Each mode runs train.py in a
new process. The clock starts before train.py reads data and model. Copies of the codes are kept and scored afterwards.
"""

import contextlib
import io
import math
import tempfile
import time
from pathlib import Path

import checkpoints
import dataio
import options as common
import train
import util
from bench import command_line, measuring
from rendering import renderer
from training import watch as watching

ROOT = Path(__file__).resolve().parent.parent
DEMO = {
    "data_root": ROOT / "data/demo/Chair/Chair.test",
    "checkpoint_path": ROOT / "logs/demo/Chair/vanilla_srn",
    "linear_path": ROOT / "logs/demo/Chair/linear_update",
}
FIRST_COPY_S = 0.5  # seconds until the codes are copied for the first time
COPY_INTERVAL_FACTOR = 1.15  # each copy is this many times as late as the one before
PUBLISHED = """
    --code_solver published --code_init normal --batch_size_per_img_sidelength 4 --lr 4e-4 --rays_per_image 0
    --rays_per_block 0 --fused off --max_steps_per_img_sidelength 1000000
""".split()


class BudgetSpent(Exception):
    """A mode has run for --budget seconds."""


def build_parser():
    parser = command_line.parser("fitting", __doc__)
    command_line.add_trained(parser, "split of unseen objects (default: the demo's chairs)")
    add = parser.add_argument
    add(
        "--linear_path",
        help="linear head of stage 2, to score the classes of novel views (default: the demo's, unless --data_root is given)",
    )
    add("--img_sidelength", type=common.positive_int, default=64, help="side of the images in pixels")
    add("--specific_observation_idcs", default="65", help="views that codes are fitted to, comma-separated")
    add(
        "--max_num_instances", type=common.count_or_all, default=-1, help="number of instances, taken from the first; -1: all"
    )
    add("--max_steps", type=common.positive_int, default=1000, help="limit for mode fast, which may converge earlier")
    add("--budget", type=common.weight, default=60.0, help="limit for each mode in seconds")
    add("--novel_views", type=common.positive_int, default=4, help="evenly spaced views of each object to score at the end")
    command_line.add_reference(parser)
    return parser


def read_options(argv):
    """This command's options, and a list of arguments for train.py in mode fast."""
    parser = build_parser()
    options, others = parser.parse_known_args(argv)
    command_line.use_demo(parser, options, DEMO, required=["checkpoint_path"])
    return options, others


# One mode


def arguments_of(options, mode, others, folder):
    """Arguments of train.py."""
    shared = {
        "data_root": options.data_root,
        "checkpoint_path": options.checkpoint_path,
        "device": options.device,
        "img_sidelengths": options.img_sidelength,
        "specific_observation_idcs": options.specific_observation_idcs,
        "max_num_instances_train": options.max_num_instances,
        "logging_root": folder,
        "log_dir": mode,
        "class_weight": 0,
        "steps_til_ckpt": 10**9,
    }
    arguments = [f"--{name}={value}" for name, value in shared.items()] + ["--overwrite_embeddings", "--no_validation"]
    if mode == "reference":
        return arguments + PUBLISHED
    return [
        *arguments,
        "--max_steps_per_img_sidelength",
        str(options.max_steps),
        "--batch_size_per_img_sidelength",
        "4",
        *others,
    ]


def fit_here(options, mode, others):
    """Fit codes in this process; returns a dict of copies, objects, novel_psnr, miou, steps and mb_peak (MiB).

    copies: list of (seconds, mean PSNR of the input views, PSNR of each object's input views)
    """
    device = util.pick_device(options.device)
    seen, copies = {}, []
    begin = time.perf_counter()

    def watch(_, data, run, model, *rest, **more):
        seen.update(data=data, model=model)
        run.every.append((1, look))

    def look(step):
        measuring.synchronise(device)
        seconds = time.perf_counter() - begin
        seen.update(steps=step, codes=(seconds, seen["model"].latent_codes.weight.detach()))
        if seconds >= max(FIRST_COPY_S, COPY_INTERVAL_FACTOR * copies[-1][0] if copies else 0):
            copies.append((seconds, seen["codes"][1].clone()))
        if seconds > options.budget:
            raise BudgetSpent

    shows, watching.attach = watching.attach, watch  # replaces the preview images, whose time is not part of the fit
    keeps = util.keep_freed_memory
    if mode == "reference":
        util.keep_freed_memory = lambda: False
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(BudgetSpent):
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                train.main.__wrapped__(arguments_of(options, mode, others, folder))
    finally:
        watching.attach, util.keep_freed_memory = shows, keeps
    mb_peak = measuring.peak_memory(device)
    if not copies or copies[-1][0] < seen["codes"][0]:
        copies.append((seen["codes"][0], seen["codes"][1].clone()))
    return score(options, seen["data"], seen["model"], copies, device) | {"steps": seen["steps"], "mb_peak": mb_peak}


def score(options, data, model, copies, device):
    """PSNR of the input views for every copy of the codes; PSNR and mIoU of novel views for the last copy."""
    head = None
    if options.linear_path:
        head = checkpoints.load_head(checkpoints.load(options.linear_path), model).to(device).eval()
    scored = []
    for seconds, codes in copies:
        rows = scores_of(options, data.train, data.settings, model, codes, None, device)
        psnr = means_of(rows, "psnr")
        scored.append((seconds, sum(psnr) / len(psnr), psnr))
    with_labels = head is not None and all((i.folder / "seg").is_dir() for i in data.train)
    novel = novel_instances(options, data.train, with_labels)
    found = {"copies": scored, "objects": len(data.train), "novel_psnr": None, "miou": None}
    if novel:
        rows = scores_of(options, novel, data.settings, model, copies[-1][1], head if with_labels else None, device)
        found["novel_psnr"] = sum(means_of(rows, "psnr")) / len(novel)
        if with_labels:
            found["miou"] = sum(means_of(rows, "miou")) / len(novel)
    return found


def novel_instances(options, instances, with_labels):
    """The same objects with some of the views that codes were not fitted to; [] if there are none."""
    given = set(common.comma_separated(int)(options.specific_observation_idcs))
    root, names = instances[0].folder.parent, [instance.name for instance in instances]
    num_views = min(len(instance.views) for instance in dataio.index_split(root, specific_ins=names))
    others = [view for view in range(num_views) if view not in given]
    if not others:
        return []
    chosen = [others[i] for i in dataio.choose_views(len(others), options.novel_views)]
    return dataio.index_split(root, specific_ins=names, with_labels=with_labels, specific_observation_idcs=chosen)


def scores_of(options, instances, settings, model, codes, head, device):
    """[(index of the instance, scores)] of every view, as in the validation of train.py."""
    num_classes = None if head is None else head.num_classes
    dataset = dataio.SceneClassDataset(instances, options.img_sidelength, settings, num_classes)
    found = []
    for batch in dataio.ordered_batches(dataset, 16):
        batch = {name: x.to(device) for name, x in batch.items()}
        batch["z"] = codes[batch["instance_idx"]]
        outputs = renderer.render(model, batch, head, with_classes=False)
        found += zip(batch["instance_idx"].tolist(), watching.score_images(outputs, batch))
    return found


def means_of(rows, name):
    """A number per instance: the mean over its views."""
    by_instance = {}
    for instance, scores in rows:
        by_instance.setdefault(instance, []).append(scores[name])
    return [sum(values) / len(values) for values in by_instance.values()]


# Comparison of the modes


def seconds_to(copies, psnr):
    """Seconds until the mean PSNR of the input views first reached `psnr`; None if it never did."""
    return next((seconds for seconds, found, _ in copies if found >= psnr), None)


def levels_of(ways, at_most=8):
    """Levels in whole dB, at most `at_most`: from the lowest PSNR that a mode started with to the highest reached."""
    best = math.floor(max(found for way in ways.values() for _, found, _ in way["copies"]))
    start = math.floor(min(way["copies"][0][1] for way in ways.values()))
    return list(range(max(start, best - at_most + 1), best + 1))


def compare(ways):
    """A dict per level: seconds of each mode in all and per object, and their ratio if both reached the level."""
    rows = []
    for level in levels_of(ways):
        row = {"psnr": level}
        for mode, way in ways.items():
            row[mode] = seconds_to(way["copies"], level)
            row[f"{mode}_each"] = None if row[mode] is None else row[mode] / way["objects"]
        both = row.get("reference") and row.get("fast")
        rows.append(row | {"ratio": row["reference"] / row["fast"] if both else None})
    return rows


LEVELS = {
    "psnr": ("input PSNR (dB)", ""),
    "fast": ("s, fast", ".1f"),
    "fast_each": ("s/object, fast", ".2f"),
    "reference": ("s, reference", ".1f"),
    "reference_each": ("s/object, reference", ".2f"),
    "ratio": ("reference/fast", ".1f"),
}
ENDS = {
    "mode": ("mode", ""),
    "s": ("s", ".1f"),
    "steps": ("steps", ",.0f"),
    "input_psnr": ("input PSNR (dB)", ".2f"),
    "novel_psnr": ("novel PSNR (dB)", ".2f"),
    "miou": ("mIoU", ".3f"),
    "mb_peak": ("peak MiB", ",.0f"),
}


def tables(figures):
    title = "Fitting codes: seconds to a mean PSNR of the input views"
    if "objects" in figures:
        title += f", {figures['objects']} objects"
    return [(title, figures.get("levels", []), LEVELS), ("Fitting codes: final scores", figures.get("ends", []), ENDS)]


@util.command
def main(argv=None):
    options, others = read_options(argv)
    figures = measuring.start(options)
    ways = {mode: measuring.in_own_process(fit_here, options, mode, others) for mode in measuring.modes_of(options)}
    figures["levels"] = compare(ways)
    figures["ends"] = [
        {"mode": mode, "s": way["copies"][-1][0], "input_psnr": way["copies"][-1][1]}
        | {name: way[name] for name in ("steps", "novel_psnr", "miou", "mb_peak")}
        for mode, way in ways.items()
    ]
    figures["ways"] = ways
    figures["objects"] = ways["fast"]["objects"]
    measuring.finish(options, figures, tables(figures))


if __name__ == "__main__":
    main()
