"""What a run of train.py does: its stage, and what the stage reads, trains and minimises. Resolved once, from the options.

Fields that come straight from an option bear its name.
"""

import dataclasses
import enum
from dataclasses import dataclass

import numpy as np

import util
from training import objectives


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


@dataclass(frozen=True)
class Sources:
    """The data that a run reads.

    val_root: None where nothing is validated; validation: True where the user insists on it
    reads_images, reads_labels: whether the stage needs them, beside the cameras
    """

    data_root: str
    obj_name: str
    blend_alpha: bool
    specific_ins: list
    specific_observation_idcs: list
    max_num_instances_train: int
    max_num_observations_train: int
    val_root: str
    validation: bool
    validation_path: str
    max_num_instances_val: int
    max_num_observations_val: int
    num_classes: int
    reads_images: bool
    reads_labels: bool
    has_params: bool
    no_check: bool
    preload: bool
    cache: str
    num_workers: int
    data_shards: int


@dataclass(frozen=True)
class Schedule:
    """How long a run trains, and on how much in each step. The first three fields have an entry per image side."""

    img_sidelengths: list
    max_steps_per_img_sidelength: list
    batch_size_per_img_sidelength: list
    rays_per_image: int
    foreground_fraction: float
    lr: float
    lr_warmup_steps: int
    lr_decay_fraction: float
    start_step: int
    steps_til_ckpt: int
    steps_til_val: int
    seed: int

    def parts(self):
        """[(sidelength, batch size, first step, end step)], one per image side."""
        ends = np.cumsum(self.max_steps_per_img_sidelength).tolist()
        return list(zip(self.img_sidelengths, self.batch_size_per_img_sidelength, [0, *ends], ends))

    def last_step(self, start_step):
        """The last step of the schedule; an InputError where a run that starts at `start_step` has none to do."""
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


@dataclass(frozen=True)
class ModelOptions:
    """How the SRN is built and computed. sizes: arguments of srns.SRN; None where the user leaves one open."""

    sizes: dict
    initial_distance: float
    initial_depth_std: float
    code_optimizer: str
    checkpoint_marching: bool
    compile: bool
    rays_per_block: int
    kept_rays: int
    precision: str


@dataclass(frozen=True)
class HeadOptions:
    """Stage 2: the kind of head (srns.HEADS), its solver, and the penalty on its squared weights, None to choose it."""

    model_type: str
    head_features: str
    update_solver: str
    head_reg_weight: float


@dataclass(frozen=True)
class CodeOptions:
    """Stage 3. overwrite_embeddings: new codes; otherwise the fit of the checkpoint's codes goes on."""

    overwrite_embeddings: bool
    code_solver: str
    code_init: str
    code_step: float
    num_starts: int


@dataclass(frozen=True)
class Plan:
    """A run. checkpoint_path, linear_path: the SRN and the head to start from, or None."""

    stage: Stage
    sources: Sources
    schedule: Schedule
    model: ModelOptions
    weights: objectives.Weights
    head: HeadOptions
    codes: CodeOptions
    checkpoint_path: str
    linear_path: str
    options: object  # the namespace that all this comes from, for params.txt

    @property
    def observed(self):
        """What the stage learns from, a list of "rgb" and "seg"."""
        learns_from_images = self.weights.image > 0 and self.stage is not Stage.UPDATE_HEAD
        return ["rgb"] * learns_from_images + ["seg"] * self.sources.reads_labels


def resolve(options, sizes):
    """The Plan of options that train.read_options has checked. sizes: see ModelOptions."""
    stage = stage_of(options)

    def pick(kind, **others):
        names = {field.name for field in dataclasses.fields(kind)} - others.keys()
        return kind(**{name: getattr(options, name) for name in names}, **others)

    return pick(
        Plan,
        stage=stage,
        sources=pick(
            Sources,
            val_root=None if options.validation is False else options.val_root,
            reads_images=options.l1_weight > 0 or stage is Stage.UPDATE_HEAD,  # stage 2 shows them
            reads_labels=options.class_weight > 0,
        ),
        schedule=pick(Schedule),
        model=pick(ModelOptions, sizes=sizes),
        weights=objectives.Weights(options.l1_weight, options.class_weight, options.kl_weight, options.reg_weight),
        head=pick(HeadOptions),
        codes=pick(CodeOptions),
        options=options,
    )
