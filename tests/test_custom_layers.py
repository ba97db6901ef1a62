import math

import pytest
import scenes
import torch
from torch import nn

import custom_layers
import geometry
from kernels import pytorch

INTRINSICS = torch.tensor([[[10.0, 0, 4], [0, 12.0, 3], [0, 0, 1]]])


def marcher(num_steps=3, channels=5):
    torch.manual_seed(0)
    return custom_layers.RayMarcher(channels, hidden_channels=4, num_steps=num_steps)


def views(batch=2, rays=6):
    """uv, cam2world and intrinsics of different cameras."""
    torch.manual_seed(1)
    cam2world = geometry.look_at(geometry.on_sphere(torch.arange(batch) * 50.0, torch.full((batch,), 20.0), 1.3))
    return 8 * torch.rand(batch, rays, 2), cam2world, INTRINSICS.expand(batch, 3, 3)


def march(net, phi, uv, cam2world, intrinsics):
    return net.march(phi, geometry.cast(uv, cam2world, intrinsics))


def some_phi(channels=5):
    """A smooth function of space, which keeps the points that it is given."""
    torch.manual_seed(2)
    weights, asked = torch.randn(3, channels), []

    def phi(points):
        asked.append(points)
        return torch.sin(points @ weights.to(points))

    phi.asked = asked
    return phi


def test_a_block_ends_with_a_plain_linear_layer_or_with_its_last_hidden_one():
    torch.manual_seed(0)
    x = torch.randn(50, 3)
    ends_linear = custom_layers.FCBlock(3, 8, 2, 4)
    ends_hidden = custom_layers.FCBlock(3, 8, 2)
    assert ends_linear(x).shape == (50, 4) and ends_linear(x).min() < 0
    assert ends_hidden(x).shape == (50, 8) and ends_hidden(x).min() == 0
    assert [type(layer) for layer in ends_linear.net] == [custom_layers.FCLayer] * 2 + [nn.Linear]


def test_a_hidden_layer_is_linear_layer_norm_relu():
    torch.manual_seed(0)
    block, x = custom_layers.FCBlock(3, 6, 1), torch.randn(4, 3)
    linear, norm, _ = block.net[0].net
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    y = x @ linear.weight.T + linear.bias
    y = (y - y.mean(-1, keepdim=True)) / (y.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    assert torch.allclose(block(x), (y * norm.weight + norm.bias).clamp(min=0), atol=1e-6)


def test_linear_layers_start_kaiming_normal():
    torch.manual_seed(0)
    for layer in custom_layers.FCBlock(200, 300, 1, 400).modules():
        if isinstance(layer, nn.Linear):
            assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / layer.in_features), rel=0.02)
            assert 0 < layer.bias.abs().max() <= 1 / math.sqrt(layer.in_features)


def test_both_forget_gate_biases_are_one_and_no_other():
    lstm = custom_layers.RayMarcher(5, hidden_channels=4).lstm
    for bias in (lstm.bias_ih, lstm.bias_hh):
        assert (bias[4:8] == 1).all()
        assert (torch.cat([bias[:4], bias[8:]]).abs() <= 0.5).all()  # PyTorch's default: up to 1 / sqrt(4)


def test_the_forget_gate_is_the_second_of_the_lstm_cell():
    """With all other gates at zero, a bias of 1 passes sigmoid(1) of the cell state."""
    lstm = nn.LSTMCell(1, 1)
    for parameter in lstm.parameters():
        nn.init.zeros_(parameter)
    lstm.bias_ih.data[1] = 1
    _, cell = lstm(torch.zeros(1, 1), (torch.zeros(1, 1), torch.full((1, 1), 3.0)))
    assert cell.item() == pytest.approx(3 / (1 + math.exp(-1)))


def test_rays_start_at_depth_0_05_and_stay_there_without_steps_to_take():
    net, phi, (uv, cam2world, intrinsics) = marcher(), some_phi(), views()
    for parameter in net.out_layer.parameters():
        nn.init.zeros_(parameter)
    points, depth_steps = march(net, phi, uv, cam2world, intrinsics)
    assert depth_steps.shape == (3, 2, 6, 1)
    assert torch.allclose(depth_steps, torch.full_like(depth_steps, 0.05))
    expected = scenes.camera_to_world(geometry.lift(uv, torch.full((2, 6, 1), 0.05), intrinsics), cam2world)
    assert torch.allclose(points, expected, atol=1e-6)


def test_a_constant_step_moves_along_the_unit_direction():
    net, phi, (uv, cam2world, intrinsics) = marcher(), some_phi(), views()
    nn.init.zeros_(net.out_layer.weight)
    nn.init.constant_(net.out_layer.bias, 0.25)
    points, _ = march(net, phi, uv, cam2world, intrinsics)
    for before, after in zip(phi.asked, [*phi.asked[1:], points]):
        assert torch.allclose((after - before).norm(dim=-1), torch.full((2, 6), 0.25), atol=1e-6)


def test_points_lie_on_their_rays_and_have_the_last_depth():
    net, (uv, cam2world, intrinsics) = marcher(), views()
    points, depth_steps = march(net, some_phi(), uv, cam2world, intrinsics)
    assert depth_steps[0].sub(depth_steps[-1]).abs().max() > 1e-3
    assert torch.allclose(geometry.world_to_camera(points, cam2world)[..., 2:], depth_steps[-1], atol=1e-6)
    assert torch.allclose(geometry.project(geometry.world_to_camera(points, cam2world), intrinsics), uv, atol=1e-4)


def test_phi_is_evaluated_once_per_step():
    phi = some_phi()
    march(marcher(num_steps=4), phi, *views())
    assert len(phi.asked) == 4


def test_a_ray_does_not_depend_on_the_others():
    net, phi, (uv, cam2world, intrinsics) = marcher(), some_phi(), views()
    together, _ = march(net, phi, uv, cam2world, intrinsics)
    alone, _ = march(net, phi, uv[1:, 4:5], cam2world[1:], intrinsics[1:])
    assert torch.allclose(alone, together[1:, 4:5], atol=1e-6)


def test_moving_camera_and_scene_together_changes_no_depth():
    net, phi, (uv, cam2world, intrinsics) = marcher(), some_phi(), views()
    motion = geometry.look_at(torch.tensor([0.3, -0.8, 0.4]))
    _, depth_steps = march(net, phi, uv, cam2world, intrinsics)
    _, moved = march(net, lambda points: phi(geometry.world_to_camera(points, motion)), uv, motion @ cam2world, intrinsics)
    assert torch.allclose(moved, depth_steps, atol=1e-5)


def test_an_aimed_marcher_ends_near_the_distance_it_was_aimed_at():
    net, phi, (uv, cam2world, intrinsics) = marcher(), some_phi(), views()
    net.aim_at(1.3)
    points, _ = march(net, phi, uv, cam2world, intrinsics)
    travelled = (points - geometry.camera_centre(cam2world)).norm(dim=-1)
    assert torch.allclose(travelled, torch.full_like(travelled, 1.3), atol=0.3)


def test_the_gradient_at_the_hidden_state_is_limited_at_every_step():
    """phi is constant in space here, so each hidden state gets a gradient only from its own output."""
    net, (uv, cam2world, intrinsics) = marcher(num_steps=1), views()
    _, depth_steps = march(net, lambda points: torch.ones(2, 6, 5), uv, cam2world, intrinsics)

    def gradient(scale):
        net.zero_grad()
        (scale * depth_steps.sum()).backward(retain_graph=True)
        return net.lstm.weight_ih.grad.clone(), net.out_layer.weight.grad.clone()

    small, head_small = gradient(1e-3)
    double, _ = gradient(2e-3)
    huge, head_huge = gradient(1e6)
    huger, _ = gradient(1e9)
    assert torch.allclose(double, 2 * small)
    assert torch.allclose(huger, huge) and huge.abs().max() < 1e3  # 12 rays, each with a gradient of +-10
    assert torch.allclose(head_huge, 1e9 * head_small, rtol=1e-4)  # only the gradient of the hidden state is limited


def test_the_limit_is_ten():
    x = torch.zeros(6, requires_grad=True)
    y = pytorch.LimitGradient.apply(x, custom_layers.GRADIENT_LIMIT)
    y.backward(torch.tensor([-1e9, -10.5, -9.5, 0, 3, 11]))
    assert x.grad.tolist() == [-10, -10, -9.5, 0, 3, 10]


def test_it_runs_without_gradients():
    with torch.no_grad():
        points, _ = march(marcher(), some_phi(), *views(batch=1, rays=1))
    assert points.shape == (1, 1, 3)
