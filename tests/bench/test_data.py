import json
import subprocess
import sys

import numpy as np
import pytest
from benches import stay_in_process, tables_in

from bench import data

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bench():
    return data


@pytest.fixture
def quick(bench, monkeypatch):
    stay_in_process(monkeypatch)
    return bench


def test_it_prints_both_tables_and_writes_the_same_as_json(quick, tmp_path, capsys):
    arguments = [
        "--instances",
        "2",
        "--views",
        "3",
        "--sidelength",
        "16",
        "--seconds",
        "0.01",
        "--rays_per_image",
        "8",
        "--workers",
        "0,1",
        "--batch_size",
        "2",
        "--temporary",
        str(tmp_path),
    ]
    quick.main([*arguments, "--reference", "--json", str(tmp_path / "figures.json")])
    reading, opening = tables_in(capsys.readouterr().out)
    assert reading["images from"] == ["PNG", "PNG", "RAM", "RAM", "mapped cache", "mapped cache", "PNG"]
    assert reading["workers"] == [*["0", "1"] * 3, "0"] and reading["mode"] == [*["fast"] * 6, "reference"]
    assert opening["index"] == ["none, nothing kept", "none, written", "read"] and set(opening["observations"]) == {"6"}
    figures = json.loads((tmp_path / "figures.json").read_text())
    for row, images_per_s in zip(figures["reading"], reading["images/s"], strict=True):
        rays = 8 if row["mode"] == "fast" else 256
        assert row["rays_per_s"] == pytest.approx(rays * row["images_per_s"]) and row["images_per_s"] > 0
        assert f"{row['images_per_s']:,.0f}" == images_per_s
    *fast, reference = figures["reading"]
    assert all(row["ratio"] == pytest.approx(row["images_per_s"] / reference["images_per_s"]) for row in fast)
    assert [f"{row['seconds']:.2f}" for row in figures["opening"]] == opening["seconds to open"]
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]  # temporary files are removed


def test_a_split_of_many_small_files_is_made_and_opened(quick, tmp_path, capsys):
    quick.main(["--index", "3x5", "--temporary", str(tmp_path)])
    out = capsys.readouterr().out
    (opening,) = tables_in(out)
    assert out.startswith("wrote 3 x 5 views")
    assert opening["observations"] == ["15"] * 3
    assert not list(tmp_path.iterdir())


def test_an_existing_split_is_read(quick, ball_split, capsys):
    quick.main(["--data_root", str(ball_split), "--seconds", "0.01", "--workers", "0", "--sidelength", "16"])
    reading, opening = tables_in(capsys.readouterr().out)
    assert len(reading["images/s"]) == 3 and set(opening["observations"]) == {"8"}
    assert (ball_split / "ball_a" / "rgb" / "000000.png").is_file()


def test_the_balls_are_valid_observations(bench, tmp_path):
    bench.write_split(tmp_path / "Ball" / "Ball.train", 1, 2, 16)
    dataset = bench.dataio.SceneClassDataset(
        bench.dataio.index_split(tmp_path / "Ball" / "Ball.train", with_labels=True),
        16,
        bench.data_util.DatasetSettings(),
        bench.NUM_CLASSES,
    )
    assert set(dataset[0]["seg_labels"].tolist()) == {0, 1, 2}
    assert (dataset[0]["rgb"][dataset[0]["seg_labels"] == 0] == 1).all()


def test_the_published_method_reads_the_same_images_whole(bench, ball_split):
    instances = bench.dataio.index_split(ball_split, with_labels=True)
    what = instances, 16, bench.dataio.dataset_settings(ball_split), 3
    ours, published = bench.dataio.SceneClassDataset(*what), bench.PublishedDataset(*what)
    for index in range(len(ours)):
        for name, expected in ours[index].items():
            assert np.array_equal(published[bench.dataio.RayDraw(index, 0)][name], expected), name


def test_an_invalid_size_is_refused():
    run = subprocess.run([sys.executable, "-m", "bench.data", "--index", "2"], capture_output=True, text=True)
    assert run.returncode == 2
    assert "expected INSTANCESxVIEWS such as 6000x250, found '2'" in run.stderr
