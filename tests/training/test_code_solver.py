import functools

import many_processes
import numpy as np
import pytest
import scenes
import torch

import dataio
import srns
import util
from training import code_solver, distributed, objectives, observed_rays

IMAGES = objectives.Weights(image=200, classes=0, latent=0, depth=1e-3)
NAMES = ("ball_a", "ball_b", "ball_c")


def make_model():
    """A frozen SRN with random weights whose images depend on the codes, and three codes."""
    torch.manual_seed(0)
    model = srns.SRN(3, latent_dim=6, hidden_features=16, tracing_steps=3)
    model.ray_marcher.aim_at(scenes.DISTANCE)
    with torch.no_grad():
        model.latent_codes.weight.normal_(std=0.3).add_(torch.randn(6))
        for layer in model.hyper_phi.layers:
            layer.hyper_linear.hypo_params.net[-1].weight *= 3
    model.freeze_networks()
    return model, model.latent_codes.weight.detach().clone()


def mean_of(codes):
    return codes.mean(dim=0).repeat(3, 1, 1)


def make_observed(split, model, codes, rendered=True, instances=None, **choice):
    """Rays of the three balls, or of some, with the colours that the model renders for their codes."""
    chosen = dataio.index_split(split, with_labels=True, **choice)
    dataset = dataio.SceneClassDataset(chosen, 16, dataio.dataset_settings(split), num_classes=3)
    observed = observed_rays.ObservedRays(dataset, "cpu", instances=instances)
    if rendered:
        rows = torch.arange(len(chosen)) if instances is None else torch.tensor(instances)
        drawn = observed.draw(rows, 0, 4 * 256)
        with torch.no_grad():
            observed.rgb = model.per_ray({"rays": drawn.rays}, model.scene({"z": codes}))["rgb"].flatten(0, 1)
    return observed


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return scenes.write_split(tmp_path_factory.mktemp("balls") / "Ball" / "Ball.train", names=NAMES)


def make_fits(model, observed, starts, instances=None, weights=IMAGES, **options):
    options = dict(spread=0.3, num_rays=64) | options
    fits = code_solver.CodeFits(code_solver.RayLoss(model, weights), observed, starts, instances=instances, **options)
    fits.begin()
    return fits


def fit(fits, num_steps):
    step = 0
    while step < num_steps and len(fits.rows):
        step += 1
        fits.step(step)
    fits.keep_best()
    return fits.best()[0]


@pytest.fixture(scope="module")
def recovered(split):
    """Fits of three codes from 0 to the images that the model renders."""
    model, codes = make_model()
    fits = make_fits(model, make_observed(split, model, codes), mean_of(codes))
    before = fits.state["best_loss"].clone()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fit(fits, 150)
    return model, fits, before, weights


def test_codes_of_the_models_own_pictures_are_found_again(recovered):
    _, fits, before, _ = recovered
    terms, psnr, _ = fits.summary()
    assert (fits.state["best_loss"] < before / 3).all()
    assert psnr > 33 and terms["distortion"] < 10
    assert terms.keys() == {"regularization", "distortion", "latent"}


def test_only_the_codes_move(recovered):
    model, fits, _, weights = recovered
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert fits.best()[0].abs().min() > 0


def test_a_code_is_fitted_alone_as_in_a_batch(split, recovered):
    model, codes = make_model()
    alone = make_observed(split, model, codes[1:2], specific_ins=["ball_b"])
    found = fit(make_fits(model, alone, mean_of(codes)[:1], num_rays=64), 150)
    assert torch.allclose(found[0], recovered[1].best()[0][1], atol=1e-3)


def test_small_blocks_of_rays_change_rounding_only(split):
    model, codes = make_model()
    observed = make_observed(split, model, codes)
    found = [fit(make_fits(model, observed, mean_of(codes), rays_per_block=n), 25) for n in (0, 64)]
    assert torch.allclose(*found, atol=1e-4)


def test_a_converged_fit_does_not_stop_the_others(split):
    """The first code starts at its solution and makes no progress."""
    model, codes = make_model()
    starts = mean_of(codes)
    starts[0, 0] = codes[0]
    fits = make_fits(model, make_observed(split, model, codes), starts, learning_rate=0.03)
    is_done = []
    for step in range(1, 161):
        fits.step(step)
        is_done.append(fits.best()[1].tolist())
    assert is_done[-1] == [True, False, False] and len(fits.rows) == 2
    assert torch.equal(fits.best()[0][0], codes[0])  # the best code is kept, not the last
    done_at = is_done.index([True, False, False]) + 1
    assert fits.state["step"].tolist() == [done_at, 160, 160]


def test_the_best_of_several_starts_is_kept(split):
    """The first start is far from the solution; one of the trained codes is the solution."""
    model, codes = make_model()
    observed = make_observed(split, model, codes)
    loss = code_solver.RayLoss(model, IMAGES)
    first = torch.full((3, 6), 3.0)
    starts = code_solver.find_starts(loss, observed, codes, first, num_starts=3, instances=range(3))
    assert torch.equal(starts[:, 0], first) and torch.equal(starts[:, 1], codes)
    fits = make_fits(model, observed, starts)
    assert len(fits.rows) == 9
    fit(fits, 10)
    assert fits.instances.tolist() == [0, 0, 1, 1, 2, 2]  # half of the starts are dropped
    fit(fits, 10)
    assert fits.instances.tolist() == [0, 1, 2]
    found = fit(fits, 20)
    assert torch.allclose(found, codes, atol=1e-3)
    single = make_fits(model, observed, first.unsqueeze(1))
    fit(single, 40)
    assert (fits.state["best_loss"].view(3, 3).amin(dim=1) < single.state["best_loss"]).all()


def test_the_starts_of_an_instance_share_its_rays(split):
    model, codes = make_model()
    fits = make_fits(model, make_observed(split, model, codes), codes.unsqueeze(1).repeat(1, 4, 1), num_rays=128)
    assert [fits.rays_at(step) for step in (1, 10, 11, 20, 21, 500)] == [32, 32, 64, 64, 128, 128]
    fits.num_rays = 8  # fewer than the default per start
    assert fits.rays_at(1) == 8


def test_the_ranking_of_starts_does_not_depend_on_the_block_size(split):
    model, codes = make_model()
    observed = make_observed(split, model, codes)
    loss, first = code_solver.RayLoss(model, IMAGES), torch.zeros(3, 6)
    found = [code_solver.find_starts(loss, observed, codes, first, 3, [0, 2], rays_per_block=n) for n in (0, 16)]
    assert torch.equal(*found)
    assert torch.equal(found[0][0, 1], codes[0]) and torch.equal(found[0][2, 1], codes[2])
    assert (found[0][1] == 0).all()  # not asked for


def test_the_number_of_starts_is_limited_by_the_trained_codes(split):
    model, codes = make_model()
    observed = make_observed(split, model, codes)
    loss = code_solver.RayLoss(model, IMAGES)
    assert code_solver.find_starts(loss, observed, codes[:2], codes, 9, range(3)).shape == (3, 3, 6)
    assert torch.equal(code_solver.find_starts(loss, observed, codes, codes, 1, range(3)), codes.unsqueeze(1))


@pytest.mark.parametrize("latent", [0, 5])
def test_terms_are_those_of_the_objective(split, latent):
    """On all rays of one instance, with the weights of stage 1."""
    model, codes = make_model()
    torch.manual_seed(1)
    head = srns.LinearHead(16, 3)
    observed = make_observed(split, model, codes, rendered=False)
    observed.seg_labels[:100] = -1
    weights = objectives.Weights(200, 8, latent, 1e3)
    drawn = observed.draw(torch.tensor([0]), 0, 4 * 256)
    found = code_solver.RayLoss(model, weights, head).terms(codes[:1], drawn)
    outputs = model.per_ray({"rays": drawn.rays}, model.scene({"z": codes[:1]}))
    outputs["seg_logits"] = head(outputs["features"])
    expected = objectives.srn_terms(weights, outputs, {"rgb": drawn.rgb, "seg_labels": drawn.seg_labels})
    assert found.keys() == expected.keys()
    for name, term in expected.items():
        torch.testing.assert_close(found[name], term.view(1))


def test_a_gradient_that_is_not_finite_moves_no_code(split):
    model, codes = make_model()
    fits = make_fits(model, make_observed(split, model, codes), mean_of(codes))
    gradient = torch.ones(3, 6)
    gradient[1, 2] = torch.nan
    fits.move(gradient)
    assert fits.state["codes"][1].eq(codes.mean(dim=0)).all()
    assert fits.state["codes"][[0, 2]].ne(codes.mean(dim=0)).all()


def test_a_start_without_a_finite_loss_is_reported(split):
    model, codes = make_model()
    observed = make_observed(split, model, codes)
    with pytest.raises(util.InputError, match="before the first step"):
        make_fits(model, observed, torch.full((3, 1, 6), torch.nan))


def test_a_resumed_fit_gives_the_same_numbers(split):
    model, codes = make_model()
    observed = make_observed(split, model, codes)
    starts = torch.stack([codes + 0.5, codes - 0.5], dim=1)
    through, first, second = (make_fits(model, observed, starts[:, :k]) for k in (2, 2, 1))
    for step in range(1, 31):
        through.step(step)
        first.step(step) if step <= 15 else None
    second.load_state_dict(first.gathered_state())
    for step in range(16, 31):
        second.step(step)
    assert torch.equal(through.rows, second.rows)
    assert all(torch.equal(tensor, second.state[name]) for name, tensor in through.state.items())


def test_published_starts_depend_on_seed_and_name():
    codes = code_solver.normal_codes(NAMES, 1000, seed=0)
    assert torch.equal(code_solver.normal_codes(["ball_b"], 1000, seed=0)[0], codes[1])
    assert not torch.equal(code_solver.normal_codes(["ball_b"], 1000, seed=1)[0], codes[1])
    assert codes.std().item() == pytest.approx(srns.CODE_STD, rel=0.05) and abs(codes.mean()) < 1e-3


def test_the_spread_is_that_of_the_codes():
    assert code_solver.spread_of(torch.tensor([[1.0, 5.0], [3.0, 5.0]])) == pytest.approx(np.sqrt(0.5))
    assert code_solver.spread_of(torch.ones(1, 4)) == srns.CODE_STD


def fit_own(split):
    """Runs in each process: fits its own instances, then gathers all results."""
    model, codes = make_model()
    own = range(distributed.rank(), 3, distributed.world_size())
    observed = make_observed(split, model, codes[list(own)], instances=list(own))
    fits = make_fits(model, observed, mean_of(codes), instances=own)
    fit(fits, 25)
    summary = fits.summary()
    return fits.gathered_state(), summary


def test_two_processes_find_the_result_of_one(split, tmp_path):
    expected, (terms, psnr, num_done) = fit_own(split)
    for state, found in many_processes.run(functools.partial(fit_own, split), tmp_path):
        for name, tensor in expected.items():
            torch.testing.assert_close(state[name], tensor, atol=1e-3, rtol=1e-2)
        torch.testing.assert_close(found[0], terms, atol=1e-4, rtol=1e-2)
        assert found[1] == pytest.approx(psnr, abs=0.01) and found[2] == num_done == 0
