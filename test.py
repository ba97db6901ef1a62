"""Test: render the objects of a split, score what was not shown to the model, write pictures and point clouds.

Parts are scored in 3-D as well, where instances have labelled point clouds.

Below `<logging_root>/<log_dir>`: a folder per instance (`000000/`) with `rgb/ rgb_gt/ seg/ seg_gt/ normals/ input/
comparison/` and `point_cloud_rgb`, `point_cloud_seg` (.txt and .ply); `final_miou.csv`, `observations.csv`,
`results.txt`, `results.json`, `contact_sheet.png`, `params.txt`.
"""

import hashlib
from pathlib import Path

import torch
from tqdm import tqdm

import checkpoints
import data_util
import dataio
import options as common
import srns
import util
import visual
from evaluation import clouds, contact_sheet, metrics, picture_files, scoring
from rendering import renderer
from rendering.precision import PRECISIONS

SHOWN = (  # the options that --help prints
    *("config_filepath", "data_root", "obj_name", "logging_root", "log_dir", "device", "img_sidelength", "eval_mode"),
    *("checkpoint_path", "linear_path", "unet_path", "input_idcs", "max_num_observations", "point_cloud"),
)


def build_parser():
    parser = common.parser(__doc__.splitlines()[0], SHOWN)
    common.add_common(parser)
    group = parser.add_argument_group("evaluation")
    group.add("--img_sidelength", type=common.at_least(metrics.SSIM_WINDOW), default=128, help="side of the rendered images")
    group.add("--batch_size", type=common.positive, default=32, help="images rendered at once")
    group.add("--precision", choices=sorted(PRECISIONS), default="float32", help="of the products of matrices")
    common.add_fused(group)
    group.add("--compile", action="store_true", help="fuse what every ray goes through with torch.compile")
    group.add(
        "--eval_mode",
        type=str.lower,
        choices=("srn", *srns.HEADS),
        default="srn",
        help="where classes come from: the "
        "SRN's own U-Net, if it has one; the head of --linear_path; the U-Net baseline of --unet_path",
    )
    group.add("--checkpoint_path", required=True, help="SRN with codes of these instances: a .pth file or a folder of some")
    group.add("--linear_path", help="the head of stage 2 (linear or MLP): a .pth file or a folder of some")
    group.add("--unet_path", help="the U-Net baseline of stage 2: a .pth file or a folder of some")
    group.add("--max_num_instances", type=common.count_or_all, default=-1, help="the first so many; -1: all")
    group.add(
        "--max_num_observations", type=common.count_or_all, default=-1, help="views per instance, spread evenly; -1: all"
    )
    group.add(
        "--input_idcs",
        type=common.comma_separated(int),
        help="views the codes were fitted to: shown in the pictures, "
        "not scored (default: those that the checkpoint names for this split)",
    )
    group.add(
        "--reverse",
        action="store_true",
        help="codes were fitted to label maps: these are shown as what was given (a checkpoint made here knows by itself)",
    )
    group.add("--score_input_views", action="store_true", help="score the views the codes were fitted to as well")
    group.add("--point_cloud", action="store_true", help="write point clouds by colour and by class")
    group.add(
        "--save_out_first_n", type=common.at_least(0), default=250, help="instances whose pictures and clouds are written"
    )
    group = parser.add_argument_group("model; the checkpoint tells it, and a contradiction is refused")
    common.add_model_variants(group)
    group.add("--num_instances", type=common.positive, help="if given, the checkpoint must hold as many latent codes")
    group.add("--freeze_networks", action="store_true", help="nothing is trained here, so this changes nothing")
    return parser


def read_options(argv):
    parser = build_parser()
    options = parser.parse_args(argv)
    path_of = {"srn": None, "linear": "linear_path", "mlp": "linear_path", "unet": "unet_path"}[options.eval_mode]
    for name in ("linear_path", "unet_path"):
        if bool(getattr(options, name)) != (name == path_of):
            parser.error(f"--eval_mode {options.eval_mode} goes with {f'--{path_of} alone' if path_of else 'no --' + name}")
    if options.reverse and not options.obj_name:
        parser.error("--reverse shows label maps, which need a class list: give --obj_name")
    return options


def open_data(options, checkpoint):
    """The split's data set, with labels where --obj_name names a class list and there are any; class names (or None)."""
    settings = dataio.dataset_settings(options.data_root, options.blend_alpha)
    checkpoints.note_other_settings(checkpoint, settings)
    class_names = None
    if options.obj_name:
        class_names = data_util.load_class_names(dataio.find_class_list(options.data_root, options.obj_name))
    with_labels = class_names is not None and has_labels(options)
    if class_names and not with_labels:
        print(f"note: {options.data_root} has no label maps, so parts are shown but not scored")
    instances = dataio.index_split(
        options.data_root,
        with_labels=with_labels,
        with_params=checkpoint["sizes"].get("has_params", False),
        max_num_instances=options.max_num_instances,
        specific_ins=options.specific_ins,
        specific_observation_idcs=options.specific_observation_idcs,
        max_num_observations=options.max_num_observations,
    )
    checkpoints.expect_width(checkpoint, instances)
    num_classes = len(class_names) if with_labels else None
    dataset = dataio.SceneClassDataset(
        instances,
        options.img_sidelength,
        settings,
        num_classes,
        preload=options.preload,
        cache=options.cache,
        num_workers=options.num_workers,
    )
    return dataset, class_names


def has_labels(options):
    """Whether any of the chosen instances has a folder of label maps; then all of them must."""
    folders = dataio.instance_folders(options.data_root, options.max_num_instances, options.specific_ins)
    return any((folder / "seg").is_dir() for folder in folders)


def open_head(options, model):
    """The checkpoint of the head that gives the classes, and the head on the model's device; None, None without one."""
    path = options.linear_path or options.unet_path
    if not path:
        return None, None
    checkpoint = checkpoints.load(path)
    head = checkpoints.load_head(checkpoint, model)
    kind = checkpoint["sizes"]["kind"]
    if kind != options.eval_mode:
        raise util.InputError(f"{checkpoint['path']}: holds a head of kind {kind}; evaluate it with --eval_mode {kind}")
    return checkpoint, head.to(next(model.parameters()).device).eval()


def rows_of_table(options, model, checkpoint, dataset):
    """Rows of the latent table that belong to the instances of the data set, by name."""
    folders = [folder.name for folder in dataio.instance_folders(options.data_root)]
    checkpoint = checkpoints.with_names(checkpoint, folders, options.data_root)
    if options.num_instances not in (None, model.sizes["num_instances"]):
        raise util.InputError(
            f"{checkpoint['path']}: holds {model.sizes['num_instances']} latent codes, but --num_instances is "
            f"{options.num_instances}"
        )
    return checkpoints.rows_for(model, checkpoint, [x.name for x in dataset.instances], options.data_root)


def input_views(options, checkpoint, dataset):
    """The set of (instance name, view name) that the codes were fitted to."""
    if options.input_idcs:
        names = [instance.name for instance in dataset.instances]
        given = dataio.index_split(options.data_root, specific_ins=names, specific_observation_idcs=options.input_idcs)
        return {(instance.name, view) for instance in given for view in instance.views}
    if checkpoint["split"] is None:
        print(f"note: {checkpoint['path']} does not tell which views it was given; name them with --input_idcs")
    if checkpoint["split"] != Path(options.data_root).resolve().name:
        return set()
    return {(name, view) for name, views in checkpoint["views"].items() for view in views}


def run_facts(options, checkpoint, head_checkpoint, scored, num_given):
    """What is evaluated, for results.json. The digest tells whether two runs scored views of the same names."""
    views = "".join(f"{instance}/{view}\n" for instance, view in sorted(scored))
    return {
        "checkpoint": str(checkpoint["path"].resolve()),
        "head": str(head_checkpoint["path"].resolve()) if head_checkpoint else None,
        "eval_mode": options.eval_mode,
        "data_root": str(Path(options.data_root).resolve()),
        "img_sidelength": options.img_sidelength,
        "num_scored_views": len(scored),
        "num_given_views": num_given,
        "score_input_views": options.score_input_views,
        "views_digest": hashlib.sha256(views.encode()).hexdigest()[:16],
    }


def score(scores, names, outputs, batch, given):
    """Add every observation of a rendered batch that was not given to the model."""
    rows = scoring.image_scores(util.as_image(outputs["rgb"]), util.as_image(batch["rgb"]))
    confusions = [None] * len(names)
    if "seg_logits" in outputs and "seg_labels" in batch:
        seg_logits = outputs["seg_logits"]
        confusions = metrics.confusion_matrix(seg_logits.argmax(dim=-1), batch["seg_labels"], seg_logits.shape[-1])
    for name, row, confusion in zip(names, rows, confusions):
        if name not in given:
            scores.add(*name, row, confusion)


@util.command
def main(argv=None):
    util.expect_one_process("test.py")
    options = read_options(argv)
    util.keep_freed_memory()
    device = util.pick_device(options.device)
    common.use_fused(options, device)
    checkpoint = checkpoints.load(options.checkpoint_path)
    model = checkpoints.load_srn(checkpoint, **common.wanted_sizes(options)).to(device).eval()
    if options.compile:
        model.compile_rays()
    head_checkpoint, head = open_head(options, model)
    dataset, class_names = open_data(options, checkpoint)
    rows = torch.tensor(rows_of_table(options, model, checkpoint, dataset))

    num_classes = head.num_classes if head is not None else model.sizes["num_classes"]
    if class_names and num_classes and len(class_names) != num_classes:
        raise util.InputError(
            f"{dataio.find_class_list(options.data_root, options.obj_name)}: lists {len(class_names)} classes, "
            f"but the model tells {num_classes} apart"
        )
    renderer.expect_side(options.img_sidelength, model, head)
    known = input_views(options, checkpoint, dataset)
    given = set() if options.score_input_views else known
    scored = [name for i in range(len(dataset)) if (name := dataset.name_of(i)) not in given]
    if not scored:
        print("note: every chosen view was given to the model, so none is scored; --score_input_views scores them")
    if class_names and not num_classes:
        print(f"note: {checkpoint['path']} has no U-Net of its own, so parts are not predicted; see --eval_mode")
    if options.reverse and not (known and dataset.num_classes):
        raise util.InputError(
            "--reverse: shows the label maps of the given views; name these views with --input_idcs, and "
            "see that the data have label maps"
        )
    labelled = {}
    if dataset.num_classes and num_classes:
        names = {instance for instance, _ in scored}
        folders = [x.folder for x in dataset.instances if x.name in names]
        found = {folder.name: data_util.load_labelled_cloud(folder, num_classes) for folder in folders}
        labelled = {name: cloud for name, cloud in found.items() if cloud is not None}

    def render(batch):
        """The batch on the device, its instance_idx rows of the latent table, and what is rendered for it."""
        batch = dataio.with_rows(batch, rows)
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        return batch, renderer.render(model, batch, head, precision=options.precision)

    folder = common.start_run(options)
    num_classes = num_classes or len(class_names or [])
    seen_as = "seg_gt" if dataset.num_classes and (options.reverse or checkpoint.get("observed") == ["seg"]) else "rgb_gt"
    sheet = contact_sheet.Sheet(dataset, known, seen_as)
    scores = evaluate(options, render, dataset, known, given, labelled, class_names, num_classes, folder, sheet)
    evaluated = {instance.name for instance in dataset.instances}
    num_given = sum(instance in evaluated for instance, _ in known)
    scores.write(folder, run_facts(options, checkpoint, head_checkpoint, scored, num_given))
    sheet.write(folder / "contact_sheet.png", scores, class_names)
    print(scoring.format_summary(scores.summary()), end="")
    print(f"contact sheet: {folder / 'contact_sheet.png'}")


def on_cpu(tensors):
    return {name: tensor.cpu() for name, tensor in tensors.items()}


@torch.inference_mode()
def evaluate(options, render, dataset, known, given, labelled, class_names, num_classes, folder, sheet):
    """Render everything once, in order, score it, and write its pictures and point clouds.

    known:    names of the views that were given to the model, shown as such
    given:    those of them that are not scored
    labelled: {instance: data_util.LabelledCloud} of those that have one
    sheet:    contact_sheet.Sheet, to be filled
    returns   the scoring.Scores
    """
    names = [dataset.name_of(i) for i in range(len(dataset))]
    folder_of = {instance.name: folder / f"{i:06d}" for i, instance in enumerate(dataset.instances)}
    written = {instance.name for instance in dataset.instances[: options.save_out_first_n]}
    scores = scoring.Scores(class_names, [instance.name for instance in dataset.instances])
    with_cloud = labelled.keys() | (written if options.point_cloud else set())
    collector = clouds.Collector({x.name: x.views for x in dataset.instances if x.name in with_cloud})
    batches = dataio.prefetched(dataio.ordered_batches(dataset, options.batch_size, options.num_workers))

    def show(outputs, batch, i, instance, view):
        """Make the pictures of an observation, in a thread of the writer's, and write those that are wanted."""
        pictures = visual.of_observation(outputs, batch, i, num_classes)
        pictures["comparison"] = visual.strip(list(pictures.values()))
        sheet.add(instance, view, pictures)
        if instance in written:
            for kind, picture in pictures.items():
                picture_files.write_picture(folder_of[instance] / kind / f"{view}.png", picture)
            if (instance, view) in known:
                picture_files.write_picture(folder_of[instance] / "input" / f"{view}.png", pictures[sheet.seen_as])

    with picture_files.PictureWriter() as writer, tqdm(total=len(dataset), desc=folder.name, unit="image") as bar:
        for batch in batches:
            batch, outputs = render(batch)
            names_here = [names[i] for i in batch["observation_idx"].tolist()]
            score(scores, names_here, outputs, batch, given)
            batch, outputs = on_cpu(batch), on_cpu(outputs)
            for i, (instance, view) in enumerate(names_here):
                if instance in written or instance in sheet.chosen:
                    writer.do(show, outputs, batch, i, instance, view)
                cloud = collector.add(instance, view, outputs, i)
                if cloud is not None and options.point_cloud and instance in written:
                    cloud.write(folder_of[instance], num_classes)
                if cloud is not None and instance in labelled:
                    scores.add_cloud(instance, *clouds.compare(cloud, labelled[instance], num_classes))
            bar.update(len(names_here))
    return scores


if __name__ == "__main__":
    main()
