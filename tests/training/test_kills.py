"""Runs that are stopped and killed end as runs that are not: every bit of the last checkpoint is the same.

`pytest tests/training/test_kills.py --kills 100` kills more often.
"""

import os
import random
import re
import resource
import shutil
import signal
import time
from pathlib import Path

import kills
import many_processes
import pytest
import scenes
import torch

import checkpoints
import train
from runs import record

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU adds in no fixed order")


@pytest.fixture(scope="module")
def srn(ball_split, tmp_path_factory):
    logs = tmp_path_factory.mktemp("srn")
    train.main(scenes.train_options(ball_split, logs, "srn", class_weight=0, lr=1e-2, max_steps_per_img_sidelength=20))
    return logs / "srn"


@pytest.fixture(scope="module")
def ends(ball_split, srn, tmp_path_factory):
    """A function from a stage to the last checkpoint of a run that nothing stops, and to its seconds."""
    found = {}

    def end_of(stage):
        if stage not in found:
            logs, started = tmp_path_factory.mktemp("through"), time.monotonic()
            process = kills.start(kills.arguments(stage, ball_split, srn, logs), logs / "log")
            assert kills.end(process) == 0, (logs / "log").read_text()
            found[stage] = checkpoints.load(logs / "run"), time.monotonic() - started
        return found[stage]

    return end_of


def check_end(logs, expected, stage=""):
    assert (logs / "run" / "run.json").exists() and record.read(logs / "run")["state"] == record.FINISHED
    kills.assert_bit_equal(expected, checkpoints.load(logs / "run"), stage)
    assert not list(logs.rglob(".*")) and not list(logs.glob("run.*"))


SIGNALS = {"1 pretrain": (signal.SIGTERM, 143), "2 adam": (signal.SIGINT, 130), "3 fast": (signal.SIGUSR1, 75)}


@pytest.mark.parametrize("stage", SIGNALS)
def test_a_run_stopped_by_a_signal_goes_on_as_if_it_had_not_been(ball_split, srn, ends, tmp_path, stage):
    """The signal goes to all processes of the run, as from a terminal, those that read images included."""
    number, code = SIGNALS[stage]
    given, log = kills.arguments(stage, ball_split, srn, tmp_path), tmp_path / "log"
    process = kills.start(given, log)
    kills.wait_for_step(tmp_path, 7, process)
    os.killpg(process.pid, number)
    assert kills.end(process) == code, log.read_text()
    said = log.read_text().splitlines()[-1]
    stopped_at = re.search(rf"stopped by {number.name}; step (\d+) of 60 is in .* --resume auto goes on", said)
    assert stopped_at and checkpoints.load(tmp_path / "run")["step"] == int(stopped_at[1]) < 60, said
    assert record.read(tmp_path / "run")["state"] == record.STOPPED
    assert kills.end(kills.start(given, log)) == 0, log.read_text()
    assert f"goes on from step {stopped_at[1]}," in log.read_text()
    check_end(tmp_path, ends(stage)[0], stage)


@pytest.mark.parametrize("stage", ["1 with all codes moving", "2 adam", "3 published", "3 fast"])
def test_a_run_killed_at_random_moments_ends_as_if_it_had_not_been(ball_split, srn, ends, tmp_path, request, stage):
    expected, seconds = ends(stage)
    given, log, moments = kills.arguments(stage, ball_split, srn, tmp_path), tmp_path / "log", random.Random(stage)
    num_kills = 0
    while num_kills < request.config.getoption("kills") // 4:
        process = kills.start(given, log)
        process.join(moments.uniform(0.1, 1) * seconds)
        if process.exitcode is None:
            process.kill()
            num_kills += 1
        elif process.exitcode == 0:
            check_end(tmp_path, expected, stage)
            shutil.rmtree(tmp_path / "run")  # once more
        else:
            pytest.fail(log.read_text())
        process.join()
    assert kills.end(kills.start(given, log)) == 0, log.read_text()
    check_end(tmp_path, expected, stage)


def test_two_processes_stop_at_the_same_step_though_one_alone_is_asked(ball_split, tmp_path):
    given = kills.arguments("1 pretrain", ball_split, None, tmp_path, num_workers=0)
    logs = [tmp_path / f"{rank}.log" for rank in range(2)]
    port = str(many_processes.free_port())
    processes = [
        kills.start(given, log, many_processes.environment(rank) | {"MASTER_PORT": port}) for rank, log in enumerate(logs)
    ]
    kills.wait_for_step(tmp_path, 7, processes[0])
    os.kill(processes[1].pid, signal.SIGTERM)
    assert [kills.end(process) for process in processes] == [143, 143], logs[0].read_text() + logs[1].read_text()
    step = checkpoints.load(tmp_path / "run")["step"]
    assert step % 10 == 0 and f"step {step} of 60 is in" in logs[0].read_text() and "Traceback" not in logs[1].read_text()


def test_a_second_run_of_that_name_is_refused_while_the_first_one_lives(ball_split, tmp_path):
    given, logs = kills.arguments("1 pretrain", ball_split, None, tmp_path, num_workers=0), [tmp_path / "1", tmp_path / "2"]
    first = kills.start(given, logs[0])
    kills.wait_for_step(tmp_path, 7, first)
    os.kill(first.pid, signal.SIGSTOP)
    assert kills.end(kills.start(given, logs[1])) == 2
    assert f"run: this run is being written by process {first.pid} on" in last_line(logs[1])
    os.kill(first.pid, signal.SIGCONT)
    assert kills.end(first) == 0


def last_line(log):
    return log.read_text().splitlines()[-1]


def test_a_worker_that_is_killed_is_said_in_one_sentence_and_the_run_goes_on(ball_split, ends, tmp_path):
    given, log = kills.arguments("1 pretrain", ball_split, None, tmp_path), tmp_path / "log"
    process = kills.start(given, log)
    kills.wait_for_step(tmp_path, 7, process)
    for child in map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()):
        os.kill(child, signal.SIGKILL)
    for thread in Path(f"/proc/{process.pid}/task").glob("*/children"):  # a thread forks them
        for child in map(int, thread.read_text().split()):
            os.kill(child, signal.SIGKILL)
    assert kills.end(process) == 2 and "Traceback" not in log.read_text()
    assert "a process that reads images was ended" in last_line(log) and "--num_workers" in last_line(log)
    assert checkpoints.load(tmp_path / "run")["step"] >= 7
    assert kills.end(kills.start(given, log)) == 0
    check_end(tmp_path, ends("1 pretrain")[0])


LIMITS = {
    "size of a file": ({resource.RLIMIT_FSIZE: 60_000}, {}, "would be larger than is allowed"),
    "open files": ({resource.RLIMIT_NOFILE: 40}, {"num_workers": 4}, "`ulimit -n"),
    "memory": ({resource.RLIMIT_AS: 3 * 2**30}, {"hidden_features": 8192}, "out of memory"),
}


@pytest.mark.parametrize("what", LIMITS)
def test_a_limit_of_the_surroundings_is_said_in_one_sentence(ball_split, tmp_path, what):
    limits, options, said = LIMITS[what]
    given = kills.arguments("1 pretrain", ball_split, None, tmp_path, **options)
    assert kills.end(kills.start(given, tmp_path / "log", limits=limits)) == 2
    (line,) = (line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("train.py: error: "))
    assert said in line
    assert not (tmp_path / "run").exists()
