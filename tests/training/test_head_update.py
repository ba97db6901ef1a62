"""The linear head of stage 2 as a convex problem; test_stages.py tests what all heads share."""

import many_processes
import pytest
import scenes
import torch

import checkpoints
import dataio
import srns
import train
from training import head_update, losses

PENALTY = 1e-3


@pytest.fixture(scope="module")
def vanilla_run(ball_split, tmp_path_factory):
    logs = tmp_path_factory.mktemp("vanilla_run")
    train.main(scenes.train_options(ball_split, logs, "vanilla", class_weight=0))
    return logs / "vanilla"


def linear(split, logs, name, vanilla_run, **options):
    options = dict(checkpoint_path=vanilla_run, model_type="linear") | options
    train.main(scenes.train_options(split, logs, name, **options))
    return checkpoints.load(logs / name)


def split_of(split):
    instances = dataio.index_split(split, with_labels=True)
    return dataio.SceneClassDataset(instances, scenes.SIDE, dataio.dataset_settings(split), num_classes=3)


def inputs_of(split, run, features="last"):
    """Features and labels of all views, as the head reads them."""
    model = checkpoints.open_srn(run).model.eval()
    head = srns.LinearHead(srns.LinearHead.num_inputs(model.sizes, features), 3, features)
    return head_update.read_by_head(model, head, split_of(split), [0, 1], torch.device("cpu"))


def penalised_loss(state, features, labels, penalty):
    logits = features @ state["linear.weight"].T + state["linear.bias"]
    return (losses.segmentation_loss(logits, labels) + penalty * state["linear.weight"].square().sum()).item()


@pytest.mark.slow
def test_adam_does_not_improve_the_solution(ball_split, vanilla_run, tmp_path, capsys):
    solved = linear(ball_split, tmp_path, "newton", vanilla_run, head_reg_weight=8 * PENALTY)
    assert "penalty" in (printed := capsys.readouterr().out) and "not converged" not in printed
    options = dict(update_solver="adam", head_reg_weight=8 * PENALTY, max_steps_per_img_sidelength=400, lr=1e-2)
    trained = linear(ball_split, tmp_path, "adam", vanilla_run, **options)
    features, labels = inputs_of(ball_split, vanilla_run)
    found = [penalised_loss(run["model"], features, labels, PENALTY) for run in (solved, trained)]
    assert found[0] <= found[1] and found[1] - found[0] < 0.2  # the loss of the solver, then of Adam


def test_its_answer_does_not_depend_on_schedule_or_seed(ball_split, vanilla_run, tmp_path):
    one = linear(ball_split, tmp_path, "one", vanilla_run, head_reg_weight=0.01)
    other = dict(seed=5, lr=9, max_steps_per_img_sidelength=77, batch_size_per_img_sidelength=1)
    other = linear(ball_split, tmp_path, "other", vanilla_run, head_reg_weight=0.01, **other)
    for name in one["model"]:
        torch.testing.assert_close(other["model"][name], one["model"][name], rtol=0, atol=1e-3)


def test_the_default_penalty_is_a_thousandth_of_the_class_weight(ball_split, vanilla_run, tmp_path):
    default = linear(ball_split, tmp_path, "default", vanilla_run)
    given = linear(ball_split, tmp_path, "given", vanilla_run, class_weight=2, head_reg_weight=2e-3)
    for name in default["model"]:
        torch.testing.assert_close(given["model"][name], default["model"][name], rtol=0, atol=1e-6)


def test_it_starts_from_a_head_and_stays_at_the_solution(ball_split, vanilla_run, tmp_path):
    before = linear(ball_split, tmp_path, "head", vanilla_run, head_reg_weight=0.01)
    after = linear(ball_split, tmp_path, "again", vanilla_run, head_reg_weight=0.01, linear_path=tmp_path / "head")
    assert after["step"] > before["step"]
    for name in before["model"]:
        torch.testing.assert_close(after["model"][name], before["model"][name], rtol=0, atol=1e-3)


def test_a_solution_can_be_trained_on_by_adam(ball_split, vanilla_run, tmp_path, capsys):
    before = linear(ball_split, tmp_path, "head", vanilla_run, head_reg_weight=0.01)
    options = dict(linear_path=tmp_path / "head", update_solver="adam", max_steps_per_img_sidelength=before["step"] + 3)
    after = linear(ball_split, tmp_path, "more", vanilla_run, **options)
    assert after["step"] == before["step"] + 3
    assert "training goes on with a fresh one" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, reason",
    [
        (dict(model_type="mlp", update_solver="newton"), "--update_solver newton computes linear heads"),
        (dict(overwrite_embeddings=True, update_solver="adam", class_weight=0), "--update_solver is for stage 2"),
    ],
)
def test_a_solver_is_refused_for_stages_and_heads_that_it_cannot_solve(refuses, ball_split, tmp_path, options, reason):
    refuses(train.main, scenes.train_options(ball_split, tmp_path, "run", checkpoint_path="x", **options), reason)


ARGUMENTS = None  # arguments of `solve`, which other processes call by its name


def solve():
    train.main(ARGUMENTS)
    return torch.zeros(1)


def test_two_processes_find_the_result_of_one(ball_split, vanilla_run, tmp_path, monkeypatch):
    one = linear(ball_split, tmp_path, "one", vanilla_run, head_reg_weight=0.01)
    options = dict(checkpoint_path=vanilla_run, model_type="linear", head_reg_weight=0.01)
    monkeypatch.setattr(f"{__name__}.ARGUMENTS", scenes.train_options(ball_split, tmp_path, "two", **options))
    many_processes.run(solve, tmp_path, joins=False)
    two = checkpoints.load(tmp_path / "two")
    for name in one["model"]:
        torch.testing.assert_close(two["model"][name], one["model"][name], rtol=0, atol=1e-3)
