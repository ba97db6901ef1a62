"""The run of stage 3 by the solver of code_fitting: its data, its starts, its folder and what it says at the end."""

import torch

import util
from training import code_fitting, distributed, loop, objectives, observed_rays, run_folder, stage_data


def is_asked_for(options, model, head):
    """Whether the codes are fitted here. A line says so where something needs whole images, so that they are not."""
    if options.code_solver != "fast":
        return False
    reason = reason_against(options, model, head)
    if reason is not None:
        print(f"note: {reason} needs whole images, so the codes are fitted as with --code_solver published")
        return False
    print("note: --code_solver fast has a rate and an end for each code; the schedule is read for the most steps only")
    return True


def reason_against(options, model, head):
    """What needs whole images, None where nothing does."""
    if model.sizes["use_unet_renderer"]:
        return "the U-Net renderer"
    if head is not None and head.reads == "rgb":
        return "the U-Net baseline"
    if head is None and stage_data.wants_labels(options):
        return "the SRN's own segmentation U-Net"


def expect_published(checkpoint):
    """An InputError where a fit of --code_solver fast would go on with the other one."""
    if is_of_fast_solver(checkpoint):
        raise util.InputError(f"{checkpoint['path']}: its codes were fitted with --code_solver fast; go on with that")


def fit(options, device, data, model, head, trained, start_step, continues):
    """Fit the table of codes of a frozen model. With several processes, each fits instances of its own.

    trained:   (T, D) the trained codes
    continues: the checkpoint that this fit goes on from, or None
    """
    if distributed.world_size() > len(data.train):
        raise util.InputError(f"{distributed.world_size()} processes, but codes of {len(data.train)} instances; start fewer")
    num_steps = loop.steps_to_go(options, start_step)
    model.ray_marcher.checkpoint_steps = options.checkpoint_marching
    if options.compile:
        model.compile_rays()
    fits = begin_fits(options, device, data, model, head, trained, continues)

    def save(step):
        run_folder.save_checkpoint(options, data, folder, model, model.sizes, [fits], step)

    def show_from_now():
        run.every.append((options.steps_til_ckpt, save))
        run_folder.watch(options, data, run, model, head, with_classes=False)

    alone = distributed.world_size() == 1
    folder = run_folder.start_run(options, model, continues)
    with loop.Run(folder, device, num_steps, start_step, folder.name, options.l1_weight) as run:
        if alone:  # else a process knows the codes of the others at the end only
            show_from_now()
        step = start_step
        while step < num_steps and len(fits.rows):
            step += 1
            batch = {"seg_labels": fits.rows[:, None].expand(-1, fits.rays_at(step))}  # for the run to count the rays
            terms = fits.step(step)
            if step == num_steps and step % code_fitting.STEPS_PER_CHECK:
                fits.keep_best()
            write_codes(model, fits)
            if step < num_steps and len(fits.rows):
                run.after_step(step, terms, batch)
        step = last_step_anywhere(step, device)
        terms, psnr, num_done = fits.summary()
        fits.share()
        write_codes(model, fits)
        if not alone:
            show_from_now()
        run.num_steps = step  # where all are done before
        run.after_step(step, terms, {"seg_labels": fits.rows})
    said = "" if psnr is None else f"; mean PSNR of the input {psnr:.2f} dB"
    print(f"fitted the codes of {len(data.train)} instances in {step} steps, {num_done} of them to the end{said}")


def begin_fits(options, device, data, model, head, trained, continues):
    """The code_fitting.CodeFits of this process, new or as the checkpoint left them."""
    names = stage_data.names_of(data.train)
    own = range(distributed.rank(), len(names), distributed.world_size())
    dataset = stage_data.make_dataset(options, data, data.train, options.img_sidelengths[0])
    observed = observed_rays.ObservedRays(dataset, device, model.sizes["rgb_channels"], options.seed, own)
    weights = objectives.Weights(options.l1_weight, options.class_weight, options.kl_weight, options.reg_weight)
    loss = code_fitting.RayLoss(model, weights, head, options.precision)
    rays_per_block, _ = objectives.rays_at_once(options, device)
    if continues is not None:
        starts = trained.unsqueeze(1)
    else:
        first = trained.mean(dim=0).expand(len(names), -1)
        if options.code_init == "normal":
            first = code_fitting.normal_codes(names, trained.shape[1], options.seed).to(device)
        starts = code_fitting.find_starts(loss, observed, trained, first, options.num_starts, own, rays_per_block)
    fits = code_fitting.CodeFits(
        loss,
        observed,
        starts,
        code_fitting.spread_of(trained),
        own,
        options.code_step,
        options.rays_per_image or code_fitting.RAYS_PER_STEP,
        options.foreground_fraction,
        rays_per_block,
    )
    if continues is None or not holds_fits(continues, data, options):
        fits.begin()
    else:
        fits.load_state_dict(continues["optimizer_0"])
        if distributed.sum_over_processes(torch.tensor(len(fits.rows))) == 0:
            raise util.InputError(
                f"{continues['path']}: the fit of every code is done; to fit anew, from more starts or to other views, pass "
                f"--overwrite_embeddings"
            )
    return fits


def holds_fits(checkpoint, data, options):
    """Whether the fits of a checkpoint can go on as they stopped; a line says so if not."""
    views = {instance.name: list(instance.views) for instance in data.train}
    if not is_of_fast_solver(checkpoint):
        reason = "was not fitted with --code_solver fast"
    elif checkpoint.get("views") != views or checkpoint.get("observed") != stage_data.observed(options):
        reason = "was fitted to other observations"
    else:
        return True
    print(f"note: {checkpoint['path']} {reason}; its codes are the start of new fits")
    return False


def is_of_fast_solver(checkpoint):
    return "best_loss" in checkpoint.get("optimizer_0", {}).get("state", {}).get(0, {})


@torch.no_grad()
def write_codes(model, fits):
    """The table shows the best codes so far, those of this process's instances."""
    if fits.changed:
        model.latent_codes.weight.copy_(fits.best()[0])
        fits.changed = False


def last_step_anywhere(step, device):
    """The largest of the steps that the processes have come to."""
    steps = torch.zeros(distributed.world_size(), dtype=torch.int64, device=device)
    steps[distributed.rank()] = step
    return int(distributed.sum_over_processes(steps).max())
