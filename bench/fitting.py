"""How long latent codes of unseen objects (stage 3) take to fit: seconds to a PSNR of the input, and what comes of it.

    python -m bench.fitting                                    # the demo's unseen chairs, view 65 of each
    python -m bench.fitting --reference                        # and the published way beside it, for as long
    python -m bench.fitting --data_root ... --checkpoint_path ... --img_sidelength 128 --specific_observation_idcs 64,104

Other options are train.py's, for the fast way. The published way, with the same modules: codes from near 0, batches of 4
whole images, all rays at once, a learning rate of 4e-4. Both run train.py in processes of their own. Seconds count from
the moment its options are read, data and model to be opened still; codes are copied on the way and scored afterwards.
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
from bench import measuring
from rendering import renderer
from training import watch as watching

ROOT = Path(__file__).resolve().parent.parent
DEMO = {
    "data_root": ROOT / "data/demo/Chair/Chair.test",
    "checkpoint_path": ROOT / "logs/demo/Chair/vanilla_srn",
    "linear_path": ROOT / "logs/demo/Chair/linear_update",
}
SECONDS_BETWEEN = 1.15  # two copies of the codes: each so many times as late as the one before, from FIRST_COPY_S on
FIRST_COPY_S = 0.5
PUBLISHED = [
    "--code_solver",
    "published",
    "--code_init",
    "normal",
    "--batch_size_per_img_sidelength",
    "4",
    "--lr",
    "4e-4",
    "--rays_per_image",
    "0",
    "--rays_per_block",
    "0",
    "--fused",
    "off",
    "--max_steps_per_img_sidelength",
    "1000000",
]


class BudgetSpent(Exception):
    """The seconds that a way of fitting had are over."""


def build_parser():
    parser = measuring.parser(__doc__.splitlines()[0])
    measuring.add_trained(parser, "split of unseen objects (default: the demo's chairs)")
    add = parser.add_argument
    add("--linear_path", help="a head of stage 2, by which the novel views are segmented")
    add("--img_sidelength", type=common.positive_int, default=64, help="of the images")
    add("--specific_observation_idcs", default="65", help="views that codes are fitted to, with commas")
    add("--max_num_instances", type=common.count_or_all, default=-1, help="the first so many; -1: all")
    add("--max_steps", type=common.positive_int, default=1000, help="of the fast way, which ends before where it is done")
    add("--budget", type=common.weight, default=60.0, help="seconds that each way has at most")
    add(
        "--novel_views", type=common.positive_int, default=4, help="of each object, spread evenly, that are scored in the end"
    )
    measuring.add_reference(parser, "measure the published way too")
    return parser


def read_options(argv):
    """This command's options, and those of train.py for the fast way, as they were given."""
    parser = build_parser()
    options, others = parser.parse_known_args(argv)
    measuring.use_demo(parser, options, DEMO, needed=["checkpoint_path"])
    return options, others


# One way


def arguments_of(options, mode, others, folder):
    """What train.py is asked for."""
    common_ones = {
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
    asked = [f"--{name}={value}" for name, value in common_ones.items()] + ["--overwrite_embeddings", "--no_validation"]
    if mode == "reference":
        return asked + PUBLISHED
    return [*asked, "--max_steps_per_img_sidelength", str(options.max_steps), "--batch_size_per_img_sidelength", "4", *others]


def fit_here(settings, mode, others):
    """A dict of what a way came to, in this process; settings: the options, a dict.

    copies: list of (seconds, mean PSNR of the input, PSNR of each object's input); novel_psnr, miou, steps, mb_peak
    """
    options = build_parser().parse_args([])
    vars(options).update(settings)
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
        if seconds >= max(FIRST_COPY_S, SECONDS_BETWEEN * copies[-1][0] if copies else 0):
            copies.append((seconds, seen["codes"][1].clone()))
        if seconds > options.budget:
            raise BudgetSpent

    shows, watching.attach = watching.attach, watch  # no pictures: they take time that is not the fit's
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
    """PSNR of the input with every copy of the codes; of novel views, and their mIoU, with the last one."""
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
    """The same objects, some of the views that were not given; none where there are no others."""
    given = set(common.comma_separated(int)(options.specific_observation_idcs))
    root, names = instances[0].folder.parent, [instance.name for instance in instances]
    num_views = min(len(instance.views) for instance in dataio.index_split(root, specific_ins=names))
    others = [view for view in range(num_views) if view not in given]
    if not others:
        return []
    chosen = [others[i] for i in dataio.choose_views(len(others), options.novel_views)]
    return dataio.index_split(root, specific_ins=names, with_labels=with_labels, specific_observation_idcs=chosen)


def scores_of(options, instances, settings, model, codes, head, device):
    """[(index of the instance, its scores)] of every view, as train.py validates."""
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


# Both


def seconds_to(copies, psnr):
    """When the mean PSNR of the input first was as high; None if never."""
    return next((seconds for seconds, found, _ in copies if found >= psnr), None)


def levels_of(ways, at_most=8):
    """Levels in whole dB, the highest that any way came to and those below, down to where the last one began."""
    best = math.floor(max(found for way in ways.values() for _, found, _ in way["copies"]))
    start = math.floor(min(way["copies"][0][1] for way in ways.values()))
    return list(range(max(start, best - at_most + 1), best + 1))


def compare(ways):
    """A dict per level: seconds of each way, of all objects and of one, and their ratio where both came to it."""
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
    "fast_each": ("s an object", ".2f"),
    "reference": ("s, reference", ".1f"),
    "reference_each": ("s an object", ".2f"),
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
    title = "Fitting codes: when the mean PSNR of the input is reached"
    if "objects" in figures:
        title += f", {figures['objects']} objects"
    return [(title, figures.get("levels", []), LEVELS), ("Fitting codes: the end", figures.get("ends", []), ENDS)]


@util.command
def main(argv=None):
    options, others = read_options(argv)
    figures = measuring.start(options)
    modes = measuring.MODES if options.reference else measuring.MODES[:1]
    ways = {mode: measuring.in_own_process(fit_here, vars(options), mode, others) for mode in modes}
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
