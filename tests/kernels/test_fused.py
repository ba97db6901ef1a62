"""The C code for what every ray goes through, against the PyTorch code that it stands in for."""

import copy
import shutil

import pytest
import scenes
import torch

import geometry
import test
import train
import util
from kernels import fused
from rendering.precision import PRECISIONS, autocast
from tests.training.test_objectives import WEIGHTS, assert_same, gradients_of, make_batch, make_model, reference_terms
from training import objectives

pytestmark = pytest.mark.skipif(not fused.use(), reason="needs gcc or clang")
TOLERANCE = 2e-5  # of the largest entry, from float64; PyTorch's float32 comes to 6e-6 in these


@pytest.fixture
def calls(monkeypatch):
    """Names of what is computed in C, one after the other."""
    seen = []
    for name in ("layers", "march"):
        monkeypatch.setattr(fused, name, spied(seen, name, getattr(fused, name)))
    return seen


def spied(seen, name, function):
    def call(*arguments):
        seen.append(name)
        return function(*arguments)

    return call


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A folder without a compiled library, and what will be in it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "semantic_srn"


def outputs_and_gradients(model, batch, wanted=("points", "depth_steps", "features", "rgb"), scale=1.0):
    """What a model gives and, of some loss that looks at all of it, the gradients."""
    model.zero_grad()
    outputs = model.per_ray(batch)
    generator = torch.Generator().manual_seed(3)
    looks = {name: torch.randn(outputs[name].shape, generator=generator, dtype=torch.float64) for name in wanted}
    sum((outputs[name] * looks[name].to(outputs[name])).sum() for name in wanted).mul(scale).backward()
    found = {name: outputs[name].detach() for name in wanted}
    return found | {name: p.grad.to_dense().clone() for name, p in model.named_parameters() if p.grad is not None}


def batch_of(num_views, num_rays):
    batch = make_batch(range(num_views), dtype=torch.float64)
    return {name: x[:, :num_rays] if name in ("uv", "rgb", "seg_labels") else x for name, x in batch.items()}


def in_float32(batch):
    return {name: x.float() if x.is_floating_point() else x for name, x in batch.items()}


@pytest.fixture(scope="module")
def kept_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


LIBRARIES = {  # further flags, and whether those of this processor are among them
    "as compiled here": ([], True),
    "wide vectors": (["-DLANES=16"], True),
    "no vectors": (["-O1"], False),
}


@pytest.fixture(params=LIBRARIES)
def library(request, kept_cache, monkeypatch):
    """The library for this processor, for one with wider vectors, and for any."""
    flags, is_for_this_processor = LIBRARIES[request.param]
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept_cache))
    monkeypatch.setattr(fused, "FLAGS", [*fused.FLAGS, *flags])
    if not is_for_this_processor:
        monkeypatch.setattr(fused, "FLAGS_OF_CAPABILITY", {})


SHAPES = {  # sizes of the SRN, views, rays of each
    "more rays than go together": (dict(), 1, 256),
    "few rays of several instances": (dict(), 3, 37),
    "one ray": (dict(), 1, 1),
    "wide": (dict(hidden_features=112, latent_dim=16), 2, 130),
    "no hypernetwork": (dict(fit_single_srn=True), 2, 100),
}


@pytest.mark.parametrize("name", SHAPES)
def test_c_agrees_with_pytorch(name, library, calls):
    sizes, num_views, num_rays = SHAPES[name]
    model, batch = make_model(**sizes), batch_of(num_views, num_rays)
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):  # they start as 1 and 0, with which much goes unnoticed
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
    expected = outputs_and_gradients(model, batch)
    assert calls == []
    fused.use("on")
    found = outputs_and_gradients(copy.deepcopy(model).float(), in_float32(batch))
    assert calls.count("march") == 1 and calls.count("layers") >= 2  # phi at the surface, and the colours
    assert_same({name: x.double() for name, x in found.items()}, expected, TOLERANCE)


def test_no_rays_at_all():
    model, batch = make_model(torch.float32), in_float32(batch_of(2, 0))
    fused.use("on")
    outputs = model.per_ray(batch)
    assert outputs["features"].shape == (2, 0, 16) and outputs["depth_steps"].shape == (3, 2, 0, 1)


def test_frozen_networks_get_no_gradient_but_pass_it_on(calls):
    model, batch = make_model(), batch_of(3, 50)
    model.freeze_networks()
    expected = outputs_and_gradients(model, batch)
    fused.use("on")
    found = outputs_and_gradients(model.float(), in_float32(batch))
    assert "march" in calls and "latent_codes.weight" in found and len(found) == 5
    assert_same({name: x.double() for name, x in found.items()}, expected, TOLERANCE)


def test_the_gradient_of_the_state_is_limited(monkeypatch):
    """The loss is so steep that it matters."""
    model, batch = make_model(), batch_of(2, 60)
    expected = outputs_and_gradients(model, batch, scale=1e3)
    fused.use("on")
    limited = outputs_and_gradients(copy.deepcopy(model).float(), in_float32(batch), scale=1e3)
    monkeypatch.setattr("custom_layers.GRADIENT_LIMIT", 1e9)
    free = outputs_and_gradients(copy.deepcopy(model).float(), in_float32(batch), scale=1e3)
    name = "ray_marcher.lstm.weight_hh"
    assert_same({name: limited[name].double()}, {name: expected[name]}, TOLERANCE)
    assert (free[name] - expected[name]).abs().max() > 0.1 * expected[name].abs().max()


def test_what_is_not_a_number_stays_so():
    """A zero in its place would let training go on, on nothing."""
    model, batch = make_model(torch.float32), in_float32(batch_of(2, 20))
    fused.use("on")
    with torch.no_grad():
        model.latent_codes.weight[batch["instance_idx"][1]] = torch.nan
    outputs = model.per_ray(batch)
    for name in ("depth", "features", "rgb"):
        assert outputs[name][0].isfinite().all() and outputs[name][1].isnan().all()


def test_without_gradients_the_result_is_the_same_and_nothing_is_kept(monkeypatch):
    model, batch = make_model(torch.float32), in_float32(batch_of(2, 150))
    fused.use("on")
    expected = model.per_ray(batch)
    monkeypatch.setattr(fused._Stack, "keep", None)
    with torch.inference_mode():
        found = model.per_ray(batch)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_one_optimizer_step_of_a_training_in_blocks_leads_to_the_same_weights(calls):
    """From the published way: everything at once, in PyTorch."""
    batch = in_float32(make_batch())
    plain = make_model(torch.float32)
    fast = copy.deepcopy(plain)
    for model in (plain, fast):
        fused.use("off" if model is plain else "on")
        objective = objectives.SRNObjective(model, WEIGHTS, rays_per_block=100)
        terms = reference_terms(model, batch) if model is plain else objective(batch)
        gradients_of(model, terms)
        torch.optim.Adam(model.networks(), lr=1e-3).step()
    assert calls.count("march") == 9
    assert_same(dict(fast.named_parameters()), dict(plain.named_parameters()), 2e-5)


UNSUITED = {
    "float64": lambda model, batch: (model.double(), batch_of(2, 40)),
    "a width of 20": lambda model, batch: (make_model(torch.float32, hidden_features=20, latent_dim=10), batch),
    "several threads": lambda model, batch: torch.set_num_threads(2) or (model, batch),
    "bfloat16": lambda model, batch: (model, batch),
}


@pytest.mark.parametrize("name", UNSUITED)
def test_pytorch_computes_what_c_does_not(name, calls):
    fused.use("on")
    try:
        model, batch = UNSUITED[name](make_model(torch.float32), in_float32(batch_of(2, 40)))
        with autocast("cpu", name if name in PRECISIONS else "float32"):
            z, phi = model.scene(batch)
            calls.clear()
            model.per_ray(batch, (z, phi))
    finally:
        torch.set_num_threads(1)
    assert calls == []


def test_marches_that_c_does_not_know_are_left_to_pytorch(calls):
    """A phi without layers, rays with gradients of their own, steps that keep nothing."""
    model, batch = make_model(torch.float32), in_float32(batch_of(2, 40))
    rays = geometry.cast(batch["uv"], batch["cam2world"], batch["intrinsics"])
    fused.use("on")
    _, phi = model.scene(batch)
    march = model.ray_marcher.march
    march(lambda points: phi(points), rays)
    march(phi, rays._replace(origin=rays.origin.clone().requires_grad_()))
    model.ray_marcher.checkpoint_steps = True
    march(phi, rays)
    assert "march" not in calls
    with torch.no_grad():
        march(phi, rays)
    assert calls[-1] == "march"


def test_it_is_compiled_once_for_a_source_and_flags(own_cache, monkeypatch):
    monkeypatch.setattr(fused, "FLAGS", [*fused.FLAGS, "-O0"])  # the sooner it is done
    assert not own_cache.exists() and fused.use("auto") and fused.use("on")
    first = list(own_cache.iterdir())
    assert len(first) == 1
    monkeypatch.setattr(fused, "FLAGS", [*fused.FLAGS, "-DLANES=16"])
    assert fused.use("on") and len(list(own_cache.iterdir())) == 2
    monkeypatch.setenv("CC", "env gcc" if shutil.which("gcc") else "env clang")  # a command with an argument, as for ccache
    assert fused.use("on") and len(list(own_cache.iterdir())) == 3
    monkeypatch.setenv("CC", "no-such-compiler")
    assert not fused.use("auto")
    monkeypatch.delenv("CC")
    assert not fused.use("off") and not fused.use("auto", "cuda:0")


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_pytorch_computes_unless_c_was_asked_for(compiler, own_cache, monkeypatch, capsys):
    monkeypatch.setenv("CC", compiler)
    assert not fused.use("auto")
    told = capsys.readouterr().out
    assert told.startswith("note: fused.c could not be compiled (") and compiler in told
    with pytest.raises(util.InputError, match="--fused on: fused.c could not be compiled"):
        fused.use("on")
    assert not list(own_cache.glob("*"))


def test_no_compiler_at_all(own_cache, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not fused.use("auto")
    with pytest.raises(util.InputError, match="no gcc, clang or cc was found"):
        fused.use("on")


def test_programs_use_it_as_they_are_told(ball_split, tmp_path, calls, monkeypatch, refuses):
    """A training and a rendering of it, in C and not."""
    for how in ("on", "off"):
        logs = tmp_path / how
        given = scenes.train_options(ball_split, logs, "run", class_weight=0, hidden_features=16, fused=how)
        train.main(given)
        assert ("march" in calls) == (how == "on")
        calls.clear()
        shown = scenes.test_options(ball_split, logs, "shown", checkpoint_path=logs / "run", fused=how)
        test.main(shown)
        assert ("march" in calls) == (how == "on")
        calls.clear()
    monkeypatch.setenv("CC", "no-such-compiler")
    for main, arguments in ((train.main, given), (test.main, shown)):
        refuses(main, [*arguments, "--fused", "on"], "--fused on: fused.c could not be compiled")
        refuses(main, [*arguments, "--fused", "on", "--compile"], "two ways to the same end")
