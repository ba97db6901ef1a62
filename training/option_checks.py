"""Combinations of train.py's options that cannot work, refused before any data are read."""

import util
from training.plan import Stage

UNET_MULTIPLE = 16  # of the segmentation U-Net's image sides


def check(options, stage):
    """An InputError for the first fault. stage: plan.Stage of the options"""
    for fault_of in (fault_of_schedule, fault_of_stage, fault_of_validation, fault_of_variant, fault_of_labels):
        fault = fault_of(options, stage)
        if fault:
            raise util.InputError(fault)


def fault_of_schedule(options, stage):
    names = ("img_sidelengths", "max_steps_per_img_sidelength", "batch_size_per_img_sidelength")
    lengths = {name: len(getattr(options, name)) for name in names}
    if len(set(lengths.values())) != 1 or not options.img_sidelengths:
        found = ", ".join(f"--{name} has {length} entries" for name, length in lengths.items())
        return f"{found}; expected the same number of each"
    for name in names:
        if min(getattr(options, name)) < 1:
            return f"--{name}: expected positive integers, found {min(getattr(options, name))}"
    if options.foreground_fraction and not options.rays_per_image:
        return "--foreground_fraction applies to random rays: set --rays_per_image too"
    if stage is Stage.FIT_CODES and options.code_solver == "fast" and len(options.img_sidelengths) > 1:
        return "--img_sidelengths: codes are fitted at one side; give one, or --code_solver published"


def fault_of_stage(options, stage):
    of_srn = ("overwrite_embeddings", "freeze_networks", "model_type", "linear_path")
    needs_srn = next((name for name in of_srn if getattr(options, name)), None)
    if needs_srn and not options.checkpoint_path:
        return f"--{needs_srn} needs the SRN of stage 1: give its --checkpoint_path"
    if options.overwrite_embeddings and options.model_type and not options.linear_path:
        return (
            "--model_type (stage 2) and --overwrite_embeddings (stage 3) need --linear_path, to fit codes through that head"
        )
    if options.linear_path and stage is Stage.PRETRAIN:
        return "--linear_path: give --model_type to train the head further, or --overwrite_embeddings to fit codes through it"
    if options.code_init and stage is not Stage.FIT_CODES:
        return "--code_init is for new codes: give --overwrite_embeddings too"
    if stage is not Stage.UPDATE_HEAD:
        of_stage_2 = ("update_solver", "head_reg_weight", "head_features", "label_selection")
        misplaced = next((name for name in of_stage_2 if getattr(options, name)), None)
        if misplaced:
            return f"--{misplaced} is for stage 2: give --model_type, or leave it out"
    if options.update_solver == "newton" and options.model_type != "linear":
        return f"--update_solver newton computes linear heads; --model_type {options.model_type} takes --update_solver adam"
    if options.model_type == "unet" and options.head_features:
        return "--head_features: the U-Net baseline reads rendered images; leave it out"
    if options.scene_radius and not options.positional_encoding:
        return "--scene_radius scales the positional encoding: give --positional_encoding too"
    if stage is not Stage.PRETRAIN and (options.initial_depth_std or options.initial_distance is not None):
        return "--initial_distance and --initial_depth_std are for stage 1: leave them out"
    if options.model_type and not options.linear_path and options.start_step:
        return "--start_step: a new head starts at 0; give the --linear_path of the head to train further"


def fault_of_validation(options, stage):
    if options.validation and not options.val_root:
        return "--validation needs a split to validate on: give its --val_root"
    if options.validation_path and stage is not Stage.UPDATE_HEAD:
        return "--validation_path is for stage 2: give --model_type"
    if options.validation_path and (not options.val_root or options.validation is False):
        return "--validation_path holds codes of the instances of --val_root: give that too, and not --no_validation"


def fault_of_variant(options, stage):
    without_table = [name for name in ("fit_single_srn", "has_params") if getattr(options, name)]
    if len(without_table) == 2:
        return "--fit_single_srn has no latent codes, so --has_params cannot go with it"
    if without_table and stage is Stage.FIT_CODES:
        to_leave_out = "--overwrite_embeddings and --freeze_networks"
        return f"--{without_table[0]}: such a model has no latent codes of its own to fit; leave out {to_leave_out}"
    if options.use_unet_renderer and options.rays_per_image:
        return "--rays_per_image: the U-Net renderer needs whole images; set it to 0"


def fault_of_labels(options, stage):
    if options.class_weight == 0:
        if options.model_type or options.linear_path:
            return "--model_type and --linear_path need labels: --class_weight must not be 0"
        return None
    if not options.obj_name:
        return "labels need a class list: give --obj_name, or --class_weight 0 to train without labels"
    uses_own_unet = not options.model_type and not options.linear_path
    if uses_own_unet and options.rays_per_image:
        return "--rays_per_image: the segmentation U-Net needs whole images; set it to 0, or --class_weight to 0"
    if uses_own_unet and any(side % UNET_MULTIPLE for side in options.img_sidelengths):
        return f"--img_sidelengths {options.img_sidelengths}: the segmentation U-Net needs multiples of {UNET_MULTIPLE}"
    if options.model_type == "unet" and options.rays_per_image:
        return "--rays_per_image: the U-Net baseline needs whole images; set it to 0"
