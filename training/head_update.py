"""Stage 2, the semantic update: a head learns from label maps to read classes off a frozen SRN.

What the head reads is rendered once and kept. A linear head is the solution of a convex problem and is computed as such
(logistic_regression.py); other heads, and a linear one with --update_solver adam, are trained in the common loop.
"""

import contextlib
from dataclasses import dataclass

import numpy as np
import torch

import checkpoints
import dataio
import srns
import util
from rendering import renderer
from training import distributed, logistic_regression, loop, objectives, progress, run_folder, stage_data, watch

MAX_KEPT_NUMBERS = 2**30  # that a head reads: 4 GiB; 30 label maps of 128 x 128 with 256 features are an eighth of that
PENALTY = 1e-3  # on squared weights, per ray: close to the best for other objects whatever the features, see docs/quality.md


@dataclass(frozen=True)
class Update:
    """Everything that stage 2 reads, checked.

    rows:      rows of the latent table for data.train, a list of int
    resumed:   checkpoint of the head whose training goes on, or None; start_step: its steps, or 0
    sizes:     arguments that build the head
    fitted:    an SRN and the rows of its table for data.val, or None for `model`
    """

    model: srns.SRN
    data: stage_data.StageData
    rows: list
    head: torch.nn.Module
    resumed: dict
    start_step: int
    sizes: dict
    fitted: tuple


def update_head(plan, device):
    """Learn a head on a frozen SRN."""
    update = open_update(plan, device)
    solve = solve_head if plan.head.update_solver == "newton" else train_head
    solve(plan, device, update)


def open_update(plan, device):
    """The Update of a plan: the SRN, the head and the data; an InputError where they do not fit each other."""
    sources = plan.sources
    which = sources.data_root, sources.max_num_instances_train, sources.specific_ins
    srn = checkpoints.open_srn(plan.checkpoint_path, *which, **plan.model.sizes)
    data = stage_data.open_data(sources, srn)
    model = srn.model.to(device)
    rows = srn.rows(stage_data.names_of(data.train), sources.data_root)
    model.freeze_networks()
    kind, resumed, start_step = plan.head.model_type, None, 0
    features = {} if plan.head.head_features in (None, "last") else {"features": plan.head.head_features}
    if plan.linear_path:
        head, resumed = stage_data.open_head(plan, model, data)
        start_step = resumed["step"] if plan.schedule.start_step is None else plan.schedule.start_step
        sizes = resumed["sizes"]
    else:
        in_features = srns.HEADS[kind].num_inputs(model.sizes, **features)
        head = srns.HEADS[kind](in_features, len(data.class_names), **features)
        sizes = dict(kind=kind, in_features=in_features, num_classes=len(data.class_names)) | features
    multiple = max(head.side_multiple, model.side_multiple(with_classes=False))
    stage_data.expect_sides(plan.schedule, multiple, "a U-Net that takes part")
    count, found = distributed.world_size(), len(data.train)
    if count > found:
        raise util.InputError(f"{count} processes, but {found} instances with label maps; start at most {found} processes")
    fitted = open_fitted_srn(plan, model, data, device) if sources.validation_path else None
    return Update(model, data, rows, head.to(device), resumed, start_step, sizes, fitted)


def open_fitted_srn(plan, model, data, device):
    """The SRN of --validation_path with rows of its table for data.val; it must have the networks that the head reads."""
    sources = plan.sources
    srn = checkpoints.open_srn(sources.validation_path, sources.val_root, **plan.model.sizes)
    fitted = srn.model.to(device).eval()
    own, other = model.state_dict(), fitted.state_dict()
    if any(key not in other or not torch.equal(own[key], other[key]) for key in own if key != "latent_codes.weight"):
        raise util.InputError(
            f"{srn.path}: its networks are not those of {plan.checkpoint_path}; give codes that were fitted with that SRN "
            f"as --validation_path"
        )
    return fitted, srn.rows(stage_data.names_of(data.val), sources.val_root)


def own_inputs(plan, update, device, sidelength):
    """What `read_by_head` returns for this process's share of the instances."""
    mine = slice(distributed.rank(), None, distributed.world_size())
    dataset = stage_data.make_dataset(plan.sources, update.data, update.data.train[mine], sidelength)
    return read_by_head(update.model, update.head, dataset, update.rows[mine], device)


@contextlib.contextmanager
def started_run(plan, device, update, optimizers, start_step, last_step, shows_bar=True):
    """Makes the run's folder, and yields the progress.Run in it, which saves, shows and validates."""
    fingerprint = checkpoints.fingerprint(update.model)
    with (
        run_folder.start(plan, update.head, update.resumed and update.resumed["path"]) as folder,
        progress.Run(folder, device, last_step, start_step, shows_bar=shows_bar) as run,
    ):
        run_folder.attach_saver(plan, update.data, run, update.head, update.sizes, optimizers, lambda: {"srn": fingerprint})
        watch.attach(plan, update.data, run, update.model, update.head, update.rows, fitted=update.fitted)
        yield run


# The convex problem


def solve_head(plan, device, update):
    """Compute the linear layer with the least penalised cross-entropy, to convergence."""
    features, labels = own_inputs(plan, update, device, plan.schedule.img_sidelengths[-1])
    num_classes, penalty = update.head.num_classes, penalty_of(plan)
    linear = update.head.linear
    start = (linear.weight, linear.bias) if update.resumed else None
    reduce = distributed.sum_over_processes
    solution = logistic_regression.fit(features, labels, num_classes, penalty, start, reduce=reduce)
    with torch.no_grad():
        linear.weight.copy_(solution.weight)
        linear.bias.copy_(solution.bias)
    last_step = update.start_step + max(1, solution.num_iterations)
    with started_run(plan, device, update, [], last_step - 1, last_step, shows_bar=False) as run:
        print(
            f"penalty {penalty:.1e}; {solution.num_iterations} L-BFGS iterations, relative gradient "
            f"{solution.gradient_norm:.1e}{'' if solution.converged else ', not converged'}"
        )
        run.after_step(last_step, {"class": torch.tensor(solution.loss)}, labels.numel())


def penalty_of(plan):
    """The penalty on squared weights, relative to the mean cross-entropy of a ray."""
    given = plan.head.head_reg_weight
    return PENALTY if given is None else given / plan.weights.classes


# Training


def train_head(plan, device, update):
    """Train the head with Adam, as published for the linear one."""
    schedule = plan.schedule
    optimizers = [torch.optim.Adam(update.head.parameters(), lr=schedule.lr, fused=True)]
    if update.resumed is not None:
        checkpoints.restore_optimizers(update.resumed, optimizers)

    def batches_of_part(sidelength, batch_size, first, end):
        inputs, seg_labels = own_inputs(plan, update, device, sidelength)
        num_chosen = num_chosen_at(plan, update.head.reads, sidelength, batch_size)
        for step in range(first, end):
            chosen = np.random.default_rng((schedule.seed, step, distributed.rank())).integers(len(inputs), size=num_chosen)
            chosen = torch.from_numpy(chosen).to(device)
            yield {"inputs": inputs[chosen], "seg_labels": seg_labels[chosen]}

    for sidelength, batch_size, _, _ in schedule.parts():
        num_chosen_at(plan, update.head.reads, sidelength, batch_size)  # a side that comes late is refused now
    last_step = schedule.last_step(update.start_step)
    penalty = plan.head.head_reg_weight or 0.0
    objective = objectives.HeadObjective(update.head, plan.weights.classes, penalty)
    with started_run(plan, device, update, optimizers, update.start_step, last_step) as run:
        objective = distributed.wrap(objective)
        loop.fit_on_schedule(objective, schedule, batches_of_part, optimizers, run, update.start_step)


def num_chosen_at(plan, reads, sidelength, batch_size):
    """Rays, or images, that each process draws in a step; an InputError where the batch cannot be dealt evenly."""
    rays_per_image = plan.schedule.rays_per_image or sidelength**2
    in_all, num_processes = batch_size * (1 if reads == "rgb" else rays_per_image), distributed.world_size()
    if in_all % num_processes:
        raise util.InputError(
            f"--batch_size_per_img_sidelength: a step of {batch_size} images cannot be dealt evenly to {num_processes} "
            f"processes; choose a multiple of {num_processes}, or start another number of processes"
        )
    return in_all // num_processes


# What a head reads


def read_by_head(model, head, dataset, rows, device):
    """What a head reads, and its labels, on the device.

    For a head that reads features: inputs (L, I) and classes (L,) of all labelled rays, or of as many random ones as
    have MAX_KEPT_NUMBERS features.
    For a head that reads images: rgb (V, R, C) and classes (V, R) of all views.
    """
    rows = torch.tensor(rows)
    inputs, seg_labels = [], []
    generator = torch.Generator().manual_seed(0)
    reads_features = head.reads == "features"
    max_per_view = MAX_KEPT_NUMBERS // head.in_features // len(dataset) if reads_features else None
    for batch in dataio.ordered_batches(dataset, batch_size=4):
        batch = {name: tensor.to(device) for name, tensor in dataio.with_rows(batch, rows).items()}
        is_read = batch["seg_labels"] != util.UNLABELLED if reads_features else slice(None)
        outputs = renderer.render(model, batch, with_classes=False, inputs_of=head if reads_features else None)
        read = outputs["inputs" if reads_features else "rgb"][is_read]
        labels = batch["seg_labels"][is_read]
        if reads_features and len(read) > (max_here := max_per_view * len(batch["uv"])):
            some = torch.randperm(len(read), generator=generator)[:max_here].to(device)
            read, labels = read[some], labels[some]
        inputs.append(read)
        seg_labels.append(labels)
    if not any(len(x) for x in inputs):
        raise util.InputError(
            f"{dataset.instances[0].folder.parent}: none of the chosen label maps has a labelled pixel; choose other views "
            f"and instances with --specific_observation_idcs and --specific_ins, or --label_selection"
        )
    return torch.cat(inputs), torch.cat(seg_labels)
