"""Scores of rendered images and predicted label maps: pure functions, one score per image.

Image scores map images to [0, 1], float ones from [-1, 1] and uint8 ones from 0..255, and clip the prediction to
that range. They count every channel they are given. R, G and B make the usual figure. The published one counts
alpha as well (`with_alpha`), which is 1 almost everywhere once images are loaded: with a quarter of the squared
error next to nothing, PSNR rises by up to 10 log10(4 / 3) = 1.25 dB, and SSIM with it.

Label scores come from confusion matrices. The published numbers count background (class 0) as a class:
mIoU is the mean over the classes present in an image's prediction or target, averaged over images; category
IoU is that of the confusions summed over all images first.
"""

import torch
import torch.nn.functional as F

import util

SSIM_WINDOW = 7  # pixels; skimage.metrics.structural_similarity's default, a uniform window
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # for images in [0, 1]


def psnr(rgb, target):
    """Peak signal-to-noise ratio in dB over all channels and pixels. (B, C, H, W) each -> (B,) float64.

    Infinite where the two images are equal.
    """
    mse = (_unit_range(rgb).clamp(0, 1) - _unit_range(target)).square().flatten(1).mean(dim=1)
    return -10 * torch.log10(mse)


def ssim(rgb, target):
    """Structural similarity, averaged over all channels and pixels. (B, C, H, W) each -> (B,) float64.

    The published one: each channel on its own, a uniform 7 x 7 window, sample covariances, windows that lie
    within the image only. Equal to scikit-image's `structural_similarity(..., data_range=1)`.
    """
    height, width = rgb.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, got {height} x {width}")
    x, y = _unit_range(rgb).clamp(0, 1), _unit_range(target)
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    unbias = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    var_x = unbias * (_window_mean(x * x) - mean_x * mean_x)
    var_y = unbias * (_window_mean(y * y) - mean_y * mean_y)
    cov_xy = unbias * (_window_mean(x * y) - mean_x * mean_y)

    luminance = (2 * mean_x * mean_y + SSIM_C1) / (mean_x * mean_x + mean_y * mean_y + SSIM_C1)
    contrast_structure = (2 * cov_xy + SSIM_C2) / (var_x + var_y + SSIM_C2)
    return (luminance * contrast_structure).flatten(1).mean(dim=1)


def with_alpha(rgb):
    """The four channels of the published scores; three get alpha 1. (B, 3 or 4, H, W) -> (B, 4, H, W)."""
    return rgb if rgb.shape[1] == 4 else torch.cat([rgb, torch.ones_like(rgb[:, :1])], dim=1)


def confusion_matrix(predicted, target, num_classes):
    """Pixels counted by class. (B, R) integer labels each -> (B, K, K) int64, rows target, columns prediction.

    Pixels whose target is `util.UNLABELLED` are left out.
    """
    predicted, target = predicted.flatten(1).long(), target.flatten(1).long()
    if predicted.shape != target.shape:
        raise ValueError(f"{tuple(predicted.shape)} predicted labels, {tuple(target.shape)} target labels")
    image = torch.arange(len(target), device=target.device)[:, None].expand_as(target)
    labelled = target != util.UNLABELLED
    image, predicted, target = image[labelled], predicted[labelled], target[labelled]
    for name, labels in (("predicted", predicted), ("target", target)):
        if labels.numel() and not 0 <= labels.min() <= labels.max() < num_classes:
            found = f"{labels.min()} to {labels.max()}"
            raise ValueError(f"{name} labels run from {found}, expected 0 to {num_classes - 1}")
    cell = (image * num_classes + target) * num_classes + predicted
    batch = len(labelled)
    return torch.bincount(cell, minlength=batch * num_classes**2).reshape(batch, num_classes, num_classes)


def iou_per_class(confusion):
    """Intersection over union. (..., K, K) counts -> (..., K) float64, nan for a class in neither map."""
    hits = confusion.diagonal(dim1=-2, dim2=-1).double()
    union = confusion.sum(-1) + confusion.sum(-2) - hits
    return hits / union


def mean_iou(confusion, with_background=True):
    """IoU averaged over the classes present in target or prediction. (..., K, K) counts -> (...,) float64.

    nan where no class is present. Without background, class 0 is left out of the mean; pixels of another class
    confused with it still count against that class.
    """
    iou = iou_per_class(confusion)
    return (iou if with_background else iou[..., 1:]).nanmean(dim=-1)


def _unit_range(image):
    return image.double() / 255 if image.dtype == torch.uint8 else image.double() / 2 + 0.5


def _window_mean(image):
    return F.avg_pool2d(F.avg_pool2d(image, (SSIM_WINDOW, 1), stride=1), (1, SSIM_WINDOW), stride=1)
