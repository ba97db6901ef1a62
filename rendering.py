"""Rendering whole images without gradients, a block of rays at a time."""

import torch

import util

RAYS_PER_BLOCK = {"cpu": 2**13, "cuda": 2**18}


def expect_side(sidelength, model, head=None):
    """An InputError unless the U-Nets that take part in rendering can halve a side of that many pixels."""
    multiple = max(model.side_multiple(with_classes=head is None), head.side_multiple if head is not None else 1)
    if sidelength % multiple:
        raise util.InputError(f"--img_sidelength {sidelength}: a U-Net takes part and needs a multiple of {multiple}")


@torch.no_grad()
def render(model, batch, head=None, with_classes=True):
    """Everything that can be seen along the rays of a batch, as srns.SRN.forward gives it.

    batch: as the model takes it, on its device; whole images if a U-Net takes part
    head:  one of srns.HEADS; its seg_logits replace those of the model's own U-Net
    with_classes: False leaves the model's segmentation U-Net out
    returns the outputs' dict; rgb, depth, points, features (B, R, ...), depth_steps (S, B, R, 1), and seg_logits
    (B, R, K) where there is a head or a U-Net
    """
    batch_size, num_rays, _ = batch["uv"].shape
    rays_per_image = max(1, RAYS_PER_BLOCK.get(batch["uv"].device.type, RAYS_PER_BLOCK["cpu"]) // batch_size)
    blocks = []
    for uv in batch["uv"].split(rays_per_image, dim=1):
        block = model.per_ray(batch | {"uv": uv})
        if head is not None and head.reads == "features":
            block["seg_logits"] = head(block["features"])
        blocks.append(block)

    outputs = {name: torch.cat([block[name] for block in blocks], dim=-2) for name in blocks[0] if name != "z"}
    outputs |= {name: blocks[0][name] for name in blocks[0] if name == "z"}
    outputs |= model.per_image(outputs["features"], with_classes and head is None)
    if head is not None and head.reads == "rgb":
        outputs["seg_logits"] = head(outputs["rgb"])
    return outputs
