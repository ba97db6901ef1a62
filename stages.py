"""The three stages of training: what each of them trains, and on which loss. train.py reads their options."""

import numpy as np
import torch

import checkpoints
import dataio
import distributed
import geometry
import losses
import objectives
import options as common
import rendering
import row_adam
import srns
import stage_inputs
import stage_outputs
import training
import util

MAX_KEPT_RAYS = 2**22  # of stage 2: 256 features each are 4 GiB; 30 label maps of 128 x 128 are an eighth of it


def of(options):
    """The function of the stage that the options ask for; it takes the options and a device."""
    if stage_inputs.fits_codes(options):
        return fit_codes
    return update_head if options.model_type else pretrain


# Stage 1


def pretrain(options, device):
    """Train all of an SRN, from the start or from a checkpoint of this stage."""
    checkpoint = checkpoints.load(options.checkpoint_path) if options.checkpoint_path else None
    data = stage_inputs.open_data(options, checkpoint)
    start_step = options.start_step or 0
    if checkpoint is None:
        model = new_srn(options, data)
    else:
        checkpoint = stage_inputs.named(checkpoint, options)
        model = checkpoints.load_srn(checkpoint, **common.wanted_sizes(options))
        stage_inputs.expect_instances_of(checkpoint, options, data)
        start_step = checkpoint["step"] if options.start_step is None else options.start_step
    stage_inputs.expect_classes_of_srn(options, model, data)
    model.ray_marcher.initial_depth_std = options.initial_depth_std
    model.to(device)

    optimizers = [code_optimizer(options, model)] if model.latent_codes is not None else []
    optimizers.append(torch.optim.Adam(model.networks(), lr=options.lr, fused=True))
    if checkpoint is not None:
        checkpoints.restore_optimizers(checkpoint, optimizers)
    train_srn(options, device, data, model, None, optimizers, start_step, continues=checkpoint)


def new_srn(options, data):
    sizes = {name: size for name, size in common.wanted_sizes(options).items() if size is not None}
    if options.fit_single_srn and len(data.train) != 1:
        raise util.InputError(
            f"--fit_single_srn: learns one object, but {options.data_root} gives {len(data.train)}; name it "
            f"with --specific_ins"
        )
    if options.has_params:
        width = data.train[0].params.shape[1]
        if options.embedding_size not in (None, width):
            raise util.InputError(
                f"--embedding_size {options.embedding_size}: the vectors in {data.train[0].folder}/params have {width} "
                f"numbers"
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
    data = stage_inputs.open_data(options, checkpoint)
    model = checkpoints.load_srn(checkpoint, **common.wanted_sizes(options))
    if model.latent_codes is None:
        raise util.InputError(f"{checkpoint['path']}: this SRN has no latent codes of its own, so there are none to fit")
    head = None
    if options.linear_path:
        head, _ = open_head(options, model, data)
    elif stage_inputs.wants_labels(options):
        stage_inputs.expect_classes_of_srn(options, model, data)

    start_step, continues = options.start_step or 0, None
    if options.overwrite_embeddings:
        mean = model.latent_codes.weight.detach().mean(dim=0)
        model.new_codes(len(data.train), start=None if options.code_init == "normal" else mean)
    else:
        continues = stage_inputs.named(checkpoint, options)
        stage_inputs.expect_instances_of(continues, options, data)
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
    """The head of --linear_path, which must be for the classes of the data, and its checkpoint."""
    checkpoint = checkpoints.load(options.linear_path)
    head = checkpoints.load_head(checkpoint, model)
    if options.model_type and options.model_type != checkpoint["sizes"]["kind"]:
        raise util.InputError(
            f"{checkpoint['path']}: holds a head of kind {checkpoint['sizes']['kind']}, but --model_type is "
            f"{options.model_type}"
        )
    if head.num_classes != len(data.class_names):
        raise util.InputError(
            f"{checkpoint['path']}: this head tells {head.num_classes} classes apart, the class list has "
            f"{len(data.class_names)}; use the list it was trained with"
        )
    return head, checkpoint


# Stages 1 and 3


def code_optimizer(options, model):
    """The latent table's optimizer. SRN 2019 had Adam, which moves every code in every step, seen or not."""
    if options.code_optimizer == "adam":
        model.latent_codes.sparse = False
        return torch.optim.Adam([model.latent_codes.weight], lr=options.lr, fused=True)
    largest = max(options.batch_size_per_img_sidelength) // distributed.world_size()
    return row_adam.RowAdam(
        [model.latent_codes.weight], lr=options.lr, betas=(0.5, 0.5), eps=1e-5, rows_per_process=largest
    )


def train_srn(options, device, data, model, head, optimizers, start_step, continues):
    """The training of stages 1 and 3. `continues`: the checkpoint that this run goes on from, or None."""
    with_classes = stage_inputs.wants_labels(options) and head is None
    stage_inputs.expect_sides(options, model.side_multiple(with_classes), "the SRN's U-Net")
    if head is not None:
        stage_inputs.expect_sides(options, head.side_multiple, "the U-Net baseline")

    def batches_of_stage(sidelength, batch_size, first, end):
        dataset = stage_inputs.make_dataset(options, data, data.train, sidelength, options.rays_per_image, read_often=True)
        return dataio.training_batches(
            dataset, batch_size, first, end, options.seed, options.num_workers, *stage_inputs.shards(options)
        )

    def save(step):
        stage_outputs.save_checkpoint(options, data, folder, model, model.sizes, optimizers, step)

    model.ray_marcher.checkpoint_steps = options.checkpoint_marching
    if options.compile:
        model.compile_rays()
    num_steps = training.steps_to_go(options, start_step)
    folder = stage_outputs.start_run(options, model, continues)
    with training.Run(folder, device, num_steps, start_step, folder.name, options.l1_weight, model) as run:
        run.every.append((options.steps_til_ckpt, save))
        stage_outputs.watch(options, data, run, model, head, with_classes=with_classes)
        training.fit(
            in_processes(options, model, srn_objective(options, device, model, head, with_classes)),
            training.scheduled_batches(options, start_step, batches_of_stage),
            optimizers,
            run,
            start_step,
            training.warmup_and_decay(num_steps, options.lr_warmup_steps, options.lr_decay_fraction),
            options.seed,
        )


def srn_objective(options, device, model, head=None, with_classes=False):
    """The loss of stages 1 and 3 as the options have it."""
    weights = objectives.Weights(options.l1_weight, options.class_weight, options.kl_weight, options.reg_weight)
    rays_per_block = options.rays_per_block
    if rays_per_block is None:
        rays_per_block = objectives.RAYS_PER_BLOCK[device.type]
    return objectives.SRNObjective(
        model, weights, head, with_classes, rays_per_block, options.precision, distributed.world_size()
    )


def in_processes(options, model, objective):
    """The objective, its gradients summed over all processes; the codes' optimizer sees to those of the codes."""
    codes = [] if model.latent_codes is None or options.code_optimizer == "adam" else [model.latent_codes.weight]
    unused = model.class_generator is not None and not objective.with_classes
    return distributed.wrap(objective, codes, find_unused_parameters=unused)


# Stage 2


def update_head(options, device):
    """Learn a head on a frozen SRN. What the head reads is rendered once and kept; then only the head is trained."""
    checkpoint = checkpoints.load(options.checkpoint_path)
    data = stage_inputs.open_data(options, checkpoint)
    checkpoint = stage_inputs.named(checkpoint, options)
    model = checkpoints.load_srn(checkpoint, **common.wanted_sizes(options)).to(device)
    rows = checkpoints.rows_for(model, checkpoint, stage_inputs.names_of(data.train), options.data_root)
    model.freeze_networks()
    kind, head_checkpoint, start_step = srns.HEADS[options.model_type], None, 0
    if options.linear_path:
        head, head_checkpoint = open_head(options, model, data)
        start_step = head_checkpoint["step"] if options.start_step is None else options.start_step
    else:
        head = kind(checkpoints.in_features(kind, model), len(data.class_names))
    head.to(device)
    stage_inputs.expect_sides(
        options, max(head.side_multiple, model.side_multiple(with_classes=False)), "a U-Net that takes part"
    )
    optimizers = [torch.optim.Adam(head.parameters(), lr=options.lr, fused=True)]
    if head_checkpoint is not None:
        checkpoints.restore_optimizers(head_checkpoint, optimizers)
    sizes = dict(kind=options.model_type, in_features=checkpoints.in_features(kind, model), num_classes=head.num_classes)

    fingerprint = checkpoints.fingerprint(model)

    def batches_of_stage(sidelength, batch_size, first, end):
        dataset = stage_inputs.make_dataset(options, data, data.train, sidelength)
        inputs, seg_labels = read_by_head(model, kind, dataset, rows, device)
        num_chosen = batch_size * (1 if kind.reads == "rgb" else options.rays_per_image or sidelength**2)
        for step in range(first, end):
            chosen = np.random.default_rng((options.seed, step)).integers(len(inputs), size=num_chosen)
            chosen = torch.from_numpy(chosen).to(device)
            yield {"inputs": inputs[chosen], "seg_labels": seg_labels[chosen]}

    def save(step):
        stage_outputs.save_checkpoint(options, data, folder, head, sizes, optimizers, step, srn=fingerprint)

    num_steps = training.steps_to_go(options, start_step)
    fitted = fitted_srn(options, model, data, device) if options.validation_path else None
    folder = stage_outputs.start_run(options, head, head_checkpoint)
    with training.Run(folder, device, num_steps, start_step, description=folder.name) as run:
        run.every.append((options.steps_til_ckpt, save))
        stage_outputs.watch(options, data, run, model, head, rows, fitted=fitted)
        training.fit(
            lambda batch: head_losses(options, head, batch),
            training.scheduled_batches(options, start_step, batches_of_stage),
            optimizers,
            run,
            start_step,
            training.warmup_and_decay(num_steps, options.lr_warmup_steps, options.lr_decay_fraction),
            options.seed,
        )


def head_losses(options, head, batch):
    """The weighted loss terms of stage 2."""
    seg_logits = head(batch["inputs"])
    terms = {"class": options.class_weight * losses.segmentation_loss(seg_logits, batch["seg_labels"])}
    if options.head_reg_weight:
        terms["head"] = options.head_reg_weight * losses.weight_loss(head)
    return terms


def read_by_head(model, kind, dataset, rows, device):
    """What a kind of head reads, and its labels, on the device.

    Features (L, C) and classes (L,) of all labelled rays of a data set, or of MAX_KEPT_RAYS of them chosen at random;
    for a head that reads images, rgb (V, R, C) and classes (V, R) of all views.
    """
    rows = torch.tensor(rows)
    inputs, seg_labels = [], []
    generator = torch.Generator().manual_seed(0)
    max_per_view = MAX_KEPT_RAYS // len(dataset)
    for batch in dataio.ordered_batches(dataset, batch_size=4):
        batch = {name: tensor.to(device) for name, tensor in dataio.with_rows(batch, rows).items()}
        chosen = batch["seg_labels"] != util.UNLABELLED if kind.reads == "features" else slice(None)
        inputs.append(rendering.render(model, batch, with_classes=False)[kind.reads][chosen])
        seg_labels.append(batch["seg_labels"][chosen])
        max_here = max_per_view * len(batch["uv"])
        if kind.reads == "features" and len(inputs[-1]) > max_here:
            some = torch.randperm(len(inputs[-1]), generator=generator)[:max_here].to(device)
            inputs[-1], seg_labels[-1] = inputs[-1][some], seg_labels[-1][some]
    if not any(len(x) for x in inputs):
        raise util.InputError(
            f"{dataset.instances[0].folder.parent}: none of the chosen label maps has a labelled pixel; choose the labelled "
            f"views and instances with --specific_observation_idcs and --specific_ins"
        )
    return torch.cat(inputs), torch.cat(seg_labels)


def fitted_srn(options, model, data, device):
    """The SRN of --validation_path with the rows of its table for data.val; it must be the one that the head reads."""
    checkpoint = stage_inputs.named(checkpoints.load(options.validation_path), options, options.val_root)
    fitted = checkpoints.load_srn(checkpoint, **common.wanted_sizes(options)).to(device).eval()
    own, other = model.state_dict(), fitted.state_dict()
    if any(key not in other or not torch.equal(own[key], other[key]) for key in own if key != "latent_codes.weight"):
        raise util.InputError(
            f"{checkpoint['path']}: its networks are not those of {options.checkpoint_path}; give codes that were "
            f"fitted with that SRN as --validation_path"
        )
    return fitted, checkpoints.rows_for(fitted, checkpoint, stage_inputs.names_of(data.val), options.val_root)
