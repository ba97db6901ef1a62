import math

import torch

from kernels.encoding import Encoding


def test_values_by_hand():
    found = Encoding(2, radius=2.0)(torch.tensor([[1.0, 0.0, -0.5]]))
    first, second = [math.pi / 2, 0.0, -math.pi / 4], [math.pi, 0.0, -math.pi / 2]
    rows = [[1.0, 0.0, -0.5], *([wave(x) for x in angles] for angles in (first, second) for wave in (math.sin, math.cos))]
    torch.testing.assert_close(found, torch.tensor([sum(rows, [])]), atol=1e-6, rtol=0)
    assert found.shape[-1] == Encoding(2).width == 15


def test_no_octaves_are_the_identity():
    points = torch.randn(4, 5, 3)
    assert Encoding()(points) is points and Encoding().width == 3


def test_its_gradient_is_that_of_finite_differences():
    points = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Encoding(4, radius=1.3), points)


def test_a_scene_twice_as_large_has_the_same_waves():
    points = torch.randn(7, 3, dtype=torch.float64)
    torch.testing.assert_close(Encoding(3, 1.0)(points)[:, 3:], Encoding(3, 2.0)(2 * points)[:, 3:])
