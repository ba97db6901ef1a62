"""Test: render the objects of a split, score what was not shown to the model, write pictures and point clouds.

Below `<logging_root>/<log_dir>`: a folder per instance (`000000/`) with `rgb/ rgb_gt/ seg/ seg_gt/ normals/ input/
comparison/` and `point_cloud_rgb`, `point_cloud_seg` (.txt and .ply); `final_miou.csv`, `observations.csv`,
`results.txt`, `results.json`, `contact_sheet.png`, `params.txt`.
"""

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import checkpoints
import data_util
import dataio
import metrics
import options as common
import rendering
import results
import summaries
import util
import visual

VIEWS_PER_POINT_CLOUD = 10
SHEET_INSTANCES = 8
BACKGROUND_WHITE = 0.9  # of -1..1: without classes, brighter surface points are taken for background


def build_parser():
    parser = common.parser(__doc__.splitlines()[0])
    common.add_common(parser)
    group = parser.add_argument_group("evaluation")
    group.add("--img_sidelength", type=common.at_least(metrics.SSIM_WINDOW), default=128, help="side of the rendered images")
    group.add("--batch_size", type=common.positive, default=32, help="images rendered at once")
    group.add("--eval_mode", choices=("srn", "linear"), default="srn", help="where classes come from: the SRN's own U-Net, "
              "if it has one, or the head of --linear_path")  # fmt: skip
    group.add("--checkpoint_path", required=True, help="SRN with codes of these instances: a .pth file or a folder of some")
    group.add("--linear_path", help="the head of stage 2 (linear or MLP): a .pth file or a folder of some")
    group.add("--max_num_instances", type=common.count_or_all, default=-1, help="the first so many; -1: all")
    group.add("--max_num_observations", type=common.count_or_all, default=-1, help="views per instance, spread evenly; -1: all")
    group.add("--input_idcs", type=common.comma_separated(int), help="views the codes were fitted to: shown in the pictures, "
              "not scored (default: those that the checkpoint names for this split)")  # fmt: skip
    group.add("--score_input_views", action="store_true", help="score the views the codes were fitted to as well")
    group.add("--point_cloud", action="store_true", help="write point clouds by colour and by class")
    group.add("--save_out_first_n", type=common.at_least(0), default=250, help="instances whose pictures and clouds are written")
    return parser


def read_options(argv):
    parser = build_parser()
    options = parser.parse_args(argv)
    if (options.eval_mode == "linear") != bool(options.linear_path):
        parser.error("--eval_mode linear and --linear_path go together: give both or neither")
    return options


def open_data(options, checkpoint):
    """The split's data set with labels if --obj_name names a class list, and the class names (or None)."""
    settings = dataio.dataset_settings(options.data_root, options.blend_alpha)
    trained = checkpoints.settings_of(checkpoint)
    if settings != trained:
        print(f"note: the data say {settings}, but {checkpoint['path']} was trained with {trained}")
    class_names = None
    if options.obj_name:
        class_names = data_util.load_class_names(dataio.find_class_list(options.data_root, options.obj_name))
    instances = dataio.index_split(
        options.data_root,
        with_labels=class_names is not None,
        max_num_instances=options.max_num_instances,
        specific_ins=options.specific_ins,
        specific_observation_idcs=options.specific_observation_idcs,
        max_num_observations=options.max_num_observations,
    )
    num_classes = len(class_names) if class_names else None
    dataset = dataio.SceneClassDataset(instances, options.img_sidelength, settings, num_classes, preload=options.preload)
    return dataset, class_names


def input_views(options, checkpoint, dataset):
    """The set of (instance name, view name) that the codes were fitted to."""
    if options.input_idcs:
        given = [dataio.read_instance(x.folder, specific_observation_idcs=options.input_idcs) for x in dataset.instances]
        return {(instance.name, path.stem) for instance in given for path in instance.rgb_paths}
    if checkpoint["split"] != Path(options.data_root).resolve().name:
        return set()
    return {(name, view) for name, views in checkpoint["views"].items() for view in views}


def pictures_of(outputs, batch, i, num_classes):
    """Pictures of observation i of a rendered batch by the name of their folder."""
    pictures = {
        "normals": visual.normal_picture(summaries.camera_normals(outputs["points"][i : i + 1], batch["cam2world"][i : i + 1])[0]),
        "rgb": visual.to_uint8(util.as_image(outputs["rgb"][i : i + 1])[0]),
        "rgb_gt": visual.to_uint8(util.as_image(batch["rgb"][i : i + 1])[0]),
    }
    side = pictures["rgb"].shape[0]
    if "seg_logits" in outputs:
        pictures["seg"] = visual.label_picture(outputs["seg_logits"][i].argmax(dim=-1).view(side, side), num_classes)
    if "seg_labels" in batch:
        pictures["seg_gt"] = visual.label_picture(batch["seg_labels"][i].view(side, side), num_classes)
    return pictures | {"comparison": visual.strip(list(pictures.values()))}


def score(scores, names, outputs, batch, given):
    """Add every observation of a rendered batch that was not given to the model."""
    rgb, target = (util.as_image(x["rgb"][..., :3]) for x in (outputs, batch))
    psnr, ssim = metrics.psnr(rgb, target), metrics.ssim(rgb, target)
    confusions = [None] * len(names)
    if "seg_logits" in outputs and "seg_labels" in batch:
        seg_logits = outputs["seg_logits"]
        confusions = metrics.confusion_matrix(seg_logits.argmax(dim=-1), batch["seg_labels"], seg_logits.shape[-1])
    for name, *row in zip(names, psnr, ssim, confusions):
        if name not in given:
            scores.add(*name, *row)


class CloudCollector:
    """Gathers surface points of the object itself, by colour and by class, over some views of each instance."""

    def __init__(self, num_classes):
        self.num_classes = num_classes
        self.parts = {}

    def add(self, instance, outputs, i):
        rgb = outputs["rgb"][i, :, :3].clamp(-1, 1)
        classes = outputs["seg_logits"][i].argmax(dim=-1) if "seg_logits" in outputs else None
        solid = classes != 0 if classes is not None else rgb.min(dim=-1).values < BACKGROUND_WHITE
        columns = [outputs["points"][i][solid], ((rgb[solid] + 1) * 127.5).round().to(torch.uint8)]
        columns.append(classes[solid] if classes is not None else None)
        self.parts.setdefault(instance, []).append(columns)

    def write(self, instance, folder):
        points, rgb, classes = zip(*self.parts.pop(instance))
        points, rgb = torch.cat(points).cpu(), torch.cat(rgb).cpu()
        results.write_point_cloud(folder / "point_cloud_rgb", points, rgb)
        if classes[0] is not None:
            classes = torch.cat(classes).cpu()
            colors = visual.label_colors(classes, self.num_classes)
            results.write_point_cloud(folder / "point_cloud_seg", points, colors, labels=classes)


class Sheet:
    """The contact sheet: for the first instances, the first given view and two others beside their truth.

    Of the views in the order of their angle to the given one, these are the middle one and the last.
    """

    def __init__(self, dataset, given):
        self.chosen, self.input_of, self.pictures = {}, {}, {}
        for instance in dataset.instances[:SHEET_INSTANCES]:
            views = [path.stem for path in instance.rgb_paths]
            inputs = [i for i, view in enumerate(views) if (instance.name, view) in given]
            axes = instance.poses[:, :3, 2]
            likeness = axes @ axes[inputs[0] if inputs else 0]
            others = [i for i in np.argsort(-likeness, kind="stable") if i not in inputs] or list(range(len(views)))
            self.chosen[instance.name] = [views[i] for i in dict.fromkeys((others[len(others) // 2], others[-1]))]
            self.input_of[instance.name] = views[inputs[0]] if inputs else None

    def add(self, instance, view, pictures):
        if view in self.chosen.get(instance, ()) or view == self.input_of.get(instance, ""):
            self.pictures[instance, view] = pictures

    def write(self, path, scores, class_names):
        kinds = {"rgb_gt": "truth", "rgb": "rendered", "normals": "normals", "seg_gt": "true parts", "seg": "parts"}
        some = next(iter(self.pictures.values()))
        kinds = {kind: title for kind, title in kinds.items() if kind in some}
        score_of = {row["instance_id"]: row for row in scores.per_instance()}
        with_input = any(self.input_of.values())
        num_views = max(map(len, self.chosen.values()))
        rows, titles = [], []
        for instance, views in self.chosen.items():
            row = [self.pictures[instance, view][kind] for view in views for kind in kinds]
            row += [None] * (num_views * len(kinds) - len(row))
            if with_input:
                given = self.pictures.get((instance, self.input_of[instance]))
                row.insert(0, given["rgb_gt"] if given else None)
            rows.append(row)
            titles.append("\n".join([instance, *format_scores(score_of.get(instance))]))
        titles_above = ["given view"] * with_input + list(kinds.values()) * num_views
        which = "the views that were not given" if with_input else "all views"
        title = f"{path.parent.name}: {', '.join(format_scores(scores.summary()))} over {which}"
        results.write_picture(path, visual.contact_sheet(rows, titles_above, titles, title, class_names))


def format_scores(row):
    if row is None:
        return ["every view was given"]
    shown = [f"PSNR {row['psnr']:.1f} dB", f"SSIM {row['ssim']:.2f}"]
    return shown + ([f"mIoU {row['miou']:.2f}"] if row["miou"] == row["miou"] else [])


@util.command
def main(argv=None):
    options = read_options(argv)
    device = util.pick_device(options.device)
    checkpoint = checkpoints.load(options.checkpoint_path)
    model = checkpoints.load_srn(checkpoint).to(device).eval()
    head = None
    if options.eval_mode == "linear":
        head = checkpoints.load_head(checkpoints.load(options.linear_path), model).to(device).eval()
    dataset, class_names = open_data(options, checkpoint)
    rows = torch.tensor(checkpoints.rows_of(checkpoint, [x.name for x in dataset.instances], options.data_root)).to(device)

    num_classes = head.num_classes if head is not None else model.sizes["num_classes"]
    if class_names and num_classes and len(class_names) != num_classes:
        raise util.InputError(
            f"{dataio.find_class_list(options.data_root, options.obj_name)}: lists {len(class_names)} classes, "
            f"but the model tells {num_classes} apart"
        )
    if head is None and model.class_generator is not None and options.img_sidelength % 16:
        raise util.InputError(f"--img_sidelength {options.img_sidelength}: the segmentation U-Net needs a multiple of 16")
    given = set() if options.score_input_views else input_views(options, checkpoint, dataset)
    names = [dataset.name_of(i) for i in range(len(dataset))]
    if given.issuperset(names):
        raise util.InputError(
            f"{options.data_root}: every chosen view was given to the model, so none can be scored; choose others with "
            f"--specific_observation_idcs, or pass --score_input_views"
        )
    folder = common.start_run(options)
    evaluate(options, model, head, dataset, rows, given, class_names, num_classes or len(class_names or []), folder)


@torch.inference_mode()
def evaluate(options, model, head, dataset, rows, given, class_names, num_classes, folder):
    """Render everything once, in order; score it, write it, and print the summary."""
    names = [dataset.name_of(i) for i in range(len(dataset))]
    folder_of = {instance.name: folder / f"{i:06d}" for i, instance in enumerate(dataset.instances)}
    written = {instance.name for instance in dataset.instances[: options.save_out_first_n]}
    scores, sheet, clouds = results.Scores(), Sheet(dataset, given), CloudCollector(num_classes)
    cloud_views = {
        (instance.name, instance.rgb_paths[view].stem)
        for instance in dataset.instances
        for view in dataio.choose_views(len(instance.rgb_paths), VIEWS_PER_POINT_CLOUD)
        if options.point_cloud and instance.name in written
    }
    batches = dataio.ordered_batches(dataset, options.batch_size, options.num_workers)
    with results.PictureWriter() as writer, tqdm(total=len(dataset), desc=folder.name, unit="image") as bar:
        for batch in batches:
            batch = {name: tensor.to(device_of(model)) for name, tensor in batch.items()}
            batch["instance_idx"] = rows[batch["instance_idx"]]
            outputs = rendering.render(model, batch, head)
            names_here = [names[i] for i in batch["observation_idx"].tolist()]
            score(scores, names_here, outputs, batch, given)
            for i, (instance, view) in enumerate(names_here):
                if instance in written or instance in sheet.chosen:
                    pictures = pictures_of(outputs, batch, i, num_classes)
                    sheet.add(instance, view, pictures)
                    if instance in written:
                        for kind, picture in pictures.items():
                            writer.write(folder_of[instance] / kind / f"{view}.png", picture)
                        if (instance, view) in given:
                            writer.write(folder_of[instance] / "input" / f"{view}.png", pictures["rgb_gt"])
                if (instance, view) in cloud_views:
                    clouds.add(instance, outputs, i)
            bar.update(len(names_here))

    for instance in list(clouds.parts):
        clouds.write(instance, folder_of[instance])
    scores.write(folder, class_names)
    sheet.write(folder / "contact_sheet.png", scores, class_names)
    print(results.format_summary(scores.summary(class_names)), end="")
    print(f"contact sheet: {folder / 'contact_sheet.png'}")


def device_of(model):
    return next(model.parameters()).device


if __name__ == "__main__":
    main()
