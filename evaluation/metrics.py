"""Scores of rendered images and predicted label maps: pure functions, one score per image.

Image scores map images to [0, 1], from [-1, 1] if they are float and from 0..255 if they are uint8, and clip the
prediction to that range. They average over all channels of the images. The usual scores are those of R, G and B.
The published ones include alpha (`with_alpha`), which is 1 almost everywhere in both images: a quarter of the
squared errors is then close to 0, which raises PSNR by up to 10 log10(4 / 3) = 1.25 dB, and SSIM as well.

Label scores are computed from confusion matrices. The published ones count background (class 0) as a class. mIoU
averages over the classes present in an image's prediction or target, then over images. Category IoU sums the
confusion matrices of all images first.
"""

import torch
import torch.nn.functional as F

import util

SSIM_WINDOW = 7  # pixels; skimage.metrics.structural_similarity's default, uniform window
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # for images in [0, 1]


def psnr(rgb, target):
    """Peak signal-to-noise ratio in dB over all channels and pixels. (B, C, H, W) each -> (B,) float64.

    Infinite where the two images are equal.
    """
    mse = (_unit_range(rgb).clamp(0, 1) - _unit_range(target)).square().flatten(1).mean(dim=1)
    return -10 * torch.log10(mse)


def ssim(rgb, target):
    """Structural similarity, averaged over all channels and pixels. (B, C, H, W) each -> (B,) float64.

    As published: per channel, a uniform 7 x 7 window, sample covariances, only windows inside the image.
    Raises ValueError for images smaller than the window.
    """
    # Equal to skimage.metrics.structural_similarity(..., data_range=1), which takes one numpy image at a time; this
    # one scores a batch on the device that rendered it.
    height, width = rgb.shape[-2:]
    if min(height, width) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, found {height} x {width}")
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
    """Four channels, as the published scores use; images of three get alpha 1. (B, 3 or 4, H, W) -> (B, 4, H, W)."""
    return rgb if rgb.shape[1] == 4 else torch.cat([rgb, torch.ones_like(rgb[:, :1])], dim=1)


def confusion_matrix(predicted, target, num_classes):
    """Pixels counted by class. (B, R) integer labels each -> (B, K, K) int64, rows target, columns prediction.

    Pixels whose target is `util.UNLABELLED` are left out. Raises ValueError for other labels outside 0..K-1.
    """
    predicted, target = predicted.flatten(1).long(), target.flatten(1).long()
    if predicted.shape != target.shape:
        raise ValueError(f"{tuple(predicted.shape)} predicted labels, expected {tuple(target.shape)} as target labels")
    labelled = target != util.UNLABELLED
    valid = (target >= 0) & (target < num_classes) & (predicted >= 0) & (predicted < num_classes)
    num_cells = len(target) * num_classes**2
    image = torch.arange(len(target), device=target.device)[:, None]
    cell = (image * num_classes + target) * num_classes + predicted  # (B, R)
    cell = cell.where(valid, num_cells).where(labelled, num_cells + 1)  # two more cells: invalid, unlabelled
    # torch.bincount would read the least and the largest cell on the host; index_add_ reads nothing.
    counts = cell.new_zeros(num_cells + 2).index_add_(0, cell.flatten(), cell.new_ones(1).expand(cell.numel()))
    if counts[num_cells]:  # the only value that the host waits for
        for name, labels in (("predicted", predicted[labelled]), ("target", target[labelled])):
            if labels.min() < 0 or labels.max() >= num_classes:
                found = f"{labels.min()} to {labels.max()}"
                raise ValueError(f"{name} labels run from {found}, expected 0 to {num_classes - 1}")
    return counts[:num_cells].reshape(len(target), num_classes, num_classes)


def iou_per_class(confusion):
    """Intersection over union. (..., K, K) counts -> (..., K) float64, nan for a class in neither map."""
    hits = confusion.diagonal(dim1=-2, dim2=-1).double()
    union = confusion.sum(-1) + confusion.sum(-2) - hits
    return hits / union


def mean_iou(confusion, with_background=True):
    """IoU averaged over the classes present in target or prediction. (..., K, K) counts -> (...,) float64.

    nan if no class is present. Without background, class 0 is left out of the mean, but pixels of another class
    that are confused with it still count against that class.
    """
    iou = iou_per_class(confusion)
    return (iou if with_background else iou[..., 1:]).nanmean(dim=-1)


def _unit_range(image):
    return image.double() / 255 if image.dtype == torch.uint8 else image.double() / 2 + 0.5


def _window_mean(image):
    return F.avg_pool2d(F.avg_pool2d(image, (SSIM_WINDOW, 1), stride=1), (1, SSIM_WINDOW), stride=1)
