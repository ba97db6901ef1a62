"""Train: stage 1 (an SRN), stage 2 (a head from its features to classes), stage 3 (latent codes of unseen objects).

Which stage it is follows from the options:
    stage 2  with --model_type: the SRN of --checkpoint_path is frozen, a head learns from label maps
    stage 3  with --overwrite_embeddings: the networks of --checkpoint_path are frozen, new codes are fitted
    stage 1  otherwise; with --checkpoint_path it goes on from there
"""

import functools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

import checkpoints
import data_util
import dataio
import geometry
import losses
import options as common
import rendering
import srns
import summaries
import training
import util
import validation


def build_parser():
    parser = common.parser(__doc__.splitlines()[0])
    common.add_common(parser)

    group = parser.add_argument_group("schedule, one entry per image side")
    group.add("--img_sidelengths", type=common.comma_separated(int), default="64,128", help="progression of image sides")
    group.add("--max_steps_per_img_sidelength", type=common.comma_separated(int), default="10000,200000", help="steps")
    group.add("--batch_size_per_img_sidelength", type=common.comma_separated(int), default="92,16", help="images a step")
    group.add("--lr", type=float, default=4e-4, help="learning rate of Adam and of the codes' SparseAdam")
    group.add("--lr_warmup_steps", type=common.at_least(0), default=0, help="steps of linear warm-up")
    group.add("--lr_decay_fraction", type=common.fraction, default=0.0, help="last share of all steps with cosine decay to 0")
    group.add("--rays_per_image", type=common.at_least(0), default=0, help="random rays per image and step; 0: all rays")
    group.add("--foreground_fraction", type=common.fraction, default=0.0, help="share of the random rays from the foreground")

    group = parser.add_argument_group("losses")
    group.add("--class_weight", type=common.weight, default=8.0, help="cross-entropy of the segmentation; 0: an SRN without classes")
    group.add("--l1_weight", type=common.weight, default=200.0, help="mean squared error of the image (the name is historical)")
    group.add("--kl_weight", type=common.weight, default=1.0, help="mean square of the latent codes")
    group.add("--reg_weight", type=common.weight, default=1e-3, help="depths behind the camera")

    group = parser.add_argument_group("model; stages 2 and 3, and resuming, take it from the checkpoint")
    group.add("--embedding_size", type=common.positive, help="size of a latent code (published: 256)")
    group.add("--hidden_features", type=common.positive, help="width of phi and of the colour head (published: 256)")
    group.add("--tracing_steps", type=common.positive, help="steps of the ray marcher (published: 10)")
    group.add("--rgb_channels", type=int, choices=(3, 4), help="3, or 4 for the published semantic system's RGBA")

    group.add("--initial_distance", type=float, help="stage 1: where rays end before training, in world units (default: "
              "the cameras' mean distance to the point they look at; 0: the published initialisation)")  # fmt: skip

    group = parser.add_argument_group("stages and checkpoints")
    group.add("--checkpoint_path", help="a .pth file, or a folder of which the one with the most steps is taken")
    group.add("--start_step", type=common.at_least(0), help="step to count from (default: the checkpoint's)")
    group.add("--model_type", choices=("linear", "mlp"), help="stage 2: which head to train")
    group.add("--overwrite_embeddings", action="store_true", help="stage 3: new latent codes, and only these are fitted")
    group.add("--code_init", choices=("mean", "normal"), help="stage 3: codes start near the mean of the checkpoint's "
              "codes, or near 0 as published (default: mean)")  # fmt: skip
    group.add("--steps_til_ckpt", type=common.positive, default=5000, help="steps between checkpoints")
    group.add("--steps_til_val", type=common.positive, default=1000, help="steps between validations and pictures")

    group = parser.add_argument_group("which data")
    group.add("--val_root", help="split of the same instances seen from other views")
    group.add("--validation", action="store_true", default=True, help="validate on --val_root, if there is one")
    group.add("--no_validation", dest="validation", action="store_false", help="do not validate")
    group.add("--max_num_instances_train", type=common.count_or_all, default=-1, help="the first so many; -1: all")
    group.add("--max_num_observations_train", type=common.count_or_all, default=50, help="views per instance, spread evenly")
    group.add("--max_num_instances_val", type=common.count_or_all, default=10, help="the first so many; -1: all")
    group.add("--max_num_observations_val", type=common.count_or_all, default=10, help="views per instance, spread evenly")
    return parser


def read_options(argv):
    """Parse, and refuse what cannot work before any data is read."""
    parser = build_parser()
    options = parser.parse_args(argv)
    stages = ("img_sidelengths", "max_steps_per_img_sidelength", "batch_size_per_img_sidelength")
    lengths = {name: len(getattr(options, name)) for name in stages}
    if len(set(lengths.values())) != 1 or not options.img_sidelengths:
        parser.error(", ".join(f"--{name} has {length} entries" for name, length in lengths.items()) + "; expected as many of each")
    for name in stages:
        if min(getattr(options, name)) < 1:
            parser.error(f"--{name} must be positive, found {min(getattr(options, name))}")
    if (options.overwrite_embeddings or options.model_type) and not options.checkpoint_path:
        which = "--overwrite_embeddings" if options.overwrite_embeddings else "--model_type"
        parser.error(f"{which} needs the SRN of stage 1: give its --checkpoint_path")
    if options.overwrite_embeddings and options.model_type:
        parser.error("--model_type (stage 2) and --overwrite_embeddings (stage 3) cannot go together")
    if options.code_init and not options.overwrite_embeddings:
        parser.error("--code_init is for new codes: give --overwrite_embeddings too")
    if options.model_type and options.start_step is not None:
        parser.error("--start_step: stage 2 takes seconds and starts afresh; leave it out")
    if options.model_type and options.class_weight == 0:
        parser.error("--model_type learns from labels: --class_weight must not be 0")
    if options.foreground_fraction and not options.rays_per_image:
        parser.error("--foreground_fraction chooses among random rays: set --rays_per_image too")
    if wants_classes(options):
        if not options.obj_name:
            parser.error("labels need a class list: give --obj_name, or --class_weight 0 to train without labels")
        if not options.model_type and options.rays_per_image:
            parser.error("--rays_per_image: the segmentation U-Net needs whole images; set it to 0, or --class_weight to 0")
        if not options.model_type and any(side % 16 for side in options.img_sidelengths):
            parser.error(f"--img_sidelengths {options.img_sidelengths}: the segmentation U-Net needs multiples of 16")
    return options


def wants_classes(options):
    return options.class_weight > 0 or options.model_type is not None


def open_data(options):
    """Index and check everything the run will read: train and val instances, data settings, class names."""
    settings = dataio.dataset_settings(options.data_root, options.blend_alpha)
    class_names = None
    if wants_classes(options):
        class_names = data_util.load_class_names(dataio.find_class_list(options.data_root, options.obj_name))
    train = dataio.index_split(
        options.data_root,
        with_labels=wants_classes(options),
        max_num_instances=options.max_num_instances_train,
        specific_ins=options.specific_ins,
        max_num_observations=options.max_num_observations_train,
        specific_observation_idcs=options.specific_observation_idcs,
    )
    val = []
    if options.validation and options.val_root:
        names = {instance.name for instance in train}
        folders = [folder.name for folder in dataio.instance_folders(options.val_root) if folder.name in names]
        if not folders:
            raise util.InputError(
                f"--val_root {options.val_root}: holds none of the instances of {options.data_root}; validation shows "
                f"the trained objects from other views, so give such a split, or --no_validation"
            )
        limit = options.max_num_instances_val
        val = dataio.index_split(
            options.val_root,
            with_labels=wants_classes(options),
            specific_ins=folders if limit == dataio.ALL else folders[:limit],
            max_num_observations=options.max_num_observations_val,
        )
    return SimpleNamespace(train=train, val=val, settings=settings, class_names=class_names)


def make_dataset(options, data, instances, sidelength, rays_per_image=0, preload=False):
    return dataio.SceneClassDataset(
        instances,
        sidelength,
        data.settings,
        num_classes=len(data.class_names) if data.class_names else None,
        rays_per_image=rays_per_image,
        foreground_fraction=options.foreground_fraction,
        preload=preload,
    )


def schedule(options):
    """The multi-resolution schedule: (sidelength, batch size, first step, end step) per image side."""
    ends = np.cumsum(options.max_steps_per_img_sidelength).tolist()
    return list(zip(options.img_sidelengths, options.batch_size_per_img_sidelength, [0, *ends], ends))


def scheduled_batches(options, start_step, batches_of_stage):
    """Chain the batches of all stages that lie after start_step; a stage's data are opened when it begins."""
    for sidelength, batch_size, first, end in schedule(options):
        if end > start_step:
            yield from batches_of_stage(sidelength, batch_size, max(first, start_step), end)


def new_srn(options, data):
    """Stage 1 from the start."""
    model = srns.SRN(
        len(data.train),
        num_classes=len(data.class_names) if data.class_names else None,
        **{name: size for name, size in chosen_sizes(options).items() if size is not None},
    )
    distance = options.initial_distance
    if distance is None:
        poses = np.concatenate([instance.poses for instance in data.train])
        distance = geometry.viewing_distance(torch.from_numpy(poses))
    if distance > 0:
        model.ray_marcher.aim_at(distance)
    return model


def chosen_sizes(options):
    names = ("hidden_features", "tracing_steps", "rgb_channels")
    return {name: getattr(options, name) for name in names} | {"latent_dim": options.embedding_size}


def names_of(instances):
    return [instance.name for instance in instances]


def srn_losses(options, outputs, batch):
    """The weighted loss terms of stages 1 and 3."""
    rgb = outputs["rgb"]
    terms = {
        "distortion": options.l1_weight * losses.image_loss(rgb, batch["rgb"][..., : rgb.shape[-1]]),
        "regularization": options.reg_weight * losses.depth_loss(outputs["depth"]),
        "latent": options.kl_weight * losses.latent_loss(outputs["z"]),
    }
    if "seg_logits" in outputs:
        terms["class"] = options.class_weight * losses.segmentation_loss(outputs["seg_logits"], batch["seg_labels"])
    return terms


def checkpoint_contents(options, data, modules_state, optimizers, step):
    """What a checkpoint holds beyond the model; see checkpoints.py."""
    contents = {f"optimizer_{i}": optimizer.state_dict() for i, optimizer in enumerate(optimizers)}
    return modules_state | contents | {
        "step": step,
        "instances": names_of(data.train),
        "split": Path(options.data_root).resolve().name,
        "views": {instance.name: [path.stem for path in instance.rgb_paths] for instance in data.train},
        "settings": vars(data.settings),
        "random_state": torch.get_rng_state(),
    }


def save_checkpoint(options, data, folder, module, sizes, optimizers, step):
    state = {"model": module.state_dict(), "sizes": sizes}
    num_images = sum(len(instance.rgb_paths) for instance in data.train)
    images_seen = sum(
        batch_size * max(0, min(step, end) - first) for _, batch_size, first, end in schedule(options)
    )
    name = checkpoints.file_name(images_seen // num_images, step)
    checkpoints.save(folder / "checkpoints" / name, checkpoint_contents(options, data, state, optimizers, step))


def train_srn(options, device):
    """Stages 1 and 3: all of an SRN, or only latent codes of unseen objects."""
    data = open_data(options)
    checkpoint = checkpoints.load(options.checkpoint_path) if options.checkpoint_path else None
    model = new_srn(options, data) if checkpoint is None else checkpoints.load_srn(checkpoint, **chosen_sizes(options))
    if wants_classes(options) and model.sizes["num_classes"] != len(data.class_names):
        raise util.InputError(
            f"{checkpoint['path']}: this SRN tells {model.sizes['num_classes'] or 'no'} classes apart, the class list "
            f"has {len(data.class_names)}; use the list it was trained with, or --class_weight 0"
        )

    fit_codes_only = options.overwrite_embeddings
    start_step = options.start_step or 0
    if fit_codes_only:
        mean = model.latent_codes.weight.detach().mean(dim=0)
        model.new_codes(len(data.train), start=None if options.code_init == "normal" else mean)
    elif checkpoint is not None:
        if names_of(data.train) != checkpoint["instances"]:
            raise util.InputError(
                f"{checkpoint['path']}: was trained on other instances than {options.data_root} gives; resume on the "
                f"same ones, or fit codes to new objects with --overwrite_embeddings"
            )
        start_step = checkpoint["step"] if options.start_step is None else options.start_step
    model.to(device)

    optimizers = [torch.optim.SparseAdam([model.latent_codes.weight], lr=options.lr, betas=(0.5, 0.5), eps=1e-5)]
    if fit_codes_only:
        model.freeze_networks()
    else:
        optimizers.append(torch.optim.Adam(model.networks(), lr=options.lr, fused=True))
        if checkpoint is not None:
            checkpoints.restore_optimizers(checkpoint, optimizers)
            torch.set_rng_state(checkpoint["random_state"])

    def batches_of_stage(sidelength, batch_size, first, end):
        dataset = make_dataset(options, data, data.train, sidelength, options.rays_per_image, options.preload)
        return dataio.training_batches(dataset, batch_size, first, end, options.seed, options.num_workers)

    def save(step):
        save_checkpoint(options, data, folder, model, model.sizes, optimizers, step)

    num_steps = schedule(options)[-1][-1]
    if start_step >= num_steps:
        raise util.InputError(f"nothing left to train: step {start_step} of {num_steps} in --max_steps_per_img_sidelength")
    folder = start_run(options, model, None if fit_codes_only or checkpoint is None else checkpoint["path"])
    with training.Run(folder, device, num_steps, start_step, description=folder.name) as run:
        run.every.append((options.steps_til_ckpt, save))
        with_classes = wants_classes(options)
        watch(options, data, run, functools.partial(rendering.render, model, with_classes=with_classes), model)
        training.fit(
            lambda batch: model(batch, with_classes=with_classes),
            scheduled_batches(options, start_step, batches_of_stage),
            lambda outputs, batch: srn_losses(options, outputs, batch),
            optimizers,
            run,
            start_step,
            training.warmup_and_decay(num_steps, options.lr_warmup_steps, options.lr_decay_fraction),
        )


def start_run(options, module, continues=None):
    """The run's folder with params.txt, model.txt and an empty checkpoints folder. See options.start_run."""
    folder = common.start_run(options, continues)
    (folder / "checkpoints").mkdir(exist_ok=True)
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    with util.replacing(folder / "model.txt") as temporary:
        temporary.write_text(f"{module}\n{num_parameters:,} parameters\n")
    return folder


def watch(options, data, run, render, model, rows=None):
    """Have the run show pictures of training views, latent codes, and validation scores and pictures.

    render: batch -> outputs, as rendering.render gives them
    rows:   rows of the latent table that the training instances have (default: all, in order)
    """
    names = names_of(data.train)
    rows = rows or list(range(len(names)))
    side = options.img_sidelengths[-1]
    codes = model.latent_codes.weight
    every = options.steps_til_val

    dataset = make_dataset(options, data, data.train, side)
    run.every.append((every, validation.Preview(model, render, dataset, rows, run)))
    run.every.append((every, lambda step: summaries.write_code_range(run.writer, codes[rows], step)))
    run.every.append((run.num_steps, lambda step: summaries.write_code_projector(run.writer, codes[rows], names, step)))
    if data.val:
        val_rows = [rows[names.index(name)] for name in names_of(data.val)]
        dataset = make_dataset(options, data, data.val, side, preload=options.preload)
        batches = dataio.ordered_batches(dataset, batch_size=16, num_workers=options.num_workers)
        run.every.append((every, validation.Validation(model, render, batches, val_rows, run)))
        run.every.append((every, validation.Preview(model, render, dataset, val_rows, run, prefix="val_")))


def update_head(options, device):
    """Stage 2: the SRN is frozen, so its features are rendered once; then only the head is trained."""
    data = open_data(options)
    checkpoint = checkpoints.load(options.checkpoint_path)
    model = checkpoints.load_srn(checkpoint, **chosen_sizes(options)).to(device)
    rows = checkpoints.rows_of(checkpoint, names_of(data.train), options.data_root)
    model.freeze_networks()
    sizes = dict(in_features=model.sizes["hidden_features"], num_classes=len(data.class_names))
    head = srns.HEADS[options.model_type](**sizes).to(device)
    optimizers = [torch.optim.Adam(head.parameters(), lr=options.lr, fused=True)]

    def batches_of_stage(sidelength, batch_size, first, end):
        dataset = make_dataset(options, data, data.train, sidelength)
        features, seg_labels = labelled_features(model, dataset, rows, device)
        num_rays = batch_size * (options.rays_per_image or sidelength**2)
        for step in range(first, end):
            chosen = np.random.default_rng((options.seed, step)).integers(len(features), size=num_rays)
            chosen = torch.from_numpy(chosen).to(device)
            yield {"features": features[chosen], "seg_labels": seg_labels[chosen]}

    def save(step):
        save_checkpoint(options, data, folder, head, sizes | {"kind": options.model_type}, optimizers, step)

    folder = start_run(options, head)
    num_steps = schedule(options)[-1][-1]
    with training.Run(folder, device, num_steps, description=folder.name) as run:
        run.every.append((options.steps_til_ckpt, save))
        watch(options, data, run, functools.partial(rendering.render, model, head=head), model, rows)
        training.fit(
            lambda batch: {"seg_logits": head(batch["features"])},
            scheduled_batches(options, 0, batches_of_stage),
            lambda outputs, batch: {
                "class": options.class_weight * losses.segmentation_loss(outputs["seg_logits"], batch["seg_labels"])
            },
            optimizers,
            run,
            learning_rate=training.warmup_and_decay(num_steps, options.lr_warmup_steps, options.lr_decay_fraction),
        )


def labelled_features(model, dataset, rows, device):
    """Features (L, C) and classes (L,) of all labelled rays of a data set, on the device."""
    rows = torch.tensor(rows)
    features, seg_labels = [], []
    for batch in dataio.ordered_batches(dataset, batch_size=4):
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        batch["instance_idx"] = rows.to(device)[batch["instance_idx"]]
        labelled = batch["seg_labels"] != util.UNLABELLED
        features.append(rendering.render(model, batch, with_classes=False)["features"][labelled])
        seg_labels.append(batch["seg_labels"][labelled])
    return torch.cat(features), torch.cat(seg_labels)


@util.command
def main(argv=None):
    options = read_options(argv)
    device = util.pick_device(options.device)
    util.seed_everything(options.seed)
    stage = update_head if options.model_type else train_srn
    stage(options, device)


if __name__ == "__main__":
    main()
