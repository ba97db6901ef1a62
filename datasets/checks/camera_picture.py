"""One sheet that explains a data set: where its cameras stand and look, and what some of them see. Drawn by matplotlib.

Left, the world in perspective: its axes, the cameras of one instance as pyramids, its labelled point cloud if there is
one. Right, some views, each beside its label map laid over it. Views have the same numbers in both parts.

Shapes: V views, N points. A picture is an (H, W, 3) uint8 array, as in visual.py.
"""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from mpl_toolkits.mplot3d import proj3d
from mpl_toolkits.mplot3d.art3d import Line3DCollection
from PIL import Image

import data_util
import util
import visual
from datasets.checks import camera_facts

NUM_WITH_LABELS, NUM_WITHOUT = 4, 6  # views shown
LABEL_OPACITY = 0.55
SIZE_IN, DPI = (15, 10), 100
WORLD = (0.0, 0.25, 0.69, 0.69)  # left, bottom, width, height of the drawing in the figure
MAX_PYRAMIDS = 150  # further cameras are not drawn
TEXELS = 32  # per side of the photographs on the pyramids
ELEVATION_DEG, AZIMUTH_DEG = 17.0, -58.0  # of the viewer
INK, FAINT, PYRAMID, TARGET = "#1e1e1e", "#6e6e6e", "#5f7396", "#e67800"
AXIS_COLORS = {"x right": "#d32f2f", "y down": "#268c3e", "z forward": "#1e60c8"}  # of a camera


@dataclass(frozen=True)
class View:
    """One observation to show: its index among the poses, its name, and its pictures."""

    index: int
    name: str
    picture: np.ndarray  # (H, W, 3), over white
    overlay: np.ndarray = None  # (H, W, 3), the label map laid over it


def load_view(folder, index, name, num_classes=None):
    """Reads an image of an instance folder, and with `num_classes` its label map, as a View; not cropped."""
    rgb_path, seg_path = folder / "rgb" / f"{name}.png", folder / "seg" / f"{name}.npy"
    with util.reading(rgb_path, "an image", Exception), Image.open(rgb_path) as image:  # Pillow raises any error
        rgba = image.convert("RGBA")
    picture, overlay = np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")), None
    if num_classes is not None and seg_path.exists():
        seg_labels = data_util.open_seg_labels(seg_path)
        if seg_labels.shape == picture.shape[:2] and util.UNLABELLED <= seg_labels.min() <= seg_labels.max() < num_classes:
            overlay = lay_over(picture, seg_labels, num_classes)
    return View(index, name, picture, overlay)


def lay_over(picture, seg_labels, num_classes):
    """The palette's colours of labels (H, W), half transparent over the picture in grey; background is not changed."""
    grey = picture.mean(axis=-1, keepdims=True)
    mixed = (1 - LABEL_OPACITY) * grey + LABEL_OPACITY * visual.label_colors(seg_labels.astype(np.int64), num_classes)
    return np.where((seg_labels != 0)[..., None], np.rint(mixed), picture).astype(np.uint8)


def choose_views(poses, num_shown):
    """Indices of views (V, 4, 4) from directions far apart, preferably not between the viewer and the object."""
    centres = (poses[:, :3, 3] - camera_facts.target_of(poses)) @ upright(poses).T
    directions = centres / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-9)
    hides = directions @ viewer_of(centres) > 0.7
    chosen = [int(hides.argmin())]
    while len(chosen) < min(num_shown, len(poses)):
        apart = np.linalg.norm(directions[:, None] - directions[chosen], axis=-1).min(axis=1) - 3 * hides
        apart[chosen] = -np.inf
        chosen.append(int(apart.argmax()))
    return sorted(chosen)


# The world as it is drawn: turned so that z is up


def upright(poses):
    """(3, 3) rotation of the world that turns what is up for most cameras to z.

    Up is at right angles to the x axes of cameras that are not rolled, however steeply they look down. Where these are
    all parallel, it is the mean of the images' upward directions. An axis of the world within 30 degrees is preferred.
    """
    up = -poses[:, :3, 1].mean(axis=0)
    spread, directions = np.linalg.eigh(poses[:, :3, 0].T @ poses[:, :3, 0] / len(poses))  # ascending
    if np.linalg.norm(up) < 0.2:
        up = np.array([0.0, 0.0, 1.0])
    elif spread[1] > 0.03:
        up = directions[:, 0] * np.sign(directions[:, 0] @ up)
    up = up / np.linalg.norm(up)
    nearest = np.eye(3)[abs(up).argmax()] * np.sign(up[abs(up).argmax()])
    up = nearest if nearest @ up > np.cos(np.deg2rad(30)) else up
    right = np.roll(abs(nearest), 1)
    right = right - (right @ up) * up
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(up, right), up])


def viewer_of(centres):
    """(3,) unit vector to the viewer, given (V, 3) camera centres about their target, z up: to the side of the cameras."""
    azimuth, elevation = np.deg2rad([AZIMUTH_DEG, ELEVATION_DEG])
    mean = (centres[:, :2] / np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-9)).mean(axis=0)
    if np.linalg.norm(mean) > 0.4:
        azimuth = np.arctan2(mean[1], mean[0]) + np.deg2rad(55)
    return np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])


def image_plane(pose, intrinsics, depth, texels=1):
    """(texels + 1, texels + 1, 3) world points of a grid over a camera's image, rows first, at a depth."""
    u, v = np.meshgrid(*(np.linspace(0, side, texels + 1) for side in (intrinsics.width, intrinsics.height)))
    x, y = (u - intrinsics.cx) / intrinsics.focal, (v - intrinsics.cy) / intrinsics.focal
    in_camera = np.stack([x, y, np.ones_like(u)], axis=-1)
    in_camera *= depth / np.maximum(1, abs(in_camera[..., :2]).max() / 0.6)  # a wide angle would fill the drawing
    return in_camera @ pose[:3, :3].T + pose[:3, 3]


def draw_world(axes, poses, intrinsics, shown, points=None, colours=None):
    """Draws cameras, target, world axes and points (N, 3) with colours (N, 3) uint8 on 3-D axes. See `sheet`.

    They fill the part WORLD of the figure, whose centre is that of the square axes.
    """
    turn = upright(poses)
    target = turn @ camera_facts.target_of(poses)
    poses = poses.astype(np.float64)
    poses[:, :3] = turn @ poses[:, :3]
    centres = poses[:, :3, 3]
    radius = np.median(np.linalg.norm(centres - target, axis=1)) or 1.0
    small = (0.13 if len(poses) <= 60 else 0.09) * radius
    covered = [centres]  # points that the drawing covers
    even = np.linspace(0, len(poses) - 1, min(len(poses), MAX_PYRAMIDS)).round().astype(int).tolist()
    for i in sorted(set(even) - {view.index for view in shown}):
        covered.append(draw_pyramid(axes, poses[i], intrinsics, small, color=PYRAMID, linewidths=0.6, alpha=0.7))
    for number, view in enumerate(shown, start=1):
        covered += draw_shown(axes, poses[view.index], intrinsics, 0.28 * radius, number, view.picture)
    if points is not None:
        points = points @ turn.T
        axes.scatter(*points.T, c=colours / 255, s=3, linewidths=0)
    covered += draw_surroundings(axes, turn, target, radius, target[2] if points is None else points[:, 2].min())
    covered = np.concatenate(covered)
    low, high = covered.min(axis=0), covered.max(axis=0)
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), zlim=(low[2], high[2]))
    x, y, z = viewer_of(centres - target)
    axes.view_init(elev=np.rad2deg(np.arcsin(z)), azim=np.rad2deg(np.arctan2(y, x)))
    axes.set_axis_off()
    axes.set_box_aspect(high - low)
    axes.apply_aspect()
    x, y, _ = proj3d.proj_transform(*covered.T, axes.get_proj())
    off_centre = abs(axes.transData.transform(np.column_stack([x, y])) - axes.bbox.get_points().mean(axis=0)).max(axis=0)
    room = np.array(WORLD[2:]) * SIZE_IN * axes.figure.dpi / 2
    axes.set_box_aspect(high - low, zoom=0.93 * (room / np.maximum(off_centre, 1)).min())


def draw_pyramid(axes, pose, intrinsics, depth, **style):
    """A pyramid from a camera's centre to the corners of its image, (4, 3), which are returned."""
    corners = image_plane(pose, intrinsics, depth)[[0, 0, 1, 1], [0, 1, 1, 0]]
    edges = [np.stack([pose[:3, 3], corner]) for corner in corners] + [corners[[0, 1, 2, 3, 0]]]
    axes.add_collection3d(Line3DCollection(edges, **style))
    return corners


def draw_shown(axes, pose, intrinsics, depth, number, picture):
    """A camera with its number, its axes in colours, and its picture on its image plane; returns the points it covers."""
    corners = draw_pyramid(axes, pose, intrinsics, depth, color=INK, linewidths=1.1)
    centre = pose[:3, 3]
    tips = 1.3 * np.linalg.norm(corners.mean(axis=0) - centre) * pose[:3, :3].T
    for tip, colour in zip(tips, AXIS_COLORS.values()):
        axes.quiver(*centre, *tip, color=colour, linewidths=1.6, arrow_length_ratio=0.2)
    badge = dict(boxstyle="circle", facecolor=INK, edgecolor="white")
    axes.text(*centre, str(number), color="white", ha="center", va="center", bbox=badge, zorder=1000)
    colours = np.asarray(Image.fromarray(picture).resize((TEXELS, TEXELS), Image.Resampling.BOX)) / 255
    grid = np.moveaxis(image_plane(pose, intrinsics, depth, TEXELS), -1, 0)
    axes.plot_surface(*grid, facecolors=colours, linewidth=0.3, shade=False)
    return [corners, centre + tips]


def draw_surroundings(axes, turn, target, radius, floor):
    """The target, circles on the floor, and the axes of the world: at its origin, or at the target if that is far.

    Returns a list of the points that the drawing covers, (P, 3) each.
    """
    angles = np.linspace(0, 2 * np.pi, 97)
    circle = radius * np.column_stack([np.cos(angles), np.sin(angles), 0 * angles])
    centre = np.append(target[:2], floor)
    for share in (0.3, 0.6, 0.9):
        axes.plot(*(centre + share * circle).T, color="#dde1e8", linewidth=1)
    axes.plot(*target[:, None], color=TARGET, marker="o", markeredgecolor="white", markersize=9, zorder=900)
    origin = np.zeros(3) if np.linalg.norm(target) < 3 * radius else target
    tips = 0.5 * radius * turn.T
    for name, tip in zip("xyz", tips):
        axes.quiver(*origin, *tip, color=INK, linewidths=1.4, arrow_length_ratio=0.12)
        axes.text(*(origin + 1.16 * tip), name, color=INK, fontsize=13, ha="center", va="center")
    return [centre + 0.9 * circle, origin + 1.16 * tips, target[None]]


# The sheet


def sheet(poses, intrinsics, shown, title, facts, class_names=None, cloud=None):
    """The whole sheet, a matplotlib Figure.

    poses:       (V, 4, 4) cam2world of an instance
    intrinsics:  data_util.Intrinsics
    shown:       list of View, one or more
    facts:       list of (quantity, value), two strings
    class_names: the key to the colours, background first; None without labels
    cloud:       data_util.LabelledCloud, which is drawn where the object is; it needs class_names
    """
    figure = Figure(figsize=SIZE_IN, dpi=DPI)
    figure.text(0.02, 0.965, title, fontsize=19, color=INK, va="center")
    left, bottom, width, height = WORLD  # 3-D axes are square: they get a square about the centre of this part
    side = width * SIZE_IN[0] / SIZE_IN[1]
    world = figure.add_axes((left, bottom + height / 2 - side / 2, width, side), projection="3d")
    colours = None if cloud is None else visual.label_colors(cloud.labels, len(class_names))
    draw_world(world, poses, intrinsics, shown, None if cloud is None else cloud.points, colours)
    draw_views(figure, shown)
    draw_texts(figure, facts, class_names)
    return figure


def draw_views(figure, shown):
    """Photographs in two columns at the right, or each beside its overlay, with the square that they are cropped to."""
    with_labels = any(view.overlay is not None for view in shown)
    rows = len(shown) if with_labels else -(-len(shown) // 2)
    grid = figure.add_gridspec(max(rows, 3), 2, left=0.70, right=0.985, top=0.92, bottom=0.03, wspace=0.06, hspace=0.16)
    titles = [(view.picture, f"{number}:  {view.name}") for number, view in enumerate(shown, start=1)]
    if with_labels:
        titles = [pair for view, title in zip(shown, titles) for pair in (title, (view.overlay, "labels"))]
    for i, (picture, title) in enumerate(titles):
        if picture is None:
            continue
        axes = figure.add_subplot(grid[divmod(i, 2)])
        axes.imshow(picture)
        axes.set_anchor("N")
        axes.set_title(title, fontsize=11, color=INK, loc="left", pad=4)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("#cdcdcd")
        height, width = picture.shape[:2]
        if abs(height - width) > 2:
            top, left, side = data_util.square_crop(height, width)
            axes.add_patch(Rectangle((left - 0.5, top - 0.5), side, side, fill=False, edgecolor=TARGET, linestyle="--"))


def draw_texts(figure, facts, class_names):
    """Below the world: what the signs mean, the facts in two columns, the classes."""
    signs = [Line2D([], [], color=TARGET, marker="o", linestyle="", label="where the cameras look")]
    signs += [Line2D([], [], color=colour, linewidth=2, label=name) for name, colour in AXIS_COLORS.items()]
    signs += [Line2D([], [], color=INK, linewidth=2, label="axes of the world")]
    style = dict(loc="upper left", frameon=False, borderaxespad=0, handlelength=1.2, fontsize=11)
    figure.legend(handles=signs, bbox_to_anchor=(0.02, 0.235), ncols=len(signs), columnspacing=1.6, **style)
    rows = -(-len(facts) // 2)
    for i, (quantity, value) in enumerate(facts):
        x, y = 0.02 + 0.34 * (i // rows), 0.185 - 0.025 * (i % rows)
        figure.text(x, y, quantity, color=FAINT, fontsize=11)
        figure.text(x + 0.1, y, value, color=INK, fontsize=11)
    if class_names:
        palette = visual.label_colors(np.arange(len(class_names)), len(class_names)) / 255
        patches = [Rectangle((0, 0), 1, 1, facecolor=c, edgecolor="#cdcdcd", label=n) for n, c in zip(class_names, palette)]
        figure.legend(handles=patches, bbox_to_anchor=(0.02, 0.185 - 0.025 * rows), ncols=5, **style)
