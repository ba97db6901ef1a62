import json

import pytest
import torch
from benches import stay_in_process, tables_in

from bench import scene, training
from training import objectives

TINY = ["--side", "16", "--hidden_features", "16", "--embedding_size", "8", "--tracing_steps", "2", "--device", "cpu"]


@pytest.fixture
def bench(monkeypatch):
    stay_in_process(monkeypatch)
    return training


def test_it_prints_both_modes_and_writes_the_same_as_json(bench, tmp_path, capsys):
    bench.main([*TINY, "--batches", "1,2", "--reference", "--json", str(tmp_path / "figures.json")])
    (table,) = tables_in(capsys.readouterr().out)
    assert table["mode"] == ["fast", "reference"] * 2 and table["batch"] == ["1", "1", "2", "2"]
    figures = json.loads((tmp_path / "figures.json").read_text())
    rows = figures["rows"]
    assert [f"{row['s_per_step']:.3f}" for row in rows] == table["s/step"]
    for fast, reference in zip(rows[::2], rows[1::2]):
        assert fast["ratio"] == pytest.approx(reference["s_per_step"] / fast["s_per_step"])
        assert fast["rays_per_s"] == pytest.approx(256 * fast["batch"] / fast["s_per_step"])
        assert fast["share_of_limit"] == pytest.approx(fast["gflop_per_s"] / 10)
    assert figures["machine"]["device"] == "cpu"


@pytest.mark.parametrize("more", [["--semantic"], ["--checkpoint_marching", "--rays_per_block", "64"]])
def test_a_step_runs_with_options_of_train(bench, more):
    row = bench.step_here(bench.build_parser().parse_args([*TINY, *more]), "fast", 1)
    assert row["s_per_step"] > 0 and row["mb_peak"] >= row["mb_before"] > 0


def test_both_modes_compute_the_same_loss():
    options = training.build_parser().parse_args(TINY)
    model = scene.make_model(scene.sizes_of(options, 2), "cpu")
    batch = scene.make_batch(4, 8, 2, "cpu")
    assert batch["instances"].tolist() == [0, 1] and batch["instance_of"].tolist() == [0, 0, 1, 1]
    fast = objectives.SRNObjective(model, objectives.Weights(), rays_per_block=50)(batch)
    published = objectives.SRNObjective(model, objectives.Weights())(scene.per_view(batch))
    for name in published:
        assert torch.allclose(fast[name], published[name], rtol=1e-4)


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["--batches", "1,0"], "expected positive integers"),
        (["--side", "0"], "at least 1"),
        (["--device", "tpu"], "no such device"),
    ],
)
def test_invalid_options_are_refused(arguments, reason, refuses):
    refuses(training.main, arguments, reason)
