"""One sheet that explains a data set: where its cameras stand and look, and what some of them see.

To the left the world in perspective: its axes, the cameras of one instance as pyramids, its labelled point cloud if
there is one. To the right some views, each beside its label map laid over it; in the drawing they bear the same
numbers, their pictures on the pyramids, and their axes in colours.

Shapes: V views, N points. A picture is an (H, W, 3) uint8 array, as in visual.py.
"""

import os
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

import data_util
import geometry
import util
import visual
from datasets.checks import camera_drawing

WIDTH, TILE = 1500, 204
NUM_WITH_LABELS, NUM_WITHOUT = 4, 6  # views shown
HEADING, LINE, TITLE = 30, 26, 52  # heights of a view's name, a line of facts, the title
SINGLE, COLUMN_GAP = 420, 34  # the side of the one picture where there is but one; between drawing and pictures
LABEL_OPACITY = 0.55


@dataclass(frozen=True)
class View:
    """One observation as it is shown: its index among the poses, its name, and its pictures."""

    index: int
    name: str
    picture: np.ndarray  # (H, W, 3), over white
    overlay: np.ndarray = None  # (H, W, 3), the label map laid over it


def load_view(folder, index, name, num_classes=None):
    """Reads an image of an instance folder, and with `num_classes` its label map, as a View; whole, not cropped."""
    rgb_path, seg_path = folder / "rgb" / f"{name}.png", folder / "seg" / f"{name}.npy"
    try:
        with Image.open(rgb_path) as image:
            rgba = image.convert("RGBA")
    except Exception as error:  # PIL raises whatever its decoder does
        raise util.InputError(f"{rgb_path}: cannot be read as an image ({error})") from None
    picture = np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))
    if num_classes is None or not os.path.exists(seg_path):
        return View(index, name, picture)
    seg_labels = data_util.open_seg_labels(seg_path)
    if seg_labels.shape != picture.shape[:2] or seg_labels.min() < util.UNLABELLED or seg_labels.max() >= num_classes:
        return View(index, name, picture)
    return View(index, name, picture, lay_over(picture, seg_labels, num_classes))


def lay_over(picture, seg_labels, num_classes):
    """The palette's colours of labels (H, W), half transparent over a picture, which is grey there; background stays."""
    grey = picture.mean(axis=-1, keepdims=True)
    mixed = (1 - LABEL_OPACITY) * grey + LABEL_OPACITY * visual.label_colors(seg_labels.astype(np.int64), num_classes)
    shown = (seg_labels != 0)[..., None]
    return np.where(shown, np.rint(mixed), picture).astype(np.uint8)


def choose_views(poses, num_shown):
    """Indices of views (V, 4, 4) that lie far from each other in the drawing, and not before the object."""
    from_target = poses[:, :3, 3] - geometry.viewing_target(torch.as_tensor(poses)).numpy()
    directions = from_target / np.maximum(np.linalg.norm(from_target, axis=1, keepdims=True), 1e-9)
    viewer = camera_drawing.viewing_direction(from_target, camera_drawing.upward(poses))
    towards_viewer = directions @ viewer
    directions = directions - 0.7 * towards_viewer[:, None] * viewer
    free = towards_viewer < 0.7
    chosen = [int(np.where(free, towards_viewer, -np.inf).argmax())]
    while len(chosen) < min(num_shown, len(poses)):
        apart = np.linalg.norm(directions[:, None] - directions[chosen], axis=-1).min(axis=1)  # (V,)
        apart[~free] -= 3
        apart[chosen] = -np.inf
        chosen.append(int(apart.argmax()))
    return sorted(chosen)


def facts_of(poses, intrinsics, pixel_center):
    """(what, value) of the cameras (V, 4, 4) of an instance, for `sheet`."""
    distances = distances_of(poses)
    low, mean, high = (f"{x:.3g}" for x in (distances.min(), distances.mean(), distances.max()))
    distance = mean if low == high else f"{mean} on average, {low} to {high}"
    return [
        ("image", f"{intrinsics.width} x {intrinsics.height} pixels"),
        ("focal length", f"{intrinsics.focal:.4g} pixels"),
        ("field of view", field_of_view(intrinsics)),
        ("principal point", f"({intrinsics.cx:.4g}, {intrinsics.cy:.4g})"),
        ("camera to object", f"{distance} world units"),
        ("rays go through", "(column + 0.5, row + 0.5)" if pixel_center else "(column, row), the published rule"),
    ]


def distances_of(poses):
    """Distances (V,) of cameras (V, 4, 4) from the point they look at."""
    return np.linalg.norm(poses[:, :3, 3] - geometry.viewing_target(torch.as_tensor(poses)).numpy(), axis=1)


def field_of_view(intrinsics):
    """The whole image's field of view as text: one angle, or that of its width and that of its height."""
    sides = dict.fromkeys((intrinsics.width, intrinsics.height))
    return " x ".join(f"{np.rad2deg(2 * np.arctan(side / 2 / intrinsics.focal)):.1f}" for side in sides) + " degrees"


def sheet(poses, intrinsics, shown, title, facts, class_names=None, cloud=None):
    """The whole sheet, a picture some WIDTH wide.

    poses:       (V, 4, 4) cam2world of an instance
    intrinsics:  data_util.Intrinsics
    shown:       list of View, one or more
    facts:       list of (what, value), two strings
    class_names: the key to the colours, background first; None where there are no labels
    cloud:       data_util.LabelledCloud, drawn where the object is; it needs class_names
    """
    columns, tile = layout(shown)
    side_width = columns * tile + (columns - 1) * visual.GAP
    drawing_width = WIDTH - 2 * visual.MARGIN - side_width - COLUMN_GAP
    side = side_column(shown, columns, tile)
    key = key_column(class_names, drawing_width)
    below = np.concatenate([camera_drawing.legend(drawing_width), facts_column(facts, drawing_width), key])
    drawing_height = max(len(side) - len(below), round(0.72 * drawing_width))
    colours = visual.label_colors(cloud.labels, len(class_names)) if cloud is not None else None
    drawing = camera_drawing.draw(
        poses,
        intrinsics,
        {view.index: (i + 1, view.picture) for i, view in enumerate(shown)},
        (drawing_width, drawing_height),
        None if cloud is None else cloud.points,
        colours,
    )
    left = np.concatenate([drawing, below])
    height = max(len(left), len(side))
    canvas = np.full((TITLE + height + 2 * visual.MARGIN, WIDTH, 3), visual.WHITE, np.uint8)
    top = visual.MARGIN
    canvas[top : top + TITLE, visual.MARGIN : WIDTH - visual.MARGIN] = title_band(title)
    top += TITLE
    canvas[top : top + len(left), visual.MARGIN : visual.MARGIN + drawing_width] = left
    canvas[top : top + len(side), WIDTH - visual.MARGIN - side_width : WIDTH - visual.MARGIN] = side
    return canvas


def layout(shown):
    """(columns, side of a tile): pictures beside their labels, or two columns of pictures, or a large one."""
    if any(view.overlay is not None for view in shown):
        return (2, TILE) if len(shown) > 1 else (2, round(1.3 * TILE))
    return (2, TILE) if len(shown) > 1 else (1, SINGLE)


def title_band(title):
    band, draw = visual.blank_band(WIDTH - 2 * visual.MARGIN, TITLE)
    draw.text((0, 0), visual.fit_text(title, visual.load_font(28), band.width), visual.INK, font=visual.load_font(28))
    return np.asarray(band)


def side_column(shown, columns, tile):
    """The views, one below the other with their labels beside them; where there are no labels, side by side."""
    with_labels = any(view.overlay is not None for view in shown)
    per_row = 1 if with_labels else columns
    width = columns * tile + (columns - 1) * visual.GAP
    rows = []
    for start in range(0, len(shown), per_row):
        views = shown[start : start + per_row]
        tiles = [fit_picture(view.picture, tile) for view in views]
        if with_labels:
            tiles.append(None if views[0].overlay is None else fit_picture(views[0].overlay, tile))
        height = max(len(picture) for picture in tiles if picture is not None)
        band, draw = visual.blank_band(width, HEADING + height + 14)
        for column, picture in enumerate(tiles):
            x = column * (tile + visual.GAP)
            if column < len(views):
                band.paste(Image.fromarray(camera_drawing.badge_picture(start + column + 1, 24)), (x, 1))
                draw.text((x + 32, 13), views[column].name, visual.INK, font=visual.load_font(17), anchor="lm")
            elif picture is not None:
                draw.text((x, 13), "labels", visual.FAINT_INK, font=visual.load_font(16), anchor="lm")
            if picture is not None:
                band.paste(Image.fromarray(picture), (x, HEADING))
                box = [x, HEADING, x + picture.shape[1] - 1, HEADING + len(picture) - 1]
                draw.rectangle(box, outline=visual.FRAME)
                mark_crop(draw, box)
        rows.append(np.asarray(band))
    return np.concatenate(rows)


def mark_crop(draw, box):
    """Thin lines where an image that is not square is cropped before it is used."""
    width, height = box[2] - box[0] + 1, box[3] - box[1] + 1
    if abs(width - height) > 2:
        top, left, side = data_util.square_crop(height, width)
        if width > height:
            lines = [[(box[0] + x, box[1]), (box[0] + x, box[3])] for x in (left, left + side)]
        else:
            lines = [[(box[0], box[1] + y), (box[2], box[1] + y)] for y in (top, top + side)]
        for line in lines:
            draw.line(line, fill=visual.FAINT_INK)


def fit_picture(picture, tile):
    """A picture whose longer side is `tile`: whole pixels as blocks where it is small, averaged where it is large."""
    height, width = picture.shape[:2]
    scale = tile / max(height, width)
    if scale >= 2:
        picture = visual.enlarge(picture, int(scale))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def facts_column(facts, width):
    """What is known of the data set, in two columns of lines."""
    rows = -(-len(facts) // 2)
    band, draw = visual.blank_band(width, rows * LINE + 12)
    font = visual.load_font(17)
    for i, (what, value) in enumerate(facts):
        x, y = (i // rows) * (width // 2), (i % rows) * LINE
        draw.text((x, y), what, visual.FAINT_INK, font=font)
        draw.text((x + 150, y), visual.fit_text(value, font, width // 2 - 160), visual.INK, font=font)
    return np.asarray(band)


def key_column(class_names, width):
    """The classes' colours and names, in as many lines as they need."""
    if not class_names:
        return np.full((0, width, 3), visual.WHITE, np.uint8)
    font, places, x, row = visual.load_font(17), [], 0, 0
    for name in class_names:
        length = 26 + font.getlength(name)
        if x and x + length > width:
            x, row = 0, row + 1
        places.append((x, row * LINE + 6))
        x += length + 24
    band, draw = visual.blank_band(width, (row + 1) * LINE + 10)
    palette = visual.label_colors(np.arange(len(class_names)), len(class_names)).tolist()
    for name, colour, (x, y) in zip(class_names, palette, places):
        draw.rectangle([x, y, x + 18, y + 18], fill=tuple(colour), outline=visual.FRAME)
        draw.text((x + 26, y + 9), name, visual.INK, font=font, anchor="lm")
    return np.asarray(band)
