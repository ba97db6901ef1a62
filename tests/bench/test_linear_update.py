import json

import pytest
import torch
from benches import tables_in

from bench import linear_update, measuring
from training import head_update


@pytest.fixture
def arguments(ball_split, semantic_run):
    return [
        "--data_root",
        str(ball_split),
        "--obj_name",
        "Ball",
        "--checkpoint_path",
        str(semantic_run),
        "--device",
        "cpu",
        "--img_sidelengths",
        "16",
        "--max_steps_per_img_sidelength",
        "1",
        "--batch_size_per_img_sidelength",
        "4",
    ]


@pytest.mark.parametrize("features, width", [("last", 16), ("points+all", 67)])
def test_it_prints_both_modes_and_writes_the_same_as_json(arguments, ball_split, tmp_path, capsys, features, width):
    arguments += ["--head_features", features]
    more = ["--val_root", str(ball_split), "--adam_steps", "30", "--reference_steps", "3", "--reference"]
    linear_update.main([*arguments, *more, "--json", str(tmp_path / "figures.json")])
    out = capsys.readouterr().out
    (table,) = tables_in(out)
    assert f"8 label maps of 16 x 16, {width} features" in out
    assert table["how"] == ["solved", "30 steps, from 3 measured"]
    figures = json.loads((tmp_path / "figures.json").read_text())
    fast, reference = figures["rows"]
    assert fast["s"] == pytest.approx(fast["s_to_render"] + fast["s_to_solve"]) and fast["s"] > 0
    assert fast["ratio"] == pytest.approx(reference["s"] / fast["s"]) and reference["steps_measured"] == 3
    assert table["mIoU"] == [f"{row['miou']:.3f}" for row in figures["rows"]] and 0 < fast["miou"] <= 1


def test_full_measures_all_steps(arguments, capsys):
    linear_update.main([*arguments, "--adam_steps", "4", "--full", "--reference"])
    (table,) = tables_in(capsys.readouterr().out)
    assert table["how"][1] == "4 steps" and table["mIoU"] == ["", ""]  # no --val_root


@pytest.mark.parametrize("features, width", [("last", 16), ("points+all", 67)])
def test_kept_features_give_the_same_head_as_recomputed_ones(arguments, features, width):
    _, plan = linear_update.read_options([*arguments, "--head_features", features])
    update = head_update.open_update(plan, "cpu")
    kept = linear_update.keep_all(plan, update, "cpu")
    assert len(kept) == 8 and kept[0][0].shape == (256, width)
    heads = [linear_update.published(plan, update, "cpu", 6, features) for features in (None, kept)]
    assert torch.allclose(heads[0].linear.weight, heads[1].linear.weight, atol=1e-4)


def test_features_that_do_not_fit_into_memory_are_not_kept(arguments, monkeypatch):
    _, plan = linear_update.read_options(arguments)
    update = head_update.open_update(plan, "cpu")
    monkeypatch.setattr(measuring, "free_memory", lambda device: 1000)
    assert linear_update.keep_all(plan, update, "cpu") is None


def test_invalid_options_are_refused(refuses, monkeypatch, tmp_path):
    refuses(linear_update.main, ["--data_root", "here"], "give --checkpoint_path and --obj_name too")
    refuses(linear_update.main, ["--obj_name", "Ball"], "give --data_root too")
    monkeypatch.setattr(linear_update, "DEMO", {name: tmp_path / name for name in linear_update.DEMO})
    refuses(linear_update.main, [], "make the demo's files with `make demo`")
