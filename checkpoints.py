"""Checkpoints: what a file holds, how it is found, and models built from it.

A `.pth` is a dict of plain types and tensors, read with weights_only=True:
    model         state dict
    optimizer_0, optimizer_1, ...   state dicts, in the order the stage made its optimizers
    step          training steps done
    sizes         arguments that build the model (srns.SRN.sizes, or of the head: kind, in_features, num_classes)
    instances     names of the instances, row by row of the latent table
    split, views  the split's name and, per instance, the names of the views that were trained on or fitted to
    observed      what was learnt from, a list of "rgb" and "seg"
    settings      pixel_center and blend_alpha of the data
    srn           of a head: the fingerprint of the SRN whose features it reads
"""

import re
import zlib
from pathlib import Path

import torch

import data_util
import published
import srns
import util


def save(path, contents):
    with util.replacing(path) as temporary:
        torch.save(contents, temporary)


def file_name(epoch, step):
    return f"epoch_{epoch:04d}_iter_{step:06d}.pth"


def find(path):
    """The file itself, or the checkpoint with the most steps in a folder or in its `checkpoints` folder."""
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise util.InputError(f"{path}: no such checkpoint; expected a .pth file or a folder that holds some")
    files = list(path.glob("[!.]*.pth")) or list(path.glob("checkpoints/[!.]*.pth"))
    if not files:
        raise util.InputError(f"{path}: no .pth file in this folder or in its checkpoints folder")
    return max(files, key=lambda file: (steps_in_name(file), file.stat().st_mtime))


def steps_in_name(path):
    found = re.search(r"iter_(\d+)", path.name)
    return int(found.group(1)) if found else -1


def load(path):
    """Reads the checkpoint that `find` finds, on the CPU."""
    path = find(path)
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever zip, pickle or its own checks do
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise util.InputError(f"{path}: cannot be read as a checkpoint ({reason})") from None
    if not isinstance(contents, dict) or not isinstance(contents.get("model"), dict):
        raise util.InputError(f"{path}: not a checkpoint; expected a dict with the state dict of a model in it")
    if "sizes" not in contents:
        contents = published.from_published(contents, path) | {"step": max(steps_in_name(path), 0)}
    return contents | {"path": path}


def load_state(module, state, path):
    """Fill a module; every entry that is missing, unexpected or of another shape is named."""
    expected = module.state_dict()
    faults = [f"{key} is missing" for key in expected if key not in state]
    faults += [f"{key} is unexpected" for key in state if key not in expected]
    faults += [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise util.InputError(f"{path}: does not fit the model: {'; '.join(faults[:5])}{more}")
    module.load_state_dict(state)


def restore_optimizers(checkpoint, optimizers):
    """Give each optimizer its state back; its learning rate and its other options stay the ones asked for now.

    A file without any optimizer's state is trained on with fresh ones, as the published programs did with every file.
    """
    if not any(key.startswith("optimizer") for key in checkpoint):
        print(f"note: {checkpoint['path']} holds no state of an optimizer; training goes on with a fresh one")
        return
    for i, optimizer in enumerate(optimizers):
        state = checkpoint.get(f"optimizer_{i}", {}).get("state")
        if not state:
            raise util.InputError(
                f"{checkpoint['path']}: cannot be resumed, it has the state of {i} of {len(optimizers)} optimizers; was "
                f"it written while latent codes were fitted? To go on with that, pass --freeze_networks"
            )
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def load_srn(checkpoint, **wanted):
    """The SRN of a checkpoint. `wanted` are sizes the user asked for; None means whatever the file has.

    Published files do not tell tracing_steps: it is 10 there, as published, unless the user says otherwise.
    """
    sizes = dict(checkpoint["sizes"])
    if "hidden_features" not in sizes:
        raise util.InputError(f"{checkpoint['path']}: holds a segmentation head, not an SRN")
    if sizes["tracing_steps"] is None:
        sizes["tracing_steps"] = wanted.get("tracing_steps") or published.TRACING_STEPS
    for name, size in wanted.items():
        found = sizes.get(name, False)
        if size is not None and size != found:
            raise util.InputError(f"{checkpoint['path']}: was trained with {name} {found}, but {size} is asked for")
    model = srns.SRN(**sizes)
    load_state(model, checkpoint["model"], checkpoint["path"])
    return model


def load_head(checkpoint, model):
    """The head of a checkpoint (srns.HEADS), for what `model`, an SRN, gives it to read."""
    sizes = checkpoint["sizes"]
    if "kind" not in sizes:
        raise util.InputError(f"{checkpoint['path']}: holds an SRN, not a segmentation head")
    kind = srns.HEADS[sizes["kind"]]
    given = in_features(kind, model)
    if sizes["in_features"] != given:
        what = "feature" if kind.reads == "features" else "colour"
        raise util.InputError(f"{checkpoint['path']}: reads {sizes['in_features']} {what} channels, but the SRN has {given}")
    if "srn" in checkpoint and checkpoint["srn"] != fingerprint(model):
        raise util.InputError(
            f"{checkpoint['path']}: was learnt on the features of another SRN than the one it is to read now; give the SRN "
            f"it was learnt on, or learn a head for this one"
        )
    head = kind(sizes["in_features"], sizes["num_classes"])
    load_state(head, checkpoint["model"], checkpoint["path"])
    return head


def fingerprint(model):
    """Tells an SRN's features from another's: a checksum of all that makes them but the codes, a str of hex digits."""
    parts = ("hyper_phi.", "phi.", "ray_marcher.")
    checksum = 0
    for key, tensor in model.state_dict().items():
        if key.startswith(parts):
            checksum = zlib.crc32(tensor.cpu().contiguous().numpy(), checksum)
    return f"{checksum:08x}"


def in_features(kind, model):
    """How many channels a kind of head gets from an SRN."""
    return model.sizes["hidden_features" if kind.reads == "features" else "rgb_channels"]


def with_names(checkpoint, folders, where, chosen=()):
    """The checkpoint with `instances`, for one that knows no names (published ones do not).

    folders: names of all instance folders of the split `where`, sorted; chosen: names of those that are used now
    The published rule gives row i to the i-th folder; it is followed where there are as many rows as folders, or as
    many as are chosen, and nowhere else.
    """
    num_codes = checkpoint["sizes"].get("num_instances")
    if checkpoint["instances"] is not None or not num_codes:
        return checkpoint
    if num_codes == len(chosen):
        folders = chosen
    if num_codes != len(folders):
        raise util.InputError(
            f"{checkpoint['path']}: holds {num_codes} latent codes without the names of their instances, and {where} has "
            f"{len(folders)} instances, so whose they are is open; give the names with convert_checkpoint.py --instances"
        )
    print(
        f"note: {checkpoint['path']} names no instances; its {num_codes} codes go to the folders of {where} in sorted order"
    )
    return checkpoint | {"instances": list(folders)}


def rows_of(checkpoint, names, where):
    """Rows of the latent table that belong to the named instances: a code goes to the object of that name or to nobody."""
    row = {name: i for i, name in enumerate(checkpoint["instances"])}
    missing = [name for name in names if name not in row]
    if missing:
        raise util.InputError(
            f"{checkpoint['path']}: holds no latent code for {len(missing)} of the {len(names)} instances in {where}, "
            f"such as {missing[0]}; fit codes to them first, with --overwrite_embeddings"
        )
    return [row[name] for name in names]


def rows_for(model, checkpoint, names, where):
    """As `rows_of` for a model of whatever variant: zeros, which nobody reads, where it has no table of codes."""
    if model.latent_codes is not None:
        return rows_of(checkpoint, names, where)
    if model.sizes["fit_single_srn"] and (len(names) != 1 or checkpoint["instances"] not in (None, names)):
        known = ", " + checkpoint["instances"][0] if checkpoint["instances"] else ""
        raise util.InputError(f"{checkpoint['path']}: knows one object only{known}; choose it in {where} with --specific_ins")
    return [0] * len(names)


def note_other_settings(checkpoint, settings):
    """Tell the user where the data's settings are not those of the data that the model was trained with."""
    trained = settings_of(checkpoint)
    if settings != trained:
        print(f"note: the data say {settings}, but {checkpoint['path']} was trained with {trained}")


def expect_width(checkpoint, instances):
    """An InputError where codes come with the data, and are of another size than the checkpoint's."""
    if not checkpoint["sizes"].get("has_params"):
        return
    width = checkpoint["sizes"]["latent_dim"]
    for instance in instances:
        if instance.params is not None and instance.params.shape[1] != width:
            raise util.InputError(
                f"{instance.folder}/params: vectors of {instance.params.shape[1]} numbers, but {checkpoint['path']} was "
                f"trained with {width}"
            )


def settings_of(checkpoint):
    """The data settings the model was trained with."""
    return data_util.DatasetSettings(**checkpoint["settings"])
