import json

import pytest
from benches import stay_in_process, tables_in

from bench import measuring, scale

pytestmark = pytest.mark.slow

TINY = [
    "--instances",
    "10,200",
    "--latent_dim",
    "8",
    "--steps",
    "2",
    "--rays",
    "64,256",
    "--hidden_features",
    "8",
    "--sides",
    "8,16",
    "--images",
    "2",
    "--device",
    "cpu",
]


@pytest.fixture
def bench(monkeypatch):
    stay_in_process(monkeypatch)
    return scale


def test_it_prints_all_tables_and_writes_the_same_as_json(bench, tmp_path, capsys):
    bench.main([*TINY, "--json", str(tmp_path / "figures.json")])
    codes, rays, images, slopes = tables_in(capsys.readouterr().out)
    assert codes["optimizer"] == ["row_adam"] * 2 + ["sparse_adam"] * 2 + ["adam"] * 2
    assert codes["instances"] == ["10", "200"] * 3 and rays["rays/step"] == ["64", "256"] * 2
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [f"{row['ms']:,.2f}" for row in figures["instances"]] == codes["ms/step"]
    assert all(row["ms"] > 0 for row in figures["instances"] + figures["rays"])
    assert images["side"] == ["8", "16"]
    small, large = (row["bytes_per_image"] for row in figures["sides"])
    assert 5 * 64 < small < large and large > 5 * 256  # RGBA and a label per pixel, and the headers of the cache
    assert "stored image and labels" in slopes["what grows"]


def test_slopes_are_in_their_units():
    figures = {
        "instances": [{"optimizer": "row_adam", "instances": n, "mb": n * 3072 / 2**20, "ms": 2.0} for n in (1000, 10**6)],
        "rays": [{"way": "blocks", "rays": n, "mb": 7.0, "ms": 3 * n / 1000 + 1} for n in (1000, 4000)],
        "sides": [{"pixels": n, "bytes_per_image": 5 * n} for n in (64, 256)],
    }
    slope = {row["what"]: row["slope"] for row in scale.slopes_of(figures)}
    assert slope["memory of codes, row_adam"] == pytest.approx(3072)
    assert slope["step of codes, row_adam"] == pytest.approx(0, abs=1e-6)
    assert slope["step of rays, blocks"] == pytest.approx(3) and slope["stored image and labels"] == pytest.approx(5)


def test_a_table_that_does_not_fit_into_memory_is_not_measured(bench, monkeypatch):
    options = bench.build_parser().parse_args([*TINY, "--optimizers", "row_adam"])
    monkeypatch.setattr(measuring, "free_memory", lambda device: 3 * 4 * 8 * 100)
    small, large = bench.measure_instances(options)
    assert small["ms"] > 0 and large["ms"] is None


def test_memory_grows_by_the_table_of_codes_and_its_moments():
    options = scale.build_parser().parse_args(["--device", "cpu", "--steps", "1"])
    found = measuring.in_own_process(scale.step_of_table, options, "row_adam", 40_000)  # a new process has no freed memory
    assert 40_000 * 3072 / 2**20 == pytest.approx(found["mb"], rel=0.1)


def test_invalid_options_are_refused(refuses):
    refuses(scale.main, ["--optimizers", "sgd"], "--optimizers: expected names among row_adam, sparse_adam, adam, found sgd")
    refuses(scale.main, ["--rays", "0"], "expected positive integers")
