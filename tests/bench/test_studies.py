"""The studies of stage 2 on a tiny run that lies where bench.seeds would have put it."""

import json

import pytest
import scenes
import torch
from benches import tables_in

import train
from bench import one_view, penalties, selection, trained


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("seeds")
    class_folder, logs = root / "Ball_0" / "data" / "Ball", root / "Ball_0" / "logs" / "Ball"
    names = ("ball_a", "ball_b", "ball_c")
    split = scenes.write_split(class_folder / "Ball.train", names)
    scenes.write_split(class_folder / "Ball.train_val", names, first_view=4)
    unseen = scenes.write_split(class_folder / "Ball.test", ("ball_d", "ball_e"))
    train.main(scenes.train_options(split, logs, "vanilla_srn", class_weight=0))
    head = dict(model_type="linear", checkpoint_path=logs / "vanilla_srn")
    train.main(scenes.train_options(split, logs, "linear_update", **head))
    fit = dict(class_weight=0, checkpoint_path=logs / "vanilla_srn", overwrite_embeddings=True, specific_observation_idcs=0)
    train.main(scenes.train_options(unseen, logs, "single_shot", **fit))
    return root


def test_the_regret_of_every_rule_is_shown(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trained, "SIDE", scenes.SIDE)
    monkeypatch.setattr(penalties, "ITERATIONS", 3)
    arguments = ["--root", str(root), "--labelled", "2,3,9", "--features", "all", "--balanced"]
    penalties.main([*arguments, "--json", str(tmp_path / "figures.json")])
    regrets, on_training, on_unseen = tables_in(capsys.readouterr().out)
    assert set(regrets["rule"]) == set(penalties.RULES)
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert {row["labelled"] for row in rows} == {2, 3} and len(rows) == 2 * 2
    assert all(("training" in row["scores"]) == (row["labelled"] < 3) for row in rows)
    always = [float(x) for rule, x in zip(regrets["rule"], regrets["all: mean IoU lost"]) if rule.startswith("always")]
    assert min(always) >= 0 and len(on_training["runs"]) == len(on_unseen["runs"]) == 2 * 2


def test_rules_choose_by_what_is_held_out():
    def held(ious, entropies):  # two groups of two pixels of one class; an IoU is the share of pixels that are right
        confusion = torch.tensor([[[0, 0], [10 - round(10 * iou), round(10 * iou)]] for iou in ious])
        return penalties.HeldOut(confusion, torch.tensor(entropies))

    scores = {1e-2: held([0.2, 0.4], [1.0, 1.0]), 1e-3: held([0.8, 0.4], [0.3, 0.3]), 1e-4: held([0.7, 0.7], [0.5, 0.5])}
    assert penalties.RULES["best mean IoU"](scores) == 1e-4
    assert penalties.RULES["best cross-entropy"](scores) == 1e-3
    assert penalties.RULES["one standard error of mean IoU"](scores) == 1e-3  # its deficits are 0.05 and 0.15
    assert penalties.RULES["always 1e-02"](scores) == 1e-2


def test_choices_of_label_maps_are_compared(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(selection, "SIDE", scenes.SIDE)
    arguments = ["--root", str(root), "--instances", "2", "--draws", "2", "--json", str(tmp_path / "figures.json")]
    selection.main(arguments)
    (table,) = tables_in(capsys.readouterr().out)
    assert table["labelled instances"] == ["first", "random", "suggested", "suggested, views 0, 1, 2"]
    assert table["heads"] == ["1", "2", "1", "1"]
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert all(0 <= row["worst"] <= row["mean"] <= 1 and len(row["instances"]) == 2 for row in rows)


def test_ways_of_fitting_one_view_are_compared(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trained, "SIDE", scenes.SIDE)
    monkeypatch.setattr(one_view, "MAX_STEPS", 2)
    one_view.main(["--root", str(root), "--views", "0", "--json", str(tmp_path / "figures.json")])
    (table,) = tables_in(capsys.readouterr().out)
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert table["way"] == [row["way"] for row in rows] and len(rows) == 11
    assert all(0 <= row["miou"] <= 1 and row["worst"] <= row["psnr"] for row in rows)
    assert len({row["psnr"] for row in rows}) > 1


def test_a_normal_distribution_of_codes_counts_distance_in_its_spread():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randn(4000, 3, generator=generator) * torch.tensor([0.1, 1.0, 10.0]) + 2
    loss = one_view.Gaussian(None, one_view.WEIGHTS, codes, 0.0)
    along = loss.mean + torch.diag(torch.tensor([0.1, 1.0, 10.0]))
    distances = ((along - loss.mean) @ loss.whitening).square().sum(dim=1)
    torch.testing.assert_close(distances, torch.ones(3), rtol=0.1, atol=0)
