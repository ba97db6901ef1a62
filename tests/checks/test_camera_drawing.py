import numpy as np
import pytest
import torch

import data_util
import geometry
import visual
from datasets.checks import camera_drawing

CAMERA = data_util.Intrinsics(60, 32, 32, 64, 64)
SIZE = (400, 300)
MAGENTA, CYAN = (250, 0, 250), (0, 250, 250)
ORBIT = geometry.orbit(torch.zeros(3), 2.0, 20.0, 8).numpy()


def draw(poses=ORBIT, shown=None, **options):
    return camera_drawing.draw(poses, CAMERA, shown or {}, SIZE, **options)


def near(picture, colour, tolerance=40):
    """(rows, columns) of pixels near a colour."""
    return np.nonzero((abs(picture.astype(int) - colour) < tolerance).all(axis=-1))


@pytest.mark.parametrize("index", range(8))
def test_a_drawing_fills_its_size_and_nothing_is_cut_off(index):
    low = geometry.orbit(torch.zeros(3), 2.0, -30.0, 8).numpy()
    picture = camera_drawing.draw(low, CAMERA, {index: (1, np.zeros((8, 8, 3), np.uint8))}, (1200, 900))
    assert picture.shape == (900, 1200, 3) and picture.dtype == np.uint8
    border = np.concatenate([picture[:6].ravel(), picture[-6:].ravel(), picture[:, :6].ravel(), picture[:, -6:].ravel()])
    assert (border == 255).all()
    rows, columns = np.nonzero((picture != 255).any(axis=-1))
    assert np.ptp(columns) > 1000 or np.ptp(rows) > 700


@pytest.mark.parametrize(
    "poses",
    [ORBIT[:1], ORBIT[:2], np.repeat(ORBIT[:1], 4, axis=0), np.eye(4)[None], np.concatenate([ORBIT] * 30)],
    ids=["one", "two", "equal", "in the origin", "240"],
)
def test_any_number_of_cameras_is_drawn(poses):
    assert (draw(poses) != 255).any()


def test_a_camera_that_is_shown_bears_its_picture_and_its_axes():
    plain, shown = draw(), draw(shown={2: (1, np.full((8, 8, 3), (250, 0, 250), np.uint8))})
    assert not len(near(plain, (250, 0, 250))[0]) and len(near(shown, (250, 0, 250))[0]) > 50
    for colour in camera_drawing.AXIS_COLORS:
        assert not len(near(plain, colour)[0]) and len(near(shown, colour)[0]) > 5


def test_the_top_of_a_picture_is_up_and_its_left_is_left():
    """Of a camera that looks the way the viewer looks."""
    viewer = camera_drawing.viewing_direction(ORBIT[:, :3, 3], np.array([0.0, 0, 1]))
    behind = geometry.look_at(torch.from_numpy(-2 * viewer * [1, 1, -1]), up=(0.0, 0.0, 1.0)).numpy()  # sees the viewer
    before = geometry.look_at(torch.from_numpy(2 * viewer)).numpy()
    corners = np.zeros((8, 8, 3), np.uint8)
    corners[:4, :4], corners[:4, 4:], corners[4:, :4] = (250, 0, 250), (250, 250, 0), (0, 250, 250)
    for pose, mirrored in ((before, False), (behind, True)):
        picture = draw(np.concatenate([ORBIT, pose[None]]), shown={8: (1, corners)})
        centre = {
            name: np.median(near(picture, colour, 60), axis=1)
            for name, colour in (("upper left", (250, 0, 250)), ("upper right", (250, 250, 0)), ("lower left", (0, 250, 250)))
        }
        assert centre["upper left"][0] < centre["lower left"][0]
        assert (centre["upper left"][1] < centre["upper right"][1]) != mirrored


def test_pyramids_open_the_way_the_camera_looks():
    apex, *corners = camera_drawing.pyramid(np.eye(4), CAMERA, depth=2.0)
    assert np.array_equal(apex, [0, 0, 0])
    np.testing.assert_allclose(corners[0], [-2 * 32 / 60, -2 * 32 / 60, 2.0])  # upper left: x left, y up, z forward
    np.testing.assert_allclose(corners[2], [2 * 32 / 60, 2 * 32 / 60, 2.0])


def test_of_points_the_nearer_ones_hide_the_farther_ones():
    eye = 10 * camera_drawing.viewing_direction(ORBIT[:, :3, 3], np.array([0.0, 0, 1]))
    two = np.stack([eye + share * (np.array([0.3, 0.3, 0.5]) - eye) for share in (0.95, 1.05)])  # on one ray
    for order in ([0, 1], [1, 0]):
        picture = draw(points=two[order], colours=np.array([MAGENTA, CYAN], np.uint8)[order])
        assert len(near(picture, MAGENTA)[0]) > 4 and not len(near(picture, CYAN)[0])


def test_the_nearer_camera_hides_the_farther_one():
    viewer = camera_drawing.viewing_direction(ORBIT[:, :3, 3], np.array([0.0, 0, 1]))
    two = geometry.look_at(torch.from_numpy(np.stack([2 * viewer, -2 * viewer]))).numpy()
    for order in ([0, 1], [1, 0]):
        pictures = [np.full((8, 8, 3), colour, np.uint8) for colour in np.array([MAGENTA, CYAN])[order]]
        picture = draw(np.concatenate([ORBIT, two[order]]), shown={8: (1, pictures[0]), 9: (2, pictures[1])})
        assert len(near(picture, MAGENTA)[0]) > 2 * len(near(picture, CYAN)[0])


@pytest.mark.parametrize("up", ["x", "y", "z"])
def test_up_is_where_the_tops_of_the_images_are(up):
    poses = geometry.orbit(torch.zeros(3), 2.0, 20.0, 8, up=up).numpy()
    assert camera_drawing.upward(poses).tolist() == np.eye(3)["xyz".index(up)].tolist()
    assert camera_drawing.upward(poses @ np.diag([1, -1, -1, 1])).tolist() == (-np.eye(3)["xyz".index(up)]).tolist()


def test_up_is_up_for_a_few_cameras_that_look_down_from_one_side():
    eyes = geometry.on_sphere(torch.tensor([-70.0, -40.0, -20.0]), torch.tensor([50.0, 55.0, 60.0]), 1.2)
    assert camera_drawing.upward(geometry.look_at(eyes).numpy()).tolist() == [0, 0, 1]


def test_axes_have_names_where_the_origin_is_and_at_the_target_where_that_is_far():
    """The drawing is of the cameras, not of the way to the origin."""
    far = ORBIT.copy()
    far[:, :3, 3] += [500, 0, 0]
    rows, columns = near(draw(far), camera_drawing.TARGET_COLOR)
    assert len(rows) > 20 and abs(columns.mean() - 200) < 40


def test_the_legend_has_the_axes_colours():
    legend = camera_drawing.legend(900)
    assert legend.shape[1] == 900
    for colour in (*camera_drawing.AXIS_COLORS, camera_drawing.TARGET_COLOR, visual.INK):
        assert len(near(legend, colour)[0]) > 10
