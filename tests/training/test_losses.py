import math

import pytest
import torch

import util
from training import losses


def test_image_loss_is_the_mean_square_over_rays_and_channels():
    rgb = torch.tensor([[[0.0, 0.5, 1.0], [1.0, 1.0, 1.0]]])
    target = torch.tensor([[[0.0, 0.0, -1.0], [1.0, 1.0, 1.0]]])
    assert losses.image_loss(rgb, target).item() == pytest.approx((0.25 + 4) / 6)


def test_segmentation_loss_is_the_mean_cross_entropy():
    seg_logits = torch.tensor([[[0.0, 0.0], [math.log(3), 0.0]]])
    loss = losses.segmentation_loss(seg_logits, torch.tensor([[0, 1]]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_unlabelled_rays_neither_count_nor_pull():
    torch.manual_seed(0)
    seg_logits = torch.randn(2, 5, 3, requires_grad=True)
    seg_labels = torch.tensor([[0, 1, util.UNLABELLED, 2, 2], [util.UNLABELLED] * 4 + [1]])
    labelled = seg_labels != util.UNLABELLED
    loss = losses.segmentation_loss(seg_logits, seg_labels)
    assert loss.item() == pytest.approx(losses.segmentation_loss(seg_logits[labelled], seg_labels[labelled]).item())
    loss.backward()
    assert (seg_logits.grad.abs().sum(-1) > 0).equal(labelled)


def test_a_batch_without_any_label_gives_no_loss_and_no_gradient():
    """A nan would end a training run because of one unlabelled image."""
    seg_logits = torch.zeros(1, 4, 3, requires_grad=True)
    loss = losses.segmentation_loss(seg_logits, torch.full((1, 4), util.UNLABELLED))
    loss.backward()
    assert loss.item() == 0 and not seg_logits.grad.any()


def test_segmentation_loss_takes_a_batch_of_one_and_loose_rays():
    torch.manual_seed(0)
    seg_logits, seg_labels = torch.randn(1, 6, 3), torch.tensor([[0, 1, 2, 0, 1, 2]])
    assert losses.segmentation_loss(seg_logits, seg_labels) == losses.segmentation_loss(seg_logits[0], seg_labels[0])


def test_only_depths_behind_the_camera_cost():
    depth = torch.tensor([[[-0.1], [0.0], [0.3], [-0.2]]], requires_grad=True)
    loss = losses.depth_loss(depth)
    assert loss.item() == pytest.approx(10_000 * (0.01 + 0.04) / 4)
    loss.backward()
    assert depth.grad.flatten().tolist() == pytest.approx([-500, 0, 0, -1000])


def test_latent_loss_is_the_mean_square_of_the_codes():
    assert losses.latent_loss(torch.tensor([[1.0, -2.0], [0.0, 3.0]])).item() == pytest.approx(14 / 4)


@pytest.mark.parametrize("loss, psnr", [(4.0, 0), (0.04, 20), (4e-3, 30)])
def test_psnr_of_a_loss_on_values_from_minus_one_to_one(loss, psnr):
    assert losses.psnr_of(torch.tensor(loss)) == pytest.approx(psnr, abs=1e-4)


def test_psnr_of_no_loss_is_a_number():
    assert math.isfinite(losses.psnr_of(torch.tensor(0.0)))


def test_weight_loss_is_the_sum_of_squares_of_the_matrices():
    head = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    with torch.no_grad():
        head[0].weight.copy_(torch.tensor([[1.0, 2], [0, 0], [-3, 0]]))
        head[0].bias.fill_(7)
    assert losses.weight_loss(head).item() == 14
