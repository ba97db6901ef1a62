"""Checkpoints: what a file holds, how it is found, and models built from it.

A `.pth` is a dict of plain types and tensors, read with weights_only=True:
    model         state dict
    optimizer_0, optimizer_1, ...   state dicts, in the order the stage made its optimizers
    step          training steps done
    sizes         arguments that build the model (srns.SRN.sizes, or of the head: kind, in_features, num_classes and, unless
                  they are those of the last layer, features)
    instances     names of the instances, row by row of the latent table
    split, views  the split's name and, per instance, the names of the views that were trained on or fitted to
    observed      what was learnt from, a list of "rgb" and "seg"
    settings      pixel_center and blend_alpha of the data
    ended         whether the run that wrote it ended with this step
    code_fits     state of the fits that stage 3 with --code_solver fast left, in place of an optimizer's
    srn           of a head: the fingerprint of the SRN whose features it reads

`open_srn` and `open_head` do all that a program needs to use a checkpoint.
"""

import zlib

import data_util
import dataio
import published
import srns
import util
from runs import checkpoint_files
from runs.checkpoint_files import file_name as file_name
from runs.checkpoint_files import find as find
from runs.checkpoint_files import save as save
from runs.checkpoint_files import steps_in_name as steps_in_name

CODE_FITS = "code_fits"


def load(path):
    """Read a checkpoint, on the CPU: of a folder the last one that can be read, with a note if that is not the last one."""
    faults = []
    for file in checkpoint_files.find_all(path):
        try:
            contents = with_facts(checkpoint_files.read(file), file)
        except util.InputError as fault:
            faults.append(fault)
            continue
        if faults:
            print(f"note: {faults[0]}; {file.name} is read instead")
        return contents
    raise faults[0]


def with_facts(contents, path):
    """The contents of a file with its `path`, and with what a published file lacks. raises util.InputError"""
    if not isinstance(contents, dict) or not isinstance(contents.get("model"), dict):
        raise util.InputError(f"{path}: not a checkpoint; expected a dict with the state dict of a model in it")
    if "sizes" not in contents:
        contents = published.from_published(contents, path) | {"step": max(steps_in_name(path), 0)}
    return contents | {"path": path}


def load_state(module, state, path):
    """Fill a module; every entry that is missing, unexpected or of another shape is named."""
    expected = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    found = {key: tuple(getattr(tensor, "shape", ())) for key, tensor in state.items()}
    faults = [f"{key} is missing" for key in expected if key not in found]
    faults += [f"{key} is unexpected" for key in found if key not in expected]
    differing = [key for key in expected if key in found and found[key] != expected[key]]
    faults += [f"{key} is {found[key]}, expected {expected[key]}" for key in differing]
    faults += [f"{key} holds numbers that are not finite" for key in checkpoint_files.not_finite(state) if key in expected]
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise util.InputError(f"{path}: does not fit the model: {'; '.join(faults[:5])}{more}")
    module.load_state_dict(state)


def restore_optimizers(checkpoint, optimizers):
    """Give each optimizer its state back; its learning rate and other options stay those of this run.

    A file without the state of any optimizer is trained on with fresh ones, as the published programs did with every file.
    """
    if CODE_FITS not in checkpoint and not any(key.startswith("optimizer") for key in checkpoint):
        print(f"note: {checkpoint['path']} holds no state of an optimizer; training goes on with a fresh one")
        return
    for i, optimizer in enumerate(optimizers):
        state = checkpoint.get(f"optimizer_{i}", {}).get("state")
        if not state:
            found = f"found the state of {i} of {len(optimizers)} optimizers"
            advice = "if it is from stage 3, pass --freeze_networks to continue that"
            raise util.InputError(f"{checkpoint['path']}: cannot be resumed, {found}; {advice}")
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def load_srn(checkpoint, **wanted):
    """The SRN of a checkpoint.

    wanted: sizes that the user asked for, which must be those of the file; None for any. Published files do not store
    tracing_steps: the user's choice counts, else the published 10
    """
    sizes = dict(checkpoint["sizes"])
    if "hidden_features" not in sizes:
        raise util.InputError(f"{checkpoint['path']}: holds a segmentation head, not an SRN")
    if sizes["tracing_steps"] is None:
        sizes["tracing_steps"] = wanted.get("tracing_steps") or published.TRACING_STEPS
    for name, size in wanted.items():
        found = sizes.get(name, srns.SRN.ADDED_SIZES.get(name, False))
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
    features = {"features": sizes["features"]} if "features" in sizes else {}
    given = kind.num_inputs(model.sizes, **features)
    if sizes["in_features"] != given:
        what = "feature" if kind.reads == "features" else "colour"
        raise util.InputError(f"{checkpoint['path']}: reads {sizes['in_features']} {what} channels, but the SRN has {given}")
    if "srn" in checkpoint and checkpoint["srn"] != fingerprint(model):
        advice = "give that SRN, or learn a head for this one"
        raise util.InputError(f"{checkpoint['path']}: was learnt on the features of another SRN; {advice}")
    head = kind(sizes["in_features"], sizes["num_classes"], **features)
    load_state(head, checkpoint["model"], checkpoint["path"])
    return head


def fingerprint(model):
    """Checksum of everything that determines an SRN's features except the codes, as hex digits."""
    checksum = 0
    for key, tensor in model.state_dict().items():
        if key.startswith(("hyper_phi.", "phi.", "ray_marcher.")):
            checksum = zlib.crc32(tensor.cpu().contiguous().numpy(), checksum)
    return f"{checksum:08x}"


def with_names(checkpoint, folders, where, chosen=()):
    """The checkpoint with `instances` filled in if the file does not store them, as published files do not.

    folders: names of all instance folders of the split `where`, sorted; chosen: names of those that are used now
    By the published rule row i belongs to the i-th folder. Raises util.InputError unless there are as many rows as folders,
    or as many as are chosen.
    """
    num_codes = checkpoint["sizes"].get("num_instances")
    if checkpoint["instances"] is not None or not num_codes:
        return checkpoint
    if num_codes == len(chosen):
        folders = chosen
    if num_codes != len(folders):
        found = f"its {num_codes} latent codes cannot be matched with the {len(folders)} instances of {where}"
        advice = "add the names with convert_checkpoint.py --instances"
        raise util.InputError(f"{checkpoint['path']}: does not store instance names, and {found}; {advice}")
    rule = f"its {num_codes} codes are assigned to the folders of {where} in sorted order"
    print(f"note: {checkpoint['path']} does not store instance names; {rule}")
    return checkpoint | {"instances": list(folders)}


# Opening


class OpenSRN:
    """An SRN and what its checkpoint says about it. contents: the checkpoint as `load` returns it."""

    def __init__(self, model, contents):
        self.model, self.contents = model, contents
        self.path, self.step = contents["path"], contents.get("step", 0)
        self.instances = contents["instances"]  # names, row by row of the latent table; None if the file has none
        self.settings = data_util.DatasetSettings(**contents["settings"])  # of the data that it was trained on

    def rows(self, names, where):
        """Rows of the latent table for the named instances of the split `where`, a list of int.

        Zeros, which nothing reads, for a model without a table. Raises util.InputError if an instance has no code.
        """
        if self.model.latent_codes is None:
            if self.model.sizes["fit_single_srn"] and (len(names) != 1 or self.instances not in (None, names)):
                known = f", {self.instances[0]}" if self.instances else ""
                raise util.InputError(f"{self.path}: holds one object only{known}; choose it in {where} with --specific_ins")
            return [0] * len(names)
        row = {name: i for i, name in enumerate(self.instances)}
        missing = [name for name in names if name not in row]
        if missing:
            found = f"no latent code for {len(missing)} of the {len(names)} instances in {where}, such as {missing[0]}"
            raise util.InputError(f"{self.path}: holds {found}; fit codes to them first, with --overwrite_embeddings")
        return [row[name] for name in names]

    def expect_instances(self, names, where):
        """Raise util.InputError unless the names are those of the latent table, in its order."""
        if self.instances is not None and names != self.instances:
            advice = "resume on the same instances, or fit codes to new ones with --overwrite_embeddings"
            raise util.InputError(f"{self.path}: was trained on other instances than {where} gives; {advice}")

    def note_other_settings(self, settings):
        """Print a note if the data's settings differ from those that the model was trained with."""
        if settings != self.settings:
            print(f"note: the data have {vars(settings)}, but {self.path} was trained with {vars(self.settings)}")

    def expect_width(self, instances):
        """Raise util.InputError if codes come with the data and have another size than the model's."""
        expected = self.model.sizes["latent_dim"]
        for instance in instances if self.model.sizes["has_params"] else ():
            width = expected if instance.params is None else instance.params.shape[1]
            if width != expected:
                found = f"found vectors of {width} numbers, expected {expected} as in {self.path}"
                raise util.InputError(f"{instance.folder}/params: {found}")


def open_srn(path, split=None, max_num_instances=dataio.ALL, specific_ins=(), **wanted):
    """The OpenSRN of a file or folder, on the CPU.

    split:  folder whose instances name the codes of a file without names, see `with_names`; None: such codes stay
            without names. max_num_instances, specific_ins: which of its instances are used
    wanted: sizes that the user asked for, see `load_srn`
    """
    contents = load(path)
    model = load_srn(contents, **wanted)
    if split is not None:
        every = [folder.name for folder in dataio.instance_folders(split)]
        chosen = [folder.name for folder in dataio.instance_folders(split, max_num_instances, specific_ins)]
        contents = with_names(contents, every, split, chosen)
    return OpenSRN(model, contents)


def open_head(path, model, option=None, kind=None):
    """The head of a file or folder for what `model`, an SRN, gives it to read, and its checkpoint; on the CPU.

    option, kind: the option that names the kind of head, and its value; None: any kind will do
    """
    contents = load(path)
    head = load_head(contents, model)
    found = contents["sizes"]["kind"]
    if kind not in (None, found):
        raise util.InputError(f"{contents['path']}: holds a head of kind {found}; give {option} {found}, not {kind}")
    return head, contents
