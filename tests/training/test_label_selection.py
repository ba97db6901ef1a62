import json

import numpy as np
import pytest
import scenes
import torch

import suggest_labels
import train
from training import label_selection


def worth(shares, views):
    return np.log1p(shares[views].sum(axis=0) / label_selection.UNIT).sum()


def test_rare_features_come_first():
    shares = np.array([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [0.8, 0.15, 0.05], [1.0, 0.0, 0.0]])
    chosen = label_selection.choose(shares, ["a", "b", "c", "d"], 2, 1)
    assert list(chosen) == ["c", "b"]  # the only one with the third feature, then the one with most of the second


def test_the_greedy_choice_is_close_to_the_best():
    rng = np.random.default_rng(0)
    for _ in range(5):
        shares = rng.dirichlet(np.full(12, 0.1), size=8)
        chosen = label_selection.choose(shares, list(range(8)), 3, 1)
        best = max(worth(shares, [i, j, k]) for i in range(8) for j in range(i) for k in range(j))
        assert worth(shares, list(chosen)) >= (1 - 1 / np.e) * best


def test_views_of_an_instance_complement_each_other():
    shares = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert label_selection.choose(shares, ["a"] * 3, 1, 2) == {"a": [0, 2]}


@pytest.mark.parametrize("num_instances, num_views, reason", [(3, 1, "3 instances"), (1, 3, "b has 2")])
def test_more_than_there_is_cannot_be_chosen(num_instances, num_views, reason):
    with pytest.raises(ValueError, match=reason):
        label_selection.choose(np.ones((5, 2)), ["a", "a", "a", "b", "b"], num_instances, num_views)


def head_options(split, run, logging_root, selection):
    stage_2 = dict(model_type="linear", checkpoint_path=run, label_selection=selection)
    return scenes.train_options(split, logging_root, "head", **stage_2)


@pytest.fixture
def selection(ball_split, semantic_run, tmp_path, capsys):
    """The file of a selection of one instance and two views."""
    path = tmp_path / "selection.json"
    arguments = ["--checkpoint_path", str(semantic_run), "--data_root", str(ball_split), "--out", str(path)]
    suggest_labels.main([*arguments, "--num_instances", "1", "--num_views", "2"])
    assert all(name in capsys.readouterr().out for name in json.loads(path.read_text()))
    return path


def test_stage_2_reads_the_selected_label_maps_and_no_other(selection, ball_split, semantic_run, tmp_path):
    ((name, views),) = json.loads(selection.read_text()).items()
    assert len(views) == 2
    train.main(head_options(ball_split, semantic_run, tmp_path, selection))
    (path,) = (tmp_path / "head" / "checkpoints").glob("*.pth")
    known = torch.load(path, weights_only=True)["views"]
    every = sorted(file.stem for file in (ball_split / name / "rgb").iterdir())
    assert known == {name: [every[view] for view in views]}


def test_a_selection_larger_than_the_data_is_refused(ball_split, semantic_run, refuses):
    arguments = ["--checkpoint_path", str(semantic_run), "--data_root", str(ball_split)]
    refuses(suggest_labels.main, [*arguments, "--num_instances", "9"], "9 instances are asked for, but there are 2")
    refuses(suggest_labels.main, [*arguments, "--num_instances", "1", "--num_views", "9"], "9 views of each")


@pytest.mark.parametrize(
    "text, reason",
    [
        ("[]", "not a selection of label maps"),
        ("{}", "not a selection of label maps"),
        ('{"ball": [-1]}', "not a selection of label maps"),
        ('{"ball": [true]}', "not a selection of label maps"),
        ('{"ball": 3}', "not a selection of label maps"),
        ("{", "cannot be read as JSON"),
        ('{"nobody": [0]}', "no instance named nobody; correct"),
        (None, "cannot be read as JSON"),
    ],
)
def test_what_is_no_selection_is_refused(tmp_path, ball_split, semantic_run, refuses, text, reason):
    path = tmp_path / "selection.json"
    if text is not None:
        path.write_text(text)
    refuses(train.main, head_options(ball_split, semantic_run, tmp_path, path), reason)
    assert not (tmp_path / "head").exists()


def test_a_selection_with_views_that_are_not_there_is_refused(selection, ball_split, semantic_run, tmp_path, refuses):
    ((name, _),) = json.loads(selection.read_text()).items()
    selection.write_text(json.dumps({name: [0, 99]}))
    refuses(train.main, head_options(ball_split, semantic_run, tmp_path, selection), "there is no 99")
