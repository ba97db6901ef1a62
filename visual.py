"""Tensors to pictures. A picture is an (H, W, 3) uint8 numpy array, RGB over the full range 0..255."""

import numpy as np
import torch

import geometry
import util

WHITE = 255
UNLABELLED_COLOR = (160, 160, 160)
FARTHEST_GREY = 40  # of depth pictures; black marks rays without a finite depth


def class_colors(num_classes):
    """The published palette: background white, the other classes along a rainbow. (K, 3) float32 in [0, 1].

    The rainbow is matplotlib's, sampled at 256 colours as there.
    """
    x = np.linspace(0, 1, max(num_classes - 1, 0))
    x = np.minimum(np.floor(x * 256), 255) / 255
    rainbow = np.stack([np.abs(2 * x - 0.5), np.sin(np.pi * x), np.cos(np.pi * x / 2)], axis=-1)
    return np.concatenate([np.ones((1, 3)), rainbow.clip(0, 1)])[:num_classes].astype(np.float32)


def to_uint8(image):
    """(3 or 4, H, W) in [-1, 1] to a picture. Clips other values, drops alpha, shows nan as black."""
    return in_8_bits(image).permute(1, 2, 0).contiguous().cpu().numpy()


def in_8_bits(images):
    """8-bit levels, as pictures have: (..., 3 or 4, H, W) in [-1, 1] to (..., 3, H, W) uint8, on the same device."""
    unit_range = images[..., :3, :, :].detach().float() / 2 + 0.5
    return (unit_range.nan_to_num(nan=0.0) * 255).round().clamp(0, 255).to(torch.uint8)


def label_colors(seg_labels, num_classes):
    """The palette's colours of integer labels, for pictures and point clouds. (...) -> (..., 3) uint8.

    Unlabelled pixels are grey. Raises ValueError for other labels outside 0..K-1.
    """
    labels = torch.as_tensor(seg_labels).cpu().numpy().astype(np.int64)
    beyond = labels[(labels < util.UNLABELLED) | (labels >= num_classes)]
    if len(beyond):
        raise ValueError(f"label {beyond[0]} has no colour: expected classes 0 to {num_classes - 1}")
    palette = np.concatenate([np.rint(class_colors(num_classes) * 255), [UNLABELLED_COLOR]]).astype(np.uint8)
    return palette[labels]  # UNLABELLED, -1, is the last


def normal_picture(normals):
    """Camera-space unit normals (3, H, W) as a picture: red to the right, green up, blue towards the camera.

    The normal of a surface that faces the camera is (0, 0, -1), since z points into the scene. A normal of 0
    means no surface, and is white.
    """
    flip = normals.new_tensor([1.0, -1.0, -1.0])[:, None, None]
    picture = to_uint8(normals * flip)
    picture[(normals == 0).all(dim=0).cpu().numpy()] = WHITE
    return picture


def depth_picture(depth):
    """Depth (1, H, W) or (H, W) as a grey picture, near light and far dark.

    The range is from the 2nd to the 98th percentile of the finite depths, which ignores stray rays. Depths that are not
    finite are black.
    """
    depth = depth.detach().double().cpu().numpy().reshape(depth.shape[-2:])
    finite = np.isfinite(depth)
    grey = np.zeros(depth.shape, np.uint8)
    if finite.any():
        near, far = np.percentile(depth[finite], [2, 98])
        closeness = ((far - depth[finite]) / max(far - near, 1e-9)).clip(0, 1)
        grey[finite] = np.rint(FARTHEST_GREY + (255 - FARTHEST_GREY) * closeness)
    return np.repeat(grey[..., None], 3, axis=-1)


def camera_normals(points, cam2world):
    """Surface points (B, R, 3) of whole square images to normals in camera space (B, 3, H, W), 0 at the border."""
    in_camera = util.as_image(geometry.world_to_camera(points, cam2world))
    return torch.nn.functional.pad(geometry.normal_map(in_camera), (1, 1, 1, 1))


def to_host(outputs):
    """The part of the model's outputs that pictures and point clouds show, on the CPU.

    outputs: as from renderer.render
    returns  points (B, R, 3), rgb (B, R, 3) and, if there are seg_logits, the predicted seg_labels (B, R) int64
    """
    shown = {"points": outputs["points"], "rgb": outputs["rgb"][..., :3]}
    if "seg_logits" in outputs:
        shown["seg_labels"] = outputs["seg_logits"].argmax(dim=-1)
    return {name: tensor.cpu() for name, tensor in shown.items()}


def of_observation(shown, batch, i, num_classes=None):
    """Pictures of observation i of a batch of whole square images: {"normals", "rgb", "rgb_gt", "seg", "seg_gt"}.

    shown: as from `to_host`
    batch: cam2world (B, 4, 4), and the ground truth if there is any: rgb (B, R, 3 or 4), seg_labels (B, R); on the CPU
    Kinds that neither of them has are left out.
    """
    normals = camera_normals(shown["points"][i : i + 1], batch["cam2world"][i : i + 1])[0]
    pictures = {"normals": normal_picture(normals)}
    for suffix, tensors in (("", shown), ("_gt", batch)):
        if "rgb" in tensors:
            pictures[f"rgb{suffix}"] = to_uint8(util.as_image(tensors["rgb"][i : i + 1])[0])
    for suffix, tensors in (("", shown), ("_gt", batch)):
        if "seg_labels" in tensors:
            pictures[f"seg{suffix}"] = label_colors(tensors["seg_labels"][i].view(normals.shape[-2:]), num_classes)
    return pictures


def strip(pictures, gap=2):
    """Pictures side by side, `gap` white pixels apart. Smaller ones are centred on white."""
    return grid(pictures, columns=len(pictures), gap=gap)


def grid(pictures, columns, gap=2):
    """Pictures row by row, centred in tiles of the largest height and width; the rest of the last row is white."""
    tile = np.max([picture.shape[:2] for picture in pictures], axis=0)
    rows = -(-len(pictures) // columns)
    canvas = np.full((*(tile + gap) * (rows, columns) - gap, 3), WHITE, np.uint8)
    for index, picture in enumerate(pictures):
        height, width = picture.shape[:2]
        top, left = (tile + gap) * divmod(index, columns) + (tile - (height, width)) // 2
        canvas[top : top + height, left : left + width] = picture
    return canvas


def enlarge(picture, factor):
    """Every pixel becomes a block of factor x factor, without smoothing."""
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)
