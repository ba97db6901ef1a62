"""runs/stopping.py: signals that ask a program to stop."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import util
from runs import stopping

ROOT = Path(util.__file__).resolve().parent
SIGNALS = sorted(util.EXIT_CODES.items())


@pytest.mark.parametrize("number, code", SIGNALS)
def test_a_signal_ends_a_program_with_its_code(capsys, number, code):
    @util.command
    def main(argv=None):
        with stopping.listening():
            os.kill(os.getpid(), number)
            time.sleep(10)

    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == code and f"stopped by {signal.Signals(number).name}" in capsys.readouterr().err


def test_a_deferred_signal_is_raised_at_the_end_of_the_block():
    done = []
    with stopping.listening():
        with pytest.raises(util.Stopped, match="all is kept") as stopped, stopping.deferred("all is kept"):
            assert stopping.asked() is None
            os.kill(os.getpid(), signal.SIGTERM)
            done.append(stopping.asked())
        assert done == [signal.SIGTERM] and stopped.value.number == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_error_in_the_block_goes_before_the_signal():
    with stopping.listening(), pytest.raises(ZeroDivisionError), stopping.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ZeroDivisionError


def test_a_signal_that_the_caller_ignores_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopping.listening():
            os.kill(os.getpid(), signal.SIGINT)
            assert stopping.asked() is None
    finally:
        signal.signal(signal.SIGINT, before)


STUBBORN = """
import time, util
from runs import stopping
@util.command
def main(argv=None):
    with stopping.listening(), stopping.deferred("kept"):
        print("ready", flush=True)
        for _ in range(600):
            time.sleep(0.1)
main()
"""


def started(program):
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_second_signal_ends_at_once_but_not_one_that_came_twice():
    process = started(STUBBORN)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(stopping.SAME_REQUEST_S + 0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(5) == 143 and "stopped at once by a second signal" in process.stderr.read()


CHILD = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print("ready", flush=True)
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys, util
from runs import stopping
@util.command
def main(argv=None):
    with stopping.listening():
        stopping.wait_for(subprocess.Popen([sys.executable, "-c", {CHILD!r}]), "go on later")
main()
"""


def test_a_signal_is_passed_on_to_a_program_that_is_waited_for():
    process = started(PARENT)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143 and "stopped by SIGTERM; go on later" in process.stderr.read()


WORKER = """
import os, signal, time
from runs import stopping
worker = os.fork()
if not worker:
    stopping.leave_to(os.getppid())
    print("ready", flush=True)
    time.sleep(60)
    os._exit(7)
time.sleep(1)
os.kill(worker, signal.SIGTERM)
print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]), worker, flush=True)
"""


def test_a_worker_ends_when_its_parent_says_so_and_not_when_others_do():
    process = started(WORKER)
    worker = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
    for number in util.EXIT_CODES:
        os.kill(worker, number)
    time.sleep(0.3)
    assert Path(f"/proc/{worker}/stat").read_text().split()[2] != "Z"
    assert process.stdout.readline() == f"0 {worker}\n"
