"""Reads and writes checkpoints of the two published programs, Semantic SRN (2020) and SRN (2019).

A published `.pth` holds `model`, the states of its optimizers, and nothing else. Differences from our checkpoints:
    names       "semantic" says slave_params where "srn2019" and we say hypo_params; both store some convolutions of
                U-Nets under several names, see `layout`
    order       in the optimizers, a U-Net's last convolution precedes its others
    optimizers  semantic: as ours, optimizer_0 for the codes and optimizer_1 for the networks, or optimizer_0 for a
                head; srn2019: one Adam, `optimizer`, for everything
    colours     semantic: four channels, of which alpha learns to be 1; srn2019: three
"""

import re

import torch

import util

FORMS = ("semantic", "srn2019")
TRACING_STEPS = 10  # of both programs; their files do not store it
WIDTH = 256  # of phi, and by default of the latent codes
SETTINGS = {"pixel_center": 0.0, "blend_alpha": False}  # of the published data

CODES = "latent_codes.weight"
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
CONV_2D_SAME = re.compile(r"(.*(?:in_layer\.0|out_layer\.0|unet_block\..*\.net\.\d+))\.net\.1\.(?:weight|bias)")
RAY_COLOUR, UNET_COLOUR = "pixel_generator.net.5", "pixel_generator.net.0.out_layer.0.net.1"  # the last layers
HEADS = {  # kind: a weight with in_features as its second dimension, one with num_classes as its first
    "linear": ("linear.weight", "linear.weight"),
    "mlp": ("mlp.net.0.net.0.weight", "mlp.net.4.weight"),
    "unet": ("unet.in_layer.0.net.1.weight", "unet.out_layer.0.net.1.weight"),
}
SRN_PARTS = {"latent_codes", "hyper_phi", "phi", "ray_marcher", "pixel_generator"}
ONLY_IN_2019 = {
    "fit_single_srn": "SRNs of a single object",
    "has_params": "SRNs whose codes come with the data",
    "use_unet_renderer": "U-Net renderers",
}

MOMENTS = ("exp_avg", "exp_avg_sq")
ADAM = dict(lr=4e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0, amsgrad=False)
SPARSE_ADAM = dict(lr=4e-4, betas=(0.5, 0.5), eps=1e-5)


# Reading


def from_published(contents, path):
    """A published checkpoint in our layout (checkpoints.py), without `step`, which only the file's name has.

    contents: as read from the file `path`; contents["model"] is a dict
    Sizes come from shapes; tracing_steps, and num_instances of a model without a table, are None. Raises
    util.InputError if the model is neither an SRN nor a head, or if two names of one entry differ in value.
    checkpoints.load_state checks whether all entries are present and fit each other.
    """
    model, names = our_entries(contents["model"], path)
    form = "srn2019" if "optimizer" in contents else "semantic"
    states = optimizer_states(contents, optimizer_names(parameters(names), form), model, path)
    ours = dict(model=model, sizes=sizes_of(model, path), instances=None, split=None, views={}, settings=dict(SETTINGS))
    return ours | optimizer_entries(states, optimizer_names(parameters(model)))


def our_entries(published, path):
    """{our name: tensor} of a published state dict, in our order, and a list of the names in its own order."""
    for key, tensor in published.items():
        if not isinstance(key, str) or not torch.is_tensor(tensor):
            kind = type(tensor).__name__
            raise util.InputError(f"{path}: not a checkpoint; expected a tensor for {key}, found a {kind}")
    prefix = "module." if all(key.startswith("module.") for key in published) else ""  # of nn.DataParallel
    renamed = {key: key.removeprefix(prefix).replace("slave_params", "hypo_params") for key in published}
    stands_for = {alias: name for alias, name in layout(dict.fromkeys(renamed.values())) if alias != name}

    model, first_key = {}, {}
    for key, tensor in published.items():
        name = stands_for.get(renamed[key], renamed[key])
        twin = first_key.setdefault(name, key)
        if twin != key and not same(tensor, published[twin]):
            raise util.InputError(f"{path}: {twin} and {key} are names of one entry, but their values differ")
        if renamed[key] == name:
            model[name] = tensor
    return model, list(first_key)


def same(tensor, other):
    """Whether two tensors share their memory or are equal. A nan does not equal itself."""
    if tensor.shape != other.shape or tensor.dtype != other.dtype:
        return False
    return tensor.data_ptr() == other.data_ptr() or torch.equal(tensor, other)


def layout(names):
    """[(published key with hypo_params, our name)] in the published order.

    names: our names in our order, a dict
    A published convolution that keeps the image's size (unet.Conv2dSame) stores each entry under two names, and the
    weight of a U-Net's last one under a third.
    """
    pairs = []
    for name in names:
        conv = CONV_2D_SAME.fullmatch(name)
        if conv and name.endswith(".weight"):
            if conv[1].endswith("in_layer.0"):
                out_layer = conv[1].removesuffix("in_layer.0") + "out_layer"
                pairs.append((f"{out_layer}_weight", f"{out_layer}.0.net.1.weight"))
            pairs += [(f"{conv[1]}.{kind}", f"{conv[1]}.net.1.{kind}") for kind in ("weight", "bias")]
        pairs.append((name, name))
    return [(key, name) for key, name in pairs if name in names]


def parameters(names):
    """The names without those of a batch norm's running statistics."""
    return [name for name in names if not name.endswith(BUFFERS)]


def sizes_of(model, path):
    """Sizes (see checkpoints.py) of a model {name: tensor}. Raises util.InputError if it is neither an SRN nor a head."""
    parts = {name.split(".")[0] for name in model}
    if parts & SRN_PARTS:
        return srn_sizes(model, parts, path)
    for kind, (first, last) in HEADS.items():
        if kind in parts:
            in_features, num_classes = length(model, first, 1, path), length(model, last, 0, path)
            return {"kind": kind, "in_features": in_features, "num_classes": num_classes}
    found = ", ".join(list(model)[:3]) or "nothing"
    expected = "expected entries such as ray_marcher.lstm.weight_ih or linear.weight"
    raise util.InputError(f"{path}: not a checkpoint of an SRN or of a segmentation head; {expected}, found {found}")


def srn_sizes(model, parts, path):
    """srns.SRN.sizes of a model {name: tensor}; `parts` are the first words of the names."""
    fit_single_srn = "phi" in parts and "hyper_phi" not in parts
    has_table = CODES in model
    with_latent_dim = CODES if has_table else "hyper_phi.layers.0.hyper_linear.hypo_params.net.0.net.0.weight"
    use_unet_renderer = any(name.startswith("pixel_generator.net.0.in_layer.") for name in model)
    classes = "class_generator.out_layer.0.net.1.weight"
    return dict(
        num_instances=length(model, CODES, 0, path) if has_table else None,
        latent_dim=WIDTH if fit_single_srn and not has_table else length(model, with_latent_dim, 1, path),
        hidden_features=length(model, "ray_marcher.lstm.weight_ih", 1, path),
        tracing_steps=None,
        rgb_channels=length(model, f"{UNET_COLOUR if use_unet_renderer else RAY_COLOUR}.weight", 0, path),
        num_classes=length(model, classes, 0, path) if "class_generator" in parts else None,
        fit_single_srn=fit_single_srn,
        has_params=not has_table and not fit_single_srn,
        use_unet_renderer=use_unet_renderer,
        positional_encoding=0,
        scene_radius=1.0,
    )


def length(model, name, dim, path):
    """The length of one dimension of an entry. Raises util.InputError if the entry or the dimension is missing or empty."""
    shape = tuple(model[name].shape) if name in model else "missing"
    if shape == "missing" or len(shape) <= dim or not shape[dim]:
        raise util.InputError(f"{path}: cannot read the sizes of the model: {name} is {shape}")
    return shape[dim]


# Optimizers


def optimizer_names(names, form="ours"):
    """{name of an optimizer in the checkpoint: names of its parameters in its order}, given the names of all parameters."""
    if form == "srn2019":
        return {"optimizer": names}
    if CODES not in names:
        return {"optimizer_0": names}
    return {"optimizer_0": [CODES], "optimizer_1": [name for name in names if name != CODES]}


def optimizer_states(contents, entries, model, path):
    """{parameter: {"step": int, "exp_avg", "exp_avg_sq"}} of the parameters that an optimizer has a state of.

    entries: as from `optimizer_names`
    model:   {name: tensor}
    Leaves out an optimizer that does not fit the model, with a note.
    """
    states = {}
    for entry, names in entries.items():
        if entry in contents:
            try:
                states |= states_of(contents[entry], names, model)
            except Exception as error:  # anything can be stored under this name
                print(f"note: {path}: left out {entry}, which does not fit the model ({error!r})")
    return states


def states_of(optimizer, names, model):
    """`optimizer_states` of one optimizer's state dict over the parameters `names`. Raises if they do not fit."""
    if not optimizer["state"]:
        return {}
    indices = [index for group in optimizer["param_groups"] for index in group["params"]]  # any numbers in old files
    if len(indices) != len(names):
        raise ValueError(f"found {len(indices)} parameters, expected {len(names)}")
    found = {name: optimizer["state"][index] for index, name in zip(indices, names) if index in optimizer["state"]}
    for name, state in found.items():
        for moment in MOMENTS:
            if state[moment].shape != model[name].shape:
                raise ValueError(f"{moment} of {name} is {tuple(state[moment].shape)}")
    return {name: {"step": int(state["step"])} | {key: state[key] for key in MOMENTS} for name, state in found.items()}


def optimizer_entries(states, entries):
    """The optimizers' state dicts as torch's Adam and SparseAdam read them, without optimizers that have no state.

    states, entries: as from `optimizer_states` and `optimizer_names`
    """
    written = {}
    for entry, names in entries.items():
        # SparseAdam counts steps in an int, Adam in a tensor.
        options, count = (SPARSE_ADAM, int) if names == [CODES] else (ADAM, torch.tensor)
        indexed = [(i, states[name]) for i, name in enumerate(names) if name in states]
        state = {i: found | {"step": count(float(found["step"]))} for i, found in indexed}
        if state:
            written[entry] = {"state": state, "param_groups": [options | {"params": list(range(len(names)))}]}
    return written


# Writing


def to_published(contents, form):
    """A checkpoint of ours in a published form, and a list of notes on what changes.

    contents: as from checkpoints.load; the result may share memory with it
    form:     "semantic" or "srn2019"
    Raises util.InputError if the published program has no such model.
    """
    path, sizes, model = contents.get("path", "this checkpoint"), contents["sizes"], dict(contents["model"])
    refuse_unknown(sizes, form, path)
    states = optimizer_states(contents, optimizer_names(parameters(model)), model, path)
    notes = sort_codes(model, states, contents.get("instances"))
    if "kind" not in sizes:
        changes = fit_srn(model, sizes, form)
        if changes and states:
            states = {}
            changes.append("the state of the optimizers is left out, since the model changes")
        notes += changes + notes_on_sizes(sizes, form)
    if contents.get("settings", SETTINGS) != SETTINGS:
        notes.append(f"the model was trained with {contents['settings']}, but the published programs use {SETTINGS}")

    pairs = layout(model)
    names = parameters(dict.fromkeys(name for _, name in pairs))
    word = "slave_params" if form == "semantic" else "hypo_params"
    entries = {key.replace("hypo_params", word): model[name] for key, name in pairs}
    return {"model": entries} | optimizer_entries(states, optimizer_names(names, form)), notes


def refuse_unknown(sizes, form, path):
    """Raise util.InputError if the program of this form has no such model."""
    if form == "srn2019" and "kind" in sizes:
        raise util.InputError(f"{path}: holds a segmentation head, which SRN (2019) does not have; use --form semantic")
    if sizes.get("positional_encoding"):
        raise util.InputError(f"{path}: has a positional encoding, which no published program knows; keep it in our form")
    if sizes.get("features"):
        raise util.InputError(f"{path}: reads all layers of phi, the published heads the last one only; keep it in our form")
    for variant, what in ONLY_IN_2019.items():
        if form == "semantic" and sizes.get(variant):
            raise util.InputError(f"{path}: Semantic SRN (2020) has no {what}; use --form srn2019")


def sort_codes(model, states, instances):
    """Sort the rows of the latent table and of its optimizer state by the instances' names, in place. Returns notes.

    The published programs assign row i to the i-th folder.
    """
    if CODES not in model or not instances or instances == sorted(instances):
        return []
    rows = sorted(range(len(instances)), key=instances.__getitem__)
    model[CODES] = model[CODES][rows]
    if CODES in states:
        states[CODES] |= {moment: states[CODES][moment][rows] for moment in MOMENTS}
    return ["the codes are sorted by the names of their instances, as the published programs expect"]


def fit_srn(model, sizes, form):
    """Change an SRN's entries {name: tensor}, in place, to the outputs of the program of this form.

    Returns notes, none if nothing changed.
    """
    notes = []
    last = UNET_COLOUR if sizes["use_unet_renderer"] else RAY_COLOUR
    weight, bias = model[f"{last}.weight"], model[f"{last}.bias"]  # (3 or 4, ...), (3 or 4,)
    if form == "semantic" and sizes["rgb_channels"] == 3:
        model[f"{last}.weight"] = torch.cat([weight, torch.zeros_like(weight[:1])])
        model[f"{last}.bias"] = torch.cat([bias, torch.ones_like(bias[:1])])
        notes.append("the colours get a fourth channel, alpha, which is 1 everywhere")
    if form == "srn2019" and sizes["rgb_channels"] == 4:
        model[f"{last}.weight"], model[f"{last}.bias"] = weight[:3].clone(), bias[:3].clone()
        notes.append("the fourth channel of the colours, alpha, is left out")
    if form == "srn2019" and sizes["num_classes"] is not None:
        for name in [name for name in model if name.startswith("class_generator.")]:
            del model[name]
        notes.append("the segmentation U-Net is left out")
    return notes


def notes_on_sizes(sizes, form):
    """Notes on sizes that differ from the defaults of the published programs."""
    notes = []
    if form == "semantic" and sizes["num_classes"] is None:
        notes.append("there is no segmentation U-Net; the published program adds an untrained one")
    if sizes["hidden_features"] != WIDTH:
        notes.append(f"phi has {sizes['hidden_features']} features; the published programs expect {WIDTH}")
    if not sizes["fit_single_srn"] and sizes["latent_dim"] != WIDTH:
        notes.append(f"the published programs need --embedding_size {sizes['latent_dim']}")
    if sizes["tracing_steps"] not in (None, TRACING_STEPS):
        notes.append(f"the published programs need --tracing_steps {sizes['tracing_steps']}")
    return notes
