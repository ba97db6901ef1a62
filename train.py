"""Train: stage 1 (an SRN), stage 2 (a head from its features to classes), stage 3 (latent codes of unseen objects).

Which stage it is follows from the options:
    stage 3  with --overwrite_embeddings: the networks of --checkpoint_path are frozen, new codes are fitted to images;
             to label maps with --l1_weight 0 (by the SRN's own U-Net) or --linear_path (by a head of stage 2).
             With --freeze_networks in its place, the fitting of a checkpoint's own codes goes on
    stage 2  with --model_type: the SRN of --checkpoint_path is frozen, a head learns from label maps
    stage 1  otherwise; with --checkpoint_path it goes on from there
"""

import options as common
import srns
import util
from rendering.precision import PRECISIONS
from training import distributed, stage_data, stages


def build_parser():
    parser = common.parser(__doc__.splitlines()[0])
    common.add_common(parser)

    group = parser.add_argument_group("schedule, one entry per image side")
    group.add("--img_sidelengths", type=common.comma_separated(int), default="64,128", help="progression of image sides")
    group.add("--max_steps_per_img_sidelength", type=common.comma_separated(int), default="10000,200000", help="steps")
    group.add("--batch_size_per_img_sidelength", type=common.comma_separated(int), default="92,16", help="images a step")
    group.add("--lr", type=float, default=4e-4, help="learning rate of Adam and of the codes' SparseAdam")
    group.add(
        "--code_optimizer",
        choices=("sparse_adam", "adam"),
        default="sparse_adam",
        help="of the latent codes: sparse_adam moves those of the batch, adam (SRN 2019) all of them in every step",
    )
    group.add("--lr_warmup_steps", type=common.at_least(0), default=0, help="steps of linear warm-up")
    group.add("--lr_decay_fraction", type=common.fraction, default=0.0, help="last share of all steps with cosine decay to 0")
    group.add("--rays_per_image", type=common.at_least(0), default=0, help="random rays per image and step; 0: all rays")
    group.add("--foreground_fraction", type=common.fraction, default=0.0, help="share of the random rays from the foreground")

    group = parser.add_argument_group("losses")
    group.add(
        "--class_weight",
        type=common.weight,
        help="cross-entropy of the segmentation; 0: an SRN without classes "
        "(default: 8, or 0 where no --obj_name says which classes there are)",
    )
    group.add(
        "--l1_weight",
        type=common.weight,
        help="mean squared error of the image (the name is historical); 0: images "
        "are not read (default: 200, or 0 where codes are fitted through --linear_path)",
    )
    group.add("--kl_weight", type=common.weight, default=1.0, help="mean square of the latent codes")
    group.add("--reg_weight", type=common.weight, default=1e-3, help="depths behind the camera")
    group.add(
        "--head_reg_weight",
        type=common.weight,
        help="stage 2: sum of squares of the head's weights (default: with "
        "--update_solver newton, what serves held-out objects best; with adam 0, as published)",
    )

    group = parser.add_argument_group("model; stages 2 and 3, and resuming, take it from the checkpoint")
    common.add_model_variants(group)
    group.add("--hidden_features", type=common.positive, help="width of phi and of the colour head (published: 256)")
    group.add("--rgb_channels", type=int, choices=(3, 4), help="3, or 4 for the published semantic system's RGBA")
    group.add(
        "--initial_distance",
        type=float,
        help="stage 1: where rays end before training, in world units (default: "
        "the cameras' mean distance to the point they look at; 0: the published initialisation)",
    )
    group.add(
        "--initial_depth_std",
        type=common.weight,
        default=0.0,
        help="spread of the depth, about 0.05, at which rays start in training (SRN 2019: 5e-4)",
    )

    group = parser.add_argument_group("speed and memory")
    group.add(
        "--data_shards",
        type=common.positive,
        help="deal the instances to so many shards, each of which gives its "
        "share of every batch (default: the number of processes). A run with as many shards sees the same data, "
        "whether one process draws them or several",
    )
    group.add(
        "--rays_per_block",
        type=common.at_least(0),
        help="rays that are computed, gradients and all, at once; 0: "
        "all of a step, as published (default: 2048 on a CPU, 65536 on a GPU)",
    )
    group.add(
        "--kept_rays",
        type=common.at_least(0),
        help="where a U-Net sees images first: the rays whose activations wait "
        "for it in memory; those of others are computed twice (default: 16384 on a CPU, 65536 on a GPU)",
    )
    group.add(
        "--precision",
        choices=sorted(PRECISIONS),
        default="float32",
        help="of the products of matrices; "
        "geometry, the marcher's state, the hypernetwork and the losses are float32 all the same",
    )
    group.add(
        "--checkpoint_marching",
        action="store_true",
        help="keep no activations of the march, compute each step once more for its gradient: less memory, a third more time",
    )
    common.add_fused(group)
    group.add(
        "--compile",
        action="store_true",
        help="fuse what every ray goes through with torch.compile, which takes a "
        "minute at the start and needs a C++ compiler",
    )

    group = parser.add_argument_group("stages and checkpoints")
    group.add("--checkpoint_path", help="a .pth file, or a folder of which the one with the most steps is taken")
    group.add("--start_step", type=common.at_least(0), help="step to count from (default: the checkpoint's)")
    group.add(
        "--model_type",
        type=str.lower,
        choices=sorted(srns.HEADS),
        help="stage 2: which head to train on the features, or a U-Net on the rendered image",
    )
    group.add(
        "--update_solver",
        choices=("newton", "adam"),
        help="stage 2: newton solves for the best linear head, whatever "
        "the schedule; adam trains any head by it, as published (default: newton for a linear head)",
    )
    group.add(
        "--linear_path",
        help="a head of stage 2, a .pth file or a folder. Stage 2: its training goes on; stage 3: "
        "codes are fitted to label maps through it (reverse)",
    )
    group.add("--overwrite_embeddings", action="store_true", help="stage 3: new latent codes, and only these are fitted")
    group.add(
        "--freeze_networks",
        action="store_true",
        help="train the latent codes alone: stage 3, going on from "
        "--checkpoint_path unless --overwrite_embeddings is given too",
    )
    group.add(
        "--code_init",
        choices=("mean", "normal"),
        help="stage 3: codes start near the mean of the checkpoint's codes, or near 0 as published (default: mean)",
    )
    group.add("--steps_til_ckpt", type=common.positive, default=5000, help="steps between checkpoints")
    group.add("--steps_til_val", type=common.positive, default=1000, help="steps between validations and pictures")

    group = parser.add_argument_group("stage 3: how codes are fitted")
    group.add(
        "--code_solver",
        choices=("fast", "published"),
        default="fast",
        help="fast: all codes at once, each by itself "
        "until it makes no more progress; of the schedule and the rates above it reads the number of steps, as a "
        "limit, and --rays_per_image (0: 128), of each object and step. published: as stage 1, and wherever a U-Net "
        "needs whole images",
    )
    group.add(
        "--code_step", type=common.weight, default=0.15, help="fast: learning rate, in units of the trained codes' spread"
    )
    group.add(
        "--num_starts",
        type=common.positive,
        default=4,
        help="fast: --code_init, and the trained codes that "
        "render the input best; the worse half is given up every 10 steps, and the best by the loss on the input is "
        "kept",
    )

    group = parser.add_argument_group("which data")
    group.add("--val_root", help="split of the same instances seen from other views")
    group.add("--num_classes", type=common.positive, help="if given, the class list must have as many")
    group.add(
        "--validation",
        action="store_true",
        default=None,
        help="validate on --val_root (default: if it has any of the instances)",
    )
    group.add(
        "--validation_path",
        help="stage 2: the run or .pth file of stage 3 with codes of the instances of --val_root "
        "(default: --val_root has the instances of --data_root)",
    )
    group.add("--no_validation", dest="validation", action="store_false", help="do not validate")
    group.add("--no_check", action="store_true", help="train even where check_dataset.py finds a fault in the cameras")
    group.add("--max_num_instances_train", type=common.count_or_all, default=-1, help="the first so many; -1: all")
    group.add("--max_num_observations_train", type=common.count_or_all, default=50, help="views per instance, spread evenly")
    group.add("--max_num_instances_val", type=common.count_or_all, default=10, help="the first so many; -1: all")
    group.add("--max_num_observations_val", type=common.count_or_all, default=10, help="views per instance, spread evenly")
    return parser


def read_options(argv):
    """Parse, and refuse what cannot work before any data is read."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.class_weight is None:
        options.class_weight = 8.0 if options.obj_name or options.model_type or options.linear_path else 0.0
        if not options.class_weight:
            print("note: no --obj_name says which classes there are, so no labels are learnt from")
    if options.update_solver is None and options.model_type and not stage_data.fits_codes(options):
        options.update_solver = "newton" if options.model_type == "linear" else "adam"
    for check in (check_schedule, check_stage, check_variant, check_labels):
        complaint = check(options)
        if complaint:
            parser.error(complaint)
    if options.l1_weight is None:
        options.l1_weight = 0.0 if options.linear_path and stage_data.fits_codes(options) else 200.0
    if options.l1_weight == options.class_weight == 0:
        parser.error("--l1_weight and --class_weight are both 0: there is nothing to learn from")
    return options


def check_schedule(options):
    """What is wrong with the schedule, or None."""
    names = ("img_sidelengths", "max_steps_per_img_sidelength", "batch_size_per_img_sidelength")
    lengths = {name: len(getattr(options, name)) for name in names}
    if len(set(lengths.values())) != 1 or not options.img_sidelengths:
        return ", ".join(f"--{name} has {length} entries" for name, length in lengths.items()) + "; expected as many of each"
    for name in names:
        if min(getattr(options, name)) < 1:
            return f"--{name} must be positive, found {min(getattr(options, name))}"
    if options.foreground_fraction and not options.rays_per_image:
        return "--foreground_fraction chooses among random rays: set --rays_per_image too"


def check_stage(options):
    """What is wrong with the choice of the stage, or None."""
    needs_srn = [
        name for name in ("overwrite_embeddings", "freeze_networks", "model_type", "linear_path") if getattr(options, name)
    ]
    if needs_srn and not options.checkpoint_path:
        return f"--{needs_srn[0]} needs the SRN of stage 1: give its --checkpoint_path"
    if options.overwrite_embeddings and options.model_type and not options.linear_path:
        return (
            "--model_type (stage 2) and --overwrite_embeddings (stage 3) go together only where codes are fitted through "
            "a head: give its --linear_path"
        )
    if options.linear_path and not options.model_type and not stage_data.fits_codes(options):
        return (
            "--linear_path: give --model_type to go on training that head, or --overwrite_embeddings to fit codes through it"
        )
    if options.code_init and not stage_data.fits_codes(options):
        return "--code_init is for new codes: give --overwrite_embeddings too"
    if options.update_solver and (stage_data.fits_codes(options) or not options.model_type):
        return "--update_solver is for stage 2: give --model_type, or leave it out"
    if options.update_solver == "newton" and options.model_type != "linear":
        return f"--update_solver newton solves for linear heads; --model_type {options.model_type} takes --update_solver adam"
    if stage_data.fits_codes(options) and options.code_solver == "fast" and len(options.img_sidelengths) > 1:
        return "--img_sidelengths: codes are fitted at one side; give one, or --code_solver published"
    if options.head_reg_weight and (stage_data.fits_codes(options) or not options.model_type):
        return "--head_reg_weight is for stage 2: give --model_type, or leave it out"
    later_stage = stage_data.fits_codes(options) or options.model_type
    if later_stage and (options.initial_depth_std or options.initial_distance is not None):
        return "--initial_distance and --initial_depth_std are for stage 1: leave them out"
    if options.validation and not options.val_root:
        return "--validation needs a split to validate on: give its --val_root"
    if options.validation_path and (stage_data.fits_codes(options) or not options.model_type):
        return "--validation_path is for stage 2: give --model_type"
    if options.validation_path and (not options.val_root or options.validation is False):
        return "--validation_path holds codes of the instances of --val_root: give that too, and not --no_validation"
    if options.model_type and not options.linear_path and options.start_step:
        return "--start_step: a new head starts at 0; give the --linear_path to go on from"


def check_variant(options):
    """What is wrong with the variant of the model, or None."""
    without_table = [name for name in ("fit_single_srn", "has_params") if getattr(options, name)]
    if len(without_table) == 2:
        return "--fit_single_srn has no latent codes, so --has_params cannot go with it"
    if without_table and stage_data.fits_codes(options):
        return (
            f"--{without_table[0]}: such a model has no latent codes of its own to fit; leave out --overwrite_embeddings "
            f"and --freeze_networks"
        )
    if options.use_unet_renderer and options.rays_per_image:
        return "--rays_per_image: the U-Net renderer needs whole images; set it to 0"


def check_labels(options):
    """What is wrong with the use of labels, or None."""
    if options.class_weight == 0 and (options.model_type or options.linear_path):
        return "--model_type and --linear_path are about labels: --class_weight must not be 0"
    if stage_data.wants_labels(options):
        if not options.obj_name:
            return "labels need a class list: give --obj_name, or --class_weight 0 to train without labels"
        own_unet = not options.model_type and not options.linear_path
        if own_unet and options.rays_per_image:
            return "--rays_per_image: the segmentation U-Net needs whole images; set it to 0, or --class_weight to 0"
        if own_unet and any(side % 16 for side in options.img_sidelengths):
            return f"--img_sidelengths {options.img_sidelengths}: the segmentation U-Net needs multiples of 16"
        if options.model_type == "unet" and options.rays_per_image:
            return "--rays_per_image: the U-Net baseline needs whole images; set it to 0"


@util.command
def main(argv=None):
    with distributed.quiet_unless_main():
        options = read_options(argv)
        util.keep_freed_memory()
        with distributed.running(options.device) as device:
            common.use_fused(options, device)
            util.seed_everything(options.seed)
            stages.of(options)(options, device)


if __name__ == "__main__":
    main()
