"""Every backend of the layers and the march against the same in float64; which backend is chosen when."""

import copy
import os
import shutil
import stat
import threading

import pytest
import scenes
import torch

import geometry
import test
import train
import util
from kernels import backends, c, compiler
from rendering import blocks
from rendering.precision import PRECISIONS, autocast
from tests.training.test_objectives import WEIGHTS, assert_same, gradients_of, make_batch, make_model, reference_terms
from training import objectives

TOLERANCE = 2e-5  # of the largest entry, from float64; PyTorch's float32 comes to 6e-6 in these
HAS_COMPILER = backends.select("auto").startswith("kernels: C")
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason="needs gcc or clang")


@pytest.fixture
def calls(monkeypatch):
    """Names of what C computes, one after the other."""
    seen = []
    for name in ("layers", "march"):
        monkeypatch.setattr(c, name, spied(seen, name, getattr(c, name)))
    return seen


def spied(seen, name, function):
    def call(*arguments):
        seen.append(name)
        return function(*arguments)

    return call


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """The folder of compiled libraries, which does not exist yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "semantic_srn" / "kernels"


@pytest.fixture(scope="module")
def kept_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


BACKENDS = {  # the choice, further flags of the compiler, and whether those of this processor are among them
    "torch": ("torch", [], True),
    "c, as compiled here": ("c", [], True),
    "c, wide vectors": ("c", ["-DLANES=16"], True),
    "c, no vectors": ("c", ["-O1"], False),
}


@pytest.fixture(params=[pytest.param(name, marks=[needs_compiler] if name.startswith("c") else []) for name in BACKENDS])
def backend(request, kept_cache, monkeypatch):
    """A function that chooses the backend, so that the expected values are computed before; "torch" or "c" is its name."""
    choice, flags, is_for_this_processor = BACKENDS[request.param]
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept_cache))
    monkeypatch.setattr(compiler, "FLAGS", [*compiler.FLAGS, *flags])
    if not is_for_this_processor:
        monkeypatch.setattr(compiler, "FLAGS_OF_CAPABILITY", {})
    yield choice
    backends.select("torch")


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


SHAPES = {  # sizes of the SRN, views, rays of each
    "more rays than go together": (dict(), 1, 256),
    "few rays of several instances": (dict(), 3, 37),
    "one ray": (dict(), 1, 1),
    "wide": (dict(hidden_features=112, latent_dim=16), 2, 130),
    "no hypernetwork": (dict(fit_single_srn=True), 2, 100),
    "encoded points": (dict(positional_encoding=3, scene_radius=1.3), 2, 140),
    "encoded points, no hypernetwork": (dict(fit_single_srn=True, positional_encoding=2), 2, 40),
}


@pytest.mark.parametrize("name", SHAPES)
def test_values_and_gradients_are_those_of_float64(name, backend, calls):
    sizes, num_views, num_rays = SHAPES[name]
    model, batch = make_model(**sizes), batch_of(num_views, num_rays)
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):  # their initial values, 1 and 0, would hide errors
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
    expected = outputs_and_gradients(model, batch)
    assert calls == []
    backends.select(backend)
    found = outputs_and_gradients(copy.deepcopy(model).float(), in_float32(batch))
    if backend == "c":
        assert calls.count("march") == 1 and calls.count("layers") >= 2  # phi at the surface, and the colours
    assert_same({name: x.double() for name, x in found.items()}, expected, TOLERANCE)


def test_the_same_bits_come_out_every_time(backend):
    model, batch = make_model(torch.float32), in_float32(batch_of(3, 150))
    backends.select(backend)
    first, second = outputs_and_gradients(model, batch), outputs_and_gradients(model, batch)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_no_rays_at_all(backend):
    model, batch = make_model(torch.float32), in_float32(batch_of(2, 0))
    backends.select(backend)
    outputs = model.per_ray(batch)
    assert outputs["features"].shape == (2, 0, 16) and outputs["depth_steps"].shape == (3, 2, 0, 1)


def test_frozen_networks_get_no_gradient_but_pass_it_on(backend):
    model, batch = make_model(), batch_of(3, 50)
    model.freeze_networks()
    expected = outputs_and_gradients(model, batch)
    backends.select(backend)
    found = outputs_and_gradients(model.float(), in_float32(batch))
    assert "latent_codes.weight" in found and len(found) == 5
    assert_same({name: x.double() for name, x in found.items()}, expected, TOLERANCE)


def test_the_gradient_of_the_state_is_limited(backend):
    """The loss is so steep that the limit matters."""
    model, batch = make_model(), batch_of(2, 60)
    expected = outputs_and_gradients(model, batch, scale=1e3)
    backends.select(backend)
    limited = outputs_and_gradients(copy.deepcopy(model).float(), in_float32(batch), scale=1e3)
    model.ray_marcher.gradient_limit = 1e9
    free = outputs_and_gradients(copy.deepcopy(model).float(), in_float32(batch), scale=1e3)
    name = "ray_marcher.lstm.weight_hh"
    assert_same({name: limited[name].double()}, {name: expected[name]}, TOLERANCE)
    assert (free[name] - expected[name]).abs().max() > 0.1 * expected[name].abs().max()


def test_nan_stays_nan(backend):
    """A zero in its place would hide that training has diverged."""
    model, batch = make_model(torch.float32), in_float32(batch_of(2, 20))
    backends.select(backend)
    with torch.no_grad():
        model.latent_codes.weight[batch["instance_idx"][1]] = torch.nan
    outputs = model.per_ray(batch)
    for name in ("depth", "features", "rgb"):
        assert outputs[name][0].isfinite().all() and outputs[name][1].isnan().all()


def test_without_gradients_the_result_is_the_same_and_nothing_is_kept(backend, monkeypatch):
    model, batch = make_model(torch.float32), in_float32(batch_of(2, 150))
    backends.select(backend)
    expected = model.per_ray(batch)
    monkeypatch.setattr(c._Stack, "keep", None)
    with torch.inference_mode():
        found = model.per_ray(batch)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_one_optimizer_step_of_a_training_in_blocks_leads_to_the_same_weights(backend, calls):
    """Compared with the published way: all rays at once, in PyTorch."""
    batch = in_float32(make_batch())
    plain = make_model(torch.float32)
    fast = copy.deepcopy(plain)
    for model in (plain, fast):
        backends.select("torch" if model is plain else backend)
        objective = objectives.SRNObjective(model, WEIGHTS, rays_per_block=100)
        terms = reference_terms(model, batch) if model is plain else objective(batch)
        gradients_of(model, terms)
        torch.optim.Adam(model.networks(), lr=1e-3).step()
    assert calls.count("march") == (9 if backend == "c" else 0)
    assert_same(dict(fast.named_parameters()), dict(plain.named_parameters()), 2e-5)


# Which backend is chosen

UNSUITED = {
    "float64": lambda model, batch: (model.double(), batch_of(2, 40)),
    "a width of 20": lambda model, batch: (make_model(torch.float32, hidden_features=20, latent_dim=10), batch),
    "bfloat16": lambda model, batch: (model, batch),
}


@needs_compiler
@pytest.mark.parametrize("name", UNSUITED)
def test_pytorch_computes_what_c_does_not(name, calls):
    backends.select("c")
    model, batch = UNSUITED[name](make_model(torch.float32), in_float32(batch_of(2, 40)))
    with autocast("cpu", name if name in PRECISIONS else "float32"):
        z, phi = model.scene(batch)
        calls.clear()
        model.per_ray(batch, (z, phi))
    assert calls == []


@needs_compiler
def test_c_computes_in_serial_threads_only(calls):
    model, batch = make_model(torch.float32), in_float32(batch_of(2, 40))
    backends.select("c", num_threads=2)
    elsewhere = threading.Thread(target=lambda: model.per_ray(batch))
    with backends.serial():
        elsewhere.start()  # the context is that of its own thread
        elsewhere.join()
        assert calls == []
        model.per_ray(batch)
        assert "march" in calls
    calls.clear()
    model.per_ray(batch)
    assert calls == []


@needs_compiler
def test_c_computes_the_blocks_of_rays_that_threads_share(two_threads, calls):
    model, batch = make_model(torch.float32), in_float32(make_batch())
    backends.select("c")
    gradients_of(model, objectives.SRNObjective(model, WEIGHTS, rays_per_block=100)(batch))
    assert calls.count("march") == 9
    calls.clear()
    blocks.map_in_threads(lambda rows: model.per_ray(batch), [0], torch.device("cpu"))
    assert "march" in calls  # one block alone is computed as among others


@needs_compiler
def test_marches_that_c_does_not_know_are_left_to_pytorch(calls):
    """A phi without layers, rays with gradients of their own, steps that keep nothing."""
    model, batch = make_model(torch.float32), in_float32(batch_of(2, 40))
    rays = geometry.cast(batch["uv"], batch["cam2world"], batch["intrinsics"])
    backends.select("c")
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


def test_the_choice_is_one_sentence():
    assert backends.select("torch") == backends.select("auto", precision="bfloat16") == "kernels: PyTorch on cpu"
    assert backends.select("auto", "cuda:0") == "kernels: PyTorch on cuda:0"


# Compiling


@needs_compiler
def test_it_is_compiled_once_for_a_source_flags_and_compiler(own_cache, monkeypatch):
    monkeypatch.setattr(compiler, "FLAGS", [*compiler.FLAGS, "-O0"])  # compiles faster
    assert not own_cache.exists()
    backends.select("auto"), backends.select("c")
    assert len(list(own_cache.iterdir())) == 2  # the library and its digest
    monkeypatch.setattr(compiler, "FLAGS", [*compiler.FLAGS, "-DLANES=16"])
    backends.select("c")
    assert len(list(own_cache.iterdir())) == 4
    monkeypatch.setenv("CC", "env gcc" if shutil.which("gcc") else "env clang")  # a command with an argument, as for ccache
    backends.select("c")
    assert len(list(own_cache.iterdir())) == 6
    assert stat.S_IMODE(own_cache.stat().st_mode) == 0o700


@needs_compiler
@pytest.mark.parametrize("suffix", [".so", ".sha256"])
@pytest.mark.parametrize("is_cut", [True, False])
def test_a_damaged_library_is_compiled_again(suffix, is_cut, own_cache, monkeypatch):
    monkeypatch.setattr(compiler, "FLAGS", [*compiler.FLAGS, "-O0"])
    backends.select("c")
    before = {path: path.read_bytes() for path in own_cache.iterdir()}
    (damaged,) = own_cache.glob(f"*{suffix}")
    damaged.unlink()  # a new file is damaged: this process has loaded the old one, and would crash at its end
    if is_cut:
        damaged.write_bytes(before[damaged][:-1])
    backends.select("c")
    assert {path: path.read_bytes() for path in own_cache.iterdir()} == before


@needs_compiler
@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702])
def test_a_folder_that_others_can_write_to_is_not_used(own_cache, mode):
    own_cache.mkdir(parents=True)
    own_cache.chmod(mode)
    assert backends.select("c").startswith("kernels: C") and not list(own_cache.iterdir())


@needs_compiler
def test_a_folder_of_another_user_or_a_link_is_not_used(own_cache, monkeypatch, tmp_path):
    own_cache.mkdir(mode=0o700, parents=True)
    monkeypatch.setattr(os, "getuid", lambda: own_cache.stat().st_uid + 1)
    assert compiler.private_folder() is None
    monkeypatch.undo()
    own_cache.rmdir()
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    own_cache.symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert compiler.private_folder() is None


@needs_compiler
def test_without_a_home_it_is_compiled_for_this_process(monkeypatch, calls):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(compiler.Path, "home", no_home)
    backends.select("c")
    make_model(torch.float32).per_ray(in_float32(batch_of(1, 3)))
    assert "march" in calls


@pytest.mark.parametrize("command", ["no-such-compiler", "false"])
def test_without_a_compiler_pytorch_computes_unless_c_is_chosen(command, own_cache, monkeypatch):
    monkeypatch.setenv("CC", command)
    chosen = backends.select("auto")
    assert chosen.startswith("kernels: PyTorch on cpu, since kernels.c could not be compiled (") and command in chosen
    with pytest.raises(util.InputError, match="--fused on: kernels.c could not be compiled"):
        backends.select("c")
    assert not list(own_cache.glob("*"))


def test_no_compiler_at_all(own_cache, monkeypatch):
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "no gcc, clang or cc was found" in backends.select("auto")
    with pytest.raises(util.InputError, match="no gcc, clang or cc was found"):
        backends.select("c")


@needs_compiler
def test_programs_choose_as_they_are_told(ball_split, tmp_path, calls, monkeypatch, refuses, capsys):
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
        assert capsys.readouterr().out.count("kernels: " + ("C" if how == "on" else "PyTorch")) == 2
    monkeypatch.setenv("CC", "no-such-compiler")
    for main, arguments in ((train.main, given), (test.main, shown)):
        refuses(main, [*arguments, "--fused", "on"], "--fused on: kernels.c could not be compiled")
        refuses(main, [*arguments, "--fused", "on", "--compile"], "exclude each other")
