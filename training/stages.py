"""The stages of training: what each of them trains, and on which loss. train.py reads their options.

Stage 2 is in training/head_update.py.
"""

import numpy as np
import torch

import checkpoints
import dataio
import geometry
import options as common
import srns
import util
from training import code_stage, distributed, head_update, loop, objectives, row_adam, run_folder, stage_data


def of(options):
    """The function of the stage that the options ask for; it takes the options and a device."""
    if stage_data.fits_codes(options):
        return fit_codes
    return head_update.update_head if options.model_type else pretrain


# Stage 1


def pretrain(options, device):
    """Train all of an SRN, from the start or from a checkpoint of this stage."""
    checkpoint = checkpoints.load(options.checkpoint_path) if options.checkpoint_path else None
    data = stage_data.open_data(options, checkpoint)
    start_step = options.start_step or 0
    if checkpoint is None:
        model = new_srn(options, data)
    else:
        checkpoint = stage_data.named(checkpoint, options)
        model = checkpoints.load_srn(checkpoint, **common.wanted_sizes(options))
        stage_data.expect_instances_of(checkpoint, options, data)
        start_step = checkpoint["step"] if options.start_step is None else options.start_step
    stage_data.expect_classes_of_srn(options, model, data)
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
    data = stage_data.open_data(options, checkpoint)
    model = checkpoints.load_srn(checkpoint, **common.wanted_sizes(options))
    if model.latent_codes is None:
        raise util.InputError(f"{checkpoint['path']}: this SRN has no latent codes of its own, so there are none to fit")
    head = None
    if options.linear_path:
        head, _ = stage_data.open_head(options, model, data)
    elif stage_data.wants_labels(options):
        stage_data.expect_classes_of_srn(options, model, data)

    start_step, continues = options.start_step or 0, None
    trained = model.latent_codes.weight.detach().clone().to(device)
    if options.overwrite_embeddings:
        model.new_codes(len(data.train), start=None if options.code_init == "normal" else trained.mean(dim=0).cpu())
    else:
        continues = stage_data.named(checkpoint, options)
        stage_data.expect_instances_of(continues, options, data)
        start_step = checkpoint["step"] if options.start_step is None else options.start_step
    model.freeze_networks()
    model.to(device)
    if head is not None:
        head.to(device).eval().requires_grad_(False)
    if code_stage.is_asked_for(options, model, head):
        return code_stage.fit(options, device, data, model, head, trained, start_step, continues)
    optimizers = [code_optimizer(options, model)]
    if continues is not None:
        code_stage.expect_published(continues)
        checkpoints.restore_optimizers(checkpoint, optimizers)
    train_srn(options, device, data, model, head, optimizers, start_step, continues)


# Stages 1 and 3


def code_optimizer(options, model):
    """The latent table's optimizer. SRN 2019 had Adam, which moves every code in every step, seen or not."""
    if options.code_optimizer == "adam":
        model.latent_codes.sparse = False
        return torch.optim.Adam([model.latent_codes.weight], lr=options.lr, fused=True)
    largest = max(options.batch_size_per_img_sidelength) // distributed.world_size()
    return row_adam.RowAdam([model.latent_codes.weight], lr=options.lr, betas=(0.5, 0.5), eps=1e-5, rows_per_process=largest)


def train_srn(options, device, data, model, head, optimizers, start_step, continues):
    """The training of stages 1 and 3. `continues`: the checkpoint that this run goes on from, or None."""
    with_classes = stage_data.wants_labels(options) and head is None
    stage_data.expect_sides(options, model.side_multiple(with_classes), "the SRN's U-Net")
    if head is not None:
        stage_data.expect_sides(options, head.side_multiple, "the U-Net baseline")

    shards = stage_data.shards(options, data)

    def batches_of_stage(sidelength, batch_size, first, end):
        kept = dict(read_often=True, shards=shards)
        dataset = stage_data.make_dataset(options, data, data.train, sidelength, options.rays_per_image, **kept)
        return dataio.training_batches(dataset, batch_size, first, end, options.seed, options.num_workers, *shards)

    def save(step):
        run_folder.save_checkpoint(options, data, folder, model, model.sizes, optimizers, step)

    model.ray_marcher.checkpoint_steps = options.checkpoint_marching
    if options.compile:
        model.compile_rays()
    num_steps = loop.steps_to_go(options, start_step)
    folder = run_folder.start_run(options, model, continues)
    with loop.Run(folder, device, num_steps, start_step, folder.name, options.l1_weight, model) as run:
        run.every.append((options.steps_til_ckpt, save))
        run_folder.watch(options, data, run, model, head, with_classes=with_classes)
        loop.fit(
            in_processes(options, model, srn_objective(options, device, model, head, with_classes)),
            loop.scheduled_batches(options, start_step, batches_of_stage),
            optimizers,
            run,
            start_step,
            loop.warmup_and_decay(num_steps, options.lr_warmup_steps, options.lr_decay_fraction),
            options.seed,
        )


def srn_objective(options, device, model, head=None, with_classes=False):
    """The loss of stages 1 and 3 as the options have it."""
    weights = objectives.Weights(options.l1_weight, options.class_weight, options.kl_weight, options.reg_weight)
    rays_per_block, kept_rays = objectives.rays_at_once(options, device)
    return objectives.SRNObjective(
        model, weights, head, with_classes, rays_per_block, options.precision, distributed.world_size(), kept_rays
    )


def in_processes(options, model, objective):
    """The objective, its gradients summed over all processes; the codes' optimizer sees to those of the codes."""
    codes = [] if model.latent_codes is None or options.code_optimizer == "adam" else [model.latent_codes.weight]
    unused = model.class_generator is not None and not objective.with_classes
    return distributed.wrap(objective, codes, find_unused_parameters=unused)
