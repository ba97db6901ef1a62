"""Stage 3: latent codes of unseen objects are fitted to images, to label maps, or to both; everything else is frozen.

Two solvers do that. The fast one (code_solver.py) fits every code by itself and ends where it makes no more progress. The
published one trains the codes as stage 1 trains everything, on batches of images; whatever needs whole images needs it.
"""

import torch

import checkpoints
import util
from training import code_solver, distributed, objectives, observed_rays, pretraining, progress, run_folder, stage_data, watch

OLD_KEY = "optimizer_0"  # of the state of fits, in files written before they had a key of their own


def fit_codes(plan, device):
    """Fit the latent codes of the instances of the data: new ones, or those of the checkpoint further."""
    sources = plan.sources
    is_new = plan.codes.overwrite_embeddings
    which = () if is_new else (sources.data_root, sources.max_num_instances_train, sources.specific_ins)
    srn = checkpoints.open_srn(plan.checkpoint_path, *which, **plan.model.sizes)
    model = srn.model
    data = stage_data.open_data(sources, srn)
    if model.latent_codes is None:
        raise util.InputError(f"{srn.path}: this SRN has no latent codes of its own, so there are none to fit")
    head = None
    if plan.linear_path:
        head, _ = stage_data.open_head(plan, model, data)
        head.to(device).eval().requires_grad_(False)
    else:
        stage_data.expect_classes_of_srn(plan, model, data)

    trained = model.latent_codes.weight.detach().clone().to(device)
    if is_new:
        model.new_codes(len(data.train), start=None if plan.codes.code_init == "normal" else trained.mean(dim=0).cpu())
        start_step = 0
    else:
        srn.expect_instances(stage_data.names_of(data.train), sources.data_root)
        start_step = srn.step
    if plan.schedule.start_step is not None:
        start_step = plan.schedule.start_step
    model.freeze_networks()
    model.to(device)
    fit = fit_fast if uses_fast_solver(plan, model, head) else fit_as_published
    fit(plan, device, data, model, head, trained, start_step, None if is_new else srn)


def uses_fast_solver(plan, model, head):
    """Whether the fast solver serves; a note says what differs from the schedule, or why it does not."""
    if plan.codes.code_solver != "fast":
        return False
    unet = needs_whole_images(plan, model, head)
    if unet is not None:
        print(f"note: {unet} needs whole images, so the codes are fitted as with --code_solver published")
        return False
    print("note: --code_solver fast sets the rate and the end of each code's fit; the schedule only limits the steps")
    return True


def needs_whole_images(plan, model, head):
    """The U-Net that takes part, a str; None where every ray stands for itself."""
    if model.sizes["use_unet_renderer"]:
        return "the U-Net renderer"
    if head is not None and head.reads == "rgb":
        return "the U-Net baseline"
    if head is None and plan.sources.reads_labels:
        return "the SRN's own segmentation U-Net"


def fit_as_published(plan, device, data, model, head, trained, start_step, resumed):
    """Train the codes in the common loop. Arguments as for `fit_fast`."""
    optimizers = [pretraining.code_optimizer(plan, model)]
    if resumed is not None:
        if state_of_fits(resumed.contents) is not None:
            raise util.InputError(f"{resumed.path}: its codes were fitted with --code_solver fast; go on with that solver")
        checkpoints.restore_optimizers(resumed.contents, optimizers)
    pretraining.train_srn(plan, device, data, model, head, optimizers, start_step, resumed and resumed.path)


def fit_fast(plan, device, data, model, head, trained, start_step, resumed):
    """Fit the codes with code_solver. Of several processes, each fits instances of its own.

    data:    stage_data.StageData; model: srns.SRN with the codes to fit, frozen otherwise; head: frozen, or None
    trained: (T, D) codes that the SRN was trained with
    resumed: checkpoints.OpenSRN whose codes are fitted further, or None
    """
    num_processes = distributed.world_size()
    if num_processes > len(data.train):
        found = len(data.train)
        raise util.InputError(f"{num_processes} processes, but codes of {found} instances; start at most {found} processes")
    last_step = plan.schedule.last_step(start_step)
    pretraining.prepare_marching(plan, model)
    fits = begin_fits(plan, device, data, model, head, trained, resumed)
    gathered = {}  # the state of all fits, of which each process knows its own

    def gather():
        gathered.update(fits.gathered_state())
        with torch.no_grad():
            model.latent_codes.weight.copy_(fits.best(gathered)[0])

    with (
        run_folder.start(plan, model, resumed and resumed.path) as folder,
        progress.Run(folder, device, last_step, start_step, plan.weights.image) as run,
    ):
        run_folder.attach_saver(plan, data, run, model, model.sizes, [], lambda: {checkpoints.CODE_FITS: dict(gathered)})
        run.together.append(gather)
        watch.attach(plan, data, run, model, head, with_classes=False)
        step, num_rays, terms = start_step, 0, {}
        while step < last_step and distributed.largest(fits.num_active):
            step += 1
            num_rays = fits.num_active * fits.rays_at(step)
            if fits.num_active:
                terms = fits.step(step)
            if (
                fits.num_active and step == last_step and step % code_solver.STEPS_PER_CHECK
            ):  # else the step has looked already
                fits.keep_best()
            if step < last_step and distributed.largest(fits.num_active):
                run.after_step(step, terms, num_rays)
        terms, psnr, num_done = fits.summary()
        run.end_at(step)
        run.after_step(step, terms, num_rays)
    fit_quality = "" if psnr is None else f"; mean PSNR of the input {psnr:.2f} dB"
    print(f"fitted the codes of {len(data.train)} instances in {step} steps, {num_done} of them to convergence{fit_quality}")


def begin_fits(plan, device, data, model, head, trained, resumed):
    """The code_solver.CodeFits of this process: new ones, or those that the checkpoint holds. Arguments as for `fit_fast`."""
    names, schedule = stage_data.names_of(data.train), plan.schedule
    own = range(distributed.rank(), len(names), distributed.world_size())
    dataset = stage_data.make_dataset(plan.sources, data, data.train, schedule.img_sidelengths[0])
    observed = observed_rays.ObservedRays(dataset, device, model.sizes["rgb_channels"], schedule.seed, own)
    loss = code_solver.RayLoss(model, plan.weights, head, plan.model.precision)
    rays_per_block, _ = objectives.rays_at_once(plan.model, device)
    if resumed is not None:
        starts = trained.unsqueeze(1)
    else:
        first = trained.mean(dim=0).expand(len(names), -1)
        if plan.codes.code_init == "normal":
            first = code_solver.normal_codes(names, trained.shape[1], schedule.seed).to(device)
        starts = code_solver.find_starts(loss, observed, trained, first, plan.codes.num_starts, own, rays_per_block)
    spread, num_rays = code_solver.spread_of(trained), schedule.rays_per_image or code_solver.RAYS_PER_STEP
    fits = code_solver.CodeFits(
        loss, observed, starts, spread, own, plan.codes.code_step, num_rays, schedule.foreground_fraction, rays_per_block
    )
    state = resumable_state(plan, data, resumed)
    if state is None:
        fits.begin()
        return fits
    fits.load_state_dict(state)
    if distributed.sum_over_processes(torch.tensor(fits.num_active)) == 0:
        raise util.InputError(
            f"{resumed.path}: the fit of every code has converged; pass --overwrite_embeddings to fit anew, with more starts "
            f"or to other views"
        )
    return fits


def resumable_state(plan, data, resumed):
    """The state of the checkpoint's fits; None where there is no checkpoint, or with a note where they cannot go on."""
    if resumed is None:
        return None
    views = {instance.name: list(instance.views) for instance in data.train}
    state = state_of_fits(resumed.contents)
    if state is None:
        reason = "was not fitted with --code_solver fast"
    elif resumed.contents.get("views") != views or resumed.contents.get("observed") != plan.observed:
        reason = "was fitted to other observations"
    else:
        return state
    print(f"note: {resumed.path} {reason}; its codes are the start of new fits")
    return None


def state_of_fits(contents):
    """The state of code_solver.CodeFits in a checkpoint, None where there is none. Reads files of earlier versions too."""
    if checkpoints.CODE_FITS in contents:
        return contents[checkpoints.CODE_FITS]
    old = contents.get(OLD_KEY, {}).get("state", {}).get(0, {})
    return old if "best_loss" in old else None
