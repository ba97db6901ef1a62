"""train.py in two processes compared with one process that draws the same data, and torchrun."""

import functools
import shutil
import subprocess
import sys
from pathlib import Path

import many_processes
import pytest
import scenes
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import checkpoints
import dataio
import interpolate
import test
import train
from training import pretraining, progress

pytestmark = pytest.mark.slow

SCHEDULE = dict(max_steps_per_img_sidelength=5, batch_size_per_img_sidelength=4, lr=1e-2, steps_til_ckpt=2)
RAYS = SCHEDULE | dict(class_weight=0, rays_per_image=40, rays_per_block=0)
TOLERANCE = 1e-4  # of a tensor's largest entry: the order of sums differs, and Adam divides by small numbers


def run_train(arguments, changes=None):
    """Run train.main, which logs every step; returns the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "SECONDS_PER_REPORT", 0)
        if changes is not None:
            changes(patch)
        try:
            train.main(arguments)
        except SystemExit as stopped:
            return torch.tensor(stopped.code)
    return torch.tensor(0)


def in_two(split, logs, name, changes=None, expected=0, **options):
    """The run folder of two processes."""
    function = functools.partial(run_train, scenes.train_options(split, logs, name, **options), changes)
    codes = many_processes.run(function, logs, joins=False)
    assert [code.item() for code in codes] == [expected] * 2
    return logs / name


def in_one(split, logs, name, changes=None, **options):
    """The run folder of one process that draws the data of two."""
    assert run_train(scenes.train_options(split, logs, name, **dict(data_shards=2) | options), changes) == 0
    return logs / name


def scalars(folder):
    """{tag: {step: value}} of the only event file."""
    assert len(list(folder.rglob("events.out*"))) == 1
    events = EventAccumulator(str(folder / "events"))
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def assert_same(a, b, where=""):
    """Compare nested dicts of tensors and plain values, tensors within TOLERANCE of their largest entry."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, torch.Tensor) or isinstance(a, float):
        a, b = torch.as_tensor(a), torch.as_tensor(b)
        torch.testing.assert_close(b, a, rtol=0, atol=TOLERANCE * a.abs().max().item(), msg=lambda m: f"{where}: {m}")
    elif not isinstance(a, Path):
        assert a == b, where


def assert_same_runs(one, two, num_steps=5):
    """Compare files, weights, codes and optimizer states of each checkpoint, and the losses of every step."""
    files = [sorted(path.name for path in (run / "checkpoints").iterdir()) for run in (one, two)]
    assert files[0] == files[1]
    for name in files[0]:
        assert_same(*(checkpoints.load(run / "checkpoints" / name) for run in (one, two)))
    assert_same(scalars(one), scalars(two))
    assert list(scalars(two)["total_loss"]) == list(range(1, num_steps + 1))


# Stage 1


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(rays_per_block=30),
        dict(code_optimizer="adam"),
        dict(preload=True, num_workers=1),
        dict(cache=True),
        dict(img_sidelengths="8,16", max_steps_per_img_sidelength="3,2", batch_size_per_img_sidelength="2,4"),
    ],
    ids=lambda options: ",".join(options),
)
def test_two_processes_train_the_model_of_one(ball_split, tmp_path, options):
    if "cache" in options:
        options["cache"] = tmp_path / "cache"
    options = RAYS | options
    assert_same_runs(in_one(ball_split, tmp_path, "one", **options), in_two(ball_split, tmp_path, "two", **options))
    assert not list(tmp_path.glob("*.1"))


def test_more_instances_than_processes(tmp_path):
    """Five instances in four shards: a process has two shards, and an instance may be in a batch twice or not at all."""
    split = scenes.write_split(tmp_path / "Ball" / "Ball.train", names=[f"ball_{i}" for i in range(5)], num_views=3)
    options = RAYS | dict(data_shards=4, steps_til_ckpt=5)
    assert_same_runs(in_one(split, tmp_path, "one", **options), in_two(split, tmp_path, "two", **options))


def with_a_fixed_unet(patch):
    """Put the class U-Net in eval mode: no statistics of the images of one process, no dropout.

    Some of its weights have almost no gradient, and Adam would move them by a full step of arbitrary sign.
    """
    patch.setattr(torch.optim, "Adam", functools.partial(torch.optim.Adam, eps=1e-3))
    original = pretraining.srn_objective

    def srn_objective(options, device, model, *args):
        objective = original(options, device, model, *args)
        model.class_generator.eval()
        return objective

    patch.setattr(pretraining, "srn_objective", srn_objective)


@pytest.mark.parametrize("rays_per_block", [0, 100])
def test_a_semantic_srn_without_batch_norm_and_dropout(ball_split, tmp_path, rays_per_block):
    options = SCHEDULE | dict(rays_per_block=rays_per_block, max_steps_per_img_sidelength=1)
    runs = [run(ball_split, tmp_path, run.__name__, with_a_fixed_unet, **options) for run in (in_one, in_two)]
    assert_same_runs(*runs, num_steps=1)  # in later steps, a ReLU that rounding turned off changes the whole U-Net


def test_a_semantic_srn_with_batch_norm_and_dropout(ball_split, tmp_path):
    """Each process normalises its own images and drops other features, so only the parts before the U-Net are equal."""
    options = SCHEDULE | dict(max_steps_per_img_sidelength=10, val_root=ball_split, steps_til_val=6)
    one, two = (scalars(run(ball_split, tmp_path, run.__name__, **options)) for run in (in_one, in_two))
    for term in ("distortion", "latent", "regularization"):
        assert two[f"scaled_{term}_loss"][1] == pytest.approx(one[f"scaled_{term}_loss"][1], rel=1e-5)
    assert two["scaled_class_loss"][1] == pytest.approx(one["scaled_class_loss"][1], rel=0.1)
    assert two["scaled_class_loss"][10] < 0.7 * two["scaled_class_loss"][1]
    assert list(two["val_miou"]) == [6, 10]


def test_unused_parts_stay_unchanged(ball_split, semantic_run, tmp_path):
    """A semantic SRN is trained on without labels: its U-Net gets no gradient in any process."""
    options = RAYS | dict(checkpoint_path=semantic_run, start_step=0)
    one, two = (run(ball_split, tmp_path, run.__name__, **options) for run in (in_one, in_two))
    assert_same_runs(one, two)
    before, after = checkpoints.load(semantic_run)["model"], checkpoints.load(two)["model"]
    unet = [name for name in before if name.startswith("class_generator")]
    assert unet and all(torch.equal(before[name], after[name]) for name in unet)


def test_a_run_of_two_processes_is_resumed_in_one(ball_split, tmp_path):
    through = in_two(ball_split, tmp_path, "through", **RAYS)
    halfway = through / "checkpoints" / "epoch_0001_iter_000002.pth"
    resumed = in_one(ball_split, tmp_path, "resumed", **RAYS, checkpoint_path=halfway)
    assert_same(checkpoints.load(through), checkpoints.load(resumed))
    again = in_two(ball_split, tmp_path, "again", **RAYS, checkpoint_path=halfway)
    assert_same(checkpoints.load(through), checkpoints.load(again))


def test_two_processes_resume_into_the_folder_of_the_run(ball_split, tmp_path):
    in_two(ball_split, tmp_path, "run", **RAYS | dict(max_steps_per_img_sidelength=2))
    in_two(ball_split, tmp_path, "run", **RAYS, checkpoint_path=tmp_path / "run")
    assert checkpoints.load(tmp_path / "run")["step"] == 5 and not list(tmp_path.glob("run.1"))


def test_a_process_preloads_only_its_own_instances(ball_split):
    instances = dataio.index_split(ball_split)
    settings = dataio.dataset_settings(ball_split)
    whole = dataio.SceneClassDataset(instances, scenes.SIDE, settings)
    mine = dataio.SceneClassDataset(instances, scenes.SIDE, settings, preload=True, preload_instances=[1])
    assert len(mine) == len(whole) == 8
    for i in range(4, 8):
        assert (mine[i]["rgb"] == whole[i]["rgb"]).all()
        assert (mine.store[i][1] == whole.store[i][1]).all()
    with pytest.raises(IndexError, match="observation 3"):
        mine[3]


# Stages 2 and 3


def test_a_head_is_trained_in_two_processes(ball_split, semantic_run, tmp_path):
    options = SCHEDULE | dict(max_steps_per_img_sidelength=40, steps_til_ckpt=100, rays_per_image=64)
    options |= dict(checkpoint_path=semantic_run, model_type="mlp", update_solver="adam")
    head = in_two(ball_split, tmp_path, "head", **options)
    losses = scalars(head)["total_loss"]
    assert list(losses) == list(range(1, 41)) and losses[40] < 0.7 * losses[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.pth", "1.pth", "head"]
    assert [path.name for path in head.rglob("*.pth")] == ["epoch_0020_iter_000040.pth"]


@pytest.mark.parametrize(
    "options", [dict(rays_per_image=40, class_weight=0), dict(class_weight=8, l1_weight=0)], ids=["to images", "to labels"]
)
def test_codes_are_fitted_in_two_processes_as_in_one(semantic_run, tmp_path, options):
    """The networks of the semantic SRN are in eval mode, so the losses of labels are equal too."""
    split = scenes.write_split(tmp_path / "Ball" / "Ball.test", names=("ball_x", "ball_y", "ball_z"))
    options = SCHEDULE | options | dict(checkpoint_path=semantic_run, overwrite_embeddings=True, code_solver="published")
    one, two = (run(split, tmp_path, run.__name__, **options) for run in (in_one, in_two))
    assert_same_runs(one, two)
    before, after = checkpoints.load(semantic_run)["model"], checkpoints.load(two)["model"]
    assert all(torch.equal(before[name], after[name]) for name in before if name != "latent_codes.weight")


def test_two_processes_share_the_fits_of_the_fast_solver(semantic_run, tmp_path):
    split = scenes.write_split(tmp_path / "Ball" / "Ball.test", names=("ball_x", "ball_y", "ball_z"))
    options = dict(class_weight=0, max_steps_per_img_sidelength=25, steps_til_ckpt=10, specific_observation_idcs="1")
    options |= dict(checkpoint_path=semantic_run, overwrite_embeddings=True, num_starts=3)
    one = in_one(split, tmp_path, "one", **options, data_shards=1)
    two = in_two(split, tmp_path, "two", **options)
    codes, expected = (checkpoints.load(folder)["model"]["latent_codes.weight"] for folder in (two, one))
    assert torch.allclose(codes, expected, atol=1e-3) and not torch.allclose(codes[0], codes[1], atol=1e-3)
    fits, expected = (checkpoints.load(folder)["code_fits"] for folder in (two, one))
    assert fits.keys() == expected.keys() and torch.equal(fits["is_active"], expected["is_active"])


# Refused


@pytest.mark.parametrize(
    "options, reason",
    [
        (dict(batch_size_per_img_sidelength=3), "3 images cannot be dealt evenly to 2 processes"),
        (
            dict(img_sidelengths="8,16", max_steps_per_img_sidelength="1,1", batch_size_per_img_sidelength="2,3"),
            "3 images cannot be dealt evenly to 2 processes",
        ),
        (dict(data_shards=3), "--data_shards 3: expected a multiple of the number of processes"),
        (dict(fit_single_srn=True, specific_ins="ball_a"), "only 1 of 2 processes would have instances to train on"),
    ],
    ids=["batch", "a later batch", "shards", "one instance"],
)
def test_data_that_cannot_be_divided_are_refused_at_the_start(ball_split, tmp_path, capfd, monkeypatch, options, reason):
    monkeypatch.setattr("util.SECONDS_UNTIL_ENDED", 0)
    in_two(ball_split, tmp_path, "run", expected=2, **RAYS | options)
    written = capfd.readouterr().err
    assert written.count(reason) == 2 and "Traceback" not in written
    assert not (tmp_path / "run").exists()


def test_a_batch_of_stage_2_that_cannot_be_divided_is_refused(ball_split, semantic_run, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("util.SECONDS_UNTIL_ENDED", 0)
    options = dict(checkpoint_path=semantic_run, model_type="mlp", batch_size_per_img_sidelength=3, rays_per_image=5)
    in_two(ball_split, tmp_path, "run", expected=2, **options)
    assert "3 images cannot be dealt evenly to 2 processes" in capfd.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("program", [test, interpolate])
def test_other_programs_run_in_one_process(refuses, monkeypatch, program):
    for name, value in many_processes.environment().items():
        monkeypatch.setenv(name, value)
    refuses(program.main, [], f"{program.__name__}.py runs in one process")


# torchrun


def torchrun(arguments, folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", train.__file__]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_torchrun_trains(ball_split, tmp_path):
    """Messages are printed once, and an earlier run of the same name is renamed once."""
    split = shutil.copytree(ball_split.parent, tmp_path / "Ball") / "Ball.train"
    options = RAYS | dict(obj_name=None, class_weight=None)
    in_one(split, tmp_path, "run", **options)
    done = torchrun(scenes.train_options(split, tmp_path, "run", **options), tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("note: without --obj_name") == 1 and "Warning" not in done.stderr
    assert done.stdout.count("note: the earlier run") == 1
    assert sorted(path.name for path in tmp_path.glob("run*")) == ["run", "run.1"]
    for run in (tmp_path / "run", tmp_path / "run.1"):
        assert len(list(run.rglob("*.pth"))) == 3 and len(list(run.rglob("events.out*"))) == 1
        assert not list(run.rglob(".*"))  # no temporary files
    assert_same(checkpoints.load(tmp_path / "run")["model"], checkpoints.load(tmp_path / "run.1")["model"])


@pytest.mark.parametrize(
    "options, reason",
    [
        (dict(batch_size_per_img_sidelength=3), "3 images cannot be dealt evenly to 2 processes"),
        (dict(nonsense=1), "unrecognized arguments: --nonsense"),
    ],
    ids=["in the data", "in the options"],
)
def test_torchrun_ends_with_one_sentence_about_a_mistake(ball_split, tmp_path, options, reason):
    ended = torchrun(scenes.train_options(ball_split, tmp_path, "run", **RAYS | options), tmp_path)
    assert ended.returncode != 0
    assert ended.stderr.count(reason) == 1
    assert not (tmp_path / "run").exists()
