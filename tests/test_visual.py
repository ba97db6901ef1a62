import numpy as np
import pytest
import torch

import util
import visual


@pytest.fixture
def published(parity):
    return parity.load("visual")


@pytest.mark.parametrize("num_classes, name", [(2, "colors_2"), (5, "colors_5"), (7, "colors"), (12, "colors_12")])
def test_palette_is_the_published_one(published, num_classes, name):
    np.testing.assert_allclose(visual.class_colors(num_classes), published[name], atol=1e-7)


def test_palette_of_background_alone():
    assert visual.class_colors(1).tolist() == [[1, 1, 1]]


def test_to_uint8_is_the_published_conversion_and_drops_alpha(published):
    rgba = torch.from_numpy(published["image"])
    assert np.array_equal(visual.to_uint8(rgba[:3]), published["converted_rgb"])
    assert np.array_equal(visual.to_uint8(rgba), visual.to_uint8(rgba[:3]))


def test_to_uint8_clips_and_keeps_a_picture_that_is_not_square():
    image = torch.tensor([-1.0, 0.0, 1.0, -9.0, 9.0, torch.nan]).expand(3, 2, 6)
    picture = visual.to_uint8(image)
    assert picture.shape == (2, 6, 3) and picture.dtype == np.uint8
    assert picture[0, :, 0].tolist() == [0, 128, 255, 0, 255, 0]


def test_label_pictures_have_the_palettes_full_range(published):
    seg_labels = torch.from_numpy(published["logits"]).argmax(dim=-1).reshape(2, 8, 8)
    for labels, seg_image in zip(seg_labels, published["seg_image"]):
        picture = visual.label_colors(labels, 7)
        assert np.array_equal(picture, np.rint(seg_image.transpose(1, 2, 0) * 255))
    assert visual.label_colors(torch.tensor([[6]]), 7).tolist() == [[[255, 0, 0]]]


def test_unlabelled_pixels_are_grey_and_other_labels_beyond_the_palette_an_error():
    picture = visual.label_colors(torch.tensor([[0, util.UNLABELLED]]), 3)
    assert picture.tolist() == [[[255, 255, 255], list(visual.UNLABELLED_COLOR)]]
    for label in (3, -2):
        with pytest.raises(ValueError, match=f"label {label} has no colour"):
            visual.label_colors(torch.tensor([[label]]), 3)


def test_normals_right_up_and_towards_the_camera_are_red_green_and_blue():
    normals = torch.tensor([[1.0, 0, 0], [0, -1.0, 0], [0, 0, -1.0], [0, 0, 0]]).T.reshape(3, 1, 4)
    picture = visual.normal_picture(normals)[0].tolist()
    assert picture == [[255, 128, 128], [128, 255, 128], [128, 128, 255], [255, 255, 255]]


def test_depth_picture_is_light_near_dark_far_and_not_spoilt_by_stray_rays():
    depth = torch.linspace(1, 2, 200).reshape(1, 10, 20)
    grey = visual.depth_picture(depth)[..., 0].flatten().astype(int)
    assert grey[0] == 255 and grey[-1] == 40 and (np.diff(grey) <= 0).all()
    depth[0, 0, 0], depth[0, 0, 1] = 1e6, torch.inf
    stray = visual.depth_picture(depth)[..., 0].flatten().astype(int)
    assert stray[0] == 40 and stray[1] == 0
    assert abs(stray[2:] - grey[2:]).max() < 10
    assert visual.depth_picture(torch.tensor([[1.0, 3.0, 5.0]]))[0, :, 0].tolist() == [255, 148, 40]


@pytest.mark.parametrize("value", [2.0, torch.nan])
def test_depth_picture_of_one_depth_or_of_none(value):
    assert visual.depth_picture(torch.full((1, 4, 6), value)).shape == (4, 6, 3)


def picture(height, width, value):
    return np.full((height, width, 3), value, np.uint8)


def test_strip_puts_white_gaps_between_and_centres_smaller_pictures():
    strip = visual.strip([picture(4, 6, 0), picture(2, 4, 9)], gap=2)
    assert strip.shape == (4, 14, 3)
    assert (strip[:, :6] == 0).all() and (strip[:, 6:8] == 255).all()
    assert (strip[1:3, 9:13] == 9).all() and (strip[0, 8:] == 255).all() and (strip[:, 13] == 255).all()


def test_grid_fills_rows_from_left_to_right():
    grid = visual.grid([picture(3, 5, value) for value in (1, 2, 3)], columns=2, gap=1)
    assert grid.shape == (7, 11, 3)
    assert [grid[0, 0, 0], grid[0, 6, 0], grid[4, 0, 0], grid[4, 6, 0]] == [1, 2, 3, 255]


def test_enlarge_repeats_pixels():
    enlarged = visual.enlarge(np.arange(12, dtype=np.uint8).reshape(1, 4, 3), 3)
    assert enlarged.shape == (3, 12, 3)
    assert (enlarged[:, 3:6] == [3, 4, 5]).all()


def test_pictures_of_a_view_show_what_outputs_and_truth_have():
    seg_logits = torch.eye(3)[torch.arange(16) % 3][None]
    outputs = {
        "points": torch.zeros(1, 16, 3),
        "rgb": torch.zeros(1, 16, 4),
        "seg_logits": seg_logits,
        "depth": torch.zeros(1),
    }
    shown = visual.to_host(outputs)
    assert {name: tuple(tensor.shape) for name, tensor in shown.items()} == {
        "points": (1, 16, 3),
        "rgb": (1, 16, 3),
        "seg_labels": (1, 16),
    }
    truth = {"cam2world": torch.eye(4)[None], "rgb": torch.ones(1, 16, 4), "seg_labels": torch.zeros(1, 16).long()}
    pictures = visual.of_observation(shown, truth, 0, num_classes=3)
    assert list(pictures) == ["normals", "rgb", "rgb_gt", "seg", "seg_gt"]
    assert (pictures["rgb"] == 128).all() and (pictures["rgb_gt"] == 255).all() and (pictures["seg_gt"] == 255).all()
    assert np.array_equal(pictures["seg"], visual.label_colors(shown["seg_labels"].view(4, 4), 3))
    del outputs["seg_logits"], truth["rgb"], truth["seg_labels"]
    assert list(visual.of_observation(visual.to_host(outputs), truth, 0)) == ["normals", "rgb"]
