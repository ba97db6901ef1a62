import math

import pytest
import torch
import torch.nn.functional as F

import hyperlayers


@pytest.fixture
def hyper_phi():
    torch.manual_seed(0)
    return hyperlayers.HyperPhi(latent_dim=6, hyper_features=7, hidden_features=5)


def test_phi_has_four_layers_of_the_right_shapes(hyper_phi):
    layers = hyper_phi(torch.randn(2, 6)).layers
    assert [tuple(weight.shape) for weight, _ in layers] == [(2, 5, 3)] + [(2, 5, 5)] * 3
    assert [tuple(bias.shape) for _, bias in layers] == [(2, 1, 5)] * 4


def test_the_predicted_numbers_are_the_weight_row_by_row_and_then_the_bias(hyper_phi):
    layer, z = hyper_phi.layers[0].hyper_linear, torch.randn(2, 6)
    weight, bias = layer(z)
    predicted = layer.hypo_params(z)
    assert torch.equal(weight[1], predicted[1, :15].view(5, 3))
    assert torch.equal(bias[1, 0], predicted[1, 15:])


def test_phi_is_linear_layer_norm_without_scale_and_relu_the_last_layer_too(hyper_phi):
    points = torch.randn(2, 9, 3)
    phi = hyper_phi(torch.randn(2, 6))
    for instance in range(2):
        x = points[instance]
        for weight, bias in phi.layers:
            x = x @ weight[instance].T + bias[instance]
            x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
            x = F.relu(x)
        assert torch.allclose(phi(points)[instance], x, atol=1e-5)


def test_each_instance_of_a_batch_has_its_own_phi(hyper_phi):
    z, points = torch.randn(3, 6), torch.randn(1, 4, 3).expand(3, 4, 3)
    together = hyper_phi(z)(points)
    assert not torch.allclose(together[0], together[1], atol=1e-2)
    for instance in range(3):
        alone = hyper_phi(z[instance : instance + 1])(points[:1])
        assert torch.allclose(alone[0], together[instance], atol=1e-6)


def test_gradients_of_views_of_one_instance_are_added_in_the_views_order(two_threads):
    """If the order of threads decided, sums would differ from run to run, and so would the trained weights."""
    torch.manual_seed(0)
    weight, bias = torch.randn(2, 100, 100, requires_grad=True), torch.randn(2, 1, 100, requires_grad=True)
    instance_of = torch.tensor([0] * 9 + [1] * 3)
    upstream = torch.randn(12, 100, 100)
    seen, _ = hyperlayers.Phi([(weight, bias)]).of_views(instance_of).layers[0]
    (found,) = torch.autograd.grad(seen, weight, upstream)
    for instance in range(2):
        expected = torch.zeros(100, 100)
        for gradient in upstream[instance_of == instance]:
            expected += gradient
        assert torch.equal(found[instance], expected)


def test_phi_leaves_its_input_as_it_is(hyper_phi):
    points = torch.randn(1, 4, 3)
    before = points.clone()
    phi = hyper_phi(torch.randn(1, 6))
    first, second = phi(points), phi(points)
    assert torch.equal(points, before) and torch.equal(first, second)


def test_the_gradient_of_an_image_reaches_its_own_code_only(hyper_phi):
    z = torch.randn(2, 6, requires_grad=True)
    hyper_phi(z)(torch.randn(2, 4, 3))[0].sum().backward()
    assert z.grad[0].abs().sum() > 0 and not z.grad[1].any()


def test_the_last_weights_of_a_hypernetwork_start_ten_times_smaller():
    torch.manual_seed(0)
    net = hyperlayers.HyperLinear(latent_dim=8, hyper_features=128, in_features=20, out_features=40).hypo_params.net
    assert net[1].net[0].weight.std().item() == pytest.approx(math.sqrt(2 / 128), rel=0.05)
    assert net[-1].weight.std().item() == pytest.approx(0.1 * math.sqrt(2 / 128), rel=0.05)
