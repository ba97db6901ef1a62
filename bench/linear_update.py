"""Measure how long the linear update (stage 2) takes once the SRN is loaded, and score the head.

    python -m bench.linear_update                              # the demo's chairs
    python -m bench.linear_update --reference                  # compared with the published method
    python -m bench.linear_update --data_root ... --checkpoint_path ... --obj_name Table --img_sidelengths 128

Further options are passed to train.py. The reference is the published method, with the same modules: 5,000 steps of Adam
on batches of 4 whole images, whose features are recomputed in every step. Without --full, a few of these steps are
measured and the time is extrapolated. The score needs all steps: these take the same batches from stored features, which
gives the same head.
"""

import functools
import time
from pathlib import Path
from types import SimpleNamespace

import torch

import dataio
import options as common
import srns
import train
import util
from bench import command_line, measuring
from kernels import backends
from rendering import renderer
from training import head_update, logistic_regression, objectives, stage_data, watch
from training.plan import resolve

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED_STEPS, PUBLISHED_BATCH, PUBLISHED_RATE = 5000, 4, 4e-4
DEMO = {
    "data_root": ROOT / "data/demo/Chair/Chair.train",
    "val_root": ROOT / "data/demo/Chair/Chair.train_val",
    "checkpoint_path": ROOT / "logs/demo/Chair/vanilla_srn",
    "obj_name": "Chair",
    "config_filepath": ROOT / "train_configs/demo_linear_update.yml",
}


def build_parser():
    parser = command_line.parser("linear_update", __doc__)
    command_line.add_trained(parser, "split with label maps (default: the demo's chairs, with the options of its stage 2)")
    add = parser.add_argument
    add("--obj_name", help="class name, as in train.py (default: Chair, the demo's)")
    add("--val_root", help="split with other views of the same instances, to score the head (default: the demo's, or none)")
    add("--config_filepath", help="YAML file of options, as in train.py")
    add("--reference_steps", type=common.positive_int, default=20, help="measured steps of the published method")
    add("--adam_steps", type=common.positive_int, default=PUBLISHED_STEPS, help="all steps of the published method")
    add("--full", action="store_true", help="measure all steps of the published method")
    command_line.add_reference(parser)
    return parser


def read_options(argv):
    """This command's options, and the plan of train.py."""
    parser = build_parser()
    options, others = parser.parse_known_args(argv)
    command_line.use_demo(parser, options, DEMO, required=["checkpoint_path", "obj_name"])
    names = ("data_root", "checkpoint_path", "obj_name", "val_root", "config_filepath", "device")
    given = [f"--{name}={getattr(options, name)}" for name in names if getattr(options, name)]
    return options, resolve(train.read_options([*given, "--model_type=linear", *others]))


def new_head(update, device):
    """An untrained linear head that reads what the head of the plan reads."""
    return srns.LinearHead(update.head.in_features, update.head.num_classes, update.head.features).to(device)


def solved(plan, update, device):
    """Solve for the linear layer as stage 2 does; returns the head and a dict of seconds."""
    backends.select("auto", device)
    begin = time.perf_counter()
    features, labels = head_update.own_inputs(plan, update, device, plan.schedule.img_sidelengths[-1])
    measuring.synchronise(device)
    rendered = time.perf_counter()
    num_classes, penalty = update.head.num_classes, head_update.penalty_of(plan)
    solution = logistic_regression.fit(features, labels, num_classes, penalty)
    head = new_head(update, device)
    with torch.no_grad():
        head.linear.weight.copy_(solution.weight)
        head.linear.bias.copy_(solution.bias)
    measuring.synchronise(device)
    end = time.perf_counter()
    parts = {"s_to_render": rendered - begin, "s_to_solve": end - rendered}
    return head, {"s": end - begin, **parts}


def published(plan, update, device, num_steps, kept=None):
    """Head after `num_steps` of Adam. kept: the result of keep_all; None: features are computed in each step."""
    backends.select("torch")
    torch.manual_seed(plan.schedule.seed)
    side = plan.schedule.img_sidelengths[-1]
    dataset = stage_data.make_dataset(plan.sources, update.data, update.data.train, side)
    head = new_head(update, device)
    objective = objectives.HeadObjective(head, plan.weights.classes)
    optimizer = torch.optim.Adam(head.parameters(), lr=PUBLISHED_RATE)
    for batch in batches_of(dataset, num_steps, plan.schedule.seed, kept):
        if kept is None:
            batch = {name: x.to(device) for name, x in dataio.with_rows(batch, torch.tensor(update.rows)).items()}
            with torch.no_grad():
                features = head.inputs(update.model.per_ray(batch, with_layers=head.reads_layers))
        else:
            features = torch.stack([kept[i][0] for i in batch])
            batch = {"seg_labels": torch.stack([kept[i][1] for i in batch])}
        optimizer.zero_grad(set_to_none=True)
        sum(objective({"inputs": features, "seg_labels": batch["seg_labels"]}).values()).backward()
        optimizer.step()
    measuring.synchronise(device)
    return head


def batches_of(dataset, num_steps, seed, kept):
    """Shuffled batches of 4 views, or lists of their indices if features are kept."""
    if kept is None:
        return dataio.training_batches(dataset, PUBLISHED_BATCH, 0, num_steps, seed)
    order = dataio.BatchOrder(len(dataset), PUBLISHED_BATCH, 0, num_steps, seed)
    return ([draw.index for draw in batch] for batch in order)


def keep_all(plan, update, device):
    """[(features (R, C), seg_labels (R,))] of every observation; None if they would fill over half of the free memory."""
    dataset = stage_data.make_dataset(plan.sources, update.data, update.data.train, plan.schedule.img_sidelengths[-1])
    needed = len(dataset) * len(dataset.uv) * update.sizes["in_features"] * 4
    if needed > measuring.free_memory(device) // 2:
        return None
    kept = []
    for batch in dataio.ordered_batches(dataset, PUBLISHED_BATCH):
        batch = {name: x.to(device) for name, x in dataio.with_rows(batch, torch.tensor(update.rows)).items()}
        outputs = renderer.render(update.model, batch, with_classes=False, inputs_of=update.head)
        kept += zip(outputs["inputs"], batch["seg_labels"])
    return kept


def miou(plan, update, head, device):
    """Mean IoU over the images of --val_root, as in the validation of train.py; None if there are none."""
    if not update.data.val:
        return None
    row_of = dict(zip(stage_data.names_of(update.data.train), update.rows))
    rows = [row_of[name] for name in stage_data.names_of(update.data.val)]
    dataset = stage_data.make_dataset(plan.sources, update.data, update.data.val, plan.schedule.img_sidelengths[-1])
    place = SimpleNamespace(to_device=lambda batch: {name: x.to(device) for name, x in batch.items()})
    render = functools.partial(watch.render_in_eval_mode, place, update.model, head, rows)
    return watch.Validation(render, dataio.ordered_batches(dataset, 16), place).scores()["miou"]


def measure(options, plan, device):
    """A dict per mode, and a dict of label_maps, sidelength and features."""
    update = head_update.open_update(plan, device)
    with torch.random.fork_rng(devices=[]):
        head, seconds = solved(plan, update, device)
    rows = [{"mode": "fast", "how": "solved", **seconds, "steps_measured": None, "miou": miou(plan, update, head, device)}]
    if options.reference:
        num_steps = options.adam_steps if options.full else min(options.reference_steps, options.adam_steps)
        published(plan, update, device, 1)  # warms up
        begin = time.perf_counter()
        head = published(plan, update, device, num_steps)
        seconds = (time.perf_counter() - begin) * options.adam_steps / num_steps
        how = f"{options.adam_steps:,} steps" + ("" if options.full else f", from {num_steps} measured")
        row = {"mode": "reference", "how": how, "s": seconds, "steps_measured": num_steps, "miou": None}
        if update.data.val and num_steps < options.adam_steps:
            kept = keep_all(plan, update, device)
            head = None if kept is None else published(plan, update, device, options.adam_steps, kept)
        if head is not None:
            row["miou"] = miou(plan, update, head, device)
        rows.append(row)
    side = plan.schedule.img_sidelengths[-1]
    num_maps = sum(len(instance.views) for instance in update.data.train)
    what = {"label_maps": num_maps, "sidelength": side, "features": update.head.in_features}
    return measuring.with_ratios(rows, "s", []), what


COLUMNS = {
    "mode": ("mode", ""),
    "how": ("how", ""),
    "s": ("total (s)", ",.2f"),
    "s_to_render": ("features (s)", ".2f"),
    "s_to_solve": ("solution (s)", ".2f"),
    "miou": ("mIoU", ".3f"),
    "ratio": ("reference/fast", ",.0f"),
}


def tables(figures):
    title, what = "Linear update", figures.get("of")
    if what:
        side = what["sidelength"]
        title += f": {what['label_maps']} label maps of {side} x {side}, {what['features']} features"
    return [(title, figures.get("rows", []), COLUMNS)]


@util.command
def main(argv=None):
    options, plan = read_options(argv)
    device = util.pick_device(options.device)
    figures = measuring.start(options)
    figures["rows"], figures["of"] = measure(options, plan, device)
    measuring.finish(options, figures, tables(figures))


if __name__ == "__main__":
    main()
