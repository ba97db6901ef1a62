"""What a stage of training reads: options that say what it learns from, its data, and whether a checkpoint fits them."""

from types import SimpleNamespace

import numpy as np

import checkpoints
import data_util
import dataio
import util
from datasets.checks import contents
from training import distributed


def fits_codes(options):
    """Stage 3. A head alone with --freeze_networks is stage 2, where the SRN is frozen anyway."""
    return options.overwrite_embeddings or options.freeze_networks and (bool(options.linear_path) or not options.model_type)


def wants_labels(options):
    return options.class_weight > 0


def reads_images(options):
    """Stage 2 shows them, though it does not learn from them; the others read them where they learn from them."""
    return options.l1_weight > 0 or bool(options.model_type) and not fits_codes(options)


def observed(options):
    """What a stage learns from, a list of "rgb" and "seg"."""
    head_only = bool(options.model_type) and not fits_codes(options)
    return ["rgb"] * (options.l1_weight > 0 and not head_only) + ["seg"] * wants_labels(options)


def open_data(options, checkpoint):
    """Index and check everything the run will read: train and val instances, data settings, class names."""
    settings = dataio.dataset_settings(options.data_root, options.blend_alpha)
    if checkpoint is not None:
        checkpoints.note_other_settings(checkpoint, settings)
    class_names = None
    if wants_labels(options):
        path = dataio.find_class_list(options.data_root, options.obj_name)
        class_names = data_util.load_class_names(path)
        if options.num_classes not in (None, len(class_names)):
            raise util.InputError(f"--num_classes {options.num_classes}: {path} lists {len(class_names)} classes")
    with_params = options.has_params or checkpoint is not None and checkpoint["sizes"].get("has_params", False)
    what = dict(with_labels=wants_labels(options), with_rgb=reads_images(options), with_params=with_params)
    train = dataio.index_split(
        options.data_root,
        max_num_instances=options.max_num_instances_train,
        specific_ins=options.specific_ins,
        max_num_observations=options.max_num_observations_train,
        specific_observation_idcs=options.specific_observation_idcs,
        **what,
    )
    contents.expect_sound_cameras(train, options.data_root, go_on=options.no_check)
    if checkpoint is not None:
        checkpoints.expect_width(checkpoint, train)
    val, val_names = [], names_to_validate(options, train, with_params)
    if val_names:
        val = dataio.index_split(
            options.val_root, specific_ins=val_names, max_num_observations=options.max_num_observations_val, **what
        )
        contents.expect_sound_cameras(val, options.val_root, go_on=options.no_check)
        if with_params and val[0].params.shape[1] != train[0].params.shape[1]:
            raise util.InputError(
                f"{val[0].folder}/params: vectors of {val[0].params.shape[1]} numbers, but those of {options.data_root} have "
                f"{train[0].params.shape[1]}"
            )
    return SimpleNamespace(train=train, val=val, settings=settings, class_names=class_names)


def names_to_validate(options, train, with_params):
    """The instances of --val_root whose codes are known, at most --max_num_instances_val."""
    if not options.val_root or options.validation is False:
        return []
    folders = folder_names(dataio.instance_folders(options.val_root))
    if not options.validation_path and not with_params:
        names = {instance.name for instance in train}
        folders = [folder for folder in folders if folder in names]
        if not folders:
            fault = f"--val_root {options.val_root}: holds none of the instances of {options.data_root}"
            if options.validation:
                raise util.InputError(
                    f"{fault}; validation shows the trained objects from other views, so give such a split, or "
                    f"--no_validation"
                )
            print(f"note: {fault}, so nothing is validated")
    limit = options.max_num_instances_val
    return folders if limit == dataio.ALL else folders[:limit]


def make_dataset(options, data, instances, sidelength, rays_per_image=0, read_often=False, shards=None):
    """`read_often`: decoded images are kept, where --preload or --cache says so. `shards`: what alone will be asked for."""
    return dataio.SceneClassDataset(
        instances,
        sidelength,
        data.settings,
        num_classes=len(data.class_names) if data.class_names else None,
        rays_per_image=rays_per_image,
        foreground_fraction=options.foreground_fraction,
        preload=read_often and options.preload,
        cache=options.cache if read_often else None,
        num_workers=options.num_workers,
        preload_instances=shards and np.flatnonzero(np.isin(dataio.shard_of_instance(len(instances), shards[0]), shards[1])),
    )


def shards(options, data):
    """Of how many shards a step is made, and which of them this process draws. See dataio.training_batches.

    raises util.InputError where the instances, or a batch of the schedule, cannot be dealt to so many
    """
    num_processes = distributed.world_size()
    num_shards = options.data_shards or num_processes
    if num_shards % num_processes:
        raise util.InputError(
            f"--data_shards {num_shards}: cannot be dealt evenly to {num_processes} processes; choose a multiple of them"
        )
    dealt = dataio.shard_of_instance(len(data.train), num_shards)
    for batch_size in options.batch_size_per_img_sidelength:  # those whose turn comes late are refused now
        dataio.BatchOrder(len(dealt), batch_size, 0, 0, options.seed, num_shards, shard_of=dealt)
    return num_shards, list(range(distributed.rank(), num_shards, num_processes))


def names_of(instances):
    return [instance.name for instance in instances]


# What a checkpoint must fit


def named(checkpoint, options, root=None):
    """The checkpoint with the names of its instances, see checkpoints.with_names."""
    chosen = []
    if root is None:
        root = options.data_root
        chosen = dataio.instance_folders(root, options.max_num_instances_train, options.specific_ins)
    return checkpoints.with_names(checkpoint, folder_names(dataio.instance_folders(root)), root, folder_names(chosen))


def folder_names(folders):
    return [folder.name for folder in folders]


def expect_instances_of(checkpoint, options, data):
    """An InputError unless the data are of the very instances whose codes the checkpoint holds, in its order."""
    if checkpoint["instances"] is not None and names_of(data.train) != checkpoint["instances"]:
        raise util.InputError(
            f"{checkpoint['path']}: was trained on other instances than {options.data_root} gives; resume on the "
            f"same ones, or fit codes to new objects with --overwrite_embeddings"
        )


def expect_classes_of_srn(options, model, data):
    """An InputError unless the SRN has a U-Net for the classes of the data, where labels are wanted."""
    if wants_labels(options) and model.sizes["num_classes"] != len(data.class_names):
        raise util.InputError(
            f"{options.checkpoint_path}: this SRN tells {model.sizes['num_classes'] or 'no'} classes apart, the class list "
            f"has {len(data.class_names)}; use the list it was trained with, or --class_weight 0"
        )


def expect_sides(options, multiple, whose):
    """An InputError unless every image side is a multiple of `multiple`, and images are whole where that matters."""
    if multiple == 1:
        return
    if any(side % multiple for side in options.img_sidelengths):
        raise util.InputError(f"--img_sidelengths {options.img_sidelengths}: {whose} needs multiples of {multiple}")
    if options.rays_per_image:
        raise util.InputError(f"--rays_per_image: {whose} needs whole images; set it to 0")


def open_head(options, model, data):
    """The head of --linear_path, which must be for the classes of the data, and its checkpoint."""
    checkpoint = checkpoints.load(options.linear_path)
    head = checkpoints.load_head(checkpoint, model)
    if options.model_type and options.model_type != checkpoint["sizes"]["kind"]:
        raise util.InputError(
            f"{checkpoint['path']}: holds a head of kind {checkpoint['sizes']['kind']}, but --model_type is "
            f"{options.model_type}"
        )
    if head.num_classes != len(data.class_names):
        raise util.InputError(
            f"{checkpoint['path']}: this head tells {head.num_classes} classes apart, the class list has "
            f"{len(data.class_names)}; use the list it was trained with"
        )
    return head, checkpoint
