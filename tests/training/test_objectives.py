"""The fast objectives give the same terms, gradients and weights after a step as the plain one."""

import threading

import pytest
import torch

import geometry
import srns
import util
from rendering import blocks
from training import losses, objectives

SIDE = 16
WEIGHTS = objectives.Weights(image=200, classes=8, latent=1, depth=1e-3)
SIZES = dict(num_instances=5, latent_dim=8, hidden_features=16, tracing_steps=3)


def make_batch(instances=(3, 1, 3), side=SIDE, dtype=torch.float64):
    """Views of some instances from different cameras, with a few unlabelled pixels."""
    torch.manual_seed(1)
    num_views = len(instances)
    eyes = geometry.on_sphere(50.0 * torch.arange(num_views), torch.full((num_views,), 20.0), 1.3)
    intrinsics = torch.tensor([[20.0, 0, 8], [0, 20.0, 8], [0, 0, 1]])
    seg_labels = torch.randint(3, (num_views, side**2))
    seg_labels[0, : side**2 // 3] = util.UNLABELLED
    batch = {
        "instance_idx": torch.tensor(instances),
        "uv": geometry.pixel_grid(side, side).expand(num_views, -1, -1),
        "cam2world": geometry.look_at(eyes),
        "intrinsics": intrinsics.expand(num_views, 3, 3),
        "rgb": 2 * torch.rand(num_views, side**2, 4) - 1,
        "seg_labels": seg_labels,
    }
    return {name: x.to(dtype) if x.is_floating_point() else x for name, x in batch.items()}


def make_model(dtype=torch.float64, **sizes):
    torch.manual_seed(0)
    model = srns.SRN(**SIZES | sizes).to(dtype)
    if model.latent_codes is not None:
        torch.nn.init.normal_(model.latent_codes.weight)
    model.ray_marcher.aim_at(1.3)
    return model


def reference_terms(model, batch, head=None, with_classes=False):
    """The loss of the paper, over all rays at once."""
    outputs = model(batch, with_classes)
    if head is not None:
        outputs["seg_logits"] = head(outputs[head.reads])
    terms = {
        "regularization": WEIGHTS.depth * losses.depth_loss(outputs["depth"]),
        "distortion": WEIGHTS.image * losses.image_loss(outputs["rgb"], batch["rgb"][..., : outputs["rgb"].shape[-1]]),
    }
    if "z" in outputs:
        terms["latent"] = WEIGHTS.latent * losses.latent_loss(outputs["z"])
    if "seg_logits" in outputs:
        terms["class"] = WEIGHTS.classes * losses.segmentation_loss(outputs["seg_logits"], batch["seg_labels"])
    return terms


def gradients_of(model, terms):
    model.zero_grad()
    sum(terms.values()).backward()
    return {name: p.grad.to_dense().clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name in expected:
        scale = expected[name].abs().max().clamp(min=1e-12)
        assert (found[name] - expected[name]).abs().max() <= tolerance * scale, name


VARIANTS = {
    "vanilla": (dict(), 100),
    "some views at once": (dict(), 300),
    "semantic": (dict(num_classes=3), 100),
    "single": (dict(fit_single_srn=True), 100),
    "rgba": (dict(rgb_channels=4), 7),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_blocks_give_the_losses_and_gradients_of_all_rays_at_once(name):
    sizes, rays_per_block = VARIANTS[name]
    instances = (0, 0, 0) if name == "single" else (3, 1, 3)
    model, batch = make_model(**sizes), make_batch(instances)
    with_classes = model.class_generator is not None
    if with_classes:
        model.eval()  # batch norm sees whole images in both, but its running statistics must not change
    expected = reference_terms(model, batch, with_classes=with_classes)
    gradients = gradients_of(model, expected)
    terms = objectives.SRNObjective(model, WEIGHTS, None, with_classes, rays_per_block)(batch)
    assert_same({k: v.detach() for k, v in terms.items()}, {k: v.detach() for k, v in expected.items()}, 1e-12)
    assert_same(gradients_of(model, terms), gradients, 1e-10)


def test_a_head_takes_part_in_blocks_and_only_codes_have_gradients_then():
    model, batch = make_model(), make_batch()
    head = srns.LinearHead(16, 3).double().requires_grad_(False)
    model.freeze_networks()
    expected = reference_terms(model, batch, head)
    gradients = gradients_of(model, expected)
    terms = objectives.SRNObjective(model, WEIGHTS, head, rays_per_block=60)(batch)
    assert terms["class"].item() == pytest.approx(expected["class"].item(), rel=1e-12)
    found = gradients_of(model, terms)
    assert list(found) == ["latent_codes.weight"]
    assert_same(found, gradients, 1e-10)


def test_a_hypernetwork_that_is_evaluated_once_per_instance_gives_the_same():
    model, batch = make_model(), make_batch((1, 3, 3, 3))
    expected = reference_terms(model, batch)
    gradients = gradients_of(model, expected)
    grouped = batch | {"instances": torch.tensor([1, 3]), "instance_of": torch.tensor([0, 1, 1, 1])}
    evaluated = []
    model.hyper_phi.register_forward_hook(lambda module, z, phi: evaluated.append(len(z[0])))
    for rays_per_block in (0, 100):
        terms = objectives.SRNObjective(model, WEIGHTS, rays_per_block=rays_per_block)(grouped)
        assert_same(gradients_of(model, terms), gradients, 1e-10)
    assert evaluated == [2, 2]


def test_views_of_one_instance_are_one_matrix_product():
    model, batch = make_model(), make_batch((2, 2))
    one = batch | {"instances": torch.tensor([2]), "instance_of": torch.tensor([0, 0])}
    _, phi = model.scene(one)
    assert len(phi) == 1
    for name, expected in model(batch).items():
        torch.testing.assert_close(model(one)[name], expected, rtol=1e-10, atol=1e-12)


def test_marching_without_stored_activations_has_the_same_gradients():
    model, batch = make_model(), make_batch()
    gradients = gradients_of(model, reference_terms(model, batch))
    model.ray_marcher.checkpoint_steps = True
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        terms = objectives.SRNObjective(model, WEIGHTS)(batch)
    assert_same(gradients_of(model, terms), gradients, 1e-10)
    model.ray_marcher.checkpoint_steps = False
    kept_plainly = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept_plainly.append(x.numel()) or x, lambda x: x):
        reference_terms(model, batch)
    assert sum(kept) < 0.6 * sum(kept_plainly)


@pytest.mark.parametrize("kept_rays, marches", [(0, 2 * 9), (200, 2 * 9 - 2), (299, 2 * 9 - 2), (10**6, 9)])
def test_kept_rays_are_not_computed_twice_for_a_unet(monkeypatch, kept_rays, marches):
    model, batch = make_model(num_classes=3).eval(), make_batch()
    gradients = gradients_of(model, reference_terms(model, batch, with_classes=True))
    march, marched = model.ray_marcher.march, []
    monkeypatch.setattr(model.ray_marcher, "march", lambda *given: marched.append(1) or march(*given))
    terms = objectives.SRNObjective(model, WEIGHTS, None, True, rays_per_block=100, kept_rays=kept_rays)(batch)
    assert_same(gradients_of(model, terms), gradients, 1e-10)
    assert len(marched) == marches  # 3 views of 256 rays, 3 blocks each


def test_blocks_made_smaller_for_threads_are_kept_by_their_own_size(two_threads, monkeypatch):
    model, batch = make_model(num_classes=3).eval(), make_batch()
    march, marched = model.ray_marcher.march, []
    monkeypatch.setattr(model.ray_marcher, "march", lambda *given: marched.append(1) or march(*given))
    gradients_of(model, objectives.SRNObjective(model, WEIGHTS, None, True, rays_per_block=768, kept_rays=512)(batch))
    assert len(marched) == 2 * 3 - 2  # a view per block, two of them kept


def test_nothing_is_kept_where_no_gradient_is_asked_for():
    model, batch = make_model(num_classes=3).eval(), make_batch()
    with torch.no_grad():
        terms = objectives.SRNObjective(model, WEIGHTS, None, True, rays_per_block=100, kept_rays=10**6)(batch)
    expected = reference_terms(model, batch, with_classes=True)
    assert_same(terms, {name: term.detach() for name, term in expected.items()}, 1e-12)


@pytest.mark.parametrize("with_classes", [False, True])
def test_a_random_start_is_drawn_once_though_blocks_may_be_computed_twice(with_classes):
    model, batch = make_model(num_classes=3), make_batch()
    model.ray_marcher.initial_depth_std = 0.02
    found = []
    for rays_per_block in (0, 100):
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
        torch.manual_seed(5)
        objective = objectives.SRNObjective(model, WEIGHTS, None, with_classes, rays_per_block)
        found.append(gradients_of(model, objective(batch)))
    assert_same(found[1], found[0], 1e-9)


def test_the_clamp_of_the_marcher_acts_in_blocks_as_it_does_at_once():
    """The loss is so large that gradients at the hidden state are clamped."""
    weights = WEIGHTS._replace(image=1e9)
    model, batch = make_model(), make_batch()
    at_once = gradients_of(model, objectives.SRNObjective(model, weights)(batch))
    in_blocks = gradients_of(model, objectives.SRNObjective(model, weights, rays_per_block=50)(batch))
    assert_same(in_blocks, at_once, 1e-9)
    small = gradients_of(model, objectives.SRNObjective(model, WEIGHTS)(batch))
    name = "ray_marcher.lstm.weight_ih"
    assert at_once[name].norm() < 1e4 * small[name].norm() < 1e7 * small[name].norm()


def test_one_optimizer_step_leads_to_the_same_weights():
    after = []
    for rays_per_block in (0, 100):
        model, batch = make_model(torch.float32), make_batch(dtype=torch.float32)
        optimizer = torch.optim.Adam(model.networks(), lr=1e-3, fused=True)
        sum(objectives.SRNObjective(model, WEIGHTS, rays_per_block=rays_per_block)(batch).values()).backward()
        optimizer.step()
        after.append(model.state_dict())
    for name in after[0]:
        torch.testing.assert_close(after[1][name], after[0][name], rtol=0, atol=2e-5, msg=name)


def test_bfloat16_is_near_float32_and_keeps_geometry_and_losses_in_it():
    model, batch = make_model(torch.float32, hidden_features=64), make_batch(dtype=torch.float32)
    exact = objectives.SRNObjective(model, WEIGHTS)(batch)
    seen = []
    model.ray_marcher.lstm.register_forward_hook(lambda module, given, state: seen.append((given[0].dtype, state[1].dtype)))
    for rays_per_block in (0, 100):
        terms = objectives.SRNObjective(model, WEIGHTS, rays_per_block=rays_per_block, precision="bfloat16")(batch)
        assert terms["distortion"].dtype == torch.float32
        assert terms["distortion"].item() == pytest.approx(exact["distortion"].item(), rel=0.02)
        assert terms["distortion"].item() != exact["distortion"].item()
        found = gradients_of(model, terms)
        assert all(gradient.dtype == torch.float32 and gradient.isfinite().all() for gradient in found.values())
    assert set(seen) == {(torch.float32, torch.float32)}


@pytest.mark.parametrize("views, rays, most", [(3, 10, 4), (3, 10, 25), (5, 2, 4), (1, 7, 7), (2, 3, 0)])
def test_blocks_cover_every_ray_once(views, rays, most):
    seen = torch.zeros(views, rays)
    for block in blocks.split(views, rays, most, torch.device("cpu")):
        seen[block] += 1
        assert not most or seen[block].numel() <= most
    assert (seen == 1).all()


def test_a_block_without_a_label_adds_nothing_and_the_mean_is_over_all_labels():
    logits, labels = torch.randn(6, 3), torch.tensor([-1, -1, 2, 0, 1, -1])
    count = (labels >= 0).sum()
    parts = [losses.segmentation_loss(logits[i : i + 2], labels[i : i + 2], count) for i in (0, 2, 4)]
    assert parts[0] == 0
    torch.testing.assert_close(sum(parts), losses.segmentation_loss(logits, labels))


@pytest.mark.slow
def test_compiled_code_gives_the_same_and_is_compiled_once(monkeypatch):
    """Traced without code generation, which takes a minute."""
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compile_(function, backend="aot_eager"))
    torch.compiler.reset()
    plain, compiled = make_model(), make_model()
    compiled.compile_rays()
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    for step, instances in enumerate(((3, 1), (0, 4), (2, 3))):
        batch = make_batch(instances)
        with torch.compiler.set_stance("fail_on_recompile" if step else "default"):
            terms = objectives.SRNObjective(compiled, WEIGHTS, rays_per_block=128)(batch)
            found = gradients_of(compiled, terms)
        assert_same(found, gradients_of(plain, reference_terms(plain, batch)), 1e-10)
    torch.compiler.reset()


@pytest.mark.parametrize("with_classes, kept_rays", [(False, 0), (True, 0), (True, 300)])
def test_threads_share_the_blocks_and_nothing_else_changes(two_threads, monkeypatch, with_classes, kept_rays):
    model, batch = make_model(num_classes=3).eval(), make_batch()
    gradients = gradients_of(model, reference_terms(model, batch, with_classes=with_classes))
    by_whom, per_ray = set(), model.per_ray

    def watched(*arguments):
        by_whom.add((threading.current_thread().name, torch.get_num_threads()))
        return per_ray(*arguments)

    monkeypatch.setattr(model, "per_ray", watched)
    objective = objectives.SRNObjective(model, WEIGHTS, None, with_classes, rays_per_block=50, kept_rays=kept_rays)
    found = [gradients_of(model, objective(batch)) for _ in range(2)]
    assert_same(found[0], gradients, 1e-10)
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])  # always summed in the same order
    assert {name for name, _ in by_whom} >= {"blocks_0", "blocks_1"}
    assert all(count == 1 for name, count in by_whom if name.startswith("blocks"))
    assert torch.get_num_threads() == 2


def test_no_thread_is_left_without_a_block(two_threads):
    cpu, whole = torch.device("cpu"), [(slice(0, 4), slice(0, 300))]
    assert [blocks.num_rays_of(block) for block in blocks.split(4, 300, 2048, cpu)] == [600, 600]
    assert [blocks.num_rays_of(block) for block in blocks.split(1, 300, 2048, cpu)] == [256, 44]
    assert blocks.split(4, 300, 0, cpu) == blocks.split(4, 300, 2048, torch.device("cuda")) == whole
    used = []
    blocks.map_in_threads(lambda piece: used.append(torch.get_num_threads()), [1], cpu)
    assert used == [1]  # a single block runs without threads


def test_an_error_in_a_thread_is_raised(two_threads):
    def fail(piece):
        raise ValueError(f"piece {piece}")

    with pytest.raises(ValueError, match="piece 1"):
        blocks.map_in_threads(fail, [1, 2, 3, 4], torch.device("cpu"))
    assert torch.get_num_threads() == 2


def test_only_the_plain_sum_of_the_terms_can_be_differentiated():
    terms = objectives.SRNObjective(make_model(), WEIGHTS, rays_per_block=100)(make_batch())
    with pytest.raises(RuntimeError, match="only the plain sum"):
        (terms["distortion"] + 2 * terms["regularization"]).backward()
