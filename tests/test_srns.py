import pytest
import scenes
import torch

import geometry
import srns
import util


@pytest.mark.parametrize(
    "variant, sizes", [("srn_semantic", dict(rgb_channels=4, num_classes=7)), ("srn_vanilla", dict(rgb_channels=3))]
)
def test_state_dict_has_the_published_keys_and_shapes(parity, variant, sizes):
    with torch.device("meta"):
        model = srns.SRN(4, **sizes)
    entries = [e for e in parity.manifest["variants"][variant]["state_dict"] if not e.get("alias_of")]
    published = {e["key"].replace("slave_params", "hypo_params"): tuple(e["shape"]) for e in entries}
    assert {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()} == published
    assert sum(p.numel() for p in model.parameters()) == parity.manifest["variants"][variant]["parameters"]


# Behaviour, on tiny models


def tiny(num_instances=3, num_classes=None, **sizes):
    torch.manual_seed(0)
    sizes = dict(latent_dim=8, hidden_features=16, tracing_steps=3) | sizes
    model = srns.SRN(num_instances, num_classes=num_classes, **sizes)
    torch.nn.init.normal_(model.latent_codes.weight)  # fresh codes are too similar to give different images
    return model


def some_batch(side=16, instances=(0, 2)):
    batch = len(instances)
    eyes = geometry.on_sphere(torch.arange(batch) * 70.0, torch.full((batch,), 15.0), 1.3)
    return {
        "instance_idx": torch.tensor(instances),
        "uv": geometry.pixel_grid(side, side, 0.5).expand(batch, -1, 2),
        "cam2world": geometry.look_at(eyes),
        "intrinsics": torch.tensor([[1.2 * side, 0, side / 2], [0, 1.2 * side, side / 2], [0, 0, 1]]).expand(batch, 3, 3),
    }


def test_outputs_have_the_shapes_that_the_docstring_promises():
    outputs = tiny(num_classes=5, rgb_channels=4)(some_batch())
    assert {name: tuple(tensor.shape) for name, tensor in outputs.items()} == {
        "z": (2, 8),
        "points": (2, 256, 3),
        "depth": (2, 256, 1),
        "depth_steps": (3, 2, 256, 1),
        "features": (2, 256, 16),
        "rgb": (2, 256, 4),
        "seg_logits": (2, 256, 5),
    }


def test_the_colour_is_that_of_the_features_at_the_point_of_the_last_depth():
    model, batch = tiny(), some_batch()
    outputs = model(batch)
    points = scenes.camera_to_world(geometry.lift(batch["uv"], outputs["depth"], batch["intrinsics"]), batch["cam2world"])
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


def test_without_classes_any_number_of_rays_is_accepted():
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


def test_a_frozen_srn_cannot_be_put_back_into_train_mode():
    model = tiny(num_classes=3)
    assert model.train().training
    model.freeze_networks()
    assert not any(module.training for module in model.train().modules())


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
    """phi's first layer computes W (R^T x) for every x, which turns the scene by R."""
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
