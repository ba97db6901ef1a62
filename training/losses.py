"""Loss terms of the SRN and of heads on it: pure functions, tensors in, scalars out. The caller weights the terms."""

import math

import torch.nn.functional as F

import util

DEPTH_PENALTY = 10_000.0


def image_loss(rgb, target):
    """Mean squared error over rays and channels. (B, R, C) in [-1, 1] each -> ()."""
    return F.mse_loss(rgb, target)


def segmentation_loss(seg_logits, seg_labels, num_labelled=None):
    """Mean cross-entropy over labelled rays, 0 if there are none. (..., K) logits, (...) int64 labels -> ().

    num_labelled: () int64, labelled rays of the whole batch if these rays are a part of it (default: those among these rays)
    """
    labels = seg_labels.flatten()
    total = F.cross_entropy(seg_logits.flatten(0, -2), labels, ignore_index=util.UNLABELLED, reduction="sum")
    if num_labelled is None:
        num_labelled = (labels != util.UNLABELLED).sum()
    return total / num_labelled.clamp(min=1)


def depth_loss(depth):
    """Keeps surfaces in front of the camera: DEPTH_PENALTY * mean(min(depth, 0)^2). (B, R, 1) -> ()."""
    return DEPTH_PENALTY * depth.clamp(max=0).square().mean()


def latent_loss(z):
    """Gaussian prior on the latent codes: their mean square. (B, D) -> ()."""
    return z.square().mean()


def weight_loss(module):
    """Sum of squares of a head's weight matrices, without biases and norms; against overfitting of few label maps. -> ()."""
    return sum(parameter.square().sum() for parameter in module.parameters() if parameter.dim() > 1)


def psnr_of(image_loss):
    """PSNR in dB of a mean squared error over values in [-1, 1]. () -> float."""
    return 10 * math.log10(4 / max(float(image_loss), 1e-12))
