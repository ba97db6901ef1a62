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
from options import at_least, comma_separated, count_or_all, fraction, positive_int, weight
from rendering.precision import PRECISIONS
from runs import stopping
from training import code_fitting, distributed, head_update, option_checks, plan, pretraining, resuming, run_folder

STAGES = {
    plan.Stage.PRETRAIN: pretraining.pretrain,
    plan.Stage.UPDATE_HEAD: head_update.update_head,
    plan.Stage.FIT_CODES: code_fitting.fit_codes,
}
IMAGE_WEIGHT, CLASS_WEIGHT = 200.0, 8.0  # as published
SHOWN = """
    config_filepath data_root obj_name logging_root log_dir device seed specific_ins specific_observation_idcs
    max_num_instances_train max_num_observations_train val_root img_sidelengths max_steps_per_img_sidelength
    batch_size_per_img_sidelength lr rays_per_image foreground_fraction hidden_features embedding_size
    checkpoint_path model_type linear_path overwrite_embeddings
""".split()  # the options that --help prints


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
    group.add("--val_root", help="split to validate on: the same instances seen from other views")
    group.add("--num_classes", type=positive_int, help="number of classes that the class list must have")
    group.add("--validation", action="store_true", default=None, help="stop if --val_root has no instance to validate on")
    group.add("--no_validation", dest="validation", action="store_false", help="do not validate")
    group.add("--no_check", action="store_true", help="train even if a check of the cameras finds a fault")
    group.add("--max_num_instances_train", type=count_or_all, default=-1, help="instances, the first ones; -1: all")
    group.add(
        "--max_num_observations_train", type=count_or_all, default=50, help="views per instance, spread evenly; -1: all"
    )
    group.add("--max_num_instances_val", type=count_or_all, default=10, help="instances, the first ones; -1: all")
    group.add("--max_num_observations_val", type=count_or_all, default=10, help="views per instance, spread evenly; -1: all")


def add_schedule(group):
    integers = comma_separated(int)
    group.add("--img_sidelengths", type=integers, default="64,128", help="image sides in pixels, in order")
    group.add("--max_steps_per_img_sidelength", type=integers, default="10000,200000", help="steps at each side")
    group.add("--batch_size_per_img_sidelength", type=integers, default="92,16", help="images per step at each side")
    group.add("--lr", type=float, default=4e-4, help="learning rate")
    group.add("--lr_warmup_steps", type=at_least(0), default=0, help="steps of linear warm-up")
    group.add("--lr_decay_fraction", type=fraction, default=0.0, help="last share of the steps, with cosine decay to 0")
    group.add("--rays_per_image", type=at_least(0), default=0, help="random rays per image and step; 0: all rays")
    group.add("--foreground_fraction", type=fraction, default=0.0, help="share of the random rays drawn from the foreground")
    group.add(
        "--code_optimizer", choices=("sparse_adam", "adam"), default="sparse_adam", help="adam moves all codes in every step"
    )
    group.add("--steps_til_ckpt", type=positive_int, default=5000, help="steps between checkpoints")
    group.add("--minutes_til_ckpt", type=weight, default=10.0, help="minutes between checkpoints, too; 0: steps alone count")
    group.add(
        "--keep_checkpoints", type=count_or_all, default=3, help="last ones that are kept, beside that of each side; -1: all"
    )
    group.add("--on_nan", choices=("stop", "skip"), default="stop", help="at a loss or gradient that is not finite")
    group.add("--steps_til_val", type=positive_int, default=1000, help="steps between validations and pictures")


def add_losses(group):
    classes = f"weight of the cross-entropy of labels; 0: read none (default: {CLASS_WEIGHT:g}; 0 without --obj_name)"
    image = f"weight of the image's squared error; 0: read none (default: {IMAGE_WEIGHT:g}; 0 in stage 3 with --linear_path)"
    group.add("--class_weight", type=weight, help=classes)
    group.add("--l1_weight", type=weight, help=image)
    group.add("--kl_weight", type=weight, default=1.0, help="weight of the mean square of the latent codes")
    group.add("--reg_weight", type=weight, default=1e-3, help="weight of the penalty on depths behind the camera")


def add_model(group):
    common.add_model_variants(group)
    common.add_encoding(group)
    group.add("--hidden_features", type=positive_int, help="width of phi and of the colour head (published: 256)")
    group.add("--rgb_channels", type=int, choices=(3, 4), help="3, or 4 for the published semantic system's RGBA")
    group.add(
        "--initial_distance", type=float, help="stage 1: where rays end before training (default: the cameras' distance)"
    )
    group.add("--initial_depth_std", type=weight, default=0.0, help="stage 1: deviation of the depth where rays start")


def add_stages(group):
    group.add("--checkpoint_path", help="SRN to start from: a .pth file, or a folder, whose latest one is taken")
    group.add("--start_step", type=at_least(0), help="step to count from (default: the checkpoint's)")
    group.add("--model_type", type=str.lower, choices=sorted(srns.HEADS), help="stage 2: kind of head to train")
    group.add("--overwrite_embeddings", action="store_true", help="stage 3: fit new latent codes, and nothing else")
    group.add("--freeze_networks", action="store_true", help="stage 3: fit the codes of --checkpoint_path further")
    group.add("--linear_path", help="head of stage 2, to train further (with --model_type) or to fit codes through (stage 3)")


def add_stage_2(group):
    features = srns.FeatureHead.FEATURES
    group.add("--head_features", choices=features, help="layers of phi that a new head reads (default: last, as published)")
    selection = "file of suggest_labels.py: learn from its views, whatever --specific_ins and --specific_observation_idcs say"
    group.add("--label_selection", metavar="JSON", help=selection)
    group.add("--update_solver", choices=("newton", "adam"), help="default: newton for a linear head, else adam")
    group.add(
        "--head_reg_weight", type=weight, help="penalty on squared weights (default: 1e-3 of --class_weight; 0 with adam)"
    )
    group.add("--validation_path", help="codes of other instances in --val_root, fitted in stage 3: a run or a .pth file")


def add_stage_3(group):
    group.add("--code_solver", choices=("fast", "published"), default="fast", help="U-Nets always use published")
    group.add(
        "--code_init", choices=("mean", "normal"), help="new codes: mean of the trained ones, or near 0 (default: mean)"
    )
    group.add("--code_step", type=weight, default=0.15, help="fast: learning rate, in units of the trained codes' spread")
    group.add("--num_starts", type=positive_int, default=4, help="fast: starts per instance; every 10 steps half are dropped")


def add_speed(group):
    group.add("--data_shards", type=positive_int, help="shards of the instances (default: the number of processes)")
    group.add("--rays_per_block", type=at_least(0), help="rays at once; 0: all (default: 2048 on a CPU, 65536 on a GPU)")
    group.add("--kept_rays", type=at_least(0), help="rays kept for a U-Net (default: 16384 on a CPU, 65536 on a GPU)")
    group.add("--precision", choices=sorted(PRECISIONS), default="float32", help="number format of matrix products")
    group.add("--checkpoint_marching", action="store_true", help="recompute each march step backward: less memory, more time")
    common.add_fused(group)
    group.add("--compile", action="store_true", help="compile march and colours with torch.compile; needs a C++ compiler")


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


@util.command
def main(argv=None):
    import torch  # here, so that the import of options is the first to miss a package

    with stopping.listening(), distributed.quiet_unless_main():
        options = read_options(argv)
        run_plan = plan.resolve(options)
        util.keep_freed_memory()
        with distributed.running(options.device) as device:
            run_plan = resuming.resolve(run_plan)
            if run_plan is not None:
                common.use_fused(options, device)
                torch.manual_seed(options.seed)
                STAGES[run_plan.stage](run_plan, device)
                run_folder.say_what_is_next(run_plan)


if __name__ == "__main__":
    main()
