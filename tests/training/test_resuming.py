"""Training runs: which checkpoints they keep, what ends them, and how they go on."""

import errno
import json
import os
import shutil
import signal

import numpy as np
import pytest
import scenes
import torch

import checkpoints
import dataio
import interpolate
import test
import train
from rendering import renderer
from runs import checkpoint_files, locks, record
from training import loop, objectives, progress

RAYS = dict(class_weight=0, rays_per_image=20, max_steps_per_img_sidelength=12, steps_til_ckpt=100, lr=1e-3)


def run(split, logs, name="run", **options):
    """The run folder of a training run."""
    train.main(scenes.train_options(split, logs, name, **RAYS | options))
    return logs / name


def steps_in(folder):
    return sorted(checkpoints.steps_in_name(path) for path in (folder / "checkpoints").iterdir())


@pytest.fixture
def refused(refuses):
    """Asserts that train.main refuses the options of `run`."""

    def call(reason, split, logs, name="run", **options):
        refuses(train.main, scenes.train_options(split, logs, name, **RAYS | options), reason)

    return call


@pytest.fixture
def own_split(ball_split, tmp_path):
    """A copy that a test may change."""
    shutil.copytree(ball_split.parent, tmp_path / "Ball")
    return tmp_path / "Ball" / "Ball.train"


def spoil(split, view="000001"):
    """Start and end of the image are valid, so that only decoding finds the fault."""
    path = split / "ball_b" / "rgb" / f"{view}.png"
    content = path.read_bytes()
    path.write_bytes(content[:60] + b"spoilt" + content[66:])


# Checkpoints


def test_the_last_checkpoints_are_kept_and_that_of_each_image_side(ball_split, tmp_path):
    sides = dict(img_sidelengths="8,16", max_steps_per_img_sidelength="5,7", batch_size_per_img_sidelength="1,1")
    assert steps_in(run(ball_split, tmp_path, **sides, steps_til_ckpt=1)) == [5, 10, 11, 12]
    assert steps_in(run(ball_split, tmp_path, **sides, steps_til_ckpt=1, keep_checkpoints=1)) == [5, 12]
    assert steps_in(run(ball_split, tmp_path, steps_til_ckpt=2, keep_checkpoints=-1)) == [2, 4, 6, 8, 10, 12]


def test_checkpoints_come_by_time_too(ball_split, tmp_path):
    assert steps_in(run(ball_split, tmp_path, minutes_til_ckpt=1e-9, keep_checkpoints=-1)) == list(range(1, 13))
    assert steps_in(run(ball_split, tmp_path, minutes_til_ckpt=0, keep_checkpoints=-1)) == [12]


def damage(path):
    """Flip a bit of a weight, which torch.load does not notice."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    torch.load(path, weights_only=True)


def test_a_damaged_checkpoint_is_noticed_and_the_newest_whole_one_goes_on(ball_split, tmp_path, capsys):
    through = run(ball_split, tmp_path, "through")
    folder = run(ball_split, tmp_path, steps_til_ckpt=4, resume="auto")
    last, before, _ = checkpoint_files.find_all(folder)
    damage(last)
    before.write_bytes(before.read_bytes()[:-1000])
    run(ball_split, tmp_path, resume="auto")
    printed = capsys.readouterr().out
    assert f"{last.name}: is damaged, the checksum of" in printed and "iter_000004.pth is read instead" in printed
    assert "goes on from step 4," in printed
    found, expected = checkpoints.load(folder)["model"], checkpoints.load(through)["model"]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_a_run_without_a_checkpoint_names_the_one_that_was_moved_aside(ball_split, tmp_path, refuses):
    folder = run(ball_split, tmp_path)
    folder.rename(tmp_path / "run.1")
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "params.txt").write_text("")
    given = scenes.train_options(ball_split, tmp_path, "head", checkpoint_path=folder, model_type="linear")
    refuses(train.main, given, f"an earlier run is in {tmp_path / 'run.1'}")


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused_by_name(ball_split, semantic_run, tmp_path, refused, value):
    contents = checkpoints.load(semantic_run)
    contents["model"]["latent_codes.weight"][1, 2] = value
    contents["path"] = ""
    checkpoints.save(tmp_path / "bad.pth", contents)
    refused(
        "latent_codes.weight holds numbers that are not finite", ball_split, tmp_path, checkpoint_path=tmp_path / "bad.pth"
    )


# --resume auto


def test_a_run_that_has_ended_is_left_alone(ball_split, tmp_path, capsys):
    folder = run(ball_split, tmp_path, resume="auto")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    run(ball_split, tmp_path, resume="auto")
    assert f"{folder}: this run has ended" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_changed_option_is_refused_and_never_starts_anew(ball_split, tmp_path, refused):
    folder = run(ball_split, tmp_path, resume="auto")
    refused("this run was started with --lr 0.001, not 0.01", ball_split, tmp_path, resume="auto", lr=0.01)
    assert steps_in(folder) == [12] and not (tmp_path / "run.1").exists()
    run(ball_split, tmp_path, lr=0.01)
    assert (tmp_path / "run.1").exists()


def test_an_option_that_changes_nothing_may_change(ball_split, tmp_path):
    folder = run(ball_split, tmp_path, resume="auto", steps_til_ckpt=5)
    next((folder / "checkpoints").glob("*000012.pth")).unlink()
    run(ball_split, tmp_path, resume="auto", preload=True, steps_til_ckpt=3, keep_checkpoints=9)
    assert steps_in(folder) == [5, 10, 12]


def test_a_head_of_another_srn_of_the_same_name_is_not_gone_on_with(ball_split, tmp_path, refused):
    head = dict(model_type="linear", checkpoint_path=tmp_path / "run", class_weight=8, resume="auto")
    run(ball_split, tmp_path)
    run(ball_split, tmp_path, "head", **head)
    run(ball_split, tmp_path, seed=1)
    refused(
        "--checkpoint_path .* holds other contents".replace(".*", str(tmp_path / "run")), ball_split, tmp_path, "head", **head
    )


def test_a_run_of_an_earlier_version_goes_on(ball_split, tmp_path, capsys):
    """Its checkpoints do not say whether they are the last, and there is no run.json."""
    folder = run(ball_split, tmp_path, steps_til_ckpt=6)
    (folder / "run.json").unlink()
    for path in checkpoint_files.find_all(folder):
        contents = checkpoints.load(path)
        del contents["ended"], contents["path"]
        checkpoints.save(path, contents)
    run(ball_split, tmp_path, resume="auto")
    assert "has ended" in capsys.readouterr().out
    checkpoint_files.find(folder).unlink()
    run(ball_split, tmp_path, resume="auto")
    assert "goes on from step 6," in capsys.readouterr().out and steps_in(folder) == [6, 12]


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again_in_place(ball_split, tmp_path):
    folder = run(ball_split, tmp_path, resume="auto")
    for path in (folder / "checkpoints").iterdir():
        path.unlink()
    run(ball_split, tmp_path, resume="auto")
    assert steps_in(folder) == [12] and not (tmp_path / "run.1").exists()


# Refusals come first, and what goes wrong later loses nothing


def test_a_live_run_is_refused_before_any_data_are_read(tmp_path, refused):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "params.txt").write_text("")
    with locks.held(tmp_path / "run" / ".lock"):
        refused("run: this run is being written by process", tmp_path / "no_data", tmp_path)


def test_an_image_that_cannot_be_read_leaves_the_earlier_run_where_it_was(own_split, tmp_path, refused):
    folder = run(own_split, tmp_path)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    refused("--cache", own_split, tmp_path, cache=tmp_path / "run" / "params.txt")
    for view in range(4):
        spoil(own_split, f"{view:06d}")
    refused("cannot be read as an image", own_split, tmp_path, batch_size_per_img_sidelength=8)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Ball", "run"]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_fault_in_the_data_in_mid_run_saves_first(own_split, tmp_path, refused, num_workers):
    spoil(own_split)
    options = dict(batch_size_per_img_sidelength=1, resume="auto", num_workers=num_workers)
    refused("the same command with --resume auto goes on from there", own_split, tmp_path, **options)
    folder = tmp_path / "run"
    (step,) = steps_in(folder)
    facts = record.read(folder)
    assert facts["state"] == record.FAILED and "000001.png: cannot be read as an image" in facts["message"]
    assert facts["step"] == step > 0 and "Traceback" not in facts["message"]
    os.remove(own_split / "ball_b" / "rgb" / "000001.png")
    scenes.write_split(tmp_path / "again" / "Ball.train")
    shutil.copy(tmp_path / "again" / "Ball.train" / "ball_b" / "rgb" / "000001.png", own_split / "ball_b" / "rgb")
    run(own_split, tmp_path, **options)
    through = run(own_split, tmp_path, "through", **options)
    found, expected = checkpoints.load(folder)["model"], checkpoints.load(through)["model"]
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_a_full_disk_leaves_the_last_checkpoint_whole(ball_split, tmp_path, monkeypatch, refused):
    original, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == 5:  # of the third checkpoint; each is flushed, and then its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    refused("not written, the disk is full", ball_split, tmp_path, steps_til_ckpt=3, minutes_til_ckpt=0)
    assert steps_in(tmp_path / "run") == [3, 6] and checkpoints.load(tmp_path / "run")["step"] == 6
    assert "step 6 of 12 is in" in record.read(tmp_path / "run")["message"]


# Numbers


@pytest.fixture
def diverging(monkeypatch):
    """Makes the loss, or only a gradient, not finite at some steps."""

    def spoil_at(steps, what):
        original, count = objectives.SRNObjective.forward, iter(range(1, 1000))

        def forward(objective, batch):
            terms = original(objective, batch)
            if next(count) in steps:
                weight = objective.model.networks()[0]
                terms["spoilt"] = weight.sum() * torch.nan if what == "loss" else torch.sqrt(weight.sum() * 0)
            return terms

        monkeypatch.setattr(objectives.SRNObjective, "forward", forward)

    return spoil_at


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_stops_with_the_step_its_views_and_a_checkpoint(ball_split, tmp_path, capsys, diverging, what):
    diverging([7], what)
    with pytest.raises(SystemExit) as stopped:
        run(ball_split, tmp_path)
    written = capsys.readouterr().err.splitlines()[-1]
    assert stopped.value.code == 2 and "not finite at step 7, whose batch shows ball_" in written
    assert "a smaller --lr usually helps" in written and f"step 6 of 12 is in {tmp_path / 'run'}" in written
    through = run(ball_split, tmp_path, "through", max_steps_per_img_sidelength=6, on_nan="skip")  # counts on from step 8
    assert steps_in(tmp_path / "run") == [6] == steps_in(through)
    found, expected = (checkpoints.load(folder) for folder in (tmp_path / "run", through))
    assert all(torch.equal(tensor, expected["model"][name]) for name, tensor in found["model"].items())


@pytest.mark.parametrize("on_gpu", [False, True])
def test_what_is_not_finite_can_be_skipped_and_is_counted(ball_split, tmp_path, monkeypatch, diverging, on_gpu):
    """As if the step had not been: with plain averages, the moments of the optimizers show it."""
    if on_gpu:
        monkeypatch.setattr(loop, "is_cheap_to_read", lambda tensor: False)
    diverging([3, 4, 9], "loss")
    folder = run(ball_split, tmp_path, on_nan="skip")
    facts = record.read(folder)
    assert (facts["skipped"], facts["first_skipped"], facts["state"]) == (3, 3, record.FINISHED)
    contents = checkpoints.load(folder)
    assert int(contents["optimizer_1"]["state"][0]["step"]) == 12 - 3 and contents["step"] == 12
    assert int(contents["optimizer_0"]["state"][0]["step"]) == 12 - 3


# Other programs stop too


@pytest.fixture
def stopping_after(monkeypatch):
    """Sends SIGTERM in the second batch that is rendered."""

    def arrange():
        original, calls = renderer.render, []

        def render(*given, **named):
            calls.append(1)
            if len(calls) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return original(*given, **named)

        monkeypatch.setattr(renderer, "render", render)

    return arrange


def test_an_evaluation_keeps_its_pictures_and_starts_again_in_place(
    ball_split, semantic_run, tmp_path, stopping_after, capsys
):
    given = scenes.test_options(
        ball_split, tmp_path, "results", semantic_run, batch_size=2, score_input_views=True, resume="auto"
    )
    with pytest.MonkeyPatch.context() as patch:
        stopping_after()
        with pytest.raises(SystemExit) as stopped:
            test.main(given)
        patch.undo()
    folder = tmp_path / "results"
    assert stopped.value.code == 143 and f"4 of 8 views are in {folder}" in capsys.readouterr().err
    assert len(list(folder.rglob("comparison/*.png"))) == 4 and record.read(folder)["state"] == record.STOPPED
    test.main(given)
    assert len(list(folder.rglob("comparison/*.png"))) == 8 and not (tmp_path / "results.1").exists()
    scores = record.read(folder)["scores"]
    results = json.loads((folder / "results.json").read_text())
    assert scores == {name: results[name] for name in ("psnr", "ssim", "miou")}
    test.main(given)
    assert "results: this run has ended" in capsys.readouterr().out


def test_a_film_that_is_stopped_is_not_begun_twice(ball_split, semantic_run, tmp_path, stopping_after):
    options = dict(checkpoint_path=semantic_run, data_root=ball_split, logging_root=tmp_path, log_dir="film", device="cpu")
    given = scenes.as_arguments(options | dict(num_frames=6, batch_size=2, img_sidelength=16, format="gif", resume="auto"))
    stopping_after()
    with pytest.raises(SystemExit) as stopped:
        interpolate.main(given)
    assert stopped.value.code == 143 and len(list((tmp_path / "film" / "rgb").iterdir())) == 4
    interpolate.main(given)
    assert len(list((tmp_path / "film" / "rgb").iterdir())) == 6 and (tmp_path / "film" / "rgb.gif").exists()


# What a run says about itself


def test_a_run_says_how_far_it_is_and_what_comes_next(ball_split, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "SECONDS_PER_REPORT", 0)
    monkeypatch.setattr(record, "SECONDS_PER_UPDATE", 0)
    seen, original = [], record.Record.update

    def update(self, *given, **facts):
        original(self, *given, **facts)
        seen.append(dict(self.facts))

    monkeypatch.setattr(record.Record, "update", update)
    val = scenes.write_split(tmp_path / "Ball" / "Ball.train_val", num_views=2, first_view=20)
    folder = run(ball_split, tmp_path, val_root=val)
    halfway = next(facts for facts in seen if facts["step"] == 6)
    assert halfway["steps"] == 12 and halfway["rate"] > 0 and halfway["eta_s"] > 0 and halfway["state"] == record.RUNNING
    facts = record.read(folder)
    assert facts["checkpoint"].endswith("iter_000012.pth") and np.isfinite(facts["scores"]["val_psnr"])
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.startswith(f"{folder}: val_dist_loss ") and "next: seg_scripts/linear_update.sh" in said


def test_batches_are_named_by_instance_and_view(ball_split):
    """The numbers of observations count through the instances in their order."""
    instances = dataio.index_split(ball_split)
    dataset = dataio.SceneClassDataset(instances, 16, dataio.dataset_settings(ball_split))
    names = [f"{instance.name}/{view}" for instance in instances for view in instance.views]
    assert names == ["/".join(dataset.name_of(i)) for i in range(len(dataset))]
