"""What a run of train.py does: its stage, and what the stage reads, trains and minimises. Resolved once, from the options.

A stage gets the group of options that it needs. Fields bear the options' names, unless their class says otherwise.
"""

import enum
from collections import namedtuple

import numpy as np

import options as common
import util
from training import label_selection, objectives


class Stage(enum.Enum):
    PRETRAIN = "stage 1: an SRN learns from posed images"
    UPDATE_HEAD = "stage 2: a head learns classes from the features of a frozen SRN"
    FIT_CODES = "stage 3: latent codes are fitted to observations, everything else is frozen"


def stage_of(options):
    """The Stage that the options ask for."""
    resumes_codes = options.freeze_networks and (options.linear_path or not options.model_type)
    if options.overwrite_embeddings or resumes_codes:
        return Stage.FIT_CODES
    return Stage.UPDATE_HEAD if options.model_type else Stage.PRETRAIN


SOURCES = """
    data_root obj_name num_classes blend_alpha has_params no_check
    specific_ins specific_observation_idcs views_of max_num_instances_train max_num_observations_train
    val_root validation validation_path max_num_instances_val max_num_observations_val
    reads_images reads_labels preload cache num_workers data_shards
"""


class Sources(namedtuple("Sources", SOURCES)):
    """The data that a run reads.

    views_of: {instance: indices of its views} of --label_selection, or None
    val_root: None if nothing is validated; reads_images, reads_labels: whether the stage needs them, beside the cameras
    """


MODEL = """
    sizes initial_distance initial_depth_std code_optimizer checkpoint_marching compile rays_per_block kept_rays precision
"""


class ModelOptions(namedtuple("ModelOptions", MODEL)):
    """How the SRN is built and computed. sizes: arguments of srns.SRN; None where the user leaves one open."""


HeadOptions = namedtuple("HeadOptions", "model_type head_features update_solver head_reg_weight")
CodeOptions = namedtuple("CodeOptions", "overwrite_embeddings code_solver code_init code_step num_starts")


SCHEDULE = """
    img_sidelengths max_steps_per_img_sidelength batch_size_per_img_sidelength
    rays_per_image foreground_fraction lr lr_warmup_steps lr_decay_fraction start_step steps_til_ckpt
    minutes_til_ckpt keep_checkpoints steps_til_val on_nan seed
"""


class Schedule(namedtuple("Schedule", SCHEDULE)):
    """How long a run trains, and on how much in each step. The first three fields have an entry per image side."""

    def parts(self):
        """[(sidelength, batch size, first step, end step)], one per image side."""
        ends = np.cumsum(self.max_steps_per_img_sidelength).tolist()
        return list(zip(self.img_sidelengths, self.batch_size_per_img_sidelength, [0, *ends], ends))

    def last_step(self, start_step):
        """The last step of the schedule. Raises util.InputError if it is not after `start_step`."""
        last = sum(self.max_steps_per_img_sidelength)
        if start_step >= last:
            raise util.InputError(
                f"nothing left to train: step {start_step} of {last} in --max_steps_per_img_sidelength is done; raise that, "
                f"or count from the beginning with --start_step 0"
            )
        return last

    def images_seen(self, step):
        """How many images the steps up to `step` saw."""
        return sum(batch_size * max(0, min(step, end) - first) for _, batch_size, first, end in self.parts())


class Plan(namedtuple("Plan", "stage sources schedule model weights head codes checkpoint_path linear_path options")):
    """A run. weights: objectives.Weights; options: the namespace that all this comes from, for params.txt."""

    @property
    def observed(self):
        """What the stage learns from, a list of "rgb" and "seg"."""
        learns_from_images = self.weights.image > 0 and self.stage is not Stage.UPDATE_HEAD
        return ["rgb"] * learns_from_images + ["seg"] * self.sources.reads_labels


def resolve(options):
    """The Plan of options that train.read_options has checked."""
    stage = stage_of(options)
    views_of = label_selection.load(options.label_selection) if options.label_selection else None

    def pick(kind, **others):
        return kind(**{name: getattr(options, name) for name in kind._fields if name not in others}, **others)

    return pick(
        Plan,
        stage=stage,
        sources=pick(
            Sources,
            specific_ins=list(views_of) if views_of else options.specific_ins,
            views_of=views_of,
            val_root=None if options.validation is False else options.val_root,
            reads_images=options.l1_weight > 0 or stage is Stage.UPDATE_HEAD,  # stage 2 shows them
            reads_labels=options.class_weight > 0,
        ),
        schedule=pick(Schedule),
        model=pick(ModelOptions, sizes=common.wanted_sizes(options)),
        weights=objectives.Weights(options.l1_weight, options.class_weight, options.kl_weight, options.reg_weight),
        head=pick(HeadOptions),
        codes=pick(CodeOptions),
        options=options,
    )
