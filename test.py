"""Evaluates a model on a split: scores, pictures, point clouds.

All chosen views are rendered. Views that the codes were fitted to are shown, but not scored. Parts are scored in 2-D
if there are label maps, and in 3-D if there are labelled point clouds.

Writes to `<logging_root>/<log_dir>`: a folder per instance (`000000/`) with `rgb/ rgb_gt/ seg/ seg_gt/ normals/ input/
comparison/` and `point_cloud_rgb`, `point_cloud_seg` (.txt and .ply); `final_miou.csv`, `observations.csv`,
`results.txt`, `results.json`, `contact_sheet.png`, `params.txt`.
"""

import options as common  # first: it reports a missing package in one sentence

# isort: split

import argparse
from pathlib import Path

import torch

import checkpoints
import data_util
import dataio
import srns
import util
from evaluation import evaluate, metrics
from options import at_least, comma_separated, count_or_all, positive_int
from rendering import renderer
from rendering.precision import PRECISIONS
from runs import folders, resuming, stopping

PROGRAM = "test.py"
CHECKPOINTS = ("checkpoint_path", "linear_path", "unet_path")  # options that name one
SHOWN = """
    config_filepath data_root obj_name logging_root log_dir device img_sidelength eval_mode checkpoint_path linear_path
    unet_path input_idcs max_num_observations point_cloud
""".split()  # the options that --help prints


def build_parser():
    parser = common.parser(__doc__.splitlines()[0], SHOWN)
    common.add_common(parser, seed_help=argparse.SUPPRESS)  # published; nothing here is random
    add_evaluation(parser.add_argument_group("evaluation"))
    group = parser.add_argument_group("model: read from the checkpoint; an option that contradicts it is an error")
    common.add_model_variants(group)
    group.add("--num_instances", type=positive_int, help="number of latent codes that the checkpoint must hold")
    group.add("--freeze_networks", action="store_true", help=argparse.SUPPRESS)  # published; nothing here is trained
    return parser


def add_evaluation(group):
    group.add("--checkpoint_path", required=True, help="SRN with codes of these instances: a .pth file or its folder")
    group.add("--eval_mode", type=str.lower, choices=("srn", *srns.HEADS), default="srn", help="what predicts classes")
    group.add("--linear_path", help="linear or MLP head of stage 2: a .pth file or its folder")
    group.add("--unet_path", help="U-Net baseline of stage 2: a .pth file or its folder")
    group.add("--max_num_instances", type=count_or_all, default=-1, help="instances, the first ones; -1: all")
    group.add("--max_num_observations", type=count_or_all, default=-1, help="views per instance, spread evenly; -1: all")
    group.add(
        "--input_idcs", type=comma_separated(int), help="views that the codes were fitted to (default: the checkpoint's)"
    )
    group.add("--score_input_views", action="store_true", help="also score the views that the codes were fitted to")
    group.add("--reverse", action="store_true", help="the codes of a published checkpoint were fitted to label maps")
    group.add("--point_cloud", action="store_true", help="write point clouds, coloured by image and by class")
    group.add("--save_out_first_n", type=at_least(0), default=250, help="instances with written pictures and clouds")
    group.add("--img_sidelength", type=at_least(metrics.SSIM_WINDOW), default=128, help="side of the images in pixels")
    group.add("--batch_size", type=positive_int, default=32, help="images rendered at once")
    group.add("--precision", choices=sorted(PRECISIONS), default="float32", help="number format of matrix products")
    common.add_fused(group)
    group.add("--compile", action="store_true", help="compile the layers that every ray passes with torch.compile")


def read_options(argv):
    parser = build_parser()
    options = parser.parse_args(argv)
    path_of = {"srn": None, "linear": "linear_path", "mlp": "linear_path", "unet": "unet_path"}[options.eval_mode]
    for name in ("linear_path", "unet_path"):
        if bool(getattr(options, name)) != (name == path_of):
            expected = f"--{path_of} and no other head" if path_of else f"no --{name}"
            parser.error(f"--eval_mode {options.eval_mode}: expected {expected}")
    if options.reverse and not options.obj_name:
        parser.error("--reverse shows label maps, which need a class list; give --obj_name")
    return options


def open_models(options, device):
    """The checkpoints.OpenSRN, the head that predicts classes instead of its U-Net, and the head's file; on the device.

    Head and file are None if the options name none.
    """
    srn = checkpoints.open_srn(options.checkpoint_path, options.data_root, **common.wanted_sizes(options))
    model = srn.model.to(device).eval()
    num_codes = model.sizes["num_instances"]
    if options.num_instances not in (None, num_codes):
        raise util.InputError(f"{srn.path}: holds {num_codes} latent codes, but --num_instances is {options.num_instances}")
    path = options.linear_path or options.unet_path
    if not path:
        return srn, None, None
    head, contents = checkpoints.open_head(path, model, "--eval_mode", options.eval_mode)
    return srn, head.to(device).eval(), contents["path"]


def open_data(options, srn):
    """The split's data set, with labels if --obj_name names a class list and there are labels; class names or None."""
    class_names = None
    which = {"max_num_instances": options.max_num_instances, "specific_ins": options.specific_ins}
    if options.obj_name:
        class_names = data_util.load_class_names(dataio.find_class_list(options.data_root, options.obj_name))
    folders = dataio.instance_folders(options.data_root, **which)
    # If one of the instances has label maps, all of them need some.
    with_labels = class_names is not None and any((folder / "seg").is_dir() for folder in folders)
    if class_names and not with_labels:
        print(f"note: {options.data_root} has no label maps, so parts are shown but not scored")
    instances = dataio.index_split(
        options.data_root,
        with_labels=with_labels,
        with_params=srn.model.sizes["has_params"],
        specific_observation_idcs=options.specific_observation_idcs,
        max_num_observations=options.max_num_observations,
        **which,
    )
    srn.expect_width(instances)
    settings = dataio.dataset_settings(options.data_root, options.blend_alpha)
    srn.note_other_settings(settings)
    dataset = dataio.SceneClassDataset(
        instances,
        options.img_sidelength,
        settings,
        len(class_names) if with_labels else None,
        preload=options.preload,
        cache=options.cache,
        num_workers=options.num_workers,
    )
    return dataset, class_names


def find_input_views(options, srn, dataset):
    """The set of (instance, view) that the codes were fitted to."""
    if options.input_idcs:
        names = [instance.name for instance in dataset.instances]
        chosen = dataio.index_split(options.data_root, specific_ins=names, specific_observation_idcs=options.input_idcs)
        return {(instance.name, view) for instance in chosen for view in instance.views}
    if srn.contents["split"] is None:
        print(f"note: {srn.path} does not store the views that its codes were fitted to; see --input_idcs")
    if srn.contents["split"] != Path(options.data_root).resolve().name:
        return set()
    return {(name, view) for name, views in srn.contents["views"].items() for view in views}


def make_plan(options, srn, head, dataset, class_names):
    """The evaluate.Plan of these options. Raises util.InputError if they do not fit the models or the data."""
    num_classes = srn.model.sizes["num_classes"] if head is None else head.num_classes
    if class_names and num_classes and len(class_names) != num_classes:
        path = dataio.find_class_list(options.data_root, options.obj_name)
        raise util.InputError(f"{path}: lists {len(class_names)} classes, expected {num_classes} as in the model")
    renderer.expect_side(options.img_sidelength, srn.model, head)
    input_views = find_input_views(options, srn, dataset)
    if options.reverse and not (input_views and dataset.num_classes):
        raise util.InputError("--reverse shows the label maps of input views: provide them, and name the views: --input_idcs")
    fitted_to_labels = dataset.num_classes and (options.reverse or srn.contents.get("observed") == ["seg"])
    plan = evaluate.Plan(
        dataset,
        input_views=input_views,
        excluded_views=set() if options.score_input_views else input_views,
        input_kind="seg_gt" if fitted_to_labels else "rgb_gt",
        class_names=class_names,
        num_classes=num_classes or len(class_names or []),
        labelled_clouds=load_labelled_clouds(dataset) if dataset.num_classes and num_classes else {},
        num_written=options.save_out_first_n,
        write_clouds=options.point_cloud,
    )
    if not plan.scored_views():
        print("note: all chosen views are input views, so none is scored; --score_input_views scores them")
    if class_names and not num_classes:
        print(f"note: {srn.path} has no segmentation U-Net, so parts are not predicted; see --eval_mode")
    return plan


def load_labelled_clouds(dataset):
    """{instance: data_util.LabelledCloud} of the instances that have one."""
    found = {x.name: data_util.load_labelled_cloud(x.folder, dataset.num_classes) for x in dataset.instances}
    return {name: cloud for name, cloud in found.items() if cloud is not None}


@util.command
def main(argv=None):
    util.expect_one_process(PROGRAM)
    with stopping.listening():
        evaluate_split(read_options(argv))


def evaluate_split(options):
    inputs = resuming.inputs_of(options, CHECKPOINTS)
    if resuming.is_done(options, inputs):
        return
    util.keep_freed_memory()
    device = util.pick_device(options.device)
    common.use_fused(options, device)
    srn, head, head_path = open_models(options, device)
    if options.compile:
        srn.model.compile_rays()
    dataset, class_names = open_data(options, srn)
    rows = torch.tensor(srn.rows([instance.name for instance in dataset.instances], options.data_root))
    plan = make_plan(options, srn, head, dataset, class_names)

    def render(batch):
        batch = {name: tensor.to(device) for name, tensor in dataio.with_rows(batch, rows).items()}
        return batch, renderer.render(srn.model, batch, head, precision=options.precision)

    evaluated = {
        "checkpoint": str(srn.path.resolve()),
        "head": str(head_path.resolve()) if head_path else None,
        "eval_mode": options.eval_mode,
        "data_root": str(Path(options.data_root).resolve()),
        "img_sidelength": options.img_sidelength,
        "score_input_views": options.score_input_views,
    }
    with folders.start(options, PROGRAM, options.resume == "auto", inputs) as folder:
        evaluation = evaluate.Evaluation(plan, folder.path)
        evaluation.run(render, options.batch_size, options.num_workers, folder.after_part)
        evaluation.write(evaluated | plan.facts())
        folder.record.update(scores=evaluation.means())
    print(f"next: python compare_results.py {folder.path} and other runs, side by side")


if __name__ == "__main__":
    main()
