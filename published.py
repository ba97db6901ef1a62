"""Checkpoints of the two published programs, Semantic SRN (2020) and SRN (2019): reading and writing them.

A published `.pth` holds `model` and the states of its optimizers, and nothing else. Where these differ from ours:
    names       "semantic" says slave_params where "srn2019" and we say hypo_params; in both, some convolutions of
                U-Nets are written under further names too, see `layout`
    order       a U-Net's last convolution comes before its others in the optimizers
    optimizers  semantic: as here, optimizer_0 for the codes and optimizer_1 for the networks, or optimizer_0 for a
                head; srn2019: one Adam, `optimizer`, for everything
    colours     semantic: four channels, of which alpha learns to be 1; srn2019: three
"""

import re

import torch

import util

FORMS = ("semantic", "srn2019")
TRACING_STEPS = 10  # of both programs; their files do not tell
WIDTH = 256  # of phi, and by default of the latent codes
SETTINGS = {"pixel_center": 0.0, "blend_alpha": False}  # of the data both programs were made for

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
    """A published checkpoint laid out as ours (checkpoints.py), but for `step`, which only the file's name tells.

    contents: as read from the file `path`; contents["model"] is a dict
    Sizes come from shapes; tracing_steps, and num_instances of a model without a table, are None. Raises
    util.InputError where the model is neither an SRN nor a head, or gives one entry two values. Whether all the
    entries are there and fit each other is left to checkpoints.load_state.
    """
    model, names = our_entries(contents["model"], path)
    form = "srn2019" if "optimizer" in contents else "semantic"
    states = optimizer_states(contents, optimizer_names(parameters(names), form), model, path)
    return {
        "model": model,
        "sizes": sizes_of(model, path),
        "instances": None,
        "split": None,
        "views": {},
        "settings": dict(SETTINGS),
    } | optimizer_entries(states, optimizer_names(parameters(model)))


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
    """Whether two tensors are one, or equal."""
    if tensor.shape != other.shape or tensor.dtype != other.dtype:
        return False
    return tensor.data_ptr() == other.data_ptr() or torch.equal(tensor, other)


def layout(names):
    """Pairs of published key (but for slave_params) and our name, in the published order.

    names: of entries, ours and in our order; a dict
    A U-Net's convolutions that keep the image's size (unet.Conv2dSame) were attributes twice over, and the last
    one's weight also one of the U-Net itself.
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
    """The names that are not those of a batch norm's running statistics."""
    return [name for name in names if not name.endswith(BUFFERS)]


def sizes_of(model, path):
    """Sizes of a model (see checkpoints.py) of {name: tensor}; util.InputError where it is no SRN and no head."""
    parts = {name.split(".")[0] for name in model}
    if parts & SRN_PARTS:
        return srn_sizes(model, parts, path)
    for kind, (first, last) in HEADS.items():
        if kind in parts:
            in_features, num_classes = length(model, first, 1, path), length(model, last, 0, path)
            return {"kind": kind, "in_features": in_features, "num_classes": num_classes}
    found = ", ".join(list(model)[:3]) or "nothing"
    raise util.InputError(
        f"{path}: not a checkpoint of an SRN or of a segmentation head; expected a model with entries such as "
        f"ray_marcher.lstm.weight_ih or linear.weight, found {found}"
    )


def srn_sizes(model, parts, path):
    """srns.SRN.sizes from {name: tensor}; `parts` are the first words of the names."""
    fit_single_srn = "phi" in parts and "hyper_phi" not in parts
    has_table = CODES in model
    if has_table:
        latent_dim = length(model, CODES, 1, path)
    elif fit_single_srn:
        latent_dim = WIDTH  # of no consequence
    else:
        latent_dim = length(model, "hyper_phi.layers.0.hyper_linear.hypo_params.net.0.net.0.weight", 1, path)
    use_unet_renderer = any(name.startswith("pixel_generator.net.0.in_layer.") for name in model)
    num_classes = None
    if "class_generator" in parts:
        num_classes = length(model, "class_generator.out_layer.0.net.1.weight", 0, path)
    return dict(
        num_instances=length(model, CODES, 0, path) if has_table else None,
        latent_dim=latent_dim,
        hidden_features=length(model, "ray_marcher.lstm.weight_ih", 1, path),
        tracing_steps=None,
        rgb_channels=length(model, f"{UNET_COLOUR if use_unet_renderer else RAY_COLOUR}.weight", 0, path),
        num_classes=num_classes,
        fit_single_srn=fit_single_srn,
        has_params=not has_table and not fit_single_srn,
        use_unet_renderer=use_unet_renderer,
    )


def length(model, name, dim, path):
    """The length of one dimension of an entry; util.InputError where it is missing or has none."""
    if name not in model:
        raise util.InputError(f"{path}: does not tell the sizes of its model: {name} is missing")
    shape = tuple(model[name].shape)
    if len(shape) <= dim or not shape[dim]:
        raise util.InputError(f"{path}: does not tell the sizes of its model: {name} is {shape}")
    return shape[dim]


# Optimizers


def optimizer_names(names, form="ours"):
    """{optimizer's entry in the checkpoint: names of its parameters in its order}, of all parameters' names."""
    if form == "srn2019":
        return {"optimizer": names}
    if CODES not in names:
        return {"optimizer_0": names}
    return {"optimizer_0": [CODES], "optimizer_1": [name for name in names if name != CODES]}


def optimizer_states(contents, entries, model, path):
    """{parameter: its step (int), exp_avg and exp_avg_sq}, for those parameters that an optimizer has a state of.

    entries: as from `optimizer_names`
    model:   {name: tensor}
    An entry that does not fit the model is left out, which is told.
    """
    states = {}
    for entry, names in entries.items():
        if entry in contents:
            try:
                states |= states_of(contents[entry], names, model)
            except Exception as error:  # whatever comes of reading an entry that is something else
                print(f"note: {path}: left out {entry}, which does not fit the model ({error!r})")
    return states


def states_of(optimizer, names, model):
    """As `optimizer_states`, of one optimizer's state dict over the parameters `names`."""
    if not optimizer["state"]:
        return {}
    indices = [index for group in optimizer["param_groups"] for index in group["params"]]  # once any numbers
    if len(indices) != len(names):
        raise ValueError(f"it is of {len(indices)} parameters, expected {len(names)}")
    states = {}
    for index, name in zip(indices, names):
        if index in optimizer["state"]:
            state = optimizer["state"][index]
            states[name] = {"step": int(state["step"])} | {moment: state[moment] for moment in MOMENTS}
            for moment in MOMENTS:
                if state[moment].shape != model[name].shape:
                    raise ValueError(f"{moment} of {name} is {tuple(state[moment].shape)}")
    return states


def optimizer_entries(states, entries):
    """The optimizers' state dicts, as torch's Adam and SparseAdam read them; none for one without any state.

    states, entries: as from `optimizer_states` and `optimizer_names`
    """
    written = {}
    for entry, names in entries.items():
        sparse = names == [CODES]  # SparseAdam counts steps in an int, Adam in a tensor
        state = {i: dict(states[name]) for i, name in enumerate(names) if name in states}
        if not sparse:
            state = {i: s | {"step": torch.tensor(float(s["step"]))} for i, s in state.items()}
        if state:
            options = SPARSE_ADAM if sparse else ADAM
            written[entry] = {"state": state, "param_groups": [options | {"params": list(range(len(names)))}]}
    return written


# Writing


def to_published(contents, form):
    """A checkpoint of ours in a published form, and a list of sentences on what is not the same there.

    contents: as from checkpoints.load; entries of the model may share memory with the result's
    form:     "semantic" or "srn2019"
    Raises util.InputError where the published program has no such model.
    """
    path, sizes, model = contents.get("path", "this checkpoint"), contents["sizes"], dict(contents["model"])
    refuse_unknown(sizes, form, path)
    states = optimizer_states(contents, optimizer_names(parameters(model)), model, path)
    notes = sort_codes(model, states, contents.get("instances"))
    if "kind" not in sizes:
        changes = fit_srn(model, sizes, form)
        if changes and states:
            states = {}
            changes.append("the state of its optimizers, which belongs to the model as it was, is left out")
        notes += changes + facts_to_know(sizes, form)
    if contents.get("settings", SETTINGS) != SETTINGS:
        notes.append(f"its data had {contents['settings']}; the published programs know {SETTINGS} only")

    pairs = layout(model)
    names = parameters(dict.fromkeys(name for _, name in pairs))
    word = "slave_params" if form == "semantic" else "hypo_params"
    entries = {key.replace("hypo_params", word): model[name] for key, name in pairs}
    return {"model": entries} | optimizer_entries(states, optimizer_names(names, form)), notes


def refuse_unknown(sizes, form, path):
    """util.InputError for a model that the program of this form does not have."""
    if form == "srn2019" and "kind" in sizes:
        raise util.InputError(f"{path}: holds a segmentation head, and SRN of 2019 has none; write it as semantic")
    for variant, what in ONLY_IN_2019.items():
        if form == "semantic" and sizes.get(variant):
            raise util.InputError(f"{path}: the published Semantic SRN has no {what}; write it as srn2019")


def sort_codes(model, states, instances):
    """Put the rows of the latent table, and of its state, in the order of the instances' names, in place.

    The published programs give row i to the i-th folder. Returns notes.
    """
    if CODES not in model or not instances or instances == sorted(instances):
        return []
    rows = sorted(range(len(instances)), key=instances.__getitem__)
    model[CODES] = model[CODES][rows]
    if CODES in states:
        states[CODES] |= {moment: states[CODES][moment][rows] for moment in MOMENTS}
    return ["its codes are now in the order of their instances' names, as the published programs expect"]


def fit_srn(model, sizes, form):
    """Give an SRN's entries {name: tensor}, in place, the outputs that the program of this form has.

    Returns notes; none where nothing changed.
    """
    notes = []
    last = UNET_COLOUR if sizes["use_unet_renderer"] else RAY_COLOUR
    weight, bias = model[f"{last}.weight"], model[f"{last}.bias"]  # (3 or 4, ...), (3 or 4,)
    if form == "semantic" and sizes["rgb_channels"] == 3:
        model[f"{last}.weight"] = torch.cat([weight, torch.zeros_like(weight[:1])])
        model[f"{last}.bias"] = torch.cat([bias, torch.ones_like(bias[:1])])
        notes.append("its colours have a fourth channel, alpha, which is 1 everywhere")
    if form == "srn2019" and sizes["rgb_channels"] == 4:
        model[f"{last}.weight"], model[f"{last}.bias"] = weight[:3].clone(), bias[:3].clone()
        notes.append("the fourth channel of its colours, alpha, is left out")
    if form == "srn2019" and sizes["num_classes"] is not None:
        for name in [name for name in model if name.startswith("class_generator.")]:
            del model[name]
        notes.append("its segmentation U-Net is left out")
    return notes


def facts_to_know(sizes, form):
    """Notes on sizes that the published programs have otherwise, or must be told."""
    notes = []
    if form == "semantic" and sizes["num_classes"] is None:
        notes.append("it has no segmentation U-Net; the published program adds an untrained one")
    if sizes["hidden_features"] != WIDTH:
        notes.append(f"its phi is {sizes['hidden_features']} wide; the published programs build one of {WIDTH}")
    if not sizes["fit_single_srn"] and sizes["latent_dim"] != WIDTH:
        notes.append(f"the published programs need --embedding_size {sizes['latent_dim']} for it")
    if sizes["tracing_steps"] not in (None, TRACING_STEPS):
        notes.append(f"the published programs need --tracing_steps {sizes['tracing_steps']} for it")
    return notes
