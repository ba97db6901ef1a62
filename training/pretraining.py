"""Stage 1: an SRN and the latent codes of its instances learn from posed images; and the training that stage 3 shares."""

import numpy as np
import torch

import checkpoints
import dataio
import geometry
import srns
import util
from training import distributed, loop, objectives, progress, row_adam, run_folder, stage_data, watch


def pretrain(plan, device):
    """Train a whole SRN, from the start or from a checkpoint of this stage."""
    srn = None
    if plan.checkpoint_path:
        sources = plan.sources
        which = sources.data_root, sources.max_num_instances_train, sources.specific_ins
        srn = checkpoints.open_srn(plan.checkpoint_path, *which, **plan.model.sizes)
    data = stage_data.open_data(plan.sources, srn)
    start_step = plan.schedule.start_step or 0
    if srn is None:
        model = new_srn(plan, data)
    else:
        model = srn.model
        srn.expect_instances(stage_data.names_of(data.train), plan.sources.data_root)
        start_step = srn.step if plan.schedule.start_step is None else start_step
    stage_data.expect_classes_of_srn(plan, model, data)
    model.ray_marcher.initial_depth_std = plan.model.initial_depth_std
    model.to(device)

    optimizers = [code_optimizer(plan, model)] if model.latent_codes is not None else []
    optimizers.append(torch.optim.Adam(model.networks(), lr=plan.schedule.lr, fused=True))
    if srn is not None:
        checkpoints.restore_optimizers(srn.contents, optimizers)
    train_srn(plan, device, data, model, None, optimizers, start_step, srn and srn.path)


def new_srn(plan, data):
    """An untrained SRN for the instances of the data, whose rays end near the object unless the user says otherwise."""
    sizes = {name: size for name, size in plan.model.sizes.items() if size is not None}
    if sizes.get("fit_single_srn") and len(data.train) != 1:
        found = f"{len(data.train)} in {plan.sources.data_root}"
        raise util.InputError(f"--fit_single_srn: expected one object, found {found}; name it with --specific_ins")
    if sizes.get("has_params"):
        width = data.train[0].params.shape[1]
        if sizes.setdefault("latent_dim", width) != width:
            raise util.InputError(
                f"--embedding_size {sizes['latent_dim']}: the vectors in {data.train[0].folder}/params have {width} numbers"
            )
    poses = torch.from_numpy(np.concatenate([instance.poses for instance in data.train]))
    if sizes.get("positional_encoding"):
        sizes.setdefault("scene_radius", geometry.viewing_distance(poses))
    model = srns.SRN(len(data.train), num_classes=len(data.class_names) if data.class_names else None, **sizes)
    distance = plan.model.initial_distance
    if distance is None:
        distance = geometry.viewing_distance(poses)
    if distance > 0:
        model.ray_marcher.aim_at(distance)
    return model


def code_optimizer(plan, model):
    """Optimizer of the latent table. SRN 2019 used Adam, which moves every code in every step, seen or not."""
    if plan.model.code_optimizer == "adam":
        model.latent_codes.sparse = False
        return torch.optim.Adam([model.latent_codes.weight], lr=plan.schedule.lr, fused=True)
    largest_share = max(plan.schedule.batch_size_per_img_sidelength) // distributed.world_size()
    codes = [model.latent_codes.weight]
    return row_adam.RowAdam(codes, lr=plan.schedule.lr, betas=(0.5, 0.5), eps=1e-5, rows_per_process=largest_share)


def train_srn(plan, device, data, model, head, optimizers, start_step, resumed_path=None):
    """Train what the optimizers hold: all of an SRN in stage 1, its latent codes in stage 3.

    head:    frozen head of stage 2 whose classes are compared with the labels; None: the SRN's own U-Net, for labels
    resumed_path: checkpoint that this run goes on from, or None
    """
    schedule = plan.schedule
    with_classes = plan.sources.reads_labels and head is None
    stage_data.expect_sides(schedule, model.side_multiple(with_classes), "the SRN's U-Net")
    if head is not None:
        stage_data.expect_sides(schedule, head.side_multiple, "the U-Net baseline")
    shards = stage_data.shards_of(plan, data)
    last_step = schedule.last_step(start_step)

    def batches_of_part(sidelength, batch_size, first, end):
        kept = dict(keeps_images=True, shards=shards)
        dataset = stage_data.make_dataset(plan.sources, data, data.train, sidelength, schedule, **kept)
        return dataio.training_batches(dataset, batch_size, first, end, schedule.seed, plan.sources.num_workers, *shards)

    prepare_marching(plan, model)
    with (
        run_folder.start(plan, model, resumed_path) as folder,
        progress.Run(folder, device, last_step, start_step, plan.weights.image) as run,
    ):
        run_folder.attach_saver(plan, data, run, model, model.sizes, optimizers)
        watch.attach(plan, data, run, model, head, with_classes=with_classes)
        objective = in_processes(plan, model, srn_objective(plan, device, model, head, with_classes))
        loop.fit_on_schedule(objective, schedule, batches_of_part, optimizers, run, start_step)


def prepare_marching(plan, model):
    """Set up how the rays are computed: with activations kept or not, compiled or not."""
    model.ray_marcher.checkpoint_steps = plan.model.checkpoint_marching
    if plan.model.compile:
        model.compile_rays()


def srn_objective(plan, device, model, head=None, with_classes=False):
    """The loss of stages 1 and 3, an objectives.SRNObjective."""
    rays_per_block, kept_rays = objectives.rays_at_once(plan.model, device)
    return objectives.SRNObjective(model, plan.weights, head, with_classes, rays_per_block, plan.model.precision, kept_rays)


def in_processes(plan, model, objective):
    """The objective with its gradients summed over all processes. RowAdam gathers those of the codes by itself."""
    has_rows = model.latent_codes is not None and plan.model.code_optimizer != "adam"
    codes = [model.latent_codes.weight] if has_rows else []
    has_idle_unet = model.class_generator is not None and not objective.with_classes
    return distributed.wrap(objective, codes, find_unused_parameters=has_idle_unet)
