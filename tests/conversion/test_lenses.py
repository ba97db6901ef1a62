"""datasets/conversion/lenses.py: distortion, the common camera, resampling."""

import numpy as np
import pytest
import torch

import data_util
import geometry
import util
from datasets.conversion import lenses

OPENCV = lenses.Lens(60.0, 64.0, 41.0, 29.0, 60, 80, k1=-0.2, k2=0.05, p1=0.01, p2=-0.02)
PINHOLE = lenses.Lens(50.0, 50.0, 32.0, 24.0, 48, 64)


def blob(u, v, height, width, spread=2.0):
    """(H, W) picture of a soft dot at u, v, centres of pixels at + 0.5."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    return np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / (2 * spread**2))


def centre_of(picture):
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]] + 0.5
    return np.array([(columns * picture).sum(), (rows * picture).sum()]) / picture.sum()


def test_distortion_by_hand():
    lens = lenses.Lens(100, 200, 10, 20, 48, 64, k1=0.1, k2=0.01, p1=0.02, p2=0.03, k3=0.001)
    x, y, r2 = 0.3, -0.4, 0.25
    radial = 1 + 0.1 * r2 + 0.01 * r2**2 + 0.001 * r2**3
    u = x * radial + 2 * 0.02 * x * y + 0.03 * (r2 + 2 * x**2)
    v = y * radial + 0.02 * (r2 + 2 * y**2) + 2 * 0.03 * x * y
    np.testing.assert_allclose(lens.project(np.array(x), np.array(y)), (100 * u + 10, 200 * v + 20))


def test_a_lens_is_used_only_up_to_where_it_folds_back():
    barrel = lenses.Lens(50, 50, 32, 24, 48, 64, k1=-1 / 3)  # r - r^3 / 3 turns at r = 1
    assert barrel.largest_radius(3.0) == pytest.approx(1.0, abs=0.01)
    assert barrel.largest_radius(0.5) == 0.5
    camera = data_util.Intrinsics(20.0, 32.0, 24.0, 48, 64)  # sees out to a radius of 2
    image = lenses.resample_image(np.full((48, 64, 3), 200, np.uint8), barrel, camera)
    assert image.shape == (48, 64, 4) and image[24, 32, 3] == 255
    assert not image[[0, 0, -1, -1], [0, -1, 0, -1]].any()  # the corners


def test_equal_pinhole_cameras_are_kept_to_the_last_digit():
    camera = lenses.common_camera([PINHOLE, PINHOLE])
    assert camera == data_util.Intrinsics(50.0, 32.0, 24.0, 48, 64)
    assert not lenses.needs_resampling(PINHOLE, camera)


@pytest.mark.parametrize("change", [{"fl_y": 50.1}, {"cx": 32.1}, {"k1": 0.01}, {"p2": 1e-3}, {"width": 65}])
def test_what_moves_pixels_is_resampled(change):
    lens = lenses.Lens(**{**PINHOLE.__dict__, **change})
    assert lenses.needs_resampling(lens, lenses.common_camera([PINHOLE]))
    camera = lenses.common_camera([lens, PINHOLE])
    assert lenses.needs_resampling(lens, camera) or lenses.needs_resampling(PINHOLE, camera)


def test_the_common_camera_has_room_for_all_views():
    portrait = lenses.Lens(70.0, 70.0, 24.0, 33.0, 64, 48)
    camera = lenses.common_camera([PINHOLE, portrait, portrait])
    assert camera == data_util.Intrinsics(70.0, 32.0, 33.0, 64, 64)


@pytest.mark.parametrize("point", [(0.0, 0.0), (0.4, 0.3), (-0.45, 0.2), (0.3, -0.35)])
def test_a_dot_lands_where_the_pinhole_camera_projects_it(point):
    u, v = OPENCV.project(*point)
    source = (255 * blob(u, v, 60, 80)).round().astype(np.uint8)
    camera = lenses.common_camera([OPENCV])
    image = lenses.resample_image(np.dstack([source] * 3), OPENCV, camera)
    intrinsics = torch.tensor([[camera.focal, 0, camera.cx], [0, camera.focal, camera.cy], [0, 0, 1]])
    expected = geometry.project(torch.tensor([[*point, 1.0]]), intrinsics)[0].numpy()
    np.testing.assert_allclose(centre_of(image[..., 0].astype(float)), expected, atol=0.2)
    assert np.abs(np.array([u, v]) - expected).max() > 0.5 or point == (0.0, 0.0)  # it had to move


def test_shrinking_averages():
    fine = np.random.default_rng(0).integers(0, 256, (48, 63, 3)).astype(np.uint8)
    lens, camera = lenses.Lens(150.0, 150.0, 31.5, 24.0, 48, 63), data_util.Intrinsics(50.0, 10.5, 8.0, 16, 21)
    blocks = fine.reshape(16, 3, 21, 3, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(lenses.resample_image(fine, lens, camera), blocks, atol=0.6)


def test_colour_does_not_bleed_out_of_transparent_pixels():
    image = np.zeros((48, 64, 4), np.uint8)
    image[..., 0], image[10:30, 20:40] = 255, (0, 0, 255, 255)  # clear red around opaque blue
    resampled = lenses.resample_image(image, PINHOLE, data_util.Intrinsics(43.0, 31.3, 24.4, 48, 64))
    seen = resampled[..., 3] > 0
    assert seen.any() and not resampled[seen][:, 0].any() and (resampled[seen][:, 2] >= 254).all()
    assert ((resampled[..., 3] > 0) & (resampled[..., 3] < 255)).any()


def test_labels_are_those_of_the_nearest_pixel_and_none_outside():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (48, 64))
    camera = data_util.Intrinsics(50.0, 35.0, 22.0, 48, 64)  # three pixels to the right, two up
    moved = lenses.resample_labels(labels, PINHOLE, camera)
    assert np.array_equal(moved[:-2, 3:], labels[2:, :-3])
    assert (moved[:, :3] == util.UNLABELLED).all() and (moved[-2:] == util.UNLABELLED).all()
