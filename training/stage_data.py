"""The data of a training stage: instances to train and validate on, checked before anything is trained."""

from typing import NamedTuple

import numpy as np

import checkpoints
import data_util
import dataio
import util
from datasets.checks import contents
from training import distributed


class StageData(NamedTuple):
    """What a run reads.

    train, val:  lists of dataio.Instance; val is empty where nothing is validated
    settings:    data_util.DatasetSettings
    class_names: by id; None where no labels are read
    """

    train: list
    val: list
    settings: data_util.DatasetSettings
    class_names: list


def open_data(sources, srn=None):
    """Index and check everything that a run reads, as a StageData.

    sources: plan.Sources
    srn:     checkpoints.OpenSRN that the data must fit, or None
    """
    settings = dataio.dataset_settings(sources.data_root, sources.blend_alpha)
    if srn is not None:
        srn.note_other_settings(settings)
    class_names = read_class_names(sources) if sources.reads_labels else None
    with_params = sources.has_params or srn is not None and srn.model.sizes["has_params"]
    what = dict(with_labels=sources.reads_labels, with_rgb=sources.reads_images, with_params=with_params)
    train = dataio.index_split(
        sources.data_root,
        max_num_instances=sources.max_num_instances_train,
        specific_ins=sources.specific_ins,
        max_num_observations=sources.max_num_observations_train,
        specific_observation_idcs=sources.specific_observation_idcs,
        views_of=sources.views_of,
        **what,
    )
    contents.expect_sound_cameras(train, sources.data_root, go_on=sources.no_check)
    if srn is not None:
        srn.expect_width(train)
    val = []
    if val_names := names_to_validate(sources, train, with_params):
        views = dict(specific_ins=val_names, max_num_observations=sources.max_num_observations_val)
        val = dataio.index_split(sources.val_root, sources.max_num_instances_val, **views, **what)
        contents.expect_sound_cameras(val, sources.val_root, go_on=sources.no_check)
    if val and with_params and val[0].params.shape[1] != train[0].params.shape[1]:
        raise util.InputError(
            f"{val[0].folder}/params: found vectors of {val[0].params.shape[1]} numbers, expected "
            f"{train[0].params.shape[1]} as in {sources.data_root}"
        )
    return StageData(train, val, settings, class_names)


def read_class_names(sources):
    """Names of the classes by id; an InputError where the list has another length than --num_classes."""
    path = dataio.find_class_list(sources.data_root, sources.obj_name)
    class_names = data_util.load_class_names(path)
    if sources.num_classes not in (None, len(class_names)):
        raise util.InputError(f"--num_classes {sources.num_classes}: {path} lists {len(class_names)} classes")
    return class_names


def names_to_validate(sources, train, with_params):
    """Instances of val_root whose codes are known."""
    if not sources.val_root:
        return []
    names = [folder.name for folder in dataio.instance_folders(sources.val_root)]
    if not sources.validation_path and not with_params:
        trained = {instance.name for instance in train}
        names = [name for name in names if name in trained]
        if not names:
            fault = f"--val_root {sources.val_root}: holds none of the instances of {sources.data_root}"
            if sources.validation:
                raise util.InputError(f"{fault}; give a split with other views of these instances, or --no_validation")
            print(f"note: {fault}, so nothing is validated")
    return names


def make_dataset(sources, data, instances, sidelength, schedule=None, keeps_images=False, shards=None):
    """A dataio.SceneClassDataset of some instances of a StageData.

    schedule:     plan.Schedule that says how many random rays an item has; None: whole images
    keeps_images: whether decoded images are kept, where --preload or --cache says so; worth it where they are read often
    shards:       (number of shards, those that this process reads); None: everything is read
    """
    preload_instances = None
    if shards is not None:
        num_shards, own = shards
        preload_instances = np.flatnonzero(np.isin(dataio.shard_of_instance(len(instances), num_shards), own))
    return dataio.SceneClassDataset(
        instances,
        sidelength,
        data.settings,
        num_classes=len(data.class_names) if data.class_names else None,
        rays_per_image=schedule.rays_per_image if schedule else 0,
        foreground_fraction=schedule.foreground_fraction if schedule else 0.0,
        preload=keeps_images and sources.preload,
        cache=sources.cache if keeps_images else None,
        num_workers=sources.num_workers,
        preload_instances=preload_instances,
    )


def shards_of(plan, data):
    """How many shards make up a batch, and which of them this process draws; see dataio.training_batches.

    raises util.InputError where the instances, or a batch of the schedule, cannot be dealt evenly
    """
    num_processes = distributed.world_size()
    num_shards = plan.sources.data_shards or num_processes
    if num_shards % num_processes:
        raise util.InputError(f"--data_shards {num_shards}: expected a multiple of the number of processes, {num_processes}")
    dealt = dataio.shard_of_instance(len(data.train), num_shards)
    for batch_size in plan.schedule.batch_size_per_img_sidelength:  # a side that comes late is refused now
        dataio.BatchOrder(len(dealt), batch_size, 0, 0, plan.schedule.seed, num_shards, shard_of=dealt)
    return num_shards, list(range(distributed.rank(), num_shards, num_processes))


def names_of(instances):
    return [instance.name for instance in instances]


def expect_classes_of_srn(plan, model, data):
    """An InputError unless the SRN has a U-Net for the classes of the data, where labels are read."""
    if plan.sources.reads_labels and model.sizes["num_classes"] != len(data.class_names):
        raise util.InputError(
            f"{plan.checkpoint_path}: this SRN predicts {model.sizes['num_classes'] or 'no'} classes, the class list has "
            f"{len(data.class_names)}; use the list it was trained with, or --class_weight 0"
        )


def expect_sides(schedule, multiple, unet):
    """An InputError unless every image side is a multiple of `multiple` and images are whole; `unet` is what needs that."""
    if multiple == 1:
        return
    if any(side % multiple for side in schedule.img_sidelengths):
        raise util.InputError(f"--img_sidelengths {schedule.img_sidelengths}: {unet} needs multiples of {multiple}")
    if schedule.rays_per_image:
        raise util.InputError(f"--rays_per_image {schedule.rays_per_image}: {unet} needs whole images; set it to 0")


def open_head(plan, model, data):
    """The head of --linear_path, which must be for the classes of the data, and its checkpoint."""
    head, contents = checkpoints.open_head(plan.linear_path, model, "--model_type", plan.head.model_type)
    asked = plan.head.head_features
    if head.reads == "features" and asked not in (None, head.features):
        raise util.InputError(
            f"--head_features {asked}: {contents['path']} reads {head.features}; leave the option out, or give that"
        )
    if head.num_classes != len(data.class_names):
        raise util.InputError(
            f"{contents['path']}: this head predicts {head.num_classes} classes, the class list has "
            f"{len(data.class_names)}; use the list it was trained with"
        )
    return head, contents
