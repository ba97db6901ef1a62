"""Runs of train.py as real processes, forked from one that has imported everything, to be stopped and killed."""

import multiprocessing
import os
import resource
import signal
import sys
import time

import scenes
import torch

import checkpoints

STEPS = 60
TWO_SIDES = dict(img_sidelengths="8,16", max_steps_per_img_sidelength="25,35", batch_size_per_img_sidelength="4,2")
SCHEDULE = dict(lr=5e-3, lr_warmup_steps=20, lr_decay_fraction=0.3, steps_til_ckpt=7, minutes_til_ckpt=0, steps_til_val=40)
PRETRAIN = SCHEDULE | TWO_SIDES | dict(class_weight=0, rays_per_image=40, initial_depth_std=0.02)
LONG = SCHEDULE | dict(max_steps_per_img_sidelength=STEPS, batch_size_per_img_sidelength=1)

STAGES = {  # options of train.py, for folders of data and of the SRN
    "1 pretrain": lambda split, srn: PRETRAIN | dict(num_workers=1),
    "1 with all codes moving": lambda split, srn: PRETRAIN | dict(code_optimizer="adam"),
    "2 adam": lambda split, srn: LONG | dict(model_type="mlp", update_solver="adam", checkpoint_path=srn),
    "3 published": lambda split, srn: (
        LONG
        | dict(checkpoint_path=srn, overwrite_embeddings=True, class_weight=0, code_solver="published", rays_per_image=40)
    ),
    "3 fast": lambda split, srn: LONG | dict(checkpoint_path=srn, overwrite_embeddings=True, class_weight=0, num_starts=2),
}


def arguments(stage, split, srn, logs, name="run", **options):
    """Arguments of train.main for a stage of STAGES."""
    return scenes.train_options(split, logs, name, **{"resume": "auto"} | STAGES[stage](split, srn) | options)


def _main(given, log, environment, limits):
    """In the process: train.main, with its output in a file and the process in a group of its own."""
    os.setsid()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.environ |= environment
    for what, most in limits.items():
        resource.setrlimit(what, (most, most))
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv[0] = "train.py"
    import train

    train.main(given)


def start(given, log, environment=None, limits=None):
    """A process that runs train.main with these arguments. log: file that its output is appended to; limits: of resource"""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train", "kills", "torch.utils.tensorboard"])
    process = context.Process(target=_main, args=(given, log, environment or {}, limits or {}))
    process.start()
    return process


def end(process, seconds=120):
    """The exit code of the process, negative after a signal."""
    process.join(seconds)
    if process.exitcode is None:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError("still running")
    return process.exitcode


def wait_for_step(logs, step, process, name="run"):
    """Wait until the run has a checkpoint of this step, or a later one."""
    while process.exitcode is None:
        files = (logs / name / "checkpoints").glob("epoch*.pth")
        if any(checkpoints.steps_in_name(path) >= step for path in files):
            return
        time.sleep(0.002)
    raise AssertionError(f"ended with {process.exitcode} before step {step}")


def assert_bit_equal(one, other, where=""):
    """Compare everything in two checkpoints, every bit of it."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one.keys() - {"path"}:
            assert_bit_equal(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), where
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other)):
            assert_bit_equal(*pair, f"{where}/{i}")
    else:
        assert one == other, where
