"""Stage 3 with the fast solver, from options to the checkpoint; the solver itself is tested in test_code_solver.py."""

import functools

import pytest
import scenes
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import checkpoints
import train
from training import code_fitting


@pytest.fixture(scope="module")
def vanilla_run(ball_split, tmp_path_factory):
    logs = tmp_path_factory.mktemp("vanilla_run")
    train.main(scenes.train_options(ball_split, logs, "vanilla", class_weight=0, max_steps_per_img_sidelength=40, lr=3e-3))
    return logs / "vanilla"


@pytest.fixture(scope="module")
def test_split(tmp_path_factory):
    names = ("ball_x", "ball_y", "ball_z")
    return scenes.write_split(tmp_path_factory.mktemp("test") / "Ball" / "Ball.test", names=names)


@pytest.fixture
def refused(refuses):
    return functools.partial(refuses, train.main)


def arguments(test_split, vanilla_run, logs, log_dir="run", **options):
    options = (
        dict(
            checkpoint_path=vanilla_run,
            overwrite_embeddings=True,
            class_weight=0,
            specific_observation_idcs=1,
            rays_per_image=64,
            foreground_fraction=0.5,
            max_steps_per_img_sidelength=30,
        )
        | options
    )
    return scenes.train_options(test_split, logs, log_dir, **options)


def codes_of(run):
    return checkpoints.load(run)["model"]["latent_codes.weight"]


def tags(folder):
    events = EventAccumulator(str(folder / "events"))
    events.Reload()
    return events.Tags()


def test_a_fit_writes_what_stage_3_writes(test_split, vanilla_run, tmp_path, capsys):
    train.main(arguments(test_split, vanilla_run, tmp_path, num_starts=2, val_root=test_split))
    said = "fitted the codes of 3 instances in 30 steps, 0 of them to convergence; mean PSNR of the input"
    printed = capsys.readouterr().out
    assert said in printed and "the schedule only limits the steps" in printed
    before, after = checkpoints.load(vanilla_run), checkpoints.load(tmp_path / "run")
    assert all(torch.equal(x, after["model"][n]) for n, x in before["model"].items() if n != "latent_codes.weight")
    assert after["instances"] == ["ball_x", "ball_y", "ball_z"] and after["step"] == 30
    assert after["views"]["ball_x"] == ["000001"] and after["observed"] == ["rgb"]
    assert len(after["model"]["latent_codes.weight"].unique(dim=0)) == 3
    shown = tags(tmp_path / "run")
    assert {"scaled_distortion_loss", "total_loss", "embed_max", "val_psnr"} <= set(shown["scalars"])
    assert "Output_vs_gt" in shown["images"]


def test_a_code_is_the_same_whether_fitted_alone_or_among_others(test_split, vanilla_run, tmp_path):
    train.main(arguments(test_split, vanilla_run, tmp_path, "all", num_starts=3))
    train.main(arguments(test_split, vanilla_run, tmp_path, "alone", num_starts=3, specific_ins="ball_y"))
    start = codes_of(vanilla_run).mean(dim=0)
    assert torch.allclose(codes_of(tmp_path / "all")[1], codes_of(tmp_path / "alone")[0], atol=1e-5)
    assert not torch.allclose(codes_of(tmp_path / "all")[1], start, atol=1e-4)


@pytest.mark.parametrize("num_starts", [1, 3])
def test_a_fit_can_be_resumed(test_split, vanilla_run, tmp_path, num_starts):
    options = dict(num_starts=num_starts)
    train.main(arguments(test_split, vanilla_run, tmp_path, "through", **options))
    train.main(arguments(test_split, vanilla_run, tmp_path, "parts", max_steps_per_img_sidelength=13, **options))
    again = dict(checkpoint_path=tmp_path / "parts", overwrite_embeddings=None, freeze_networks=True)
    train.main(arguments(test_split, vanilla_run, tmp_path, "parts", **again))
    assert torch.equal(codes_of(tmp_path / "through"), codes_of(tmp_path / "parts"))
    assert checkpoints.load(tmp_path / "parts")["step"] == 30


def test_fits_that_an_earlier_version_stored_as_an_optimizer_can_be_resumed(test_split, vanilla_run, tmp_path):
    train.main(arguments(test_split, vanilla_run, tmp_path, "through"))
    train.main(arguments(test_split, vanilla_run, tmp_path, "parts", max_steps_per_img_sidelength=13))
    contents = checkpoints.load(tmp_path / "parts")
    state = {"state": {0: contents.pop("code_fits")}, "param_groups": [{"num_starts": 4}]}
    checkpoints.save(
        tmp_path / "old.pth", {name: x for name, x in contents.items() if name != "path"} | {"optimizer_0": state}
    )
    again = dict(checkpoint_path=tmp_path / "old.pth", overwrite_embeddings=None, freeze_networks=True)
    train.main(arguments(test_split, vanilla_run, tmp_path, "again", **again))
    assert torch.equal(codes_of(tmp_path / "through"), codes_of(tmp_path / "again"))


def test_converged_fits_end_the_run(refused, test_split, vanilla_run, tmp_path, capsys):
    """Without progress the rate falls four times, each after three checks of ten steps."""
    train.main(arguments(test_split, vanilla_run, tmp_path, code_step=0, max_steps_per_img_sidelength=1000))
    assert "in 120 steps, 3 of them to convergence" in capsys.readouterr().out
    checkpoint = checkpoints.load(tmp_path / "run")
    assert checkpoint["step"] == 120
    again = dict(checkpoint_path=tmp_path / "run", overwrite_embeddings=None, freeze_networks=True)
    again |= dict(max_steps_per_img_sidelength=1000)
    refused(arguments(test_split, vanilla_run, tmp_path, "again", **again), "the fit of every code has converged")
    train.main(arguments(test_split, vanilla_run, tmp_path, "other", **again | dict(specific_observation_idcs=2)))
    assert "was fitted to other observations" in capsys.readouterr().out


def test_a_solver_does_not_resume_the_fits_of_the_other(refused, test_split, vanilla_run, tmp_path, capsys):
    for solver in ("fast", "published"):
        train.main(arguments(test_split, vanilla_run, tmp_path, solver, max_steps_per_img_sidelength=2, code_solver=solver))
    again = dict(overwrite_embeddings=None, freeze_networks=True)
    options = again | dict(checkpoint_path=tmp_path / "fast", code_solver="published")
    refused(arguments(test_split, vanilla_run, tmp_path, "again", **options), "were fitted with --code_solver fast")
    options = again | dict(checkpoint_path=tmp_path / "published")
    train.main(arguments(test_split, vanilla_run, tmp_path, "again", **options))
    assert "its codes are the start of new fits" in capsys.readouterr().out


def test_options_that_need_whole_images_select_the_published_solver(ball_split, semantic_run, tmp_path, capsys):
    options = dict(class_weight=8, rays_per_image=0, foreground_fraction=0, max_steps_per_img_sidelength=1)
    train.main(arguments(ball_split, semantic_run, tmp_path, **options))
    assert "the SRN's own segmentation U-Net needs whole images, so the codes are fitted as" in capsys.readouterr().out
    assert code_fitting.state_of_fits(checkpoints.load(tmp_path / "run")) is None


def test_several_sides_are_refused(refused, test_split, vanilla_run, tmp_path):
    options = dict(img_sidelengths="8,16", max_steps_per_img_sidelength="2,2", batch_size_per_img_sidelength="2,2")
    refused(arguments(test_split, vanilla_run, tmp_path, **options), "codes are fitted at one side")
