from types import SimpleNamespace

import numpy as np
import pytest
import torch

import geometry
import losses
import srns
import util

F64 = torch.float64
WEIGHTS = dict(image=200, seg=8, latent=1, depth=0.001)


# The published numbers. Two models of more than 50 million parameters; each is made once, and not copied.


def published_model(parity, variant, dtype, **sizes):
    """An SRN with the weights of a published variant."""
    with torch.device("meta"):
        model = srns.SRN(4, **sizes)
    state = parity.state(variant, dtype)
    state = {key.replace("slave_params", "hypo_params"): tensor for key, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()


def published_case(parity, variant, dtype):
    """Batch and targets of a variant's fixture."""
    given = {
        name: torch.from_numpy(array) for name, array in parity.load(variant).items() if array.dtype.kind in "fiu"
    }
    return {
        "instance_idx": given["instance_idx"],
        "uv": given["uv"].to(dtype),
        "cam2world": given["pose"].to(dtype),
        "intrinsics": given["intrinsics"][:, :3, :3].to(dtype),
        "rgb": given["target_rgb"].to(dtype),
        **({"seg_labels": given["target_seg"][..., 0]} if "target_seg" in given else {}),
    }


def loss_terms(outputs, batch):
    terms = {
        "image": losses.image_loss(outputs["rgb"], batch["rgb"]),
        "latent": losses.latent_loss(outputs["z"]),
        "depth": losses.depth_loss(outputs["depth"]),
    }
    if "seg_logits" in outputs:
        terms["seg"] = losses.segmentation_loss(outputs["seg_logits"], batch["seg_labels"])
    return terms


def total_loss(terms):
    return sum(WEIGHTS[name] * term for name, term in terms.items())


def assert_losses_are_published(terms, published, prefix="", rel=1e-10):
    computed = terms | {"total": total_loss(terms)}
    for name, term in computed.items():
        assert term.item() == pytest.approx(published[f"{prefix}loss_{name}"].item(), rel=rel), name


def assert_gradients_are_published(model, published, parity, prefix="", rel=1e-9):
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    names = [name.replace("slave_params", "hypo_params") for name in published[f"{prefix}grad_names"]]
    assert set(names) == set(gradients)
    for row, name in enumerate(names):
        gradient = gradients[name].to_dense() if gradients[name].is_sparse else gradients[name]
        norm, dot = published[f"{prefix}grad_norm"][row], published[f"{prefix}grad_dot"][row]
        assert gradient.norm().item() == pytest.approx(norm, rel=rel), name
        if (
            gradient.dtype == F64 and gradient.numel() < 1_000_000
        ):  # a probe for the largest ones takes a second each
            probe = parity.weights.noise(
                f"probe/{published[f'{prefix}grad_names'][row]}", gradient.shape, np.float64
            )
            assert (gradient.numpy() * probe).sum() == pytest.approx(dot, abs=rel * norm), name


def assert_close(tensor, array, atol):
    np.testing.assert_allclose(tensor.detach(), array, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def semantic(parity):
    model = published_model(parity, "srn_semantic", F64, rgb_channels=4, num_classes=7)
    published = parity.load("srn_semantic_f64")
    return SimpleNamespace(model=model, batch=published_case(parity, "srn_semantic", F64), published=published)


@pytest.fixture
def fresh_gradients(semantic):
    """Leaves the model as it was: in eval mode, with the published statistics, without gradients."""
    statistics = {name: buffer.clone() for name, buffer in semantic.model.named_buffers()}
    yield
    semantic.model.eval().zero_grad()
    semantic.model.load_state_dict(statistics, strict=False)


@pytest.mark.parametrize(
    "variant, sizes",
    [("srn_semantic", dict(rgb_channels=4, num_classes=7)), ("srn_vanilla", dict(rgb_channels=3))],
)
def test_state_dict_has_the_published_keys_shapes_and_order_of_parameters(parity, variant, sizes):
    with torch.device("meta"):
        model = srns.SRN(4, **sizes)
    entries = [e for e in parity.manifest["variants"][variant]["state_dict"] if not e.get("alias_of")]
    published = {e["key"].replace("slave_params", "hypo_params"): tuple(e["shape"]) for e in entries}
    assert {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()} == published
    assert sum(p.numel() for p in model.parameters()) == parity.manifest["variants"][variant]["parameters"]


def test_the_semantic_srn_computes_the_published_outputs_losses_and_gradients(parity, semantic, fresh_gradients):
    """At last with 1000 times the loss, where the clamp on the gradient of the marcher's hidden state acts."""
    model, batch, published = semantic.model, semantic.batch, semantic.published
    outputs = model(batch)
    for name in ("rgb", "depth", "points", "z", "depth_steps"):
        assert_close(outputs[name], published[name], 1e-10)
    assert_close(outputs["seg_logits"], published["seg"], 1e-10)
    assert_close(outputs["features"][:, ::64], published["features"], 1e-10)
    terms = loss_terms(outputs, batch)
    assert_losses_are_published(terms, published)
    total = total_loss(terms)
    total.backward(retain_graph=True)
    assert_gradients_are_published(model, published, parity)

    model.zero_grad()
    (1000 * total).backward()
    lstm = [name.startswith("ray_marcher.lstm") for name in published["grad_names"]]
    assert (published["clamp_grad_norm"][lstm] < 900 * published["grad_norm"][lstm]).any()
    assert_gradients_are_published(model, published, parity, prefix="clamp_")


def test_the_semantic_srn_trains_with_the_published_batch_statistics(parity, semantic, fresh_gradients):
    model, batch, published = semantic.model.train(), semantic.batch, semantic.published
    outputs = model(batch)
    assert_close(outputs["seg_logits"], published["train_seg"], 1e-10)
    terms = loss_terms(outputs, batch)
    assert_losses_are_published(terms, published, prefix="train_")
    total_loss(terms).backward()
    assert_gradients_are_published(model, published, parity, prefix="train_")
    state = model.state_dict()
    for name, norm in zip(published["train_stat_names"], published["train_stat_norm"]):
        assert state[name].norm().item() == pytest.approx(norm, rel=1e-10), name


def test_phi_has_the_published_weights(semantic):
    with torch.no_grad():
        layers = semantic.model.hyper_phi(semantic.model.latent_codes(semantic.batch["instance_idx"])).layers
    assert_close(layers[0][0], semantic.published["phi0_weights"], 1e-10)
    assert_close(layers[0][1], semantic.published["phi0_biases"], 1e-10)
    assert_close(layers[3][1], semantic.published["phi3_biases"], 1e-10)


def test_latent_fitting_follows_the_published_trace(parity, semantic):
    """The first steps of it; only the codes move. Comes last of the tests of this model, since it moves them."""
    model, batch, trace = semantic.model, semantic.batch, parity.load("train_trace_f64")
    model.freeze_networks()
    optimizer = torch.optim.SparseAdam([model.latent_codes.weight], lr=4e-4, betas=(0.5, 0.5), eps=1e-5)
    for step in range(2):
        terms = loss_terms(model(batch, with_classes=False), batch)
        total = total_loss(terms)
        computed = [terms[name].item() for name in ("image", "latent", "depth")] + [total.item()]
        np.testing.assert_allclose(computed, trace["fit_losses"][step], rtol=1e-9)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        assert_close(model.latent_codes.weight, trace["fit_latent_codes"][step], 1e-9)


@pytest.mark.parametrize(
    "dtype, file, atol, rel_loss, rel_gradient",
    [(F64, "srn_vanilla_f64", 1e-10, 1e-10, 1e-9), (torch.float32, "srn_vanilla", 1e-4, 2e-5, 1e-3)],
    ids=["float64", "float32"],
)
def test_the_vanilla_srn_computes_the_published_outputs_losses_and_gradients(
    parity, dtype, file, atol, rel_loss, rel_gradient
):
    model, batch = published_model(parity, "srn_vanilla", dtype), published_case(parity, "srn_vanilla", dtype)
    published = parity.load(file)
    outputs = model(batch)
    assert_close(outputs["rgb"], published["rgb"], atol)
    assert_close(outputs["depth"], published["depth"], atol)
    terms = loss_terms(outputs, batch)
    assert_losses_are_published(terms, published, rel=rel_loss)
    total_loss(terms).backward()
    assert_gradients_are_published(model, published, parity, rel=rel_gradient)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("dtype, suffix, atol, rel", [(F64, "_f64", 1e-10, 1e-9), (torch.float32, "", 2e-5, 1e-3)])
def test_a_head_learns_as_published(parity, kind, dtype, suffix, atol, rel):
    given, published = parity.load(f"{kind}_head"), parity.load(f"{kind}_head{suffix}")
    head = srns.HEADS[kind](256, 7).to(dtype)
    head.load_state_dict(parity.state(f"{kind}_head", dtype))
    features = torch.from_numpy(given["features"]).to(dtype)
    seg_labels = torch.from_numpy(given["target_seg"])[..., 0]
    assert_close(head(features), published["seg"], atol)

    optimizer = torch.optim.Adam(head.parameters(), lr=4e-4)
    for step in range(5):
        loss = losses.segmentation_loss(head(features), seg_labels)
        assert loss.item() == pytest.approx(published["update_losses"][step], rel=10 * atol)
        optimizer.zero_grad()
        (8 * loss).backward()
        if step == 0:
            assert_gradients_are_published(head, published, parity, rel=rel)
        optimizer.step()
    assert_close(head(features), published["seg_after_update"], atol)


# Behaviour, on tiny models


def tiny(num_instances=3, num_classes=None, **sizes):
    torch.manual_seed(0)
    sizes = dict(latent_dim=8, hidden_features=16, tracing_steps=3) | sizes
    model = srns.SRN(num_instances, num_classes=num_classes, **sizes)
    torch.nn.init.normal_(model.latent_codes.weight)  # fresh codes are too near to each other to tell apart
    return model


def some_batch(side=16, instances=(0, 2)):
    batch = len(instances)
    eyes = geometry.on_sphere(torch.arange(batch) * 70.0, torch.full((batch,), 15.0), 1.3)
    return {
        "instance_idx": torch.tensor(instances),
        "uv": geometry.pixel_grid(side, side, 0.5).expand(batch, -1, 2),
        "cam2world": geometry.look_at(eyes),
        "intrinsics": torch.tensor([[1.2 * side, 0, side / 2], [0, 1.2 * side, side / 2], [0, 0, 1]]).expand(
            batch, 3, 3
        ),
    }


def test_outputs_have_the_shapes_that_the_docstring_promises():
    outputs = tiny(num_classes=5, rgb_channels=4)(some_batch())
    assert {name: tuple(tensor.shape) for name, tensor in outputs.items()} == {
        "z": (2, 8), "points": (2, 256, 3), "depth": (2, 256, 1), "depth_steps": (3, 2, 256, 1),
        "features": (2, 256, 16), "rgb": (2, 256, 4), "seg_logits": (2, 256, 5),
    }  # fmt: skip


def test_the_colour_is_that_of_the_features_at_the_point_of_the_last_depth():
    model, batch = tiny(), some_batch()
    outputs = model(batch)
    points = geometry.camera_to_world(
        geometry.lift(batch["uv"], outputs["depth"], batch["intrinsics"]), batch["cam2world"]
    )
    assert torch.allclose(outputs["points"], points, atol=1e-5)
    features = model.hyper_phi(outputs["z"])(points)
    assert torch.allclose(outputs["features"], features, atol=1e-4)
    assert torch.allclose(outputs["rgb"], model.pixel_generator(features), atol=1e-3)


def test_an_image_does_not_depend_on_its_batch_and_a_batch_of_one_works():
    model = tiny(num_classes=3).eval()
    together = model(some_batch())
    alone = model({name: tensor[1:] for name, tensor in some_batch().items()})
    for name in ("rgb", "depth", "seg_logits"):
        assert alone[name].shape[0] == 1
        assert torch.allclose(alone[name], together[name][1:], atol=1e-5), name


def test_every_instance_has_its_own_image():
    batch = some_batch(instances=(0, 1))
    batch["cam2world"] = batch["cam2world"][:1].expand(2, 4, 4)
    rgb = tiny()(batch)["rgb"]
    assert (rgb[0] - rgb[1]).abs().max() > 1e-2


def test_training_reaches_every_network_and_the_codes_of_the_batch_only():
    model = tiny(num_classes=3)
    outputs = model(some_batch())
    (outputs["rgb"].square().mean() + outputs["seg_logits"].square().mean()).backward()
    silent = [n for n, p in model.named_parameters() if not n.startswith("latent") and not p.grad.any()]
    assert not silent
    codes = model.latent_codes.weight.grad.to_dense()
    assert codes[0].any() and codes[2].any() and not codes[1].any()


def test_networks_are_all_parameters_but_the_codes():
    model = tiny(num_classes=3)
    assert len(model.networks()) == len(list(model.parameters())) - 1
    assert all(p is not model.latent_codes.weight for p in model.networks())


def test_without_classes_any_number_of_rays_will_do():
    model, batch = tiny(num_classes=3), some_batch()
    batch["uv"] = batch["uv"][:, :7]
    outputs = model(batch, with_classes=False)
    assert outputs["rgb"].shape == (2, 7, 3) and "seg_logits" not in outputs


def test_a_frozen_srn_learns_nothing_but_codes_and_keeps_its_statistics():
    model, batch = tiny(num_classes=3), some_batch()
    model.freeze_networks()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    outputs = model(batch)
    (outputs["rgb"].square().mean() + outputs["seg_logits"].square().mean()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["latent_codes.weight"]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_new_codes_replace_the_table_and_its_size():
    model = tiny()
    model.new_codes(50)
    assert model.latent_codes.weight.shape == (50, 8) and model.sizes["num_instances"] == 50
    assert model.latent_codes.weight.std().item() == pytest.approx(0.01, rel=0.2)
    assert model.latent_codes.weight.requires_grad and model.latent_codes.sparse
    assert model(some_batch(instances=(49,)))["rgb"].shape == (1, 256, 3)


def test_new_codes_can_start_near_a_given_one():
    model, start = tiny(), torch.arange(8.0)
    model.new_codes(20, start=start)
    assert (model.latent_codes.weight - start).abs().max() < 0.06


def test_fresh_codes_have_the_published_spread():
    torch.manual_seed(0)
    codes = srns.SRN(200, latent_dim=32, hidden_features=4).latent_codes.weight
    assert codes.std().item() == pytest.approx(0.01, rel=0.05) and abs(codes.mean().item()) < 1e-3


def test_sizes_rebuild_the_model():
    model = tiny(num_classes=3, rgb_channels=4)
    again = srns.SRN(**model.sizes)
    again.load_state_dict(model.state_dict())
    assert again.sizes == model.sizes and again.ray_marcher.num_steps == 3


def test_turning_camera_and_scene_together_leaves_the_image():
    """phi's first layer takes the turn back: W (R^T x) for every x, so the scene is turned by R."""
    model, batch = tiny().double(), some_batch()
    batch = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in batch.items()}
    rotation = geometry.look_at(torch.tensor([0.5, -0.3, 0.9]))[:3, :3].double()
    rotation = torch.linalg.qr(rotation).Q  # a rotation (or reflection) to the last bit
    before = model(batch)
    hyper = model.hyper_phi

    class Turned(torch.nn.Module):
        def forward(self, z):
            phi = hyper(z)
            weight, bias = phi.layers[0]
            return type(phi)([(weight @ rotation.T, bias), *phi.layers[1:]])

    model.hyper_phi = Turned()
    turn = torch.eye(4, dtype=torch.float64)
    turn[:3, :3] = rotation
    after = model(batch | {"cam2world": turn @ batch["cam2world"]})
    assert torch.allclose(after["rgb"], before["rgb"], atol=1e-9)
    assert torch.allclose(after["points"], before["points"] @ rotation.T, atol=1e-9)
    assert not torch.allclose(after["points"], before["points"], atol=1e-2)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_head_reads_each_feature_vector_on_its_own(kind):
    torch.manual_seed(0)
    head, features = srns.HEADS[kind](6, 4), torch.randn(2, 5, 6)
    assert head(features).shape == (2, 5, 4)
    assert torch.allclose(head(features[1, 3]), head(features)[1, 3], atol=1e-6)
    assert head.num_classes == 4


def test_the_unet_sees_the_features_where_their_pixels_are():
    model = tiny(num_classes=3).eval()
    outputs = model(some_batch())
    image = outputs["features"].unflatten(1, (16, 16)).permute(0, 3, 1, 2)
    expected = model.class_generator(image)
    assert torch.allclose(outputs["seg_logits"][:, 5 * 16 + 9], expected[:, :, 5, 9], atol=1e-5)
    assert torch.equal(util.as_image(outputs["features"]), image)
