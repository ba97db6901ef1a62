import threading

import imageio.v3 as iio
import numpy as np
import pytest
import torch

import visual
from evaluation import picture_writer


def test_every_queued_picture_is_on_disk_after_the_block(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, size=(40, 6, 9, 3), dtype=np.uint8)
    with picture_writer.PictureWriter(num_threads=3, max_waiting=4) as writer:
        for number, picture in enumerate(pictures):
            writer.do(picture_writer.write_picture, tmp_path / f"{number % 2:06d}" / "rgb" / f"{number:06d}.png", picture)
    for number, picture in enumerate(pictures):
        read = iio.imread(tmp_path / f"{number % 2:06d}" / "rgb" / f"{number:06d}.png")
        assert np.array_equal(read, picture)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 40


def test_label_pictures_keep_their_colours_on_disk(tmp_path):
    picture = visual.label_colors(torch.arange(7).reshape(1, 7), 7)
    picture_writer.write_picture(tmp_path / "seg" / "000000.png", picture)
    colors = iio.imread(tmp_path / "seg" / "000000.png")[0] / 255
    np.testing.assert_allclose(colors, visual.class_colors(7), atol=0.5 / 255)


def test_a_picture_that_cannot_be_written_raises(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    picture = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(OSError), picture_writer.PictureWriter() as writer:
        writer.do(picture_writer.write_picture, tmp_path / "file" / "000000.png", picture)


def test_the_callers_error_is_not_hidden_by_a_failed_picture():
    caller_failed = threading.Event()

    def fail_after_the_caller():
        caller_failed.wait(timeout=10)
        raise OSError("disk full")

    with pytest.raises(KeyError), picture_writer.PictureWriter() as writer:
        writer.do(fail_after_the_caller)
        caller_failed.set()
        raise KeyError("rendering went wrong")
