"""A perspective drawing of cameras in their world, with PIL: pyramids, axes, the object's points.

The viewer stands outside of the cameras, a little above them. Which way is up follows from the cameras, which mostly
have the top of their images up. What is nearer is painted over what is farther.

Shapes: V views, N points, P any number of points. World space throughout.
"""

import numpy as np
import torch
from PIL import Image, ImageDraw

import geometry
import visual

SCALE = 3  # drawn so many times larger, then averaged: PIL draws hard edges
AXIS_COLORS = ((211, 47, 47), (38, 140, 62), (30, 96, 200))  # of a camera's x, y, z
NEAR_INK, FAR_INK, BADGE = (74, 92, 122), (196, 204, 216), (24, 34, 56)
TARGET_COLOR = (230, 120, 0)
MAX_PYRAMIDS = 150  # further cameras are dots
ELEVATION_DEG, AZIMUTH_DEG = 17.0, 32.0  # of the viewer
FAR_ORIGIN = 3.0  # distances of the cameras from their target; beyond, the axes are drawn at the target


class Viewer:
    """Projects world points onto the canvas: perspective, fitted to what is to be seen."""

    def __init__(self, direction, up, target, radius):
        eye = target + 5 * radius * direction
        pose = geometry.look_at(*(torch.from_numpy(x) for x in (eye, target, up))).numpy()
        self.eye, self.rotation = eye, pose[:3, :3]
        self.scale, self.offset = 1.0, np.zeros(2)

    def __call__(self, points):
        """(P, 3) to (P, 2) canvas pixels."""
        in_view = (np.atleast_2d(points) - self.eye) @ self.rotation
        return in_view[:, :2] / in_view[:, 2:] * self.scale + self.offset

    def depth(self, points):
        return ((np.atleast_2d(points) - self.eye) @ self.rotation)[:, 2]

    def fit(self, points, size, border):
        """Scale and shift so that all of the points are on a canvas of that (width, height)."""
        flat = self(points)
        low, high = flat.min(axis=0), flat.max(axis=0)
        room = np.array(size) - 2 * border
        self.scale = (room / np.maximum(high - low, 1e-9)).min()
        self.offset = np.array(size) / 2 - self.scale * (low + high) / 2


def draw(poses, intrinsics, shown, size, points=None, colours=None):
    """The drawing, a (height, width, 3) uint8 picture.

    poses:      (V, 4, 4) cam2world
    intrinsics: data_util.Intrinsics
    shown:      {index of a view: (its number, its picture (H, W, 3))}
    size:       (width, height) in pixels
    points, colours: (N, 3) and (N, 3) uint8 of the object, if known
    """
    poses = np.asarray(poses, np.float64)
    centres = poses[:, :3, 3]
    target = geometry.viewing_target(torch.from_numpy(poses)).numpy()
    distances = np.linalg.norm(centres - target, axis=1)
    radius, up = np.median(distances) or 1.0, upward(poses)
    viewer = Viewer(viewing_direction(centres - target, up), up, target, distances.max() or 1.0)

    origin = np.zeros(3) if np.linalg.norm(target) < FAR_ORIGIN * radius else target
    tips = origin + 0.5 * radius * np.eye(3)
    depth = (0.13 if len(poses) <= 60 else 0.085) * radius
    pyramids = {i: pyramid(poses[i], intrinsics, depth * (2.1 if i in shown else 1)) for i in drawn(poses, shown)}
    rings = ground(target if points is None else _lowest(points, target, up), up, 0.9 * radius)
    arrows = [axis_tips(poses[i], pyramids[i]) for i in shown]
    everything = np.concatenate([*pyramids.values(), *arrows, centres, tips, target[None], rings[-1]])
    viewer.fit(everything, np.array(size) * SCALE, 34 * SCALE)

    canvas = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), "white")
    brush = ImageDraw.Draw(canvas, "RGBA")
    for ring in rings:
        brush.line(_xy(viewer(ring)), fill=(232, 235, 240), width=SCALE)

    depths = viewer.depth(centres)
    inks = faded(depths)
    jobs = []  # (depth, function, arguments)
    for i in range(len(poses)):
        if i in shown:
            arguments = paint_shown, canvas, brush, viewer, poses[i], pyramids[i], shown[i][1]
        elif i in pyramids:
            arguments = paint_pyramid, brush, viewer(pyramids[i]), inks[i], 1.0, 30
        else:
            arguments = paint_dot, brush, viewer(centres[i])[0], inks[i], 2
        jobs.append((depths[i], *arguments))
    middle = viewer.depth(target)[0]
    if points is not None:
        jobs.append((middle, paint_points, brush, viewer, points, colours))
    jobs.append((middle - 1e-3 * radius, paint_world_axes, brush, viewer, origin, tips))
    jobs.append((middle - 2e-3 * radius, paint_target, brush, viewer(target)[0]))
    for _, paint, *arguments in sorted(jobs, key=lambda job: -job[0]):
        paint(*arguments)
    paint_names(brush, viewer(origin)[0], viewer(tips))
    for i, (number, _) in shown.items():
        badge(brush, viewer(centres[i])[0], number, 11 * SCALE)
    return np.asarray(canvas.resize(size, Image.Resampling.BOX))


def faded(depths):
    """Inks, one for each of the depths: dark for the nearest, light for the farthest."""
    farness = (depths - depths.min()) / max(np.ptp(depths), 1e-9)
    inks = (1 - farness)[:, None] * np.array(NEAR_INK) + farness[:, None] * np.array(FAR_INK)
    return [tuple(ink) for ink in np.rint(inks).astype(int).tolist()]


def upward(poses):
    """(3,) the world's up: the axis of the world that is nearest to what is up for the cameras, or this itself.

    That is what is level in no image: cameras that are not rolled have it at right angles to their x axes, however
    steeply they look down. Where all of these are parallel, it is the mean of the images' upward directions.
    """
    mean = -poses[:, :3, 1].mean(axis=0)
    if np.linalg.norm(mean) < 0.2:
        return np.array([0.0, 0.0, 1.0])
    spread, directions = np.linalg.eigh(poses[:, :3, 0].T @ poses[:, :3, 0] / len(poses))  # ascending
    up = directions[:, 0] * np.sign(directions[:, 0] @ mean) if spread[1] > 0.03 else mean / np.linalg.norm(mean)
    nearest = np.eye(3)[abs(up).argmax()] * np.sign(up[abs(up).argmax()])
    return nearest if nearest @ up > np.cos(np.deg2rad(30)) else up


def viewing_direction(from_target, up):
    """(3,) from the target to the viewer: from the right of the front, or from the side of cameras that stand on one."""
    right = np.roll(up, 1) if (up != 0).sum() == 1 else np.cross(up, np.eye(3)[abs(up).argmin()])
    right = abs(right) if (up != 0).sum() == 1 else right / np.linalg.norm(right)
    front = np.cross(right, up)
    horizontal = from_target - (from_target @ up)[:, None] * up
    mean = (horizontal / np.maximum(np.linalg.norm(from_target, axis=1, keepdims=True), 1e-9)).mean(axis=0)
    azimuth = np.deg2rad(AZIMUTH_DEG)
    if np.linalg.norm(mean) > 0.4:
        azimuth = np.arctan2(mean @ right, mean @ front) + np.deg2rad(55)
    elevation = np.deg2rad(ELEVATION_DEG)
    return np.cos(elevation) * (np.sin(azimuth) * right + np.cos(azimuth) * front) + np.sin(elevation) * up


def drawn(poses, shown):
    """Indices of the cameras that become pyramids: those shown, and as many of the others as stay legible."""
    even = np.linspace(0, len(poses) - 1, min(len(poses), MAX_PYRAMIDS)).round().astype(int).tolist()
    return sorted(set(even) | set(shown))


def pyramid(pose, intrinsics, depth):
    """(5, 3): the camera's centre and the corners of its image at a depth, from the upper left clockwise."""
    width, height = intrinsics.width, intrinsics.height
    uv = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    corners = np.column_stack([(uv - [intrinsics.cx, intrinsics.cy]) / intrinsics.focal, np.ones(4)])
    corners *= depth / np.maximum(1, abs(corners[:, :2]).max() / 0.6)  # a wide angle would fill the drawing
    return np.concatenate([pose[:3, 3][None], corners @ pose[:3, :3].T + pose[:3, 3]])


def axis_tips(pose, corners):
    """(3, 3): where the arrows of the axes x, y, z of a camera end, given its pyramid."""
    length = np.linalg.norm(corners[1:].mean(axis=0) - corners[0])
    return corners[0] + length * np.array([0.65, 0.65, 1.25])[:, None] * pose[:3, :3].T


def ground(centre, up, radius):
    """Circles about the object and spokes, lines of (P, 3); the last one is the outermost circle."""
    right = np.cross(up, np.eye(3)[abs(up).argmin()])
    right /= np.linalg.norm(right)
    front = np.cross(up, right)
    angles = np.linspace(0, 2 * np.pi, 97)
    circle = np.cos(angles)[:, None] * right + np.sin(angles)[:, None] * front
    spokes = [centre + radius * np.outer([1 / 3, 1], circle[i]) for i in range(0, 96, 8)]
    return spokes + [centre + share * radius * circle for share in (1 / 3, 2 / 3, 1)]


def _lowest(points, target, up):
    """The point below (or above) the target at the height of the object's lowest point."""
    return target + ((points @ up).min() - target @ up) * up


# Brushes. Coordinates are pixels of the canvas, sizes those of the final picture.


def paint_dot(brush, place, ink, radius):
    x, y = place
    brush.ellipse([x - radius * SCALE, y - radius * SCALE, x + radius * SCALE, y + radius * SCALE], fill=ink)


def paint_pyramid(brush, corners, ink, width, opacity):
    """corners: (5, 2), the apex first; opacity of the image's face, 0 to 255."""
    apex, *image = _xy(corners)
    if opacity:
        brush.polygon(image, fill=(*ink, opacity))
    for line in (*([apex, corner] for corner in image), [*image, image[0]]):
        brush.line(line, fill=ink, width=round(width * SCALE), joint="curve")


def paint_shown(canvas, brush, viewer, pose, corners, picture):
    """A numbered camera: its picture on its pyramid, and its axes x, y, z in colours."""
    flat = viewer(corners)
    paint_picture(canvas, picture, flat[1:])
    paint_pyramid(brush, flat, BADGE, 1.3, 0)
    for tip, ink in zip(viewer(axis_tips(pose, corners)), AXIS_COLORS):
        arrow(brush, flat[0], tip, ink, 2.2)


def paint_picture(canvas, picture, corners):
    """A picture in perspective: its corners, from the upper left clockwise, come to lie on `corners` (4, 2)."""
    low = np.floor(corners.min(axis=0)).astype(int)
    size = np.ceil(corners.max(axis=0)).astype(int) - low + 1
    height, width = picture.shape[:2]
    theirs = [(0, 0), (width, 0), (width, height), (0, height)]
    rows, right = [], []
    for (x, y), (u, v) in zip(corners - low, theirs):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    mapping, *_ = np.linalg.lstsq(np.array(rows, float), np.array(right, float), rcond=None)
    source = Image.fromarray(picture).convert("RGBA")
    tile = source.transform(tuple(size.tolist()), Image.Transform.PERSPECTIVE, mapping.tolist(), Image.Resampling.BILINEAR)
    canvas.paste(tile, tuple(low.tolist()), tile)


def paint_points(brush, viewer, points, colours):
    """The object's points, the farthest first, those farther away a little lighter."""
    depths = viewer.depth(points)
    order = np.argsort(-depths)
    lightness = 0.35 * (depths - depths.min()) / max(np.ptp(depths), 1e-9)
    mixed = (colours * (1 - lightness)[:, None] + 255 * lightness[:, None]).astype(int)
    radius = 1.8 * SCALE
    for (x, y), colour in zip(viewer(points)[order].tolist(), mixed[order].tolist()):
        brush.rectangle([x - radius, y - radius, x + radius, y + radius], fill=tuple(colour))


def paint_world_axes(brush, viewer, origin, tips):
    for tip in viewer(tips):
        arrow(brush, viewer(origin)[0], tip, visual.INK, 2.0)


def paint_names(brush, start, tips):
    """The names of the world's axes, beyond the tips of their arrows."""
    for name, tip in zip("xyz", tips):
        place = tip + 15 * SCALE * (tip - start) / max(np.linalg.norm(tip - start), 1e-9)
        brush.text(
            tuple(place),
            name,
            visual.INK,
            font=visual.load_font(20 * SCALE),
            anchor="mm",
            stroke_width=3 * SCALE,
            stroke_fill="white",
        )


def paint_target(brush, place):
    paint_dot(brush, place, (255, 255, 255), 7)
    paint_dot(brush, place, TARGET_COLOR, 5)


def arrow(brush, start, end, ink, width, head=9):
    """A line with a filled head; no head where it would be longer than the line."""
    start, end = np.asarray(start, float), np.asarray(end, float)
    length = np.linalg.norm(end - start)
    brush.line(_xy([start, end]), fill=ink, width=round(width * SCALE))
    if length > head * SCALE / 2:
        along = (end - start) / length * min(head * SCALE, 0.6 * length)
        across = np.array([-along[1], along[0]]) * 0.38
        brush.polygon(_xy([end + 0.35 * along, end - 0.65 * along + across, end - 0.65 * along - across]), fill=ink)


def badge(brush, centre, number, radius):
    """A view's number in a dark disc; the same on the drawing and beside the pictures."""
    x, y = centre
    box, border = [x - radius, y - radius, x + radius, y + radius], max(1, int(radius / 8))
    brush.ellipse(box, fill=BADGE, outline="white", width=border)
    brush.text((x, y), str(number), "white", font=visual.load_font(round(1.3 * radius)), anchor="mm")


def badge_picture(number, side):
    """A badge by itself, (side, side, 3)."""
    image = Image.new("RGB", (side * SCALE, side * SCALE), "white")
    badge(ImageDraw.Draw(image), (side * SCALE / 2, side * SCALE / 2), number, side * SCALE / 2 - 1)
    return np.asarray(image.resize((side, side), Image.Resampling.BOX))


def legend(width):
    """What the signs of the drawing mean, in one line."""
    height, font = 46, visual.load_font(16)
    image = Image.new("RGB", (width * SCALE, height * SCALE), "white")
    brush = ImageDraw.Draw(image, "RGBA")
    texts, x, y = [], 0, height / 2
    paint_dot(brush, ((x + 7) * SCALE, y * SCALE), TARGET_COLOR, 5)
    texts.append((x + 20, "where the cameras look", visual.FAINT_INK))
    x += 20 + font.getlength(texts[-1][1]) + 26
    texts.append((x, "a camera's axes:", visual.FAINT_INK))
    x += font.getlength(texts[-1][1]) + 10
    for name, ink in zip(("x right", "y down", "z forward"), AXIS_COLORS):
        arrow(brush, np.array([x, y]) * SCALE, np.array([x + 26, y]) * SCALE, ink, 2.2)
        texts.append((x + 36, name, ink))
        x += 36 + font.getlength(name) + 16
    arrow(brush, np.array([x + 10, y]) * SCALE, np.array([x + 36, y]) * SCALE, visual.INK, 2.0)
    texts.append((x + 46, "the world's axes", visual.FAINT_INK))
    band = image.resize((width, height), Image.Resampling.BOX)
    brush = ImageDraw.Draw(band)
    for x, text, ink in texts:
        brush.text((x, y), text, ink, font=font, anchor="lm")
    return np.asarray(band)


def _xy(points):
    return [tuple(point) for point in np.asarray(points).tolist()]
