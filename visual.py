"""Tensors to pictures. A picture is an (H, W, 3) uint8 numpy array, RGB over the full range 0..255."""

import functools

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import geometry
import util

WHITE = 255
UNLABELLED_COLOR = (160, 160, 160)
FARTHEST_GREY = 40  # of depth pictures; black is left to rays without a depth

# Contact sheets: colours, and lengths in pixels.
INK, FAINT_INK, FRAME, RULE = (30,) * 3, (110,) * 3, (205,) * 3, (225,) * 3
MARGIN, GAP, NAME_WIDTH = 24, 10, 190


def class_colors(num_classes):
    """The published palette: background white, the other classes along a rainbow. (K, 3) float32 in [0, 1].

    The rainbow is matplotlib's, read from a table of 256 colours.
    """
    x = np.linspace(0, 1, max(num_classes - 1, 0))
    x = np.minimum(np.floor(x * 256), 255) / 255
    rainbow = np.stack([np.abs(2 * x - 0.5), np.sin(np.pi * x), np.cos(np.pi * x / 2)], axis=-1)
    return np.concatenate([np.ones((1, 3)), rainbow.clip(0, 1)])[:num_classes].astype(np.float32)


def to_uint8(image):
    """(3 or 4, H, W) in [-1, 1] to a picture. Values beyond are clipped, alpha is dropped, nan is black."""
    return in_8_bits(image).permute(1, 2, 0).contiguous().cpu().numpy()


def in_8_bits(images):
    """The levels of pictures: (..., 3 or 4, H, W) in [-1, 1] to (..., 3, H, W) uint8, on the device of the images."""
    unit_range = images[..., :3, :, :].detach().float() / 2 + 0.5
    return (unit_range.nan_to_num(nan=0.0) * 255).round().clamp(0, 255).to(torch.uint8)


def label_colors(seg_labels, num_classes):
    """The palette's colours of integer labels, for pictures and point clouds. (...) -> (..., 3) uint8.

    Unlabelled pixels are grey.
    """
    palette = np.rint(class_colors(num_classes) * 255).astype(np.uint8)
    labels = torch.as_tensor(seg_labels).cpu().numpy().astype(np.int64)
    labelled = labels != util.UNLABELLED
    beyond = labels[labelled & ((labels < 0) | (labels >= num_classes))]
    if len(beyond):
        raise ValueError(f"label {beyond[0]} has no colour: the palette is for classes 0 to {num_classes - 1}")
    colors = np.empty((*labels.shape, 3), np.uint8)
    colors[labelled] = palette[labels[labelled]]
    colors[~labelled] = UNLABELLED_COLOR
    return colors


def label_picture(seg_labels, num_classes):
    """Integer labels (H, W) as a picture in the palette's colours."""
    return label_colors(seg_labels, num_classes)


def normal_picture(normals):
    """Camera-space unit normals (3, H, W) as a picture: red to the right, green up, blue towards the camera.

    The normal of a surface that faces the camera is (0, 0, -1), since z points into the scene. Where the normal
    is 0, there is no surface: white.
    """
    flip = normals.new_tensor([1.0, -1.0, -1.0])[:, None, None]
    picture = to_uint8(normals * flip)
    picture[(normals == 0).all(dim=0).cpu().numpy()] = WHITE
    return picture


def depth_picture(depth, near=None, far=None):
    """Depth (1, H, W) or (H, W) as a grey picture, near light and far dark.

    The range defaults to the 2nd and 98th percentile of the finite depths, so that stray rays do not spoil it;
    give `near` and `far` to compare pictures. Depths that are not finite are black.
    """
    depth = depth.detach().double().cpu().numpy().reshape(depth.shape[-2:])
    finite = np.isfinite(depth)
    grey = np.zeros(depth.shape, np.uint8)
    if finite.any():
        low, high = np.percentile(depth[finite], [2, 98])
        near, far = low if near is None else near, high if far is None else far
        closeness = ((far - depth[finite]) / max(far - near, 1e-9)).clip(0, 1)
        grey[finite] = np.rint(FARTHEST_GREY + (255 - FARTHEST_GREY) * closeness)
    return np.repeat(grey[..., None], 3, axis=-1)


def camera_normals(points, cam2world):
    """Surface points of whole square images (B, R, 3) to normals in camera space (B, 3, H, W); 0 at the border."""
    in_camera = util.as_image(geometry.world_to_camera(points, cam2world))
    return torch.nn.functional.pad(geometry.normal_map(in_camera), (1, 1, 1, 1))


def of_observation(outputs, batch, i, num_classes=None):
    """Pictures of observation i of a rendered batch of whole square images: {"normals", "rgb", "rgb_gt", "seg", "seg_gt"}.

    Those that the outputs (renderer.render) or the batch do not have are left out.
    """
    points, cam2world = outputs["points"][i : i + 1], batch["cam2world"][i : i + 1]
    pictures = {"normals": normal_picture(camera_normals(points, cam2world)[0])}
    side = len(pictures["normals"])
    for kind, source in (("rgb", outputs), ("rgb_gt", batch)):
        if "rgb" in source:
            pictures[kind] = to_uint8(util.as_image(source["rgb"][i : i + 1])[0])
    if "seg_logits" in outputs:
        pictures["seg"] = label_picture(outputs["seg_logits"][i].argmax(dim=-1).view(side, side), num_classes)
    if "seg_labels" in batch:
        pictures["seg_gt"] = label_picture(batch["seg_labels"][i].view(side, side), num_classes)
    return pictures


def strip(pictures, gap=2):
    """Pictures side by side, `gap` white pixels between them. Smaller ones are centred on white."""
    return grid(pictures, columns=len(pictures), gap=gap)


def grid(pictures, columns, gap=2):
    """Pictures row by row in tiles of the largest one's size; the rest of the last row is white."""
    tile_height, tile_width = np.max([picture.shape[:2] for picture in pictures], axis=0)
    rows = -(-len(pictures) // columns)
    canvas = np.full((rows * (tile_height + gap) - gap, columns * (tile_width + gap) - gap, 3), WHITE, np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        _paste(canvas, picture, row * (tile_height + gap), column * (tile_width + gap), tile_height, tile_width)
    return canvas


def enlarge(picture, factor):
    """Every pixel a block of factor x factor: what the network rendered, without smoothing."""
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def contact_sheet(rows, column_titles, row_titles, title=None, class_names=None, width=1500):
    """A labelled sheet that tells a whole run at one look: a row per instance, a column per kind of picture.

    rows:          a list of rows, each a list of pictures, None for an empty place
    column_titles: one per column, such as "input", "rgb", "ground truth", "segmentation", "normals"
    row_titles:    one per row; the first line is the instance's name, further lines its scores
    title:         a line above it all
    class_names:   adds a key to the colours of label pictures, background first
    width:         the sheet's width is about this; pictures are enlarged by a whole factor to fill it
    """
    if len(rows) != len(row_titles) or any(len(row) != len(column_titles) for row in rows):
        raise ValueError(
            f"{len(rows)} rows of {sorted({len(row) for row in rows})} pictures, but {len(row_titles)} row titles "
            f"and {len(column_titles)} column titles"
        )
    sizes = [picture.shape[:2] for row in rows for picture in row if picture is not None] or [(64, 64)]
    height, picture_width = np.max(sizes, axis=0).tolist()
    columns = len(column_titles)
    factor = max(1, round((width - 2 * MARGIN - NAME_WIDTH - columns * GAP) / (columns * picture_width)))
    tile = (height * factor, picture_width * factor)
    sheet_width = 2 * MARGIN + NAME_WIDTH + columns * (tile[1] + GAP) - GAP

    bands = [_title_band(title, sheet_width)] if title else []
    bands.append(_column_band(column_titles, tile, sheet_width))
    for pictures, row_title in zip(rows, row_titles):
        bands.append(_row_band(pictures, row_title, factor, tile, sheet_width))
    if class_names:
        bands.append(_key_band(class_names, sheet_width))
    border = np.full((MARGIN, sheet_width, 3), WHITE, np.uint8)
    return np.concatenate([border, *bands, border])


def _title_band(title, sheet_width):
    band, draw = blank_band(sheet_width, 44)
    draw.text((MARGIN, 0), fit_text(title, load_font(26), sheet_width - 2 * MARGIN), INK, font=load_font(26))
    return np.asarray(band)


def _column_band(column_titles, tile, sheet_width):
    band, draw = blank_band(sheet_width, 30)
    for column, column_title in enumerate(column_titles):
        centre = MARGIN + NAME_WIDTH + column * (tile[1] + GAP) + tile[1] / 2
        draw.text((centre, 0), fit_text(column_title, load_font(19), tile[1] + GAP), INK, font=load_font(19), anchor="ma")
    return np.asarray(band)


def _row_band(pictures, row_title, factor, tile, sheet_width):
    """Name and scores to the left, the enlarged pictures beside them."""
    lines = row_title.split("\n")
    band, draw = blank_band(sheet_width, 2 * GAP + max(tile[0], 23 * len(lines) + 10))
    draw.line([(MARGIN, 0), (sheet_width - MARGIN, 0)], fill=RULE)
    for number, line in enumerate(lines):
        font, ink, y = (load_font(16), FAINT_INK, 8 + 23 * number) if number else (load_font(19), INK, 0)
        draw.text((MARGIN, GAP + 1 + y), fit_text(line, font, NAME_WIDTH - 16), ink, font=font)
    for column, picture in enumerate(pictures):
        if picture is None:
            continue
        x = MARGIN + NAME_WIDTH + column * (tile[1] + GAP)
        canvas = np.full((*tile, 3), WHITE, np.uint8)
        _paste(canvas, enlarge(picture, factor), 0, 0, *tile)
        band.paste(Image.fromarray(canvas), (x, GAP))
        # Most pictures are white towards their border: the frame shows where they end.
        draw.rectangle([x - 1, GAP - 1, x + tile[1], GAP + tile[0]], outline=FRAME)
    return np.asarray(band)


def _key_band(class_names, sheet_width):
    """The classes' colours and names, in as many lines as they need."""
    font, line_height, swatch = load_font(16), 30, 18
    places, x, line = [], MARGIN, 0
    for name in class_names:
        entry_width = swatch + 8 + font.getlength(name)
        if x > MARGIN and x + entry_width > sheet_width - MARGIN:
            x, line = MARGIN, line + 1
        places.append((x, line * line_height + 8))
        x += entry_width + 28

    band, draw = blank_band(sheet_width, (line + 1) * line_height)
    palette = label_colors(np.arange(len(class_names)), len(class_names)).tolist()
    for name, color, (x, y) in zip(class_names, palette, places):
        draw.rectangle([x, y, x + swatch, y + swatch], fill=tuple(color), outline=FRAME)
        draw.text((x + swatch + 8, y + swatch / 2), name, INK, font=font, anchor="lm")
    return np.asarray(band)


def blank_band(width, height):
    band = Image.new("RGB", (width, height), "white")
    return band, ImageDraw.Draw(band)


@functools.cache
def load_font(size):
    return ImageFont.load_default(size=size)


def _paste(canvas, picture, top, left, tile_height, tile_width):
    """Centre a picture in a tile of the canvas."""
    height, width = picture.shape[:2]
    top, left = top + (tile_height - height) // 2, left + (tile_width - width) // 2
    canvas[top : top + height, left : left + width] = picture


def fit_text(text, font, width):
    """The text, or as much of its end as fits, after an ellipsis: long names of instances differ in their ends."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("..." + text) > width:
        text = text[1:]
    return "..." + text
