import numpy as np
import pytest

import visual
from evaluation import contact_sheet


def picture(height, width, value):
    return np.full((height, width, 3), value, np.uint8)


@pytest.mark.parametrize("height, width, factor", [(64, 64, 6), (48, 64, 6), (128, 128, 3), (600, 600, 1)])
def test_contact_sheet_shows_every_picture_enlarged_by_a_whole_factor(height, width, factor):
    rows = [[picture(height, width, (row, column, 200)) for column in range(3)] for row in range(2)]
    rows[1][0] = None
    sheet = contact_sheet.draw(rows, ["input", "rgb", "ground truth"], ["a" * 40 + "\nPSNR 20.1 dB", "b"], "Chairs")
    assert sheet.dtype == np.uint8
    if factor > 1:
        assert 1200 <= sheet.shape[1] <= 1800
    for row, column in ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2)):
        tile = (sheet == (row, column, 200)).all(axis=-1)
        assert tile.any(axis=1).sum() == factor * height and tile.any(axis=0).sum() == factor * width
    assert not (sheet == (1, 0, 200)).all(axis=-1).any()


def test_contact_sheet_has_a_key_with_every_class():
    names = [f"a part with a long name {i}" for i in range(12)]
    arguments = [[picture(64, 64, 255)]], ["rgb"], ["chair"], "Chairs"
    plain = contact_sheet.draw(*arguments)
    sheet = contact_sheet.draw(*arguments, class_names=names)
    assert sheet.shape[0] > plain.shape[0] and sheet.shape[1] == plain.shape[1]
    for color in visual.label_colors(np.arange(1, 12), 12):
        assert (sheet == color).all(axis=-1).sum() >= 15 * 15


@pytest.mark.parametrize("column_titles, row_titles", [(["rgb"], ["one", "two"]), (["rgb", "seg"], ["one"])])
def test_contact_sheet_refuses_titles_that_do_not_match_the_pictures(column_titles, row_titles):
    with pytest.raises(ValueError):
        contact_sheet.draw([[picture(8, 8, 0)]], column_titles, row_titles, "Chairs")


def test_the_title_says_how_many_views_were_scored():
    summary = dict(num_images=8, num_instances=2, psnr=20.04, ssim=0.5, miou=float("nan"))
    assert contact_sheet.title_of("run", summary) == "run: PSNR 20.0 dB, SSIM 0.50 over 8 views of 2 instances"
    assert contact_sheet.title_of("run", summary | dict(num_images=0)) == "run: no view scored"
