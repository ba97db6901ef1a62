import imageio.v3 as iio
import numpy as np
import pytest
from test_data_util import BAD_IMAGES, BAD_LABELS

import data_util
import util
from datasets.storage import headers


@pytest.mark.parametrize("fault", ["truncated", "text", "empty", "missing"])
def test_an_image_that_cannot_be_used_is_found_without_decoding_it(tmp_path, fault):
    path = tmp_path / "broken.png"
    BAD_IMAGES[fault](path)
    with pytest.raises(util.InputError, match="broken.png"):
        headers.check_png(path)


def test_a_sound_image_passes_and_its_sides_are_in_its_header(tmp_path):
    iio.imwrite(tmp_path / "wide.png", np.zeros((5, 700, 3), np.uint8))
    assert headers.check_png(tmp_path / "wide.png") == (5, 700)


@pytest.mark.parametrize("fault", BAD_LABELS)
def test_a_label_map_that_cannot_be_used_is_found_by_its_header(tmp_path, fault):
    path, sound_heads = tmp_path / "broken.npy", set()
    BAD_LABELS[fault](path)
    for _ in range(2):  # sound label maps read before do not hide it
        with pytest.raises(util.InputError, match="broken.npy") as quick:
            headers.check_seg_labels(path, sound_heads)
        np.save(tmp_path / "sound.npy", np.zeros((4, 4), np.uint8))
        headers.check_seg_labels(tmp_path / "sound.npy", sound_heads)
    with pytest.raises(util.InputError) as careful:
        data_util.open_seg_labels(path, mmap_mode="r")
    assert str(quick.value) == str(careful.value)


def test_a_label_map_like_the_others_but_cut_short_is_found(tmp_path):
    sound_heads = set()
    for name in ("a.npy", "b.npy", "c.npy"):
        np.save(tmp_path / name, np.zeros((4, 4), np.uint8))
    headers.check_seg_labels(tmp_path / "a.npy", sound_heads)
    headers.check_seg_labels(tmp_path / "b.npy", sound_heads)
    assert len(sound_heads) == 1
    (tmp_path / "c.npy").write_bytes((tmp_path / "c.npy").read_bytes()[:-1])
    with pytest.raises(util.InputError, match="c.npy"):
        headers.check_seg_labels(tmp_path / "c.npy", sound_heads)
