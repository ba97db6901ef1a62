"""Train: stage 1 (an SRN), stage 2 (a head from its features to classes), stage 3 (latent codes of unseen objects).

The options determine the stage:
    stage 3  with --overwrite_embeddings: the networks of --checkpoint_path are frozen, new codes are fitted to images;
             with --l1_weight 0 to label maps through the SRN's own U-Net, with --linear_path through a head of stage 2.
             With --freeze_networks instead, the checkpoint's own codes are fitted further
    stage 2  with --model_type: the SRN of --checkpoint_path is frozen, a head learns from label maps
    stage 1  otherwise; with --checkpoint_path it is resumed
"""

import options as common
import srns
import util
from rendering.precision import PRECISIONS
from training import code_fitting, distributed, head_update, option_checks, plan, pretraining

STAGES = {
    plan.Stage.PRETRAIN: pretraining.pretrain,
    plan.Stage.UPDATE_HEAD: head_update.update_head,
    plan.Stage.FIT_CODES: code_fitting.fit_codes,
}
IMAGE_WEIGHT, CLASS_WEIGHT = 200.0, 8.0  # as published
SHOWN = (  # the options that --help prints
    *("config_filepath", "data_root", "obj_name", "logging_root", "log_dir", "device", "seed", "specific_ins"),
    *("specific_observation_idcs", "max_num_instances_train", "max_num_observations_train", "val_root"),
    *("img_sidelengths", "max_steps_per_img_sidelength", "batch_size_per_img_sidelength", "lr", "rays_per_image"),
    *("foreground_fraction", "hidden_features", "embedding_size"),
    *("checkpoint_path", "model_type", "linear_path", "overwrite_embeddings"),
)


def build_parser():
    parser = common.parser(__doc__.splitlines()[0], SHOWN)
    common.add_common(parser)
    add_data(parser.add_argument_group("which data"))
    add_schedule(parser.add_argument_group("schedule, one entry per image side"))
    add_losses(parser.add_argument_group("losses"))
    add_model(parser.add_argument_group("model; stages 2 and 3, and resuming, take it from the checkpoint"))
    add_stages(parser.add_argument_group("stages and checkpoints"))
    add_stage_2(parser.add_argument_group("stage 2: a head"))
    add_stage_3(parser.add_argument_group("stage 3: latent codes"))
    add_speed(parser.add_argument_group("speed and memory"))
    return parser


def add_data(group):
    count = common.count_or_all
    group.add("--val_root", help="split to validate on: the same instances seen from other views")
    group.add("--num_classes", type=common.positive, help="number of classes that the class list must have")
    group.add(
        "--validation", action="store_true", default=None, help="stop if --val_root has none of the instances to validate on"
    )
    group.add("--no_validation", dest="validation", action="store_false", help="do not validate")
    group.add("--no_check", action="store_true", help="train even if a check of the cameras finds a fault")
    group.add("--max_num_instances_train", type=count, default=-1, help="number of instances, the first ones; -1: all")
    group.add("--max_num_observations_train", type=count, default=50, help="views per instance, spread evenly; -1: all")
    group.add("--max_num_instances_val", type=count, default=10, help="number of instances, the first ones; -1: all")
    group.add("--max_num_observations_val", type=count, default=10, help="views per instance, spread evenly; -1: all")


def add_schedule(group):
    integers = common.comma_separated(int)
    group.add("--img_sidelengths", type=integers, default="64,128", help="image sides in pixels, in order")
    group.add("--max_steps_per_img_sidelength", type=integers, default="10000,200000", help="steps at each side")
    group.add("--batch_size_per_img_sidelength", type=integers, default="92,16", help="images per step at each side")
    group.add("--lr", type=float, default=4e-4, help="learning rate")
    group.add("--lr_warmup_steps", type=common.at_least(0), default=0, help="steps of linear warm-up")
    group.add(
        "--lr_decay_fraction", type=common.fraction, default=0.0, help="final share of all steps with cosine decay to 0"
    )
    group.add("--rays_per_image", type=common.at_least(0), default=0, help="random rays per image and step; 0: all rays")
    group.add(
        "--foreground_fraction", type=common.fraction, default=0.0, help="share of the random rays drawn from the foreground"
    )
    group.add(
        "--code_optimizer",
        choices=("sparse_adam", "adam"),
        default="sparse_adam",
        help="of the latent codes: sparse_adam moves the codes of the batch, adam (SRN 2019) all codes in every step",
    )
    group.add("--steps_til_ckpt", type=common.positive, default=5000, help="steps between checkpoints")
    group.add("--steps_til_val", type=common.positive, default=1000, help="steps between validations and pictures")


def add_losses(group):
    group.add(
        "--class_weight",
        type=common.weight,
        help=f"weight of the cross-entropy of the segmentation; 0: no labels are read (default: {CLASS_WEIGHT:g}; 0 without "
        "--obj_name)",
    )
    group.add(
        "--l1_weight",
        type=common.weight,
        help="weight of the mean squared error of the image (the name is historical); 0: no images are read (default: "
        f"{IMAGE_WEIGHT:g}; 0 in stage 3 with --linear_path)",
    )
    group.add("--kl_weight", type=common.weight, default=1.0, help="weight of the mean square of the latent codes")
    group.add("--reg_weight", type=common.weight, default=1e-3, help="weight of the penalty on depths behind the camera")


def add_model(group):
    common.add_model_variants(group)
    common.add_encoding(group)
    group.add("--hidden_features", type=common.positive, help="width of phi and of the colour head (published: 256)")
    group.add("--rgb_channels", type=int, choices=(3, 4), help="3, or 4 for the published semantic system's RGBA")
    group.add(
        "--initial_distance",
        type=float,
        help="stage 1: distance from the camera at which rays end before training, in world units; 0: the published "
        "initialisation (default: mean distance of the cameras from the point that they look at)",
    )
    group.add(
        "--initial_depth_std",
        type=common.weight,
        default=0.0,
        help="stage 1: standard deviation of the depth, 0.05 on average, at which rays start in training (SRN 2019: 5e-4)",
    )


def add_stages(group):
    group.add("--checkpoint_path", help="SRN to start from: a .pth file, or a folder; its file with the most steps is taken")
    group.add("--start_step", type=common.at_least(0), help="step to count from (default: the checkpoint's)")
    group.add("--model_type", type=str.lower, choices=sorted(srns.HEADS), help="stage 2: kind of head to train")
    group.add("--overwrite_embeddings", action="store_true", help="stage 3: fit new latent codes, and nothing else")
    group.add(
        "--freeze_networks",
        action="store_true",
        help="stage 3: fit the codes of --checkpoint_path further, unless --overwrite_embeddings is given too",
    )
    group.add(
        "--linear_path",
        help="head of stage 2, a .pth file or a folder. With --model_type: train it further; in stage 3: fit codes to label "
        "maps through it",
    )


def add_stage_2(group):
    group.add(
        "--head_features",
        choices=srns.FeatureHead.FEATURES,
        help="what a new head reads: the last layer of phi, all layers, or the surface point too (default: last)",
    )
    group.add(
        "--update_solver",
        choices=("newton", "adam"),
        help="newton: compute the best linear head, whatever the schedule; adam: train the head by the schedule, as "
        "published (default: newton for a linear head, adam for others)",
    )
    group.add(
        "--head_reg_weight",
        type=common.weight,
        help="penalty on the squares of the head's weights (default: with newton, chosen by cross-validation over instances; "
        "with adam 0, as published)",
    )
    group.add(
        "--validation_path",
        help="codes of the instances of --val_root, fitted in stage 3: a run or a .pth file (default: --val_root has the "
        "training instances)",
    )


def add_stage_3(group):
    group.add(
        "--code_solver",
        choices=("fast", "published"),
        default="fast",
        help="fast: fit all codes at once, each until it makes no more progress; of the schedule only the number of steps (a "
        "limit) and --rays_per_image (per instance and step, 0: 128) count. published: train the codes as stage 1 does; used "
        "in any case where a U-Net needs whole images",
    )
    group.add(
        "--code_init",
        choices=("mean", "normal"),
        help="new codes start at the mean of the trained codes, or near 0 as published (default: mean)",
    )
    group.add(
        "--code_step", type=common.weight, default=0.15, help="fast: learning rate, in units of the trained codes' spread"
    )
    group.add(
        "--num_starts",
        type=common.positive,
        default=4,
        help="fast: starts per instance: --code_init and the trained codes that render the input best; the worse half is "
        "dropped every 10 steps",
    )


def add_speed(group):
    group.add(
        "--data_shards",
        type=common.positive,
        help="number of shards that the instances are dealt to; each gives its share of every batch. The same number gives "
        "the same data in any number of processes (default: the number of processes)",
    )
    group.add(
        "--rays_per_block",
        type=common.at_least(0),
        help="rays whose activations are held at once; 0: all rays of a step, as published (default: 2048 on a CPU, 65536 on "
        "a GPU)",
    )
    group.add(
        "--kept_rays",
        type=common.at_least(0),
        help="where a U-Net reads the rays of whole images: rays whose activations are kept for the backward pass; others "
        "are computed twice (default: 16384 on a CPU, 65536 on a GPU)",
    )
    group.add(
        "--precision",
        choices=sorted(PRECISIONS),
        default="float32",
        help="of matrix products; geometry, the marcher's state, the hypernetwork and the losses always use float32",
    )
    group.add(
        "--checkpoint_marching",
        action="store_true",
        help="recompute each march step in the backward pass: less memory, a third more time",
    )
    common.add_fused(group)
    group.add(
        "--compile", action="store_true", help="compile march step and colour head with torch.compile; needs a C++ compiler"
    )


def read_options(argv):
    """Parse, fill in defaults that depend on other options, and refuse what cannot work before any data are read."""
    parser = build_parser()
    options = parser.parse_args(argv)
    stage = plan.stage_of(options)
    if options.class_weight is None:
        options.class_weight = CLASS_WEIGHT if options.obj_name or options.model_type or options.linear_path else 0.0
        if not options.class_weight:
            print("note: without --obj_name there is no class list, so no labels are read")
    if options.update_solver is None and stage is plan.Stage.UPDATE_HEAD:
        options.update_solver = "newton" if options.model_type == "linear" else "adam"
    option_checks.check(options, stage)
    if options.l1_weight is None:
        options.l1_weight = 0.0 if options.linear_path and stage is plan.Stage.FIT_CODES else IMAGE_WEIGHT
    if options.l1_weight == options.class_weight == 0:
        parser.error("--l1_weight and --class_weight are both 0: there is nothing to learn from")
    return options


def resolve(options):
    """The plan.Plan of options from `read_options`."""
    return plan.resolve(options, common.wanted_sizes(options))


@util.command
def main(argv=None):
    with distributed.quiet_unless_main():
        options = read_options(argv)
        run_plan = resolve(options)
        util.keep_freed_memory()
        with distributed.running(options.device) as device:
            common.use_fused(options, device)
            util.seed_everything(options.seed)
            STAGES[run_plan.stage](run_plan, device)


if __name__ == "__main__":
    main()
