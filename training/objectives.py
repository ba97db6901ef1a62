"""The losses of the stages, as modules from a batch to a dict of weighted scalar terms."""

import functools
from typing import NamedTuple

import torch
from torch import nn

import hyperlayers
import util
from rendering import blocks
from rendering.precision import autocast, to_float32
from training import distributed, losses

PER_RAY = {"uv", "rgb", "seg_labels", "initial_depth"}  # of the tensors of a batch
RAYS_PER_BLOCK = {"cpu": 2**11, "cuda": 2**16}  # fit the caches of a CPU
KEPT_RAYS = {"cpu": 2**14, "cuda": 2**16}


def rays_at_once(options, device):
    """options.rays_per_block and options.kept_rays; where one is None, the default of the device."""
    given = (options.rays_per_block, RAYS_PER_BLOCK), (options.kept_rays, KEPT_RAYS)
    return [default[device.type] if rays is None else rays for rays, default in given]


class Weights(NamedTuple):
    """Weights of the loss terms of stages 1 and 3."""

    image: float = 200.0
    classes: float = 8.0
    latent: float = 1.0
    depth: float = 1e-3


def srn_terms(weights, outputs, batch, share=1.0, num_labelled=None):
    """The weighted loss terms of some rays, a dict of (); terms without an observation are left out.

    share:        share of these rays in all rays that the loss is the mean of
    num_labelled: () labelled rays among all of them (default: those of this batch)
    """
    terms = {"regularization": share * weights.depth * losses.depth_loss(outputs["depth"])}
    if "rgb" in batch:
        rgb = outputs["rgb"]
        terms["distortion"] = share * weights.image * losses.image_loss(rgb, batch["rgb"][..., : rgb.shape[-1]])
    if "z" in outputs:
        terms["latent"] = share * weights.latent * losses.latent_loss(outputs["z"])
    if "seg_logits" in outputs:
        terms["class"] = weights.classes * losses.segmentation_loss(outputs["seg_logits"], batch["seg_labels"], num_labelled)
    return terms


class SRNObjective(nn.Module):
    """The loss of stages 1 and 3: batch -> {"distortion": (), ...}, weighted. Only their plain sum may be differentiated.

    model:   srns.SRN
    weights: Weights
    head:    frozen head of stage 2 whose classes are compared with the labels, or None
    with_classes: whether the classes of the model's own U-Net are compared with the labels
    rays_per_block: rays whose activations are held at once; 0: all
    kept_rays: where a U-Net reads whole images (`needs_images`), rays whose activations are kept; others are computed twice
    precision: "float32", or "bfloat16" for matrix products; geometry, the marcher's state, the hypernetwork and the losses
        always use float32

    Of several processes that share the batch, each computes its share of the loss, and gradients are summed.
    """

    def __init__(self, model, weights, head=None, with_classes=False, rays_per_block=0, precision="float32", kept_rays=0):
        super().__init__()
        self.model, self.head = model, head
        self.weights, self.with_classes = weights, with_classes
        self.rays_per_block, self.kept_rays = rays_per_block, kept_rays
        self.precision = precision

    def forward(self, batch):
        model = self.model
        if model.training and model.ray_marcher.initial_depth_std:  # once, since a block may be computed twice
            batch = batch | {"initial_depth": model.ray_marcher.draw_initial_depth(batch["uv"][..., :1])}
        z, phi = model.scene(batch)
        pieces = blocks.split(*batch["uv"].shape[:2], self.rays_per_block, batch["uv"].device)
        num_labelled = self.num_labelled(batch)
        if len(pieces) > 1 and not self.needs_images():
            return self.terms_by_blocks(batch, z, phi, pieces, num_labelled)
        with self.autocast(batch):
            if len(pieces) == 1:
                outputs = model.per_ray(batch, (z, phi), self.feature_head)
            else:
                outputs = self.per_ray_by_blocks(batch, z, phi, pieces)
            outputs |= model.per_image(outputs["features"], self.with_classes)
            if self.reads_images():
                outputs["seg_logits"] = self.head(outputs["rgb"])
        return srn_terms(self.weights, to_float32(outputs), batch, 1 / distributed.world_size(), num_labelled)

    def needs_images(self):
        """Whether a U-Net reads neighbouring rays, so that the loss is not a sum over rays."""
        return self.with_classes or self.model.sizes["use_unet_renderer"] or self.reads_images()

    def reads_images(self):
        """Whether the head reads the rendered image."""
        return self.head is not None and self.head.reads == "rgb"

    @property
    def feature_head(self):
        return None if self.reads_images() else self.head

    def terms_by_blocks(self, batch, z, phi, pieces, num_labelled):
        """The terms, computed with their gradients block by block, so that only one block's activations are held."""
        names = ["regularization"] + ["distortion"] * ("rgb" in batch) + ["class"] * (self.head is not None)
        num_rays = batch["uv"][..., 0].numel() * distributed.world_size()

        def terms_of(views, rays, scene):
            block = blocks.cut(batch, views, rays, PER_RAY)
            outputs = self.model.per_ray(block, (None, phi_of(scene, phi)), self.head)
            share = block["uv"][..., 0].numel() / num_rays
            terms = srn_terms(self.weights, to_float32(outputs), block, share, num_labelled)
            return torch.stack([terms[name] for name in names])

        autocast = functools.partial(self.autocast, batch)
        summed = blocks.sum_over_blocks(terms_of, pieces, scene_of(phi), self.parameters_of_rays(), autocast)
        terms = dict(zip(names, summed))
        if z is not None:
            terms["latent"] = self.weights.latent * losses.latent_loss(z) / distributed.world_size()
        return terms

    def per_ray_by_blocks(self, batch, z, phi, pieces):
        """As SRN.per_ray without points and depth_steps; blocks beyond kept_rays are computed again in the backward pass."""
        names = ["features", "depth"] + ["rgb"] * (not self.model.sizes["use_unet_renderer"])
        names += ["seg_logits"] * (self.feature_head is not None)

        def outputs_of(views, rays, scene):
            block = blocks.cut(batch, views, rays, PER_RAY)
            outputs = self.model.per_ray(block, (None, phi_of(scene, phi)), self.feature_head)
            return tuple(outputs[name] for name in names)

        autocast = functools.partial(self.autocast, batch)
        num_kept = self.kept_rays // blocks.num_rays_of(pieces[0])
        outputs = blocks.map_over_blocks(outputs_of, pieces, scene_of(phi), self.parameters_of_rays(), autocast, num_kept)
        return dict(zip(names, outputs)) | ({} if z is None else {"z": z})

    def parameters_of_rays(self):
        """Parameters that the computation of a ray uses, apart from those of the scene."""
        model = self.model
        pixel_generator = None if model.sizes["use_unet_renderer"] else model.pixel_generator
        modules = [model.ray_marcher, model.phi, pixel_generator, self.feature_head]
        return [parameter for module in modules if module is not None for parameter in module.parameters()]

    def num_labelled(self, batch):
        """() labelled rays of the batch over all processes; None where the batch has no labels."""
        if "seg_labels" not in batch:
            return None
        return distributed.sum_over_processes((batch["seg_labels"] != util.UNLABELLED).sum())

    def autocast(self, batch):
        return autocast(batch["uv"].device.type, self.precision)


class HeadObjective(nn.Module):
    """The loss of stage 2: batch (inputs, seg_labels) -> {"class": (), "head": ()}, weighted.

    reg_weight: weight of the sum of squares of the head's weights
    """

    def __init__(self, head, class_weight, reg_weight=0.0):
        super().__init__()
        self.head, self.class_weight, self.reg_weight = head, class_weight, reg_weight

    def forward(self, batch):
        num_labelled = distributed.sum_over_processes((batch["seg_labels"] != util.UNLABELLED).sum())
        loss = losses.segmentation_loss(self.head(batch["inputs"]), batch["seg_labels"], num_labelled)
        terms = {"class": self.class_weight * loss}
        if self.reg_weight:
            terms["head"] = self.reg_weight * losses.weight_loss(self.head) / distributed.world_size()
        return terms


def scene_of(phi):
    """The tensors of a hyperlayers.Phi, for `blocks`; none where phi is a network of a single object."""
    return [tensor for layer in phi.layers for tensor in layer] if isinstance(phi, hyperlayers.Phi) else []


def phi_of(scene, phi):
    """The phi of which `scene_of` returned the tensors."""
    return phi.with_layers(list(zip(scene[::2], scene[1::2]))) if scene else phi
