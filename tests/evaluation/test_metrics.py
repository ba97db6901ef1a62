import math

import numpy as np
import pytest
import skimage.metrics
import torch

import util
from evaluation import metrics

nan = math.nan


@pytest.fixture
def published(parity):
    return parity.load("metrics")


def images(published, name, channels, dtype=torch.float64):
    per_ray = torch.from_numpy(published[f"{name}_rgb"]).to(dtype)[..., :channels]
    return util.as_image(per_ray)


@pytest.mark.parametrize("name, channels", [("rgb", 3), ("rgba", 4)])
def test_psnr_and_ssim_are_the_published_ones(published, name, channels):
    rgb, target = images(published, "pred", channels), images(published, "target", channels)
    np.testing.assert_allclose(metrics.psnr(rgb, target), published[f"psnr_{name}_f64"], atol=1e-9, rtol=0)
    np.testing.assert_allclose(metrics.ssim(rgb, target), published[f"ssim_{name}_f64"], atol=1e-9, rtol=0)
    rgb, target = rgb.float(), target.float()
    np.testing.assert_allclose(metrics.psnr(rgb, target), published[f"psnr_{name}"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(metrics.ssim(rgb, target), published[f"ssim_{name}"], atol=1e-5, rtol=0)


def test_iou_is_the_published_one(published):
    predicted = torch.from_numpy(published["logits"]).argmax(dim=-1)
    target = torch.from_numpy(published["labels"])[..., 0]
    confusion = metrics.confusion_matrix(predicted, target, 7)
    per_image = metrics.mean_iou(confusion)
    np.testing.assert_allclose(per_image, published["image_miou"], atol=1e-12)
    np.testing.assert_allclose(per_image.mean(), published["miou"], atol=1e-12)
    category = confusion.sum(dim=0)
    np.testing.assert_allclose(category.diagonal(), published["part_intersection"])
    np.testing.assert_allclose(metrics.iou_per_class(category), published["part_iou"], atol=1e-6)
    np.testing.assert_allclose(metrics.mean_iou(category), published["category_miou"], atol=1e-6)


def test_psnr_of_a_known_error():
    target = torch.zeros(1, 3, 4, 6)
    assert metrics.psnr(target + 0.2, target).item() == pytest.approx(20.0, abs=1e-5)  # 0.1 in [0, 1]
    assert metrics.psnr(target, target).item() == math.inf


def test_predictions_are_clipped_and_targets_are_not():
    white = torch.ones(1, 3, 8, 8)
    assert metrics.psnr(white + 5, white).item() == math.inf
    assert metrics.ssim(white + 5, white).item() == 1.0
    assert metrics.psnr(white, white + 0.2).item() == pytest.approx(20.0, abs=1e-5)


def test_bytes_count_as_levels_of_255():
    target = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    assert metrics.psnr(target + 51, target).item() == pytest.approx(-20 * math.log10(0.2))
    assert metrics.psnr(target, target + 51).item() == pytest.approx(-20 * math.log10(0.2))  # no wrap at 0
    floats = [image.double() / 127.5 - 1 for image in (target + 51, target)]
    assert metrics.ssim(target + 51, target).item() == pytest.approx(metrics.ssim(*floats).item(), abs=1e-12)


def test_images_without_alpha_are_opaque_and_others_keep_theirs():
    rgba = torch.rand(2, 4, 5, 6) - 0.5
    assert metrics.with_alpha(rgba) is rgba
    opaque = metrics.with_alpha(rgba[:, :3])
    assert torch.equal(opaque[:, :3], rgba[:, :3]) and (opaque[:, 3] == 1).all()


def test_scores_of_an_image_do_not_depend_on_its_batch():
    torch.manual_seed(0)
    target = torch.rand(5, 3, 9, 14) * 2 - 1  # not square
    rgb = target + 0.3 * torch.randn_like(target)
    for score in (metrics.psnr, metrics.ssim):
        together = score(rgb, target)
        assert together.shape == (5,)
        assert together.unique().numel() == 5
        alone = torch.cat([score(rgb[i : i + 1], target[i : i + 1]) for i in range(5)])
        assert torch.allclose(together, alone, rtol=0, atol=1e-12)


def test_ssim_is_that_of_scikit_image_on_images_that_are_not_square():
    torch.manual_seed(0)
    target = torch.rand(2, 3, 7, 19, dtype=torch.float64) * 2 - 1
    rgb = (target + 0.2 * torch.randn_like(target)).clamp(-1, 1)
    for score, x, y in zip(metrics.ssim(rgb, target), rgb.numpy() / 2 + 0.5, target.numpy() / 2 + 0.5):
        expected = skimage.metrics.structural_similarity(x, y, channel_axis=0, data_range=1.0)
        assert score.item() == pytest.approx(expected, abs=1e-12)


def test_ssim_of_an_image_smaller_than_its_window_is_an_error():
    with pytest.raises(ValueError, match="7 x 7 pixels, found 6 x 20"):
        metrics.ssim(torch.zeros(1, 3, 6, 20), torch.zeros(1, 3, 6, 20))


def test_confusion_worked_out_by_hand():
    target = torch.tensor([[0, 0, 1, 2], [2, 2, util.UNLABELLED, 0]])
    predicted = torch.tensor([[0, 1, 1, 1], [2, 0, 1, 0]])
    confusion = metrics.confusion_matrix(predicted, target, 3)
    assert confusion.dtype == torch.int64
    assert confusion.tolist() == [[[1, 1, 0], [0, 1, 0], [0, 1, 0]], [[1, 0, 0], [0, 0, 0], [1, 0, 1]]]
    # Image 0: class 0 meets 1 of 2 pixels, class 1 meets 1 of 3, class 2 none of 1. Image 1 has no class 1.
    expected = torch.tensor([[1 / 2, 1 / 3, 0], [1 / 2, nan, 1 / 2]], dtype=torch.float64)
    assert torch.allclose(metrics.iou_per_class(confusion), expected, equal_nan=True)
    assert torch.allclose(metrics.mean_iou(confusion), torch.tensor([5 / 18, 1 / 2], dtype=torch.float64))
    without = metrics.mean_iou(confusion, with_background=False)
    assert torch.allclose(without, torch.tensor([1 / 6, 1 / 2], dtype=torch.float64))


def test_mean_iou_of_an_unlabelled_image_is_nan():
    target = torch.full((2, 5), util.UNLABELLED)
    target[1] = 0
    confusion = metrics.confusion_matrix(torch.zeros(2, 5, dtype=torch.int64), target, 4)
    assert confusion[0].sum() == 0
    assert metrics.mean_iou(confusion)[0].isnan()
    assert metrics.mean_iou(confusion)[1] == 1.0
    assert metrics.mean_iou(confusion, with_background=False).isnan().all()


@pytest.mark.parametrize("predicted, target", [(0, 3), (3, 0), (-1, 0), (0, -2)])
def test_a_label_beyond_the_classes_is_an_error_and_not_another_images_count(predicted, target):
    with pytest.raises(ValueError, match="expected 0 to 2"):
        metrics.confusion_matrix(torch.tensor([[predicted]]), torch.tensor([[target]]), 3)
