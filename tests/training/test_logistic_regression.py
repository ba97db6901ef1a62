import concurrent.futures
import functools
import threading

import numpy as np
import pytest
import scipy.optimize
import torch
import torch.nn.functional as F

import util
from training import logistic_regression


def problem(num_rays=600, channels=8, num_classes=4, seed=0, dtype=torch.float32):
    """Features as after a ReLU, and labels by a noisy linear rule, of which over half are 0. (L, C), (L,)."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num_rays, channels, generator=generator, dtype=dtype).relu() * torch.logspace(0, 1, channels)
    scores = features @ torch.randn(channels, num_classes, generator=generator, dtype=dtype)
    scores = scores / scores.std() + torch.randn(num_rays, num_classes, generator=generator, dtype=dtype)
    scores[:, 0] += 1.5
    return features.to(dtype), scores.argmax(dim=1)


def loss_and_gradient(features, labels, weight, bias, penalty):
    weight, bias = weight.double().requires_grad_(), bias.double().requires_grad_()
    loss = F.cross_entropy(features.double() @ weight.T + bias, labels) + penalty * weight.square().sum()
    return loss.item(), *torch.autograd.grad(loss, [weight, bias])


def scipy_layer(features, labels, num_classes, penalty):
    channels = features.shape[1]

    def function(layer):
        layer = torch.from_numpy(layer).view(num_classes, channels + 1)
        loss, *gradient = loss_and_gradient(features, labels, layer[:, :-1].clone(), layer[:, -1].clone(), penalty)
        return loss, torch.cat([gradient[0], gradient[1][:, None]], dim=1).flatten().numpy()

    options = {"maxiter": 5000, "maxfun": 10000, "ftol": 1e-15, "gtol": 1e-9}
    start = np.zeros(num_classes * (channels + 1))
    found = scipy.optimize.minimize(function, start, jac=True, method="L-BFGS-B", options=options)
    layer = torch.from_numpy(found.x).view(num_classes, channels + 1)
    return layer[:, :-1], layer[:, -1] - layer[:, -1].mean(), found.fun


@pytest.mark.parametrize("penalty", [1e-1, 1e-3])
def test_the_layer_is_the_one_that_scipy_finds(penalty):
    features, labels = problem(dtype=torch.float64)
    weight, bias, loss = scipy_layer(features, labels, 4, penalty)
    found = logistic_regression.fit(features, labels, 4, penalty, tolerance=1e-7)
    assert found.converged and found.loss == pytest.approx(loss, abs=1e-9)
    torch.testing.assert_close(found.weight, weight, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.bias, bias, atol=1e-4, rtol=0)


def test_the_gradient_is_zero_at_the_solution():
    features, labels = problem()
    found = logistic_regression.fit(features, labels, 4, 1e-3)
    loss, *gradient = loss_and_gradient(features, labels, found.weight, found.bias, 1e-3)
    _, *gradient_at_zero = loss_and_gradient(features, labels, torch.zeros(4, 8), torch.zeros(4), 1e-3)
    norm, norm_at_zero = (torch.cat([g[0].flatten(), g[1]]).norm().item() for g in (gradient, gradient_at_zero))
    assert found.converged and found.loss == pytest.approx(loss, rel=1e-6)
    assert norm < 2e-5 * norm_at_zero
    assert found.weight.dtype == torch.float32 and found.weight.shape == (4, 8) and found.bias.shape == (4,)


def test_blocks_and_samples_of_many_rays_give_the_same_layer(monkeypatch):
    features, labels = problem(3000)
    whole = logistic_regression.fit(features, labels, 4, 1e-3, tolerance=1e-6)
    monkeypatch.setattr(logistic_regression, "BLOCK", {"cpu": 700})
    monkeypatch.setattr(logistic_regression, "SAMPLE_RAYS", 500)
    parts = logistic_regression.fit(features, labels, 4, 1e-3, tolerance=1e-6)
    assert parts.converged and parts.num_iterations < whole.num_iterations
    torch.testing.assert_close(parts.weight, whole.weight, atol=1e-4, rtol=0)


def test_neither_the_start_nor_the_order_of_the_rays_matters():
    features, labels = problem()
    found = logistic_regression.fit(features, labels, 4, 1e-3, tolerance=1e-6)
    generator = torch.Generator().manual_seed(1)
    near = 0.02 * torch.randn(4, 8, generator=generator), 5 + torch.randn(4, generator=generator)
    far = 1e6 * torch.randn(4, 8, generator=generator), torch.zeros(4)
    order = torch.randperm(len(labels), generator=generator)
    for other in (
        logistic_regression.fit(features, labels, 4, 1e-3, start=near, tolerance=1e-6),
        logistic_regression.fit(features, labels, 4, 1e-3, start=far, tolerance=1e-6),
        logistic_regression.fit(features[order], labels[order], 4, 1e-3, tolerance=1e-6),
    ):
        assert other.converged
        torch.testing.assert_close(other.weight, found.weight, atol=1e-4, rtol=0)
        torch.testing.assert_close(other.bias, found.bias, atol=1e-3, rtol=0)
    again = logistic_regression.fit(features, labels, 4, 1e-3, start=(found.weight, found.bias), tolerance=1e-4)
    assert again.num_iterations == 0


def test_a_start_that_is_worse_than_zero_is_not_used():
    features, labels = problem()
    far = 1e3 * torch.randn(4, 8, generator=torch.Generator().manual_seed(1)), torch.zeros(4)
    zero = torch.zeros(4, 8), torch.zeros(4)
    found, expected = (logistic_regression.fit(features, labels, 4, 1e-3, start=start) for start in (far, zero))
    assert torch.equal(found.weight, expected.weight) and found.num_iterations == expected.num_iterations > 1


class Processes:
    """Runs `fit` in one thread per share; `reduce` sums over the threads, in place as torch.distributed does."""

    def reduce(self, rank, tensor):
        self.tensors[rank] = tensor.clone()
        self.barrier.wait()
        summed = sum(self.tensors)
        self.barrier.wait()  # no thread starts the next sum before all have read this one
        return tensor.copy_(summed)

    def run(self, shares, *arguments, **options):
        self.barrier, self.tensors = threading.Barrier(len(shares), timeout=20), [None] * len(shares)
        with concurrent.futures.ThreadPoolExecutor(len(shares)) as pool:
            reduces = [functools.partial(self.reduce, rank) for rank in range(len(shares))]
            fit = functools.partial(pool.submit, logistic_regression.fit)
            return [fit(*share, *arguments, **options, reduce=reduce) for share, reduce in zip(shares, reduces)]


def test_processes_that_share_the_rays_find_the_layer_of_all_rays(monkeypatch):
    features, labels = problem(900)
    order = labels.argsort()  # the last process has only the last class
    features, labels = features[order], labels[order]
    whole = logistic_regression.fit(features, labels, 4, 1e-3, tolerance=1e-6)
    monkeypatch.setattr(logistic_regression, "SAMPLE_RAYS", 200)
    shares = [(features[part], labels[part]) for part in (slice(0, 300), slice(300, 300), slice(300, 890), slice(890, None))]
    first, *others = [future.result() for future in Processes().run(shares, 4, 1e-3, tolerance=1e-6)]
    assert first.converged and first.loss == pytest.approx(whole.loss, abs=1e-7)
    torch.testing.assert_close(first.weight, whole.weight, atol=1e-4, rtol=0)
    for other in others:
        assert torch.equal(other.weight, first.weight) and torch.equal(other.bias, first.bias)


def test_an_error_in_one_process_is_raised_in_all():
    features, labels = problem(20)
    shares = [(features, labels), (features, labels + 1)]
    for future in Processes().run(shares, 4, 1e-3):
        with pytest.raises(ValueError, match="out of range, expected 0 to 3"):
            future.result()


def test_the_solver_ends_on_separable_classes_without_a_penalty():
    features = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 0.5], [0.5, 2.0]])
    labels = torch.tensor([0, 1, 1, 0])
    found = logistic_regression.fit(features, labels, 2, 0.0, tolerance=0.0, max_iterations=7)
    assert not found.converged and found.num_iterations <= 7
    assert found.weight.isfinite().all() and found.loss < 0.01
    assert torch.equal((features @ found.weight.T + found.bias).argmax(dim=1), labels)


def test_a_class_without_rays_is_never_predicted_and_changes_nothing():
    features, labels = problem()
    without = logistic_regression.fit(features, labels, 4, 1e-3)
    shifted = torch.tensor([0, 2, 3, 5])
    found = logistic_regression.fit(features, shifted[labels], 6, 1e-3)
    torch.testing.assert_close(found.weight[shifted], without.weight)
    assert found.weight[[1, 4]].abs().max() == 0
    probabilities = torch.softmax(1000 * features @ found.weight.T + found.bias, dim=1)
    assert probabilities[:, [1, 4]].max() < 1e-12


def test_a_single_class_is_certain():
    found = logistic_regression.fit(problem()[0], torch.full((600,), 2), 4, 1e-3)
    assert found.converged and found.loss == 0 and found.bias.argmax() == 2


def test_dead_and_equal_features_do_no_harm():
    features, labels = problem()
    features = torch.cat([features, torch.zeros(600, 2), features], dim=1)
    found = logistic_regression.fit(features, labels, 4, 1e-3)
    assert found.converged and found.weight[:, 8:10].abs().max() == 0
    torch.testing.assert_close(found.weight[:, :8], found.weight[:, 10:], atol=1e-3, rtol=0)


def test_errors_name_the_fault():
    features, labels = problem(20)
    fit = logistic_regression.fit
    with pytest.raises(ValueError, match="20 labels are out of range, expected 0 to 3; leave unlabelled rays out"):
        fit(features, torch.full_like(labels, util.UNLABELLED), 4, 1e-3)
    with pytest.raises(ValueError, match="no rays"):
        fit(features[:0], labels[:0], 4, 1e-3)
    with pytest.raises(ValueError, match="one label for each ray"):
        fit(features, labels[:-1], 4, 1e-3)
    with pytest.raises(ValueError, match="features of 1 rays are not finite"):
        fit(torch.cat([features[:-1], features[-1:] / 0]), labels, 4, 1e-3)
    with pytest.raises(ValueError, match="penalty -1"):
        fit(features, labels, 4, -1)
