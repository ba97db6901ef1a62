"""Rendering whole images without gradients, a block of rays at a time."""

import torch

import util

RAYS_PER_BLOCK = {"cpu": 2**13, "cuda": 2**18}


@torch.no_grad()
def render(model, batch, head=None, with_classes=True):
    """Everything that can be seen along the rays of a batch, as srns.SRN.forward gives it.

    batch: as the model takes it, on its device; whole images if the model has a segmentation U-Net
    head:  a segmentation head on the features; its seg_logits replace the U-Net's
    with_classes: False leaves the U-Net out
    returns the outputs' dict; rgb, depth, points, features (B, R, ...), depth_steps (S, B, R, 1), and seg_logits
    (B, R, K) where there is a head or a U-Net
    """
    batch_size, num_rays, _ = batch["uv"].shape
    rays_per_image = max(1, RAYS_PER_BLOCK.get(batch["uv"].device.type, RAYS_PER_BLOCK["cpu"]) // batch_size)
    blocks = []
    for uv in batch["uv"].split(rays_per_image, dim=1):
        block = model(batch | {"uv": uv}, with_classes=False)
        if head is not None:
            block["seg_logits"] = head(block["features"])
        blocks.append(block)

    outputs = {name: torch.cat([block[name] for block in blocks], dim=-2) for name in blocks[0] if name != "z"}
    outputs["z"] = blocks[0]["z"]
    if head is None and model.class_generator is not None and with_classes:
        outputs["seg_logits"] = util.as_rays(model.class_generator(util.as_image(outputs["features"])))
    return outputs
