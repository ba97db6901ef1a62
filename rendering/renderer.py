"""Rendering whole images without gradients, a block of rays at a time."""

import torch

import hyperlayers
import util
from rendering import blocks
from rendering.precision import autocast, to_float32

RAYS_PER_BLOCK = {"cpu": 2**11, "cuda": 2**18}


def expect_side(sidelength, model, head=None):
    """An InputError unless the U-Nets of model and head can halve images of this side as often as they do."""
    multiple = max(model.side_multiple(with_classes=head is None), head.side_multiple if head is not None else 1)
    if sidelength % multiple:
        raise util.InputError(f"--img_sidelength {sidelength}: the U-Net needs a multiple of {multiple}")


@torch.no_grad()
def render(model, batch, head=None, with_classes=True, inputs_of=None, precision="float32"):
    """Render a batch, as srns.SRN.forward does, a block of rays at a time.

    batch: as the model takes it, on its device; whole images if the model or the head has a U-Net
    head:  one of srns.HEADS; its seg_logits replace those of the model's own U-Net
    with_classes: False omits the model's segmentation U-Net
    inputs_of: a srns.FeatureHead whose inputs (B, R, I) are returned as `inputs`, 1 KiB per ray and layer of width 256
    precision: see rendering.precision.PRECISIONS
    returns a dict of rgb, depth, points (B, R, ...), depth_steps (S, B, R, 1), and seg_logits (B, R, K) if there is a head
    or a U-Net
    """
    num_views, num_rays, _ = batch["uv"].shape
    device = batch["uv"].device
    z, phi = model.scene(batch)
    unets = model.sizes["use_unet_renderer"] or with_classes and head is None and model.class_generator is not None
    of_rays = {name: batch[name] for name in ("uv", "cam2world", "intrinsics")}
    feature_head = head if head is not None and head.reads == "features" else None
    left_out = {"layers"} if unets else {"layers", "features"}
    pieces = blocks.split(num_views, num_rays, RAYS_PER_BLOCK.get(device.type, RAYS_PER_BLOCK["cpu"]), device)

    def render_block(views, rays):
        block = blocks.cut(of_rays, views, rays, {"uv"})
        with autocast(device.type, precision):
            scene = None, phi.part(views) if isinstance(phi, hyperlayers.Phi) else phi
            block = model.per_ray(block, scene, feature_head, with_layers=inputs_of is not None and inputs_of.reads_layers)
            if inputs_of is not None:
                block["inputs"] = inputs_of.inputs(block)
        return to_float32({name: x for name, x in block.items() if name not in left_out})

    outputs = blocks.gather(lambda index: render_block(*pieces[index]), pieces, device)
    with autocast(device.type, precision):
        if unets:
            outputs |= to_float32(model.per_image(outputs["features"], with_classes and head is None))
        if head is not None and head.reads == "rgb":
            outputs["seg_logits"] = head(outputs["rgb"]).float()
    outputs.pop("features", None)
    return outputs if z is None else outputs | {"z": z}
