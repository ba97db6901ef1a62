import itertools
import json

import numpy as np
import pytest
import scenes
import torch

import geometry
import suggest_labels
import train
from training import label_selection


def cost(codes, chosen):
    return np.linalg.norm(codes[:, None] - codes[chosen], axis=-1).min(axis=1).sum()


def test_each_cluster_of_codes_has_one_medoid():
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    codes = np.concatenate([centre + rng.normal(size=(7, 2)) for centre in centres])
    assert sorted(label_selection.medoids(codes, 3) // 7) == [0, 1, 2]


def test_the_choice_is_close_to_the_best():
    for seed in range(5):
        codes = np.random.default_rng(seed).normal(size=(12, 4))
        chosen = label_selection.medoids(codes, 3)
        best = min(cost(codes, list(some)) for some in itertools.combinations(range(12), 3))
        assert len(set(chosen)) == 3 and cost(codes, chosen) <= 1.05 * best


def test_no_exchange_of_a_single_one_helps():
    for seed in range(20):
        codes = np.random.default_rng(seed).normal(size=(15, 2))
        chosen = label_selection.medoids(codes, 4).tolist()
        exchanged = [chosen[:i] + [j] + chosen[i + 1 :] for i in range(4) for j in set(range(15)) - set(chosen)]
        assert cost(codes, chosen) <= min(cost(codes, some) for some in exchanged) + 1e-9


def test_equal_codes_are_chosen_once_each():
    assert sorted(label_selection.medoids(np.ones((4, 3)), 4)) == [0, 1, 2, 3]


def test_views_look_from_different_directions():
    azimuths = torch.tensor([0.0, 10.0, 20.0, 170.0, 180.0, 260.0, 275.0])
    eyes = geometry.on_sphere(azimuths, torch.zeros(7), 1.3)
    poses = torch.stack([geometry.look_at(eye) for eye in eyes]).numpy()
    assert label_selection.spread_views(poses, 3) == [0, 4, 6]
    assert label_selection.spread_views(poses, 7) == list(range(7))


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
    refuses(suggest_labels.main, [*arguments, "--num_instances", "9"], "--num_instances 9: ")
    refuses(suggest_labels.main, [*arguments, "--num_instances", "1", "--num_views", "9"], "--num_views 9: ")


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
