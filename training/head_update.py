"""Stage 2: a head that reads classes off a frozen SRN, learnt from label maps. What it reads is rendered once and kept.

A linear head is the solution of a convex problem and is computed as such (logistic_regression.py); the others, and a
linear one with --update_solver adam, are trained in the one loop.
"""

from types import SimpleNamespace

import numpy as np
import torch

import checkpoints
import dataio
import options as common
import srns
import util
from rendering import renderer
from training import distributed, logistic_regression, loop, objectives, run_folder, stage_data

MAX_KEPT_RAYS = 2**22  # 256 features each are 4 GiB; 30 label maps of 128 x 128 are an eighth of it
RAYS_TO_CHOOSE_BY = 2**15  # a penalty; more would not choose better, see logistic_regression.choose_penalty


def update_head(options, device):
    """Learn a head on a frozen SRN."""
    update = open_update(options, device)
    (solve_head if options.update_solver == "newton" else train_head)(options, device, update)


def open_update(options, device):
    """Everything that stage 2 reads, checked: the SRN, the head, the data, and what is known of them."""
    checkpoint = checkpoints.load(options.checkpoint_path)
    data = stage_data.open_data(options, checkpoint)
    checkpoint = stage_data.named(checkpoint, options)
    model = checkpoints.load_srn(checkpoint, **common.wanted_sizes(options)).to(device)
    rows = checkpoints.rows_for(model, checkpoint, stage_data.names_of(data.train), options.data_root)
    model.freeze_networks()
    kind, head_checkpoint, start_step = srns.HEADS[options.model_type], None, 0
    if options.linear_path:
        head, head_checkpoint = stage_data.open_head(options, model, data)
        start_step = head_checkpoint["step"] if options.start_step is None else options.start_step
    else:
        head = kind(checkpoints.in_features(kind, model), len(data.class_names))
    stage_data.expect_sides(
        options, max(head.side_multiple, model.side_multiple(with_classes=False)), "a U-Net that takes part"
    )
    if len(data.train) < distributed.world_size():
        raise util.InputError(
            f"of {distributed.world_size()} processes, {len(data.train)} would have instances to learn from; start as many"
        )
    return SimpleNamespace(
        model=model,
        data=data,
        rows=rows,
        kind=kind,
        head=head.to(device),
        head_checkpoint=head_checkpoint,
        start_step=start_step,
        sizes=dict(kind=options.model_type, in_features=checkpoints.in_features(kind, model), num_classes=head.num_classes),
        fitted=fitted_srn(options, model, data, device) if options.validation_path else None,
    )


def own_inputs(options, update, device, sidelength):
    """What the head reads of this process's instances: `read_by_head`, and the instance of each ray or view."""
    mine = slice(distributed.rank(), None, distributed.world_size())
    dataset = stage_data.make_dataset(options, update.data, update.data.train[mine], sidelength)
    return read_by_head(update.model, update.kind, dataset, update.rows[mine], device)


def start_run(options, device, update, optimizers, first_step, last_step):
    """The run's folder made, and the loop.Run in it, which saves, shows and validates."""
    folder = run_folder.start_run(options, update.head, update.head_checkpoint)
    fingerprint = checkpoints.fingerprint(update.model)

    def save(step):
        more = dict(srn=fingerprint)
        run_folder.save_checkpoint(options, update.data, folder, update.head, update.sizes, optimizers, step, **more)

    run = loop.Run(folder, device, last_step, first_step, folder.name, module=update.head)
    run.every.append((options.steps_til_ckpt, save))
    run_folder.watch(options, update.data, run, update.model, update.head, update.rows, fitted=update.fitted)
    return run


# The convex problem


def solve_head(options, device, update):
    """The linear layer with the least cross-entropy and penalty: the one there is, found to convergence."""
    features, labels, instances = own_inputs(options, update, device, options.img_sidelengths[-1])
    num_classes = update.head.num_classes
    penalty, why = options.head_reg_weight, "as given"
    if penalty is None:
        penalty, why = choose_penalty(features, labels, instances, num_classes)
    else:
        penalty /= options.class_weight
    linear = update.head.linear
    start = (linear.weight, linear.bias) if update.head_checkpoint else None
    reduce = distributed.sum_over_processes
    solution = logistic_regression.fit(features, labels, num_classes, penalty, start, reduce=reduce)
    with torch.no_grad():
        linear.weight.copy_(solution.weight)
        linear.bias.copy_(solution.bias)
    last_step = update.start_step + max(1, solution.num_iterations)
    with start_run(options, device, update, [], last_step - 1, last_step) as run:
        print(
            f"penalty {penalty:.1e} ({why}); {solution.num_iterations} Newton steps, relative gradient "
            f"{solution.gradient_norm:.1e}{'' if solution.converged else ', which is not converged'}"
        )
        run.after_step(last_step, {"class": torch.tensor(solution.loss)}, {"seg_labels": labels})


def choose_penalty(features, labels, instances, num_classes):
    """The penalty that serves held-out objects best, and why, a str. All processes choose by the same rays."""
    share = RAYS_TO_CHOOSE_BY // distributed.world_size()
    if len(labels) > share:
        some = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))[:share].to(labels.device)
        features, labels, instances = features[some], labels[some], instances[some]
    together = torch.cat([features, instances[:, None].to(features)], dim=1)
    labels, together = distributed.gather_rows(labels, together)
    features, instances = together[labels >= 0, :-1], together[labels >= 0, -1].long()
    labels = labels[labels >= 0]
    if len(instances.unique()) < 2:
        penalty = min(logistic_regression.PENALTIES, key=lambda x: abs(np.log10(x) + 4))
        return penalty, "a usual one: there is no second view to hold out"
    penalty, scores = logistic_regression.choose_penalty(features, labels, instances, num_classes)
    return penalty, f"mIoU {scores[penalty]:.3f} on held-out label maps"


# The loop


def train_head(options, device, update):
    """Adam on the head, as published for the linear one."""
    num_processes = distributed.world_size()
    optimizers = [torch.optim.Adam(update.head.parameters(), lr=options.lr, fused=True)]
    if update.head_checkpoint is not None:
        checkpoints.restore_optimizers(update.head_checkpoint, optimizers)

    def num_chosen_at(sidelength, batch_size):
        """Rays, or images, that each process draws in a step."""
        in_all = batch_size if update.kind.reads == "rgb" else batch_size * (options.rays_per_image or sidelength**2)
        if in_all % num_processes:
            raise util.InputError(
                f"--batch_size_per_img_sidelength: a step of {batch_size} images cannot be dealt evenly to {num_processes} "
                f"processes; choose a multiple of {num_processes}, or start another number of processes"
            )
        return in_all // num_processes

    def batches_of_stage(sidelength, batch_size, first, end):
        inputs, seg_labels, _ = own_inputs(options, update, device, sidelength)
        num_chosen = num_chosen_at(sidelength, batch_size)
        for step in range(first, end):
            chosen = np.random.default_rng((options.seed, step, distributed.rank())).integers(len(inputs), size=num_chosen)
            chosen = torch.from_numpy(chosen).to(device)
            yield {"inputs": inputs[chosen], "seg_labels": seg_labels[chosen]}

    for sidelength, batch_size, _, _ in loop.schedule(options):
        num_chosen_at(sidelength, batch_size)  # what cannot be dealt is refused now, not when its turn comes
    num_steps = loop.steps_to_go(options, update.start_step)
    objective = objectives.HeadObjective(update.head, options.class_weight, options.head_reg_weight or 0.0, num_processes)
    with start_run(options, device, update, optimizers, update.start_step, num_steps) as run:
        loop.fit(
            distributed.wrap(objective),
            loop.scheduled_batches(options, update.start_step, batches_of_stage),
            optimizers,
            run,
            update.start_step,
            loop.warmup_and_decay(num_steps, options.lr_warmup_steps, options.lr_decay_fraction),
            options.seed,
        )


# What a head reads


def read_by_head(model, kind, dataset, rows, device):
    """What a kind of head reads, and its labels, on the device.

    Features (L, C) and classes (L,) of all labelled rays of a data set, or of MAX_KEPT_RAYS of them chosen at random;
    for a head that reads images, rgb (V, R, C) and classes (V, R) of all views. And who each of them shows, (L,) or (V,):
    the row of the instance in the latent table or, of a single instance, the observation.
    """
    rows = torch.tensor(rows)
    inputs, seg_labels, shown = [], [], []
    shows = "instance_idx" if len(rows) * distributed.world_size() > 1 else "observation_idx"
    generator = torch.Generator().manual_seed(0)
    max_per_view = MAX_KEPT_RAYS // len(dataset)
    for batch in dataio.ordered_batches(dataset, batch_size=4):
        batch = {name: tensor.to(device) for name, tensor in dataio.with_rows(batch, rows).items()}
        chosen = batch["seg_labels"] != util.UNLABELLED if kind.reads == "features" else slice(None)
        inputs.append(renderer.render(model, batch, with_classes=False, keep_features=True)[kind.reads][chosen])
        seg_labels.append(batch["seg_labels"][chosen])
        shown.append(batch[shows][:, None].expand_as(batch["seg_labels"])[chosen])
        max_here = max_per_view * len(batch["uv"])
        if kind.reads == "features" and len(inputs[-1]) > max_here:
            some = torch.randperm(len(inputs[-1]), generator=generator)[:max_here].to(device)
            inputs[-1], seg_labels[-1], shown[-1] = inputs[-1][some], seg_labels[-1][some], shown[-1][some]
    if not any(len(x) for x in inputs):
        raise util.InputError(
            f"{dataset.instances[0].folder.parent}: none of the chosen label maps has a labelled pixel; choose the labelled "
            f"views and instances with --specific_observation_idcs and --specific_ins"
        )
    return torch.cat(inputs), torch.cat(seg_labels), torch.cat(shown)


def fitted_srn(options, model, data, device):
    """The SRN of --validation_path with the rows of its table for data.val; it must be the one that the head reads."""
    checkpoint = stage_data.named(checkpoints.load(options.validation_path), options, options.val_root)
    fitted = checkpoints.load_srn(checkpoint, **common.wanted_sizes(options)).to(device).eval()
    own, other = model.state_dict(), fitted.state_dict()
    if any(key not in other or not torch.equal(own[key], other[key]) for key in own if key != "latent_codes.weight"):
        raise util.InputError(
            f"{checkpoint['path']}: its networks are not those of {options.checkpoint_path}; give codes that were "
            f"fitted with that SRN as --validation_path"
        )
    return fitted, checkpoints.rows_for(fitted, checkpoint, stage_data.names_of(data.val), options.val_root)
