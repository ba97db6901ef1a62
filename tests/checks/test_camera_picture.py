import imageio.v3 as iio
import numpy as np
import pytest
import scenes
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Line3DCollection

import data_util
import dataio
import geometry
import util
import visual
from datasets.checks import camera_facts, camera_picture

CLASSES = ["background", "upper half", "lower half"]


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return scenes.write_split(tmp_path_factory.mktemp("picture") / "Ball" / "Ball.train", num_views=9, side=24)


ORBIT = geometry.orbit(torch.zeros(3), 2.0, 20.0, 8).numpy()
CAMERA = data_util.Intrinsics(60, 32, 32, 64, 64)


def sheet_of(instance, num_classes=3, num_shown=4, **options):
    """(Figure, views shown) of an instance."""
    indices = camera_picture.choose_views(instance.poses, num_shown)
    shown = [camera_picture.load_view(instance.folder, i, instance.views[i], num_classes) for i in indices]
    facts = camera_facts.facts_of(instance.poses, instance.intrinsics, 0.5)
    names = CLASSES[:num_classes] if num_classes else None
    return camera_picture.sheet(instance.poses, instance.intrinsics, shown, "Balls", facts, names, **options), shown


def pixels_of(figure):
    """(H, W, 3) uint8."""
    FigureCanvasAgg(figure).draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def draw_world(poses=ORBIT, shown=(), **options):
    """(3-D axes, pixels) of the drawing alone."""
    figure = Figure(figsize=camera_picture.SIZE_IN, dpi=camera_picture.DPI)
    axes = figure.add_axes((0, 0.0725, 0.69, 1.035), projection="3d")
    camera_picture.draw_world(axes, np.asarray(poses, np.float32), CAMERA, shown, **options)
    return axes, pixels_of(figure)


def where(pixels, colour):
    """(row, column) of the middle of the pixels near a colour, and their number."""
    found = np.argwhere((abs(pixels.astype(int) - colour) < 40).all(axis=-1))
    return found.mean(axis=0) if len(found) else None, len(found)


def bytes_of(colour):
    """(r, g, b) of a colour such as "#e67800"."""
    return tuple(bytes.fromhex(colour[1:]))


def photograph(index, colours=((250, 0, 250),)):
    """A View whose picture has a colour in each of its quarters, or the same in all."""
    quarters = np.resize(np.array(colours, np.uint8), (4, 3)).reshape(2, 2, 3)
    return camera_picture.View(index, str(index), quarters.repeat(16, axis=0).repeat(16, axis=1))


def test_a_sheet_shows_each_chosen_view_beside_its_labels(split):
    figure, shown = sheet_of(dataio.index_split(split)[0])
    views = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 4 and len(views) == 8
    for number, view in enumerate(shown, start=1):
        photo, labels = views[2 * number - 2 : 2 * number]
        assert photo.get_title("left") == f"{number}:  {view.name}" and labels.get_title("left") == "labels"
        np.testing.assert_array_equal(photo.images[0].get_array(), view.picture)
        np.testing.assert_array_equal(labels.images[0].get_array(), view.overlay)
        assert labels.get_position().x0 > photo.get_position().x1 and photo.get_position().y0 == labels.get_position().y0
    assert pixels_of(figure).shape == (1000, 1500, 3)


def test_a_sheet_says_what_its_signs_are_and_names_facts_and_classes(split):
    figure, shown = sheet_of(dataio.index_split(split)[0])
    texts = {text.get_text() for text in figure.texts}
    assert {"Balls", "focal length", "28.8 pixels", "field of view", "45.2 degrees"} <= texts
    signs, classes = figure.legends
    assert [text.get_text() for text in signs.texts][1:] == ["x right", "y down", "z forward", "axes of the world"]
    assert [text.get_text() for text in classes.texts] == CLASSES
    for patch, colour in zip(classes.get_patches(), visual.label_colors(np.arange(3), 3), strict=True):
        np.testing.assert_allclose(patch.get_facecolor()[:3], colour / 255)
    numbers = {text.get_text() for text in figure.axes[0].texts}
    assert numbers == {"x", "y", "z", "1", "2", "3", "4"}


def test_a_view_is_over_white_and_its_labels_lie_on_it(split):
    instance = dataio.index_split(split)[0]
    view = camera_picture.load_view(instance.folder, 2, "000002", 3)
    rgba = iio.imread(instance.folder / "rgb" / "000002.png")
    seg_labels = np.load(instance.folder / "seg" / "000002.npy")
    assert (view.picture[rgba[..., 3] == 0] == 255).all()
    assert (view.picture[rgba[..., 3] == 255] == rgba[rgba[..., 3] == 255][:, :3]).all()
    assert (view.overlay[seg_labels == 0] == view.picture[seg_labels == 0]).all()
    for label, colour in ((1, (127, 0, 255)), (2, (255, 0, 0))):
        grey = view.picture[seg_labels == label].mean(axis=-1, keepdims=True)
        np.testing.assert_allclose(view.overlay[seg_labels == label], 0.45 * grey + 0.55 * np.array(colour), atol=1.5)


def test_only_labelled_parts_are_coloured():
    picture = np.full((1, 3, 3), 90, np.uint8)
    overlay = camera_picture.lay_over(picture, np.array([[0, 1, util.UNLABELLED]]), 2)
    assert overlay[0, 0].tolist() == [90, 90, 90]
    assert overlay[0, 1].tolist() != [90, 90, 90] and overlay[0, 2].tolist() == [128, 128, 128]  # grey (160) over 90


@pytest.mark.parametrize("dtype", [">i4", ">u2", "<i8", "u1"])
def test_labels_of_any_byte_order_are_laid_over(dtype, tmp_path):
    labels = np.arange(16).reshape(4, 4) % 3
    picture = np.full((4, 4, 3), 90, np.uint8)
    expected = camera_picture.lay_over(picture, labels, 3)
    assert np.array_equal(camera_picture.lay_over(picture, labels.astype(dtype), 3), expected)
    for kind in ("rgb", "seg"):
        (tmp_path / kind).mkdir()
    iio.imwrite(tmp_path / "rgb" / "0.png", picture)
    np.save(tmp_path / "seg" / "0.npy", labels.astype(dtype))
    assert np.array_equal(camera_picture.load_view(tmp_path, 0, "0", 3).overlay, expected)


def test_labels_that_do_not_fit_are_left_out(split, tmp_path):
    for i, labels in enumerate((np.full((24, 24), 9), np.zeros((8, 8), int))):
        (tmp_path / "seg").mkdir(exist_ok=True)
        (tmp_path / "rgb").mkdir(exist_ok=True)
        np.save(tmp_path / "seg" / f"{i}.npy", labels)
        iio.imwrite(tmp_path / "rgb" / f"{i}.png", np.zeros((24, 24, 3), np.uint8))
        assert camera_picture.load_view(tmp_path, 0, str(i), 3).overlay is None


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(util.InputError, match="x.png: cannot be read"):
        camera_picture.load_view(tmp_path, 0, "x")


@pytest.mark.parametrize("num_views", [1, 2, 9])
@pytest.mark.parametrize("num_classes", [None, 3])
def test_a_sheet_is_made_of_few_views_and_without_labels(split, num_views, num_classes):
    figure, shown = sheet_of(dataio.index_split(split, max_num_observations=num_views)[0], num_classes)
    assert len(shown) == min(num_views, 4)
    assert sum(len(axes.images) for axes in figure.axes) == len(shown) * (2 if num_classes else 1)
    assert len(figure.legends) == (2 if num_classes else 1)
    assert (pixels_of(figure) != 255).any()


@pytest.mark.parametrize("height, width, crop", [(600, 900, (150, 0, 600)), (90, 40, (0, 25, 40)), (64, 64, None)])
def test_images_of_any_shape_are_shown_whole_with_their_crop(height, width, crop):
    intrinsics = data_util.Intrinsics(width, width / 2, height / 2, height, width)
    shown = [camera_picture.View(i, str(i), np.full((height, width, 3), 10 * i, np.uint8)) for i in range(3)]
    figure = camera_picture.sheet(ORBIT, intrinsics, shown, "title", [("quantity", "value")])
    for axes in [axes for axes in figure.axes if axes.images]:
        assert axes.images[0].get_array().shape == (height, width, 3)
        marks = [(patch.get_x() + 0.5, patch.get_y() + 0.5, patch.get_width()) for patch in axes.patches]
        assert marks == ([crop] if crop else [])


def test_the_views_shown_differ_and_are_as_many_as_asked_for(split):
    instance = dataio.index_split(split)[0]
    for num_shown in (1, 4, 20):
        chosen = camera_picture.choose_views(instance.poses, num_shown)
        assert chosen == sorted(set(chosen)) and len(chosen) == min(num_shown, 9)
    twice = np.concatenate([instance.poses, instance.poses])
    assert len({i % 9 for i in camera_picture.choose_views(twice, 4)}) == 4


# The drawing


@pytest.mark.parametrize("index", range(0, 8, 2))
def test_a_drawing_fills_its_part_of_the_sheet_and_nothing_is_cut_off(index):
    low = geometry.orbit(torch.zeros(3), 2.0, -30.0, 8).numpy()
    _, pixels = draw_world(low, [photograph(index)])
    rows, columns = np.nonzero((pixels != 255).any(axis=-1))
    left, bottom, width, height = camera_picture.WORLD
    assert columns.min() > 1500 * left and columns.max() < 1500 * (left + width)
    assert rows.min() > 1000 * (1 - bottom - height) and rows.max() < 1000 * (1 - bottom)
    assert np.ptp(columns) > 600 or np.ptp(rows) > 450


@pytest.mark.parametrize(
    "poses",
    [ORBIT[:1], ORBIT[:2], np.repeat(ORBIT[:1], 4, axis=0), np.eye(4)[None], np.concatenate([ORBIT] * 30)],
    ids=["one", "two", "equal", "in the origin", "240"],
)
def test_any_number_of_cameras_is_drawn(poses):
    axes, pixels = draw_world(poses)
    pyramids = [c for c in axes.collections if isinstance(c, Line3DCollection) and len(c._segments3d) == 5]
    assert len(pyramids) == min(len(poses), camera_picture.MAX_PYRAMIDS) and (pixels != 255).any()


def test_a_camera_that_is_shown_bears_its_picture_and_its_axes():
    (_, plain), (_, shown) = draw_world(), draw_world(shown=[photograph(2)])
    colours = [(250, 0, 250), *map(bytes_of, camera_picture.AXIS_COLORS.values())]
    for colour in colours:
        assert where(shown, colour)[1] > 20 > where(plain, colour)[1]


def test_the_top_of_a_picture_is_up_and_its_left_is_left():
    """In a camera that looks the way the viewer looks; one that looks at the viewer is seen from behind, mirrored."""
    viewer = 2 * camera_picture.viewer_of(ORBIT[:, :3, 3])
    before, behind = geometry.look_at(torch.from_numpy(np.stack([viewer, viewer * [-1, -1, 1]]))).numpy()
    magenta, yellow, cyan = (250, 0, 250), (250, 250, 0), (0, 250, 250)
    for pose, mirrored in ((before, False), (behind, True)):
        view = photograph(8, (magenta, yellow, cyan, (0, 0, 0)))
        _, pixels = draw_world(np.concatenate([ORBIT, pose[None]]), [view])
        (top, left), (_, right), (low, _) = (where(pixels, colour)[0] for colour in (magenta, yellow, cyan))
        assert top < low and (left < right) != mirrored


def test_the_image_plane_is_where_the_camera_looks():
    (upper_left, _), (_, lower_right) = camera_picture.image_plane(np.eye(4), CAMERA, depth=2.0)
    np.testing.assert_allclose(upper_left, [-2 * 32 / 60, -2 * 32 / 60, 2.0])  # x left, y up, z forward
    np.testing.assert_allclose(lower_right, [2 * 32 / 60, 2 * 32 / 60, 2.0])


def test_points_are_drawn_in_their_colours_about_the_target():
    points = np.random.default_rng(0).normal(0, 0.1, (500, 3))
    _, pixels = draw_world(points=points, colours=np.full((500, 3), (250, 0, 250), np.uint8))
    centre, number = where(pixels, (250, 0, 250))
    target = where(pixels, bytes_of(camera_picture.TARGET))[0]
    assert number > 100 and np.linalg.norm(centre - target) < 40


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_up_is_where_the_tops_of_the_images_are(up):
    poses = geometry.orbit(torch.zeros(3), 2.0, 20.0, 8, up=up).numpy()
    axis = np.eye(3)["xyz".index(up)]
    for flip, expected in ((np.eye(4), axis), (np.diag([1, -1, -1, 1]), -axis)):
        turn = camera_picture.upright(poses @ flip)
        assert turn[2].tolist() == expected.tolist()
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-6)
        assert np.linalg.det(turn) > 0


def test_up_is_up_for_a_few_cameras_that_look_down_from_one_side():
    eyes = geometry.on_sphere(torch.tensor([-70.0, -40.0, -20.0]), torch.tensor([50.0, 55.0, 60.0]), 1.2)
    assert camera_picture.upright(geometry.look_at(eyes).numpy())[2].tolist() == [0, 0, 1]


def test_the_axes_of_the_world_are_at_the_target_where_the_origin_is_far():
    """The drawing shows the cameras, not the way to the origin."""
    far = ORBIT.copy()
    far[:, :3, 3] += [500, 0, 0]
    axes, pixels = draw_world(far)
    names = [text for text in axes.texts if text.get_text() in "xyz"]
    assert len(names) == 3 and all(abs(text.get_position_3d()[0] - 500) < 2 for text in names)
    assert where(pixels, bytes_of(camera_picture.TARGET))[1] > 20
