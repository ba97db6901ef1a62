"""Texture images as arrays (H, W, 4) uint8, sRGB with straight alpha."""

import io

import numpy as np
from PIL import Image


def decode(data):
    """The texture in the bytes of an image file. Raises whatever Pillow's decoder does, not only OSError."""
    with Image.open(io.BytesIO(data)) as image:
        return to_rgba(image)


def to_rgba(image):
    """(H, W, 4) uint8 of a PIL image. `Image.convert` alone clips 16-bit greys to white."""
    if image.mode.startswith("I"):
        image = Image.fromarray(np.round(np.asarray(image).clip(0, 65535) / 257).astype(np.uint8))
    return np.array(image.convert("RGBA"))


def mean_colour(texture):
    """Mean sRGB (3,) in [0, 1] of an (H, W, 4) uint8 texture, weighted by alpha."""
    weight = texture[..., 3:].astype(np.float64)
    return (texture[..., :3] * weight).sum(axis=(0, 1)) / max(weight.sum(), 1.0) / 255
