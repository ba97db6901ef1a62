"""Whole models: the Scene Representation Network, and the heads that read classes off its features.

Papers: SRN (Sitzmann et al., NeurIPS 2019); Semantic SRN (Kohli et al., 3DV 2020).
Attribute names are part of the checkpoint format: they give the published state-dict keys.
"""

import torch
from torch import nn

import custom_layers
import hyperlayers
import unet
import util

CODE_STD = 0.01  # of fresh latent codes


class SRN(nn.Module):
    """Latent code -> hypernetwork -> phi; march rays through phi; features at the surface -> colour (and class).

    num_instances:   rows of the latent table
    latent_dim:      D, size of a latent code; also the width of the hypernetworks
    hidden_features: C, width of phi and of the colour head
    tracing_steps:   S, steps of the ray marcher
    rgb_channels:    3, or 4 for the published semantic system's RGBA
    num_classes:     K with a segmentation U-Net on the image of features, None without

    `sizes` holds these arguments; a checkpoint keeps them, so that a model can be built from the file alone.
    """

    def __init__(
        self, num_instances, latent_dim=256, hidden_features=256, tracing_steps=10, rgb_channels=3, num_classes=None
    ):
        super().__init__()
        self.sizes = dict(
            num_instances=num_instances,
            latent_dim=latent_dim,
            hidden_features=hidden_features,
            tracing_steps=tracing_steps,
            rgb_channels=rgb_channels,
            num_classes=num_classes,
        )
        self.latent_codes = nn.Embedding(num_instances, latent_dim, sparse=True)
        nn.init.normal_(self.latent_codes.weight, std=CODE_STD)
        self.hyper_phi = hyperlayers.HyperPhi(latent_dim, latent_dim, hidden_features)
        self.ray_marcher = custom_layers.RayMarcher(hidden_features, num_steps=tracing_steps)
        self.pixel_generator = custom_layers.FCBlock(hidden_features, hidden_features, 5, rgb_channels)
        self.class_generator = None
        if num_classes is not None:
            self.class_generator = unet.UNet(
                hidden_features, num_classes, num_down=4, base_channels=64, max_channels=128
            )

    def surface(self, batch):
        """March the rays of a batch to the surface and read phi there.

        batch: instance_idx (B,) int64, uv (B, R, 2), cam2world (B, 4, 4), intrinsics (B, 3, 3)
        returns a dict of
            z           (B, D) latent codes
            points      (B, R, 3) surface points in world space
            depth       (B, R, 1) of these points
            depth_steps (S, B, R, 1) depth after each march step
            features    (B, R, C) phi at the surface points
        """
        z = self.latent_codes(batch["instance_idx"])
        phi = self.hyper_phi(z)
        points, depth_steps = self.ray_marcher(phi, batch["uv"], batch["cam2world"], batch["intrinsics"])
        return {
            "z": z,
            "points": points,
            "depth": depth_steps[-1],
            "depth_steps": depth_steps,
            "features": phi(points),
        }

    def forward(self, batch, with_classes=True):
        """As `surface`, plus rgb (B, R, 3 or 4) in about [-1, 1] and, with the U-Net, seg_logits (B, R, K).

        The U-Net needs the rays of whole, square images; `with_classes=False` leaves it out.
        """
        outputs = self.surface(batch)
        outputs["rgb"] = self.pixel_generator(outputs["features"])
        if self.class_generator is not None and with_classes:
            seg_logits = self.class_generator(util.as_image(outputs["features"]))
            outputs["seg_logits"] = util.as_rays(seg_logits)
        return outputs

    def networks(self):
        """Every parameter but the latent codes."""
        return [p for name, p in self.named_parameters() if not name.startswith("latent_codes.")]

    def freeze_networks(self):
        """Leave only the latent codes to learn: the networks take no gradient and stay in eval mode."""
        for parameter in self.networks():
            parameter.requires_grad_(False)
        self.eval()

    def new_codes(self, num_instances, start=None):
        """Replace the latent table: each code near `start` (D,), or near 0 where there is none."""
        weight = self.latent_codes.weight
        self.latent_codes = nn.Embedding(num_instances, weight.shape[1], sparse=True).to(weight.device)
        nn.init.normal_(self.latent_codes.weight, std=CODE_STD)
        if start is not None:
            with torch.no_grad():
                self.latent_codes.weight += start
        self.sizes["num_instances"] = num_instances


class LinearHead(nn.Module):
    """One linear layer from features to classes: the semantic update of the paper. (..., C) -> (..., K)."""

    def __init__(self, in_features, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.linear = nn.Linear(in_features, num_classes)
        custom_layers.init_linear(self.linear)

    def forward(self, features):
        return self.linear(features)


class MLPHead(nn.Module):
    """Four hidden layers of the features' width between features and classes. (..., C) -> (..., K)."""

    def __init__(self, in_features, num_classes):
        super().__init__()
        self.num_classes = num_classes
        self.mlp = custom_layers.FCBlock(in_features, in_features, 4, num_classes)

    def forward(self, features):
        return self.mlp(features)


HEADS = {"linear": LinearHead, "mlp": MLPHead}
