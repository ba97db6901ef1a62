"""The three stages of training: what each of them reads, trains and writes. train.py reads their options."""

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


def of(options):
    """The function of the stage that the options ask for; it takes the options and a device."""
    if fits_codes(options):
        return fit_codes
    return update_head if options.model_type else pretrain


def fits_codes(options):
    return options.overwrite_embeddings or options.freeze_networks and not options.model_type


def wants_labels(options):
    return options.class_weight > 0


# Stage 1


def pretrain(options, device):
    """Train all of an SRN, from the start or from a checkpoint of this stage."""
    checkpoint = checkpoints.load(options.checkpoint_path) if options.checkpoint_path else None
    data = open_data(options, checkpoint)
    start_step = options.start_step or 0
    if checkpoint is None:
        model = new_srn(options, data)
    else:
        checkpoint = named(checkpoint, options)
        model = checkpoints.load_srn(checkpoint, **common.wanted_sizes(options))
        expect_instances_of(checkpoint, options, data)
        start_step = checkpoint["step"] if options.start_step is None else options.start_step
    expect_classes_of_srn(options, model, data)
    model.ray_marcher.initial_depth_std = options.initial_depth_std
    model.to(device)

    optimizers = [code_optimizer(options, model)] if model.latent_codes is not None else []
    optimizers.append(torch.optim.Adam(model.networks(), lr=options.lr, fused=True))
    if checkpoint is not None:
        checkpoints.restore_optimizers(checkpoint, optimizers)
        if checkpoint.get("random_state") is not None:
            torch.set_rng_state(checkpoint["random_state"])
    train_srn(options, device, data, model, None, optimizers, start_step, continues=checkpoint)


def new_srn(options, data):
    sizes = {name: size for name, size in common.wanted_sizes(options).items() if size is not None}
    if options.fit_single_srn and len(data.train) != 1:
        raise util.InputError(
            f"--fit_single_srn: learns one object, but {options.data_root} gives {len(data.train)}; name it with --specific_ins"
        )
    if options.has_params:
        width = data.train[0].params.shape[1]
        if options.embedding_size not in (None, width):
            raise util.InputError(
                f"--embedding_size {options.embedding_size}: the vectors in {data.train[0].folder}/params have {width} numbers"
            )
        sizes["latent_dim"] = width
    model = srns.SRN(len(data.train), num_classes=len(data.class_names) if data.class_names else None, **sizes)
    distance = options.initial_distance
    if distance is None:
        poses = np.concatenate([instance.poses for instance in data.train])
        distance = geometry.viewing_distance(torch.from_numpy(poses))
    if distance > 0:
        model.ray_marcher.aim_at(distance)
    return model


# Stage 3


def fit_codes(options, device):
    """Fit the latent codes of unseen objects, everything else frozen: to images, to label maps, or to both."""
    checkpoint = checkpoints.load(options.checkpoint_path)
    data = open_data(options, checkpoint)
    model = checkpoints.load_srn(checkpoint, **common.wanted_sizes(options))
    if model.latent_codes is None:
        raise util.InputError(f"{checkpoint['path']}: this SRN has no latent codes of its own, so there are none to fit")
    head = None
    if options.linear_path:
        head = open_head(options, model, data)
    elif wants_labels(options):
        expect_classes_of_srn(options, model, data)

    start_step, continues = options.start_step or 0, None
    if options.overwrite_embeddings:
        mean = model.latent_codes.weight.detach().mean(dim=0)
        model.new_codes(len(data.train), start=None if options.code_init == "normal" else mean)
    else:
        continues = named(checkpoint, options)
        expect_instances_of(continues, options, data)
        start_step = checkpoint["step"] if options.start_step is None else options.start_step
    model.freeze_networks()
    model.to(device)
    optimizers = [code_optimizer(options, model)]
    if continues is not None:
        checkpoints.restore_optimizers(checkpoint, optimizers)
    if head is not None:
        head.to(device).eval().requires_grad_(False)
    train_srn(options, device, data, model, head, optimizers, start_step, continues)


def open_head(options, model, data):
    """The head of --linear_path, for the classes of the data."""
    checkpoint = checkpoints.load(options.linear_path)
    head = checkpoints.load_head(checkpoint, model)
    if options.model_type and options.model_type != checkpoint["sizes"]["kind"]:
        raise util.InputError(
            f"{checkpoint['path']}: holds a head of kind {checkpoint['sizes']['kind']}, but --model_type is {options.model_type}"
        )
    if head.num_classes != len(data.class_names):
        raise util.InputError(
            f"{checkpoint['path']}: this head tells {head.num_classes} classes apart, the class list has "
            f"{len(data.class_names)}; use the list it was trained with"
        )
    return head


# Stages 1 and 3


def code_optimizer(options, model):
    return torch.optim.SparseAdam([model.latent_codes.weight], lr=options.lr, betas=(0.5, 0.5), eps=1e-5)


def train_srn(options, device, data, model, head, optimizers, start_step, continues):
    """The training of stages 1 and 3. `continues`: the checkpoint that this run goes on from, or None."""
    with_classes = wants_labels(options) and head is None
    expect_sides(options, model.side_multiple(with_classes), "the SRN's U-Net")
    if head is not None:
        expect_sides(options, head.side_multiple, "the U-Net baseline")

    def outputs_of(batch):
        outputs = model(batch, with_classes=with_classes)
        return outputs if head is None else outputs | {"seg_logits": head(outputs[head.reads])}

    def batches_of_stage(sidelength, batch_size, first, end):
        dataset = make_dataset(options, data, data.train, sidelength, options.rays_per_image, options.preload)
        return dataio.training_batches(dataset, batch_size, first, end, options.seed, options.num_workers)

    def save(step):
        save_checkpoint(options, data, folder, model, model.sizes, optimizers, step)

    num_steps = steps_to_go(options, start_step)
    folder = start_run(options, model, continues)
    with training.Run(folder, device, num_steps, start_step, description=folder.name) as run:
        run.every.append((options.steps_til_ckpt, save))
        watch(options, data, run, model, head, with_classes=with_classes)
        training.fit(
            outputs_of,
            scheduled_batches(options, start_step, batches_of_stage),
            lambda outputs, batch: srn_losses(options, outputs, batch),
            optimizers,
            run,
            start_step,
            training.warmup_and_decay(num_steps, options.lr_warmup_steps, options.lr_decay_fraction),
        )


def srn_losses(options, outputs, batch):
    """The weighted loss terms of stages 1 and 3, each where its observation is there."""
    terms = {"regularization": options.reg_weight * losses.depth_loss(outputs["depth"])}
    if "rgb" in batch:
        rgb = outputs["rgb"]
        terms["distortion"] = options.l1_weight * losses.image_loss(rgb, batch["rgb"][..., : rgb.shape[-1]])
    if "z" in outputs:
        terms["latent"] = options.kl_weight * losses.latent_loss(outputs["z"])
    if "seg_logits" in outputs:
        terms["class"] = options.class_weight * losses.segmentation_loss(outputs["seg_logits"], batch["seg_labels"])
    return terms


# Stage 2


def update_head(options, device):
    """Learn a head on a frozen SRN. What the head reads is rendered once and kept; then only the head is trained."""
    checkpoint = checkpoints.load(options.checkpoint_path)
    data = open_data(options, checkpoint)
    checkpoint = named(checkpoint, options)
    model = checkpoints.load_srn(checkpoint, **common.wanted_sizes(options)).to(device)
    rows = rows_for(model, checkpoint, data.train, options.data_root)
    model.freeze_networks()
    kind, head_checkpoint, start_step = srns.HEADS[options.model_type], None, 0
    if options.linear_path:
        head = open_head(options, model, data).to(device)
        head_checkpoint = checkpoints.load(options.linear_path)
        start_step = head_checkpoint["step"] if options.start_step is None else options.start_step
    else:
        head = kind(checkpoints.in_features(kind, model), len(data.class_names)).to(device)
    expect_sides(options, max(head.side_multiple, model.side_multiple(with_classes=False)), "a U-Net that takes part")
    optimizers = [torch.optim.Adam(head.parameters(), lr=options.lr, fused=True)]
    if head_checkpoint is not None:
        checkpoints.restore_optimizers(head_checkpoint, optimizers)
    sizes = dict(kind=options.model_type, in_features=checkpoints.in_features(kind, model), num_classes=head.num_classes)

    def batches_of_stage(sidelength, batch_size, first, end):
        dataset = make_dataset(options, data, data.train, sidelength)
        inputs, seg_labels = read_by_head(model, kind, dataset, rows, device)
        num_chosen = batch_size * (1 if kind.reads == "rgb" else options.rays_per_image or sidelength**2)
        for step in range(first, end):
            chosen = np.random.default_rng((options.seed, step)).integers(len(inputs), size=num_chosen)
            chosen = torch.from_numpy(chosen).to(device)
            yield {"inputs": inputs[chosen], "seg_labels": seg_labels[chosen]}

    def save(step):
        save_checkpoint(options, data, folder, head, sizes, optimizers, step)

    num_steps = steps_to_go(options, start_step)
    fitted = fitted_srn(options, model, data, device) if options.validation_path else None
    folder = start_run(options, head, head_checkpoint)
    with training.Run(folder, device, num_steps, start_step, description=folder.name) as run:
        run.every.append((options.steps_til_ckpt, save))
        watch(options, data, run, model, head, rows, fitted=fitted)
        training.fit(
            lambda batch: {"seg_logits": head(batch["inputs"])},
            scheduled_batches(options, start_step, batches_of_stage),
            lambda outputs, batch: {
                "class": options.class_weight * losses.segmentation_loss(outputs["seg_logits"], batch["seg_labels"])
            },
            optimizers,
            run,
            start_step,
            training.warmup_and_decay(num_steps, options.lr_warmup_steps, options.lr_decay_fraction),
        )


def read_by_head(model, kind, dataset, rows, device):
    """What a kind of head reads, and its labels, on the device.

    Features (L, C) and classes (L,) of all labelled rays of a data set; for a head that reads images, rgb (V, R, C)
    and classes (V, R) of all views.
    """
    rows = torch.tensor(rows)
    inputs, seg_labels = [], []
    for batch in dataio.ordered_batches(dataset, batch_size=4):
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        batch["instance_idx"] = rows.to(device)[batch["instance_idx"]]
        chosen = batch["seg_labels"] != util.UNLABELLED if kind.reads == "features" else slice(None)
        inputs.append(rendering.render(model, batch, with_classes=False)[kind.reads][chosen])
        seg_labels.append(batch["seg_labels"][chosen])
    return torch.cat(inputs), torch.cat(seg_labels)


def fitted_srn(options, model, data, device):
    """The SRN of --validation_path with the rows of its table for data.val; it must be the one that the head reads."""
    checkpoint = named(checkpoints.load(options.validation_path), options, options.val_root)
    fitted = checkpoints.load_srn(checkpoint, **common.wanted_sizes(options)).to(device).eval()
    own, other = model.state_dict(), fitted.state_dict()
    if any(key not in other or not torch.equal(own[key], other[key]) for key in own if key != "latent_codes.weight"):
        raise util.InputError(
            f"{checkpoint['path']}: its networks are not those of {options.checkpoint_path}; give codes that were fitted with "
            f"that SRN as --validation_path"
        )
    return fitted, checkpoints.rows_of(checkpoint, names_of(data.val), options.val_root)


# Data


def open_data(options, checkpoint):
    """Index and check everything the run will read: train and val instances, data settings, class names."""
    settings = dataio.dataset_settings(options.data_root, options.blend_alpha)
    if checkpoint is not None:
        checkpoints.note_other_settings(checkpoint, settings)
    class_names = None
    if wants_labels(options):
        path = dataio.find_class_list(options.data_root, options.obj_name)
        class_names = data_util.load_class_names(path)
        if options.num_classes not in (None, len(class_names)):
            raise util.InputError(f"--num_classes {options.num_classes}: {path} lists {len(class_names)} classes")
    with_params = options.has_params or checkpoint is not None and checkpoint["sizes"].get("has_params", False)
    what = dict(with_labels=wants_labels(options), with_rgb=reads_images(options), with_params=with_params)
    train = dataio.index_split(
        options.data_root,
        max_num_instances=options.max_num_instances_train,
        specific_ins=options.specific_ins,
        max_num_observations=options.max_num_observations_train,
        specific_observation_idcs=options.specific_observation_idcs,
        **what,
    )
    val = []
    if options.validation and options.val_root:
        val = dataio.index_split(
            options.val_root,
            specific_ins=names_to_validate(options, train, with_params),
            max_num_observations=options.max_num_observations_val,
            **what,
        )
    return SimpleNamespace(train=train, val=val, settings=settings, class_names=class_names)


def reads_images(options):
    """Stage 2 shows them, though it does not learn from them; the others read them where they learn from them."""
    return options.l1_weight > 0 or bool(options.model_type) and not fits_codes(options)


def names_to_validate(options, train, with_params):
    """The instances of --val_root whose codes are known, at most --max_num_instances_val."""
    folders = [folder.name for folder in dataio.instance_folders(options.val_root)]
    if not options.validation_path and not with_params:
        names = {instance.name for instance in train}
        folders = [folder for folder in folders if folder in names]
        if not folders:
            raise util.InputError(
                f"--val_root {options.val_root}: holds none of the instances of {options.data_root}; validation shows "
                f"the trained objects from other views, so give such a split, or --no_validation"
            )
    limit = options.max_num_instances_val
    return folders if limit == dataio.ALL else folders[:limit]


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


def names_of(instances):
    return [instance.name for instance in instances]


def rows_for(model, checkpoint, instances, where):
    """Rows of the model's latent table for some instances; zeros, which nobody reads, where it has no table."""
    if model.latent_codes is not None:
        return checkpoints.rows_of(checkpoint, names_of(instances), where)
    if model.sizes["fit_single_srn"] and checkpoint["instances"] not in (None, names_of(instances)):
        raise util.InputError(
            f"{checkpoint['path']}: knows one object only, {checkpoint['instances'][0]}; choose it in {where} with --specific_ins"
        )
    return [0] * len(instances)


# What a checkpoint must fit


def named(checkpoint, options, root=None):
    """The checkpoint with the names of its instances, see checkpoints.with_names."""
    root = root or options.data_root
    return checkpoints.with_names(checkpoint, [folder.name for folder in dataio.instance_folders(root)], root)


def expect_instances_of(checkpoint, options, data):
    """An InputError unless the data are of the very instances whose codes the checkpoint holds, in its order."""
    if checkpoint["instances"] is not None and names_of(data.train) != checkpoint["instances"]:
        raise util.InputError(
            f"{checkpoint['path']}: was trained on other instances than {options.data_root} gives; resume on the "
            f"same ones, or fit codes to new objects with --overwrite_embeddings"
        )


def expect_classes_of_srn(options, model, data):
    """An InputError unless the SRN has a U-Net for the classes of the data, where labels are wanted."""
    if wants_labels(options) and model.sizes["num_classes"] != len(data.class_names):
        raise util.InputError(
            f"{options.checkpoint_path}: this SRN tells {model.sizes['num_classes'] or 'no'} classes apart, the class list "
            f"has {len(data.class_names)}; use the list it was trained with, or --class_weight 0"
        )


def expect_sides(options, multiple, whose):
    """An InputError unless every image side is a multiple of `multiple`, and images are whole where that matters."""
    if multiple == 1:
        return
    if any(side % multiple for side in options.img_sidelengths):
        raise util.InputError(f"--img_sidelengths {options.img_sidelengths}: {whose} needs multiples of {multiple}")
    if options.rays_per_image:
        raise util.InputError(f"--rays_per_image: {whose} needs whole images; set it to 0")


# Schedule


def schedule(options):
    """The multi-resolution schedule: (sidelength, batch size, first step, end step) per image side."""
    ends = np.cumsum(options.max_steps_per_img_sidelength).tolist()
    return list(zip(options.img_sidelengths, options.batch_size_per_img_sidelength, [0, *ends], ends))


def steps_to_go(options, start_step):
    """The last step of the schedule; an InputError where it has been done."""
    num_steps = schedule(options)[-1][-1]
    if start_step >= num_steps:
        raise util.InputError(
            f"nothing left to train: step {start_step} of {num_steps} in --max_steps_per_img_sidelength; --start_step 0 "
            f"counts anew"
        )
    return num_steps


def scheduled_batches(options, start_step, batches_of_stage):
    """Chain the batches of all sides that lie after start_step; a side's data are opened when its turn comes."""
    for sidelength, batch_size, first, end in schedule(options):
        if end > start_step:
            yield from batches_of_stage(sidelength, batch_size, max(first, start_step), end)


# What a run writes


def start_run(options, module, continues=None):
    """The run's folder with params.txt, model.txt and an empty checkpoints folder. See options.start_run."""
    folder = common.start_run(options, continues["path"] if continues else None)
    (folder / "checkpoints").mkdir(exist_ok=True)
    num_parameters = sum(parameter.numel() for parameter in module.parameters())
    with util.replacing(folder / "model.txt") as temporary:
        temporary.write_text(f"{module}\n{num_parameters:,} parameters\n")
    return folder


def save_checkpoint(options, data, folder, module, sizes, optimizers, step):
    """Write what checkpoints.py describes."""
    num_images = sum(len(instance.views) for instance in data.train)
    images_seen = sum(
        batch_size * max(0, min(step, end) - first) for _, batch_size, first, end in schedule(options)
    )
    contents = {f"optimizer_{i}": optimizer.state_dict() for i, optimizer in enumerate(optimizers)} | {
        "model": module.state_dict(),
        "sizes": sizes,
        "step": step,
        "instances": names_of(data.train),
        "split": Path(options.data_root).resolve().name,
        "views": {instance.name: list(instance.views) for instance in data.train},
        "observed": observed(options),
        "settings": vars(data.settings),
        "random_state": torch.get_rng_state(),
    }
    checkpoints.save(folder / "checkpoints" / checkpoints.file_name(images_seen // num_images, step), contents)


def observed(options):
    """What a stage learns from, a list of "rgb" and "seg"."""
    head_only = bool(options.model_type) and not fits_codes(options)
    return ["rgb"] * (options.l1_weight > 0 and not head_only) + ["seg"] * wants_labels(options)


def watch(options, data, run, model, head=None, rows=None, with_classes=True, fitted=None):
    """Have the run show pictures of training views, latent codes, and validation scores and pictures.

    rows:   rows of the latent table that the training instances have (default: all, in order)
    fitted: an SRN and the rows of its table for the validation instances (default: `model` knows them by name)
    """
    names = names_of(data.train)
    rows = rows or list(range(len(names)))
    side = options.img_sidelengths[-1]
    every = options.steps_til_val
    render = functools.partial(rendering.render, head=head, with_classes=with_classes)
    modules = (model,) if head is None else (model, head)

    dataset = make_dataset(options, data, data.train, side)
    run.every.append((every, validation.Preview(modules, functools.partial(render, model), dataset, rows, run)))
    if model.latent_codes is not None:
        codes = model.latent_codes.weight
        run.every.append((every, lambda step: summaries.write_code_range(run.writer, codes[rows], step)))
        run.every.append((run.num_steps, lambda step: summaries.write_code_projector(run.writer, codes[rows], names, step)))
    if data.val:
        if fitted is None:
            row_of = dict(zip(names, rows))
            fitted = model, [row_of.get(name, 0) for name in names_of(data.val)]  # 0: codes come with the data
        val_model, val_rows = fitted
        modules = (val_model, *modules[1:])
        dataset = make_dataset(options, data, data.val, side, preload=options.preload)
        batches = dataio.ordered_batches(dataset, batch_size=16, num_workers=options.num_workers)
        render = functools.partial(render, val_model)
        run.every.append((every, validation.Validation(modules, render, batches, val_rows, run)))
        run.every.append((every, validation.Preview(modules, render, dataset, val_rows, run, prefix="val_")))
