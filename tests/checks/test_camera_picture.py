import imageio.v3 as iio
import numpy as np
import pytest
import scenes
import torch

import data_util
import dataio
import geometry
import util
import visual
from datasets.checks import camera_picture

CLASSES = ["background", "upper half", "lower half"]


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return scenes.write_split(tmp_path_factory.mktemp("picture") / "Ball" / "Ball.train", num_views=9, side=24)


def sheet_of(instance, num_classes=3, num_shown=4, **options):
    indices = camera_picture.choose_views(instance.poses, num_shown)
    shown = [camera_picture.load_view(instance.folder, i, instance.views[i], num_classes) for i in indices]
    facts = camera_picture.facts_of(instance.poses, instance.intrinsics, 0.5)
    names = CLASSES[:num_classes] if num_classes else None
    return camera_picture.sheet(instance.poses, instance.intrinsics, shown, "Balls", facts, names, **options), shown


def has(strip, part):
    """Whether `part` is somewhere in a strip of its width, pixel by pixel."""
    return any(np.array_equal(strip[y : y + len(part)], part) for y in range(len(strip) - len(part)))


def test_a_sheet_shows_each_chosen_view_beside_its_labels(split):
    sheet, shown = sheet_of(dataio.index_split(split)[0])
    assert sheet.shape[1] == camera_picture.WIDTH and sheet.dtype == np.uint8 and len(shown) == 4
    tile = camera_picture.TILE
    for view in shown:
        for picture, num_right in ((view.picture, 1), (view.overlay, 0)):
            inside = camera_picture.fit_picture(picture, tile)[50:-50, 50:-50]  # without the frame
            left = camera_picture.WIDTH - visual.MARGIN - tile - num_right * (tile + visual.GAP) + 50
            assert has(sheet[:, left : left + tile - 100], inside)


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
    instance = dataio.index_split(split, max_num_observations=num_views)[0]
    sheet, shown = sheet_of(instance, num_classes)
    assert sheet.shape[1] == camera_picture.WIDTH and 500 < sheet.shape[0] < 1500
    assert len(shown) == min(num_views, 4)


@pytest.mark.parametrize("height, width", [(600, 900), (90, 40), (7, 300)])
def test_images_of_any_shape_are_shown_whole(height, width):
    poses = geometry.orbit(torch.zeros(3), 2.0, 20.0, 5).numpy()
    intrinsics = data_util.Intrinsics(width, width / 2, height / 2, height, width)
    shown = [camera_picture.View(i, str(i), np.full((height, width, 3), 10 * i, np.uint8)) for i in range(4)]
    sheet = camera_picture.sheet(poses, intrinsics, shown, "title", [("what", "value")])
    assert sheet.shape[1] == camera_picture.WIDTH
    fitted = camera_picture.fit_picture(shown[0].picture, 204)
    assert max(fitted.shape[:2]) == 204 and abs(fitted.shape[0] / fitted.shape[1] - height / width) < 0.02


def test_the_key_names_every_class_whose_colours_are_the_palettes(split):
    sheet, _ = sheet_of(dataio.index_split(split)[0])
    for colour in visual.label_colors(np.arange(1, 3), 3):
        assert (sheet == colour).all(axis=-1).sum() >= 15 * 15


def test_the_views_shown_differ_and_are_as_many_as_asked_for(split):
    instance = dataio.index_split(split)[0]
    for num_shown in (1, 4, 20):
        chosen = camera_picture.choose_views(instance.poses, num_shown)
        assert chosen == sorted(set(chosen)) and len(chosen) == min(num_shown, 9)
    twice = np.concatenate([instance.poses, instance.poses])
    assert len({i % 9 for i in camera_picture.choose_views(twice, 4)}) == 4


def test_facts_are_those_of_the_cameras():
    poses = geometry.look_at(torch.tensor([[2.0, 0, 0], [0, 4.0, 0], [0, 0.1, 3.0]])).numpy()
    facts = dict(camera_picture.facts_of(poses, data_util.Intrinsics(50, 50, 25, 50, 100), 0.0))
    assert facts["camera to object"] == "3 on average, 2 to 4 world units"
    assert facts["field of view"] == "90.0 x 53.1 degrees" and facts["image"] == "100 x 50 pixels"
    assert facts["focal length"] == "50 pixels" and facts["principal point"] == "(50, 25)"
    assert facts["rays go through"].startswith("(column, row)")


def test_small_pictures_keep_their_pixels():
    picture = np.random.default_rng(0).integers(0, 255, (12, 12, 3), np.uint8)
    assert np.array_equal(camera_picture.fit_picture(picture, 204), visual.enlarge(picture, 17))
