"""published.py: files of the two published programs become checkpoints of ours, and the other way round."""

import copy

import pytest
import torch

import checkpoints
import published
import srns
import util
from training import losses

TINY = dict(num_instances=3, latent_dim=4, hidden_features=8, tracing_steps=2)
SIZES = dict(
    num_instances=4,
    latent_dim=256,
    hidden_features=256,
    tracing_steps=None,
    rgb_channels=3,
    num_classes=None,
    fit_single_srn=False,
    has_params=False,
    use_unet_renderer=False,
)
VARIANTS = {  # of the manifest: the published form, and the sizes that its file tells
    "srn_semantic": ("semantic", SIZES | dict(rgb_channels=4, num_classes=7)),
    "srn_vanilla": ("srn2019", SIZES),
    "srn_single": ("srn2019", SIZES | dict(num_instances=None, fit_single_srn=True)),
    "srn_unet_renderer": ("srn2019", SIZES | dict(use_unet_renderer=True)),
    "linear_head": ("semantic", dict(kind="linear", in_features=256, num_classes=7)),
    "mlp_head": ("semantic", dict(kind="mlp", in_features=256, num_classes=7)),
    "unet_seg": ("semantic", dict(kind="unet", in_features=4, num_classes=7)),
}


def built(sizes):
    """The model of some sizes."""
    if "kind" in sizes:
        return srns.HEADS[sizes["kind"]](sizes["in_features"], sizes["num_classes"])
    return srns.SRN(**sizes)


def tensors(arrays):
    return {name: torch.from_numpy(array) for name, array in arrays.items() if array.dtype.kind in "fi"}


def constant(value, shape):
    """A tensor of one value that takes no memory, in a file neither."""
    return torch.tensor(float(value)).expand(shape)


def published_file(parity, variant):
    """A file as a published program writes it, but for the values.

    Entry i of the manifest is i everywhere, its aliases as well; its parameter's exp_avg is i + 1000, exp_avg_sq
    i + 2000 and step i + 3000. Parameters' indices in the optimizers are large, as old versions of torch had them.
    """
    entries = parity.manifest["variants"][variant]["state_dict"]
    order = parity.manifest["variants"][variant]["parameter_order"]
    number = {entry["key"]: i for i, entry in enumerate(entries)}
    shape = {entry["key"]: entry["shape"] for entry in entries}
    original = {entry["key"]: entry.get("alias_of", entry["key"]) for entry in entries}
    model = {key: constant(number[original[key]], shape[key]) for key in shape}

    def optimizer(names):
        states = {}
        for name in names:
            i = number[name]
            exp_avg, exp_avg_sq = constant(i + 1000, shape[name]), constant(i + 2000, shape[name])
            states[10**12 - i] = {"step": i + 3000, "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
        return {"state": states, "param_groups": [{"lr": 5e-5, "params": list(states)}]}

    form, _ = VARIANTS[variant]
    if form == "srn2019":
        return {"model": model, "optimizer": optimizer(order)}
    if published.CODES not in order:
        return {"model": model, "optimizer_0": optimizer(order)}
    return {"model": model, "optimizer_0": optimizer(order[:1]), "optimizer_1": optimizer(order[1:])}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_published_file_fills_our_model_and_our_optimizers(parity, tmp_path, variant):
    path = tmp_path / "epoch_0026_iter_080000.pth"
    torch.save(published_file(parity, variant), path)
    checkpoint = checkpoints.load(path)
    sizes = VARIANTS[variant][1]
    added = {} if "kind" in sizes else srns.SRN.ADDED_SIZES
    assert checkpoint["sizes"] == sizes | added and checkpoint["step"] == 80_000
    assert checkpoint["instances"] is checkpoint["split"] is None and checkpoint["views"] == {}
    assert checkpoints.OpenSRN(None, checkpoint).settings.pixel_center == 0

    number = {
        entry["key"].replace("slave_params", "hypo_params"): i
        for i, entry in enumerate(parity.manifest["variants"][variant]["state_dict"])
    }
    with torch.device("meta"):
        model = built({name: size for name, size in sizes.items() if name != "tracing_steps"})
    assert [(name, tensor.shape) for name, tensor in checkpoint["model"].items()] == [
        (name, tensor.shape) for name, tensor in model.state_dict().items()
    ]
    for name, tensor in checkpoint["model"].items():
        assert tensor.flatten()[0] == number[name], name

    names = [name for name, _ in model.named_parameters()]
    ours = [names] if published.CODES not in names else [[published.CODES], names[1:]]
    assert sum(name.startswith("optimizer") for name in checkpoint) == len(ours)
    for i, order in enumerate(ours):
        state = checkpoint[f"optimizer_{i}"]["state"]
        assert set(state) == set(range(len(order)))
        for j, name in enumerate(order):
            found = [state[j]["exp_avg"].flatten()[0], state[j]["exp_avg_sq"].flatten()[0], state[j]["step"]]
            assert found == [number[name] + 1000, number[name] + 2000, number[name] + 3000], name
            assert state[j]["exp_avg"].shape == model.get_parameter(name).shape
            assert torch.is_tensor(state[j]["step"]) == (name != published.CODES)


@pytest.mark.parametrize("variant", VARIANTS)
def test_our_models_are_written_with_the_published_keys_shapes_and_order(parity, variant):
    form, sizes = VARIANTS[variant]
    with torch.device("meta"):
        model = built({name: size for name, size in sizes.items() if name != "tracing_steps"})
    sizes = sizes if "kind" in sizes else model.sizes
    state = model.state_dict()
    contents, notes = published.to_published({"model": state, "sizes": sizes}, form)
    entries = parity.manifest["variants"][variant]["state_dict"]
    assert [(key, list(tensor.shape)) for key, tensor in contents["model"].items()] == [
        (entry["key"], entry["shape"]) for entry in entries
    ]
    for entry in entries:
        name = entry.get("alias_of", entry["key"]).replace("slave_params", "hypo_params")
        assert contents["model"][entry["key"]] is state[name], entry["key"]
    assert notes == []


def test_a_single_srn_of_2019_renders_the_published_picture(parity, tmp_path):
    torch.save({"model": parity.state("srn_single", aliases=True)}, tmp_path / "single.pth")
    model = checkpoints.load_srn(checkpoints.load(tmp_path / "single.pth")).eval()
    known = tensors(parity.load("srn_single"))
    batch = {"uv": known["uv"].float(), "cam2world": known["pose"], "intrinsics": known["intrinsics"][:, :3, :3]}
    with torch.no_grad():
        outputs = model(batch)
    assert torch.allclose(outputs["rgb"], known["rgb"], rtol=0, atol=1e-4)
    assert torch.allclose(outputs["depth"], known["depth"], rtol=0, atol=1e-4)


# The published linear head


def test_the_published_head_gives_its_scores_and_goes_on_as_its_optimizer_would(parity):
    path = parity.folder / "linear_head_epoch_0000_iter_000005.pth"
    checkpoint = checkpoints.load(path)
    with torch.device("meta"):
        srn = srns.SRN(1)
    head = checkpoints.load_head(checkpoint, srn)
    known = tensors(parity.load("linear_head"))
    assert checkpoint["step"] == 5
    assert torch.allclose(head(known["features"]), known["seg_after_update"], rtol=0, atol=2e-5)

    def step(head, optimizer):
        optimizer.zero_grad()
        (8 * losses.segmentation_loss(head(known["features"]), known["target_seg"][..., 0].long())).backward()
        optimizer.step()
        return head.linear.weight.detach()

    plain = copy.deepcopy(head)
    theirs = torch.optim.Adam(plain.parameters())
    theirs.load_state_dict(torch.load(path, weights_only=True)["optimizer_0"])
    ours = torch.optim.Adam(head.parameters(), lr=4e-4, fused=True)
    checkpoints.restore_optimizers(checkpoint, [ours])
    before = head.linear.weight.detach().clone()
    after = step(head, ours)
    assert torch.allclose(after, step(plain, theirs), rtol=0, atol=1e-7)
    assert (after - before).abs().max() > 1e-4


# Round trips


def batch_of(num_instances, side=16):
    """Rays of whole images of each instance, with targets."""
    torch.manual_seed(1)
    u, v = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="xy")
    uv = torch.stack([u, v], dim=-1).view(1, -1, 2)
    intrinsics = torch.tensor([[1.2 * side, 0, side / 2], [0, 1.2 * side, side / 2], [0, 0, 1]])
    return {
        "instance_idx": torch.arange(num_instances),
        "uv": uv.repeat(num_instances, 1, 1),
        "cam2world": torch.eye(4).repeat(num_instances, 1, 1),
        "intrinsics": intrinsics.repeat(num_instances, 1, 1),
        "rgb": torch.rand(num_instances, side * side, 4),
    }


def optimizers_of(model):
    """As the stages make them."""
    sparse = []
    if model.latent_codes is not None:
        sparse = [torch.optim.SparseAdam([model.latent_codes.weight], lr=1e-2, betas=(0.5, 0.5), eps=1e-5)]
    return [*sparse, torch.optim.Adam(model.networks(), lr=1e-2, fused=True)]


def train_step(model, optimizers, batch):
    outputs = model(batch)
    rgb = outputs["rgb"]
    loss = (rgb - batch["rgb"][..., : rgb.shape[-1]]).square().mean()
    if "seg_logits" in outputs:
        loss = loss + outputs["seg_logits"].square().mean()
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()


def trained(**sizes):
    """A tiny SRN after two steps, its optimizers, and the batch it was trained on."""
    torch.manual_seed(0)
    model = srns.SRN(**TINY | sizes)
    optimizers, batch = optimizers_of(model), batch_of(TINY["num_instances"])
    for _ in range(2):
        train_step(model, optimizers, batch)
    return model, optimizers, batch


def contents_of(model, optimizers):
    return copy.deepcopy(
        {
            "model": model.state_dict(),
            "sizes": model.sizes,
            "instances": ["a", "b", "c"],
            "settings": published.SETTINGS,
            "step": 2,
            "path": "ours.pth",
            **{f"optimizer_{i}": optimizer.state_dict() for i, optimizer in enumerate(optimizers)},
        }
    )


def there_and_back(contents, form, tmp_path):
    """Ours, written in a published form, read again as a user would; and the notes."""
    written, notes = published.to_published(contents, form)
    checkpoints.save(tmp_path / "epoch_0000_iter_000002.pth", written)
    return checkpoints.load(tmp_path), notes


def assert_same_state(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def assert_same_moments(found, expected):
    assert found["step"] == expected["step"]
    assert torch.equal(found["exp_avg"], expected["exp_avg"])
    assert torch.equal(found["exp_avg_sq"], expected["exp_avg_sq"])


@pytest.mark.parametrize(
    "form, sizes",
    [
        ("semantic", dict(rgb_channels=4, num_classes=3)),
        ("semantic", dict(rgb_channels=4)),
        ("srn2019", {}),
        ("srn2019", dict(fit_single_srn=True)),
    ],
)
def test_there_and_back_nothing_changes_and_training_goes_on_as_if_nothing_had_happened(form, sizes, tmp_path):
    model, optimizers, batch = trained(**sizes)
    contents = contents_of(model, optimizers)
    back, notes = there_and_back(contents, form, tmp_path)
    assert_same_state(back["model"], contents["model"])
    no_codes = dict(num_instances=None, latent_dim=256) if "fit_single_srn" in sizes else {}
    assert back["sizes"] == contents["sizes"] | no_codes | dict(tracing_steps=None) and back["step"] == 2
    assert not any("left out" in note for note in notes)

    resumed = checkpoints.load_srn(back, tracing_steps=2)
    resumed_optimizers = optimizers_of(resumed)
    checkpoints.restore_optimizers(back, resumed_optimizers)
    for each in ((model, optimizers), (resumed, resumed_optimizers)):
        train_step(*each, batch)
    for (name, tensor), again in zip(model.state_dict().items(), resumed.state_dict().values()):
        assert torch.equal(tensor, again), name


def test_a_model_that_is_given_its_codes_goes_there_and_back(tmp_path):
    contents = contents_of(srns.SRN(**TINY, has_params=True), [])
    back, _ = there_and_back(contents, "srn2019", tmp_path)
    assert_same_state(back["model"], contents["model"])
    assert back["sizes"] == contents["sizes"] | dict(num_instances=None, tracing_steps=None)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_heads_go_there_and_back_with_their_optimizer(kind, tmp_path):
    torch.manual_seed(0)
    head = srns.HEADS[kind](8, 3)
    optimizer = torch.optim.Adam(head.parameters(), fused=True)
    head(torch.rand(5, 8)).square().sum().backward()
    optimizer.step()
    contents = {
        "model": head.state_dict(),
        "sizes": dict(kind=kind, in_features=8, num_classes=3),
        "optimizer_0": optimizer.state_dict(),
    }
    back, notes = there_and_back(contents, "semantic", tmp_path)
    assert notes == [] and back["sizes"] == contents["sizes"]
    assert_same_state(back["model"], contents["model"])
    for i, state in contents["optimizer_0"]["state"].items():
        assert_same_moments(back["optimizer_0"]["state"][i], state)


@pytest.mark.parametrize("form", published.FORMS)
def test_after_fitting_codes_only_their_optimizer_is_kept(form, tmp_path):
    model, optimizers, _ = trained(rgb_channels=3 if form == "srn2019" else 4)
    back, _ = there_and_back(contents_of(model, optimizers[:1]), form, tmp_path)
    assert "optimizer_1" not in back
    assert_same_moments(back["optimizer_0"]["state"][0], optimizers[0].state_dict()["state"][0])


def test_an_optimizer_without_any_state_is_as_none(capsys):
    contents, _ = published.to_published(contents_of(*trained(rgb_channels=4)[:2]), "semantic")
    contents["optimizer_1"] = {"state": {}, "param_groups": [{"params": []}]}
    assert "optimizer_1" not in published.from_published(contents, "fitted.pth")
    assert capsys.readouterr().out == ""


def test_the_published_programs_can_load_the_optimizers():
    """Into optimizers of their kinds, over the parameters in the order that their modules register them."""
    model, optimizers, batch = trained(rgb_channels=4, num_classes=3)
    contents, _ = published.to_published(contents_of(model, optimizers), "semantic")
    ours = dict(model.named_parameters())
    names = [name for name in ours if not name.startswith("class_generator.")]
    names.append("class_generator.out_layer.0.net.1.weight")
    names += [name for name in ours if name not in names]
    theirs = [
        torch.optim.SparseAdam([ours[names[0]]], lr=4e-4, betas=(0.5, 0.5), eps=1e-5),
        torch.optim.Adam([ours[name] for name in names[1:]], lr=4e-4),
    ]
    for i, optimizer in enumerate(theirs):
        optimizer.load_state_dict(contents[f"optimizer_{i}"])
    for parameter in ours.values():
        expected = next(o.state[parameter] for o in optimizers if parameter in o.state)
        found = next(o.state[parameter] for o in theirs if parameter in o.state)
        assert_same_moments(found, expected)
    train_step(model, theirs, batch)


# Changes between the forms


def test_a_model_of_three_colours_gets_an_alpha_of_one_in_the_semantic_form():
    model, optimizers, batch = trained()
    contents, notes = published.to_published(contents_of(model, optimizers), "semantic")
    assert [any(word in note for note in notes) for word in ("alpha", "U-Net", "optimizers")] == [True] * 3
    assert not any(entry.startswith("optimizer") for entry in contents)
    checkpoint = published.from_published(contents, "semantic.pth") | {"path": "semantic.pth"}
    rgba = checkpoints.load_srn(checkpoint, tracing_steps=2)(batch)["rgb"]
    assert rgba.shape[-1] == 4 and (rgba[..., 3] == 1).all()
    assert torch.equal(rgba[..., :3], model(batch)["rgb"])


def test_a_semantic_model_loses_alpha_and_classes_in_the_form_of_2019():
    model, optimizers, batch = trained(rgb_channels=4, num_classes=3)
    contents, notes = published.to_published(contents_of(model, optimizers), "srn2019")
    assert [any(word in note for note in notes) for word in ("alpha", "U-Net", "optimizers")] == [True] * 3
    assert list(contents) == ["model"] and not any("class_generator" in key for key in contents["model"])
    assert contents["model"]["pixel_generator.net.5.weight"].untyped_storage().nbytes() == 3 * 8 * 4
    checkpoint = published.from_published(contents, "2019.pth") | {"path": "2019.pth"}
    outputs = checkpoints.load_srn(checkpoint, tracing_steps=2)(batch)
    assert "seg_logits" not in outputs and torch.equal(outputs["rgb"], model(batch)["rgb"][..., :3])


def test_a_unet_renderer_loses_alpha_under_each_of_its_names():
    with torch.device("meta"):
        model = srns.SRN(**TINY, rgb_channels=4, use_unet_renderer=True)
    entries = published.to_published(contents_of(model, []), "srn2019")[0]["model"]
    weights = [tensor for key, tensor in entries.items() if "out_layer" in key and key.endswith("weight")]
    assert [weight.shape[0] for weight in weights] == [1, 3, 3, 3]  # the first is the ray marcher's


@pytest.mark.parametrize("form", published.FORMS)
def test_codes_are_written_in_the_order_of_the_names_with_their_optimizer(form):
    model, optimizers, _ = trained(rgb_channels=3 if form == "srn2019" else 4)
    ours = contents_of(model, optimizers) | {"instances": ["c", "a", "b"]}
    contents, notes = published.to_published(ours, form)
    assert any("sorted" in note for note in notes)
    assert torch.equal(contents["model"][published.CODES], model.latent_codes.weight[[1, 2, 0]])
    moments = contents["optimizer" if form == "srn2019" else "optimizer_0"]["state"][0]["exp_avg_sq"]
    assert torch.equal(moments, ours["optimizer_0"]["state"][0]["exp_avg_sq"][[1, 2, 0]])
    assert torch.equal(ours["model"][published.CODES], model.latent_codes.weight)  # and ours is as it was


def test_what_the_published_programs_must_be_told_is_noted():
    contents = contents_of(srns.SRN(**TINY), []) | {"settings": {"pixel_center": 0.5, "blend_alpha": True}}
    notes = " ".join(published.to_published(contents, "srn2019")[1])
    for words in ("--tracing_steps 2", "--embedding_size 4", "phi has 8 features", "0.5"):
        assert words in notes


@pytest.mark.parametrize("variant", published.ONLY_IN_2019)
def test_what_the_semantic_program_does_not_have_is_refused(variant):
    contents = {"model": {}, "sizes": SIZES | {variant: True}, "path": "ours.pth"}
    with pytest.raises(util.InputError, match=f"^ours.pth: .* has no {published.ONLY_IN_2019[variant]}"):
        published.to_published(contents, "semantic")


def test_what_the_program_of_2019_does_not_have_is_refused():
    contents = {"model": {}, "sizes": VARIANTS["linear_head"][1], "path": "head.pth"}
    with pytest.raises(util.InputError, match="^head.pth: holds a segmentation head"):
        published.to_published(contents, "srn2019")


# Files that are not as they should be


SEMANTIC = dict(rgb_channels=4, num_classes=3)


@pytest.fixture(scope="module")
def semantic():
    """A tiny semantic SRN in the published form. Not to be changed."""
    return published.to_published(contents_of(srns.SRN(**TINY | SEMANTIC), []), "semantic")[0]["model"]


def load_spoilt(tmp_path, state, changes):
    """Load an SRN's state dict with some entries replaced, or left out where they are None."""
    state = {key: tensor for key, tensor in (state | changes).items() if tensor is not None}
    torch.save({"model": state}, tmp_path / "spoilt.pth")
    return checkpoints.load_srn(checkpoints.load(tmp_path / "spoilt.pth"))


HYPER = "hyper_phi.layers.0.hyper_linear."


@pytest.mark.parametrize(
    "changes, complaint",
    [
        ({"ray_marcher.out_layer.bias": None}, "ray_marcher.out_layer.bias is missing"),
        ({f"{HYPER}slave_params.net.0.net.0.bias": None}, f"{HYPER}hypo_params.net.0.net.0.bias is missing"),
        ({"class_generator.in_layer.0.net.1.weight": None}, "in_layer.0.net.1.weight is missing"),
        ({"ray_marcher.lstm.weight_ih": None}, "ray_marcher.lstm.weight_ih is missing"),
        ({"class_generator.out_layer.0.net.1.weight": None}, "out_layer.0.net.1.weight is missing"),
        ({"pixel_generator.net.5.weight": None}, "pixel_generator.net.5.weight is missing"),
        ({published.CODES: None, f"{HYPER}slave_params.net.0.net.0.weight": None}, "net.0.weight is missing"),
        ({"ray_marcher.extra": torch.zeros(1)}, "ray_marcher.extra is unexpected"),
        ({"ray_marcher.lstm.bias_ih": torch.zeros(3)}, r"ray_marcher.lstm.bias_ih is \(3,\), expected \(64,\)"),
        ({published.CODES: torch.zeros(4)}, r"latent_codes.weight is \(4,\)"),
        ({published.CODES: torch.zeros(0, 4)}, r"latent_codes.weight is \(0, 4\)"),
        ({published.CODES: [1, 2]}, "expected a tensor for latent_codes.weight, found a list"),
        ({3: torch.zeros(1)}, "expected a tensor for 3"),
        (
            {"class_generator.out_layer_weight": torch.zeros(3, 128, 3, 3)},
            "class_generator.out_layer_weight and class_generator.out_layer.0.weight are names of one",
        ),
        (
            {"class_generator.in_layer.0.weight": torch.zeros(1)},
            "class_generator.in_layer.0.weight and class_generator.in_layer.0.net.1.weight are names",
        ),
        (
            {f"{HYPER}hypo_params.net.2.bias": torch.zeros(32)},
            f"{HYPER}slave_params.net.2.bias and {HYPER}hypo_params.net.2.bias are names of one",
        ),
    ],
)
def test_an_entry_that_is_not_as_it_should_be_is_named(semantic, tmp_path, changes, complaint):
    with pytest.raises(util.InputError, match=f"spoilt.pth: .*{complaint}") as error:
        load_spoilt(tmp_path, semantic, changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("keys, found", [([], "found nothing"), (["conv.weight", "fc"], "found conv.weight, fc")])
def test_a_file_of_something_else_is_told_by_what_it_holds(tmp_path, keys, found):
    torch.save({"model": {key: torch.zeros(1) for key in keys}}, tmp_path / "other.pth")
    with pytest.raises(util.InputError, match=f"other.pth: not a checkpoint of an SRN .* {found}"):
        checkpoints.load(tmp_path / "other.pth")


def test_a_diverged_model_is_named(semantic, tmp_path):
    """NaN does not equal itself, but aliases that share their memory are the same."""
    state = copy.deepcopy(semantic)
    state["class_generator.out_layer_weight"].fill_(float("nan"))
    with pytest.raises(util.InputError, match="class_generator.out_layer.0.net.1.weight holds numbers that are not finite"):
        load_spoilt(tmp_path, state, {})


def test_what_shares_memory_or_values_need_not_be_the_same():
    ones = torch.ones(2, 3)
    assert published.same(ones, ones.clone()) and published.same(ones, ones.view(2, 3))
    for other in (ones[:1], ones.view(3, 2), ones.double(), 2 * ones):
        assert not published.same(ones, other)


def test_a_model_saved_from_within_data_parallel_is_read(semantic, tmp_path):
    state = {f"module.{key}": tensor for key, tensor in semantic.items()}
    model = load_spoilt(tmp_path, state, {})
    assert torch.equal(model.latent_codes.weight, semantic[published.CODES])


@pytest.mark.parametrize(
    "optimizer",
    [
        None,
        {},
        {
            "state": {1: {"step": 1, "exp_avg": torch.zeros(3, 4), "exp_avg_sq": torch.zeros(3, 4)}},
            "param_groups": [{"params": [0, 1]}],
        },
        {
            "state": {0: {"step": 1, "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}},
            "param_groups": [{"params": [0]}],
        },
        {"state": {0: 3}, "param_groups": [{"params": [0]}]},
    ],
)
def test_an_optimizer_that_does_not_fit_is_left_out_with_a_word(semantic, capsys, optimizer):
    checkpoint = published.from_published({"model": semantic, "optimizer_0": optimizer}, "odd.pth")
    assert "optimizer_0" not in checkpoint
    assert "note: odd.pth: left out optimizer_0, which does not fit the model" in capsys.readouterr().out


def test_parameters_without_a_state_stay_without(semantic):
    """In the code of 2019 one Adam held everything, and latent fitting moved only the codes."""
    state = {name.replace("slave_params", "hypo_params"): tensor for name, tensor in semantic.items()}
    num_parameters = sum(1 for _ in srns.SRN(**TINY | SEMANTIC).parameters())
    moments = {"step": 7, "exp_avg": torch.ones(3, 4), "exp_avg_sq": torch.ones(3, 4)}
    optimizer = {"state": {0: moments}, "param_groups": [{"params": list(range(num_parameters))}]}
    checkpoint = published.from_published({"model": state, "optimizer": optimizer}, "fitted.pth")
    assert checkpoint["optimizer_0"]["state"][0]["step"] == 7 and "optimizer_1" not in checkpoint
