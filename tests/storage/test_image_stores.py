import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import scenes

import data_util
import dataio
import options
import train
import util
from datasets.storage import image_stores

NUM_CLASSES = 3
NUM_OBSERVATIONS = 6
OLD = 1_600_000_000  # a time long ago: who fills a cache from files of today waits until they have settled


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    """Two balls, three views each; one image is half transparent in places, one has nothing but background."""
    split = scenes.write_split(tmp_path_factory.mktemp("stores") / "Ball" / "Ball.train", num_views=3)
    path = split / "ball_a" / "rgb" / "000001.png"
    pixels = np.array(iio.imread(path))
    pixels[4:8, :, 3] = np.arange(16) * 16
    iio.imwrite(path, pixels)
    iio.imwrite(split / "ball_b" / "rgb" / "000002.png", np.zeros((16, 16, 4), np.uint8))
    settle(split)
    return split


@pytest.fixture
def split(sample, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(sample.parent, tmp_path / "Ball", ignore=shutil.ignore_patterns(".*"))
    settle(tmp_path)
    return tmp_path / "Ball" / "Ball.train"


def settle(folder, time=OLD):
    for path in folder.rglob("*"):
        os.utime(path, (time, time))


def files_of(split, side=16, blend_alpha=False, num_classes=NUM_CLASSES, **options):
    options = {"with_labels": num_classes is not None, "cached": False, **options}
    settings = data_util.DatasetSettings(0.5, blend_alpha)
    return image_stores.Files(dataio.index_split(split, **options), side, settings, num_classes)


def assert_same(store, files):
    """Each observation of a store is what its files hold."""
    assert len(store) == len(files)
    for i in range(len(files)):
        held, read = store[i], files[i]
        np.testing.assert_array_equal(held.rgb(), read.rgb())
        for name in ("foreground", "seg_labels"):
            np.testing.assert_array_equal(getattr(held, name), getattr(read, name))
        for name in ("rgba", "foreground", "seg_labels"):
            assert (getattr(held, name) is None) == (getattr(read, name) is None)


STORES = {
    "memory": lambda files, folder, num_workers: image_stores.preload(files, num_workers),
    "cache": lambda files, folder, num_workers: image_stores.open_cache(files, folder, num_workers),
}


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("side", [16, 8, 24])
def test_every_store_holds_what_the_files_hold(sample, tmp_path, store, side, num_workers):
    files = files_of(sample, side, blend_alpha=side == 8)
    assert_same(STORES[store](files, tmp_path / "cache", num_workers), files)


@pytest.mark.parametrize("store", STORES)
def test_without_images_and_without_labels_there_are_none(sample, tmp_path, store):
    for files in (files_of(sample, num_classes=None), files_of(sample, with_rgb=False)):
        held = STORES[store](files, tmp_path, 0)
        assert_same(held, files)
        assert [x is None for x in held[0][:3]] == [not files.instances[0].with_rgb, False, files.num_classes is None]


@pytest.mark.parametrize("blend_alpha", [False, True])
@pytest.mark.parametrize("store", STORES)
def test_images_of_the_side_asked_for_are_held_as_bytes_also_where_half_transparent(sample, tmp_path, store, blend_alpha):
    held = STORES[store](files_of(sample, blend_alpha=blend_alpha), tmp_path, 0)
    assert [x.dtype for x in held[1][:3]] == [np.uint8, bool, np.int8]


@pytest.mark.parametrize("store", STORES)
def test_resized_images_are_held_as_floats(sample, tmp_path, store):
    assert STORES[store](files_of(sample, 8), tmp_path, 0)[0].rgba.dtype == np.float32


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("store", STORES)
def test_an_image_of_another_side_than_the_first_of_its_instance_does_no_harm(split, tmp_path, store, num_workers):
    path = split / "ball_b" / "rgb" / "000001.png"
    iio.imwrite(path, np.random.default_rng(0).integers(256, size=(40, 32, 4), dtype=np.uint8))
    settle(split)
    files = files_of(split)
    assert files.layout()["rgba"][1] == np.float32 == files[4].rgba.dtype
    assert_same(STORES[store](files, tmp_path / "cache", num_workers), files)


def test_many_classes_fit(split):
    np.save(split / "ball_a" / "seg" / "000000.npy", np.full((16, 16), 300))
    files = files_of(split, num_classes=301)
    assert image_stores.preload(files)[0].seg_labels.tolist() == [300] * 256
    for num_classes in (127, 128, 129):
        np.save(split / "ball_a" / "seg" / "000000.npy", np.full((16, 16), num_classes - 1))
        assert files_of(split, num_classes=num_classes)[0].seg_labels[0] == num_classes - 1


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("store", STORES)
def test_a_label_beyond_the_class_list_is_named_and_nothing_is_left(split, tmp_path, store, num_workers):
    path = split / "ball_b" / "seg" / "000001.npy"
    np.save(path, np.full((16, 16), NUM_CLASSES))
    settle(split)
    with pytest.raises(util.InputError, match=f"{path}.*ends at 2"):
        STORES[store](files_of(split), tmp_path / "cache", num_workers)
    assert not visible(tmp_path / "cache") and not list(tmp_path.glob("cache/*.filling"))


def test_more_than_the_memory_is_refused_before_anything_is_read():
    with pytest.raises(util.InputError, match=r"--preload: .* 1000000000.0 GB .* --cache"):
        image_stores.expect_memory(10**18)


# The cache


def visible(folder):
    """Names of the filled folders of a cache."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".")) if folder.exists() else []


@pytest.fixture
def decoded(monkeypatch):
    """Names of the images that are decoded."""
    names, decode = [], data_util.decode_image
    monkeypatch.setattr(data_util, "decode_image", lambda path: names.append("/".join(path.split("/")[-3:])) or decode(path))
    return names


def test_the_second_opening_decodes_nothing(split, tmp_path, decoded):
    for _ in range(2):
        store = image_stores.open_cache(files_of(split), tmp_path / "cache")
        assert len(decoded) == NUM_OBSERVATIONS
    decoded.clear()
    store[3]
    assert not decoded
    assert_same(store, files_of(split))


def test_what_is_asked_for_in_another_way_is_kept_beside_it(split, tmp_path):
    cache = tmp_path / "cache"
    asked = [
        {},
        dict(side=8),
        dict(blend_alpha=True),
        dict(num_classes=4),
        dict(num_classes=None),
        dict(with_rgb=False),
        dict(max_num_observations=2),
        dict(specific_observation_idcs=[1, 0, 2]),
        dict(specific_ins=["ball_b"]),
    ]
    for number, what in enumerate(asked, start=1):
        files = files_of(split, **what)
        assert_same(image_stores.open_cache(files, cache), files)
        assert len(visible(cache)) == number
    other = tmp_path / "Other" / "Ball.train"
    shutil.copytree(split, other)
    image_stores.open_cache(files_of(other), cache)
    assert len(visible(cache)) == len(asked) + 1


@pytest.mark.parametrize("kind, suffix", [("rgb", "png"), ("seg", "npy")])
@pytest.mark.parametrize("same", ["size", "time"])
def test_a_file_that_changes_has_its_place_filled_anew(split, tmp_path, decoded, kind, suffix, same):
    cache = tmp_path / "cache"
    before = image_stores.open_cache(files_of(split), cache)
    path = split / "ball_a" / kind / f"000000.{suffix}"
    labels = np.ones((16, 16), np.uint8 if same == "size" else np.int64)
    np.save(path, labels) if kind == "seg" else iio.imwrite(path, np.full((16, 16, 4), 9, np.uint8))
    os.utime(path, (OLD, OLD + (same == "size")))
    decoded.clear()
    after = image_stores.open_cache(files_of(split), cache)
    assert len(decoded) == NUM_OBSERVATIONS and len(visible(cache)) == 1
    assert_same(after, files_of(split))
    assert before[0].rgba.any()  # who has the old one mapped keeps it


BAD_CACHES = {
    "no facts": lambda place: (place / "cache.json").unlink(),
    "facts cut short": lambda place: (place / "cache.json").write_text('{"files": '),
    "facts of another program": lambda place: (place / "cache.json").write_text("[1]"),
    "facts of another data set": lambda place: (place / "cache.json").write_text('{"files": "0"}'),
    "images cut short": lambda place: os.truncate(place / "rgba.npy", 1000),
    "foreground cut short": lambda place: os.truncate(place / "foreground.npy", 100),
    "labels that are a pickle": lambda place: np.save(place / "seg_labels.npy", np.array([{}])),
    "no labels": lambda place: (place / "seg_labels.npy").unlink(),
}


@pytest.mark.parametrize("fault", BAD_CACHES)
def test_a_cache_that_cannot_be_used_is_filled_anew(split, tmp_path, decoded, fault):
    cache = tmp_path / "cache"
    image_stores.open_cache(files_of(split), cache)
    BAD_CACHES[fault](cache / visible(cache)[0])
    decoded.clear()
    assert_same(image_stores.open_cache(files_of(split), cache), files_of(split))
    assert len(decoded) >= NUM_OBSERVATIONS


def test_what_stops_in_the_middle_leaves_nothing_that_could_be_opened(split, tmp_path, monkeypatch):
    cache, decode = tmp_path / "cache", data_util.decode_image

    def stop(path):
        if path.endswith("ball_b/rgb/000001.png"):
            raise KeyboardInterrupt
        return decode(path)

    monkeypatch.setattr(data_util, "decode_image", stop)
    with pytest.raises(KeyboardInterrupt):
        image_stores.open_cache(files_of(split), cache)
    assert not visible(cache) and not list(cache.glob(".*.filling"))
    monkeypatch.undo()
    assert_same(image_stores.open_cache(files_of(split), cache), files_of(split))


def test_what_a_killed_run_left_is_overwritten(split, tmp_path):
    cache, files = tmp_path / "cache", files_of(split)
    image_stores.open_cache(files, cache)
    name = visible(cache)[0]
    (cache / name).rename(cache / f".{name}.filling")
    assert_same(image_stores.open_cache(files, cache), files)
    assert not list(cache.glob(".*.filling"))


FILL_AND_DIE = """
import os, signal, sys, time
import data_util, dataio
from datasets.storage import image_stores

main, decode = os.getpid(), data_util.decode_image

def decode_and_kill(path):
    if os.getpid() != main:
        os.kill(main, signal.SIGKILL)
        time.sleep(30)
    return decode(path)

data_util.decode_image = decode_and_kill
files = image_stores.Files(dataio.index_split(sys.argv[1], cached=False), 16, data_util.DatasetSettings(0.5))
image_stores.open_cache(files, sys.argv[2], num_workers=2)
"""


@pytest.mark.slow
def test_a_run_that_is_killed_while_its_processes_fill_does_not_hold_the_cache(split, tmp_path):
    """Its processes end too, and with them the lock that they were forked with."""
    root = Path(image_stores.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", FILL_AND_DIE, str(split), str(tmp_path / "cache")], cwd=root, timeout=60)
    assert done.returncode == -signal.SIGKILL
    files = files_of(split, num_classes=None)
    opened = threading.Thread(target=lambda: image_stores.open_cache(files, tmp_path / "cache"), daemon=True)
    opened.start()
    opened.join(timeout=20)
    assert not opened.is_alive()


def test_an_image_that_changes_while_the_cache_is_filled_is_an_error(split, tmp_path, monkeypatch):
    files, decode = files_of(split), data_util.decode_image

    def change(path):
        os.utime(path, (OLD, OLD + 1))
        return decode(path)

    monkeypatch.setattr(data_util, "decode_image", change)
    with pytest.raises(util.InputError, match="changed while"):
        image_stores.open_cache(files, tmp_path / "cache")
    assert not visible(tmp_path / "cache")


def test_two_runs_at_once_fill_it_once(split, tmp_path, decoded, capsys):
    files, stores = files_of(split), []
    runs = [
        threading.Thread(target=lambda: stores.append(image_stores.open_cache(files, tmp_path / "cache"))) for _ in range(3)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(decoded) == NUM_OBSERVATIONS
    for store in stores:
        assert store.arrays["rgba"].dtype == np.uint8
        np.testing.assert_array_equal(store.arrays["rgba"], stores[0].arrays["rgba"])


def test_files_of_a_moment_ago_are_waited_for(split, tmp_path, monkeypatch):
    """Else they could change once more within the clock's tick, and the cache would not know."""
    (split / "ball_a" / "rgb" / "000000.png").touch()
    waited = []
    monkeypatch.setattr(image_stores.time, "sleep", waited.append)
    image_stores.open_cache(files_of(split), tmp_path / "cache")
    assert 0 < waited[0] <= image_stores.UNSETTLED_S


def test_a_disk_that_is_too_small_is_told_before_anything_is_decoded(split, tmp_path, decoded, monkeypatch):
    real = shutil.disk_usage(tmp_path)
    needed = NUM_OBSERVATIONS * (256 * (4 + 1) + 256 // 8)
    for free, enough in ((needed - 1, False), (needed, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _: real._replace(free=free))
        if enough:
            image_stores.open_cache(files_of(split), tmp_path / "cache")
        else:
            with pytest.raises(util.InputError, match=r"--cache .*/cache: .* GB are free") as error:
                image_stores.open_cache(files_of(split), tmp_path / "cache")
            assert not decoded and "\n" not in str(error.value)
    assert len(visible(tmp_path / "cache")) == 1


def test_a_cache_that_cannot_be_written_is_named(split, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(util.InputError, match="--cache .*/file"):
        image_stores.open_cache(files_of(split), tmp_path / "file")


# The option


def test_training_fills_the_cache_once(split, tmp_path, decoded):
    def run(log_dir):
        decoded.clear()
        arguments = scenes.train_options(split, tmp_path / "logs", log_dir, cache=tmp_path / "cache", class_weight=0)
        train.main([*arguments, "--no_validation"])
        return set(decoded)

    first, second = run("a"), run("b")
    assert len(visible(tmp_path / "cache")) == 1
    assert len(first) == NUM_OBSERVATIONS
    assert len(decoded) < len(first) + NUM_OBSERVATIONS and second  # the pictures of tensorboard alone


def test_preload_and_cache_exclude_each_other():
    parser = options.parser("")
    options.add_common(parser)
    with pytest.raises(util.InputError, match="--cache: not allowed with argument --preload"):
        parser.parse_args(["--data_root", "x", "--preload", "--cache", "y"])
