import math
import multiprocessing
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import scenes
import torch

import checkpoints
import dataio
import srns
import train
import util
from runs import folders
from training import loop, objectives, progress, row_adam


class PlainRun:
    """Replaces progress.Run and writes nothing."""

    def __init__(self):
        self.seen = []

    def to_device(self, batch):
        return batch

    def after_step(self, step, terms, num_rays):
        self.seen.append((step, sum(terms.values()).item()))


def fit_a_line(num_steps, optimizer_of=torch.optim.Adam, lr=0.05, **options):
    """Fits y = 2 x + 1. Returns the model and the run."""
    torch.manual_seed(0)
    model, run = torch.nn.Linear(1, 1), PlainRun()
    x = torch.linspace(-1, 1, 20)[:, None]
    loop.fit(
        lambda batch: {"square": (model(batch["x"]) - batch["y"]).square().mean()},
        [{"x": x, "y": 2 * x + 1}] * num_steps,
        [optimizer_of(model.parameters(), lr=lr)],
        run,
        **options,
    )
    return model, run


def test_fit_learns():
    model, run = fit_a_line(300)
    assert run.seen[0][1] > 0.5 and run.seen[-1][1] < 1e-4
    assert model.weight.item() == pytest.approx(2, abs=0.02) and model.bias.item() == pytest.approx(1, abs=0.02)


def test_steps_are_counted_from_the_start_step():
    assert [step for step, _ in fit_a_line(3, start_step=5)[1].seen] == [6, 7, 8]


def test_gradients_do_not_accumulate_over_steps():
    """Plain gradient descent on a constant gradient: three steps of the same length."""
    weight, run = torch.nn.Parameter(torch.zeros(1)), PlainRun()
    loop.fit(lambda batch: {"linear": weight.sum()}, [{}] * 3, [torch.optim.SGD([weight], lr=0.5)], run)
    assert [loss for _, loss in run.seen] == [0, -0.5, -1] and weight.item() == -1.5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_it_spoils_a_weight(value):
    weight = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(loop.Diverged, match="step 3.*bad"):
        loop.fit(
            lambda batch: {"good": weight.sum(), "bad": batch["scale"] * weight.square().sum()},
            [{"scale": 1.0}, {"scale": 1.0}, {"scale": value}],
            [torch.optim.SGD([weight], lr=0.01)],
            PlainRun(),
        )
    assert weight.isfinite().all()


@pytest.mark.parametrize("end", [5, 250])
def test_on_a_gpu_a_loss_that_is_not_finite_moves_nothing_until_it_is_raised(monkeypatch, end):
    """The loss is not read in every step, so a flag on the device makes the optimizers skip the step."""
    monkeypatch.setattr(loop, "is_cheap_to_read", lambda tensor: False)
    weight, table = torch.nn.Parameter(torch.ones(2)), torch.nn.Embedding(3, 2, sparse=True)
    optimizers = [torch.optim.Adam([weight], lr=0.1, fused=True), row_adam.RowAdam([table.weight], lr=0.1)]
    seen, run = [], PlainRun()

    def losses_of(batch):
        seen.append((weight.detach().clone(), table.weight.detach().clone()))
        return {"loss": (weight.sum() + table(torch.tensor([1])).sum()) * batch["scale"]}

    scales = [1.0, 1.0, math.nan] + [1.0] * (end - 3)
    with pytest.raises(loop.Diverged, match="not finite at step 3 .*nothing was trained since"):
        loop.fit(losses_of, [{"scale": scale} for scale in scales], optimizers, run)
    assert len(run.seen) == min(end, loop.FiniteCheck.STEPS_PER_CHECK - 1)
    before, after = seen[2], (weight.detach(), table.weight.detach())
    assert all(torch.equal(*pair) for pair in zip(before, after)) and not torch.equal(before[0], seen[0][0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_step_does_not_wait_for_the_gpu(ball_split):
    model = srns.SRN(2, latent_dim=8, hidden_features=16, tracing_steps=3).to("cuda")
    instances = dataio.index_split(ball_split)
    dataset = dataio.SceneClassDataset(instances, 16, dataio.dataset_settings(ball_split), preload=True)
    objective = objectives.SRNObjective(model, objectives.Weights(), rays_per_block=100, precision="bfloat16")
    optimizers = [row_adam.RowAdam([model.latent_codes.weight]), torch.optim.Adam(model.networks(), fused=True)]
    run = PlainRun()
    run.to_device = lambda batch: {name: tensor.to("cuda", non_blocking=True) for name, tensor in batch.items()}
    num_steps = 5
    modes = {num_steps: "default"}  # no wait from the second step on; the loss is checked at the end
    run.after_step = lambda step, *_: torch.cuda.set_sync_debug_mode(modes.get(step, "error"))
    try:
        loop.fit(objective, dataio.training_batches(dataset, 2, 0, num_steps), optimizers, run)
    finally:
        torch.cuda.set_sync_debug_mode("default")


# Reading ahead


def test_batches_come_in_order_and_errors_come_through():
    def batches():
        yield from range(5)
        raise util.InputError("the sixth is broken")

    got = []
    with pytest.raises(util.InputError, match="the sixth is broken"):
        for batch in dataio.prefetched(batches()):
            got.append(batch)
    assert got == [0, 1, 2, 3, 4]
    assert list(dataio.prefetched(range(20), depth=1)) == list(range(20))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
def test_processes_that_the_thread_starts_end_without_an_error():
    """Such as a DataLoader's workers: it stops the run where it sees that one of them ended with an error."""

    def batches():
        worker = multiprocessing.get_context("fork").Process(target=int)
        worker.start()
        worker.join()
        yield worker.exitcode

    assert list(dataio.prefetched(batches())) == [0]


def test_stopping_early_ends_the_thread_that_reads_ahead():
    before, made = set(threading.enumerate()), []

    def batches():
        for i in range(10**6):
            made.append(i)
            yield i

    reading = dataio.prefetched(batches(), depth=2)
    assert next(reading) == 0
    reading.close()
    for _ in range(50):
        if before.issuperset(threading.enumerate()):
            break
        time.sleep(0.05)
    assert before.issuperset(threading.enumerate()) and len(made) < 10


def test_the_factor_multiplies_the_rate_of_each_optimizer():
    """With plain gradient descent on a gradient of 1 a step is as long as the rate."""
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizers = [torch.optim.SGD([weight], lr=lr) for weight, lr in zip(weights, (1.0, 10.0))]
    loop.fit(
        lambda batch: {"linear": sum(weights).sum()},
        [{}] * 3,
        optimizers,
        PlainRun(),
        rate_factor=lambda step: {1: 0.5, 2: 1.0, 3: 0.0}[step],
    )
    assert [weight.item() for weight in weights] == [-1.5, -15]


def test_without_warmup_and_decay_the_rate_is_constant():
    factor = loop.warmup_and_decay(100)
    assert {factor(step) for step in (1, 50, 100)} == {1}


def test_warmup_is_linear_and_decay_a_cosine_to_zero():
    factor = loop.warmup_and_decay(100, warmup_steps=10, decay_fraction=0.4)
    expected = {1: 0.1, 5: 0.5, 10: 1, 60: 1, 70: (1 + math.cos(math.pi / 4)) / 2, 80: 0.5, 100: 0}
    for step, value in expected.items():
        assert factor(step) == pytest.approx(value, abs=1e-12), step


# Intervals and logs


def event_scalars(folder):
    """{tag: {step: value}} of a run's tensorboard files."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder / "events"))
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def own_folder(path):
    """A run's folder that this process writes."""
    return folders.start(SimpleNamespace(logging_root=path, log_dir="", resume="never"), "train.py")


def test_functions_are_called_at_their_interval_and_at_the_last_step(tmp_path):
    called = []
    with progress.Run(own_folder(tmp_path), torch.device("cpu"), num_steps=7) as run:
        run.every += [(3, lambda step: called.append(("three", step))), (100, lambda step: called.append(("end", step)))]
        for step in range(1, 8):
            run.after_step(step, {"x": torch.tensor(1.0)}, num_rays=2)
    assert called == [("three", 3), ("three", 6), ("three", 7), ("end", 7)]


def test_a_losses_terms_and_sum_are_written_at_the_last_step_at_least(tmp_path):
    with progress.Run(own_folder(tmp_path), torch.device("cpu"), num_steps=2) as run:
        for step in (1, 2):
            run.after_step(step, {"a": torch.tensor(1.5), "b": torch.tensor(2.0)}, num_rays=2)
    scalars = event_scalars(tmp_path)
    assert (scalars["scaled_a_loss"][2], scalars["scaled_b_loss"][2], scalars["total_loss"][2]) == (1.5, 2, 3.5)


# Schedules and resuming, through train.main


def final_checkpoint(folder, step):
    checkpoint = checkpoints.load(folder)
    assert checkpoint["step"] == step
    return checkpoint


def assert_same_tensors(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-6, msg=name)


def assert_same_state(a, b):
    """State dicts of the optimizers, with their moments."""
    assert a["param_groups"] == b["param_groups"]
    for index in a["state"]:
        for name, value in a["state"][index].items():
            torch.testing.assert_close(torch.as_tensor(value), torch.as_tensor(b["state"][index][name]), rtol=0, atol=1e-6)


RESUMABLE = dict(
    initial_depth_std=0.02,
    class_weight=0,
    rays_per_image=40,
    foreground_fraction=0.5,
    lr=1e-2,
    lr_warmup_steps=2,
    lr_decay_fraction=0.5,
    max_steps_per_img_sidelength=6,
    batch_size_per_img_sidelength=3,
    steps_til_ckpt=1,
    keep_checkpoints=-1,
)


@pytest.fixture(scope="module")
def run_through(ball_split, tmp_path_factory):
    """A run of six steps with random rays and a learning rate that rises and falls."""
    logs = tmp_path_factory.mktemp("run_through")
    train.main(scenes.train_options(ball_split, logs, "through", **RESUMABLE))
    return logs / "through"


@pytest.mark.parametrize("stopped_at", [1, 3, 4], ids=["in the warm-up", "at full rate", "in the decay"])
def test_stopped_and_resumed_gives_the_numbers_of_an_uninterrupted_run(ball_split, run_through, tmp_path, stopped_at):
    halfway = next((run_through / "checkpoints").glob(f"*_iter_{stopped_at:06d}.pth"))
    train.main(scenes.train_options(ball_split, tmp_path, "resumed", checkpoint_path=halfway, **RESUMABLE))
    through, resumed = (final_checkpoint(folder, 6) for folder in (run_through, tmp_path / "resumed"))
    assert_same_tensors(through["model"], resumed["model"])
    for name in ("optimizer_0", "optimizer_1"):
        assert_same_state(through[name], resumed[name])
    before = checkpoints.load(halfway)["model"]["latent_codes.weight"]
    assert (
        before - resumed["model"]["latent_codes.weight"]
    ).abs().min() > 1e-5  # otherwise the comparison would prove nothing


class Recorder:
    """Records the side, batch size and rays of every training batch."""

    def __init__(self, monkeypatch):
        self.batches = []
        original = dataio.training_batches

        def recording(dataset, *args, **options):
            for batch in original(dataset, *args, **options):
                self.batches.append((dataset.sidelength, len(batch["uv"]), batch["uv"].shape[1]))
                yield batch

        monkeypatch.setattr(dataio, "training_batches", recording)


SCHEDULE = dict(
    class_weight=0, img_sidelengths="8,16", max_steps_per_img_sidelength="2,3", batch_size_per_img_sidelength="3,1"
)
EIGHT, SIXTEEN = (8, 3, 64), (16, 1, 256)


def test_the_image_side_changes_after_the_steps_of_a_stage(ball_split, tmp_path, monkeypatch):
    recorder = Recorder(monkeypatch)
    train.main(scenes.train_options(ball_split, tmp_path, "run", **SCHEDULE))
    assert recorder.batches == [EIGHT] * 2 + [SIXTEEN] * 3
    final_checkpoint(tmp_path / "run", 5)


@pytest.mark.parametrize("done, left", [(1, [EIGHT] + [SIXTEEN] * 3), (2, [SIXTEEN] * 3), (4, [SIXTEEN])])
def test_resuming_continues_in_the_stage_of_the_checkpoint(ball_split, tmp_path, monkeypatch, done, left):
    """The published code trains the first stage forever if it is resumed after the end of that stage."""
    train.main(scenes.train_options(ball_split, tmp_path, "first", class_weight=0, max_steps_per_img_sidelength=1))
    recorder = Recorder(monkeypatch)
    options = dict(SCHEDULE, checkpoint_path=tmp_path / "first", start_step=done)
    train.main(scenes.train_options(ball_split, tmp_path, "resumed", **options))
    assert recorder.batches == left
    if left:
        final_checkpoint(tmp_path / "resumed", 5)


def test_a_run_that_has_nothing_left_to_train_says_so(ball_split, tmp_path, capsys):
    train.main(scenes.train_options(ball_split, tmp_path, "run", class_weight=0, max_steps_per_img_sidelength=1))
    options = scenes.train_options(
        ball_split, tmp_path, "again", class_weight=0, max_steps_per_img_sidelength=1, checkpoint_path=tmp_path / "run"
    )
    with pytest.raises(SystemExit):
        train.main(options)
    assert "nothing left to train: step 1 of 1" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_resuming_into_the_same_folder_goes_on_counting(ball_split, tmp_path):
    options = dict(class_weight=0, max_steps_per_img_sidelength=2)
    train.main(scenes.train_options(ball_split, tmp_path, "run", **options))
    options["max_steps_per_img_sidelength"] = 4
    train.main(scenes.train_options(ball_split, tmp_path, "run", checkpoint_path=tmp_path / "run", **options))
    names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert names == ["epoch_0000_iter_000002.pth", "epoch_0001_iter_000004.pth"]  # 8 images, 2 a step
    assert {2, 4} <= set(event_scalars(tmp_path / "run")["total_loss"])


def test_a_run_folder_holds_the_options(semantic_run):
    assert isinstance(semantic_run, Path)
    lines = (semantic_run / "params.txt").read_text().splitlines()
    assert "tracing_steps: 3" in lines and "img_sidelengths: [16]" in lines
