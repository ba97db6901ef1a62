import json
import os
import socket
import time
from types import SimpleNamespace

import pytest

import status
from runs import folders, record


def make_run(root, name, **facts):
    """The folder of a run with these facts in its record."""
    with folders.start(SimpleNamespace(logging_root=str(root), log_dir=name, resume="never"), "train.py") as folder:
        folder.keep()
    path = folder.path / "run.json"
    path.write_text(json.dumps(record.read(folder.path) | facts))
    return folder.path


ALIVE = dict(state=record.RUNNING, process=os.getppid(), host=socket.gethostname())


def printed(capsys, *arguments):
    status.main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def test_all_runs_below_a_folder_are_in_the_table(tmp_path, capsys):
    make_run(tmp_path, "Chair/srn", **ALIVE, step=300, steps=2300, rate=12.5, eta_s=160)
    make_run(tmp_path, "Chair/results", unit="view", scores={"psnr": 21.468, "miou": 0.7}, step=40, steps=40)
    make_run(tmp_path, "gone", **ALIVE | dict(process=2**30, step=5, steps=9, checkpoint="logs/epoch_0000_iter_000004.pth"))
    old = tmp_path / "of_0.1"
    (old / "checkpoints").mkdir(parents=True)
    (old / "params.txt").write_text("")
    (old / "checkpoints" / "epoch_0001_iter_000070.pth").write_text("")
    rows = {line.split()[0]: line.split() for line in printed(capsys, tmp_path).splitlines()}
    assert rows["Chair/srn"][1:] == ["running", "300/2300", "12.50", "step/s", "3", "min"]
    assert rows["Chair/results"][1:] == ["finished", "40/40", "psnr", "21.5", "miou", "0.7"]
    assert rows["gone"][1:] == ["lost", "5/9", "epoch_0000_iter_000004.pth"]
    assert rows["of_0.1"][1:] == ["-", "70"] and len(rows) == 5


def test_a_run_on_another_machine_is_lost_when_it_has_not_been_heard_of(tmp_path, capsys):
    path = make_run(tmp_path, "far", **ALIVE | dict(host="elsewhere"))
    assert "running" in printed(capsys, tmp_path)
    os.utime(path / "run.json", (time.time() - 1000,) * 2)
    assert "lost" in printed(capsys, tmp_path)


def test_the_records_as_json(tmp_path, capsys):
    path = make_run(tmp_path, "run", step=3)
    assert json.loads(printed(capsys, tmp_path, "--json"))[str(path)]["step"] == 3


def test_watching_prints_again_and_again(tmp_path, capsys, monkeypatch):
    make_run(tmp_path, "run")
    pauses = iter([None, KeyboardInterrupt])

    def sleep(seconds):
        if (error := next(pauses)) is not None:
            raise error

    monkeypatch.setattr(status.time, "sleep", sleep)
    with pytest.raises(SystemExit) as stopped:
        status.main([str(tmp_path), "--watch", "1"])
    assert stopped.value.code == 130 and capsys.readouterr().out.count("finished") == 2


def test_a_folder_without_runs_and_no_folder(tmp_path, capsys, refuses):
    assert "no runs here or below" in printed(capsys, tmp_path)
    refuses(status.main, [str(tmp_path / "absent")], "absent: no such folder")


@pytest.mark.parametrize("seconds, text", [(42, "42 s"), (600, "10 min"), (14_700, "4 h 05 min"), (183_600, "2 d 03 h")])
def test_durations(seconds, text):
    assert status.duration(seconds) == text


def test_status_reads_what_a_version_to_come_or_a_stranger_wrote(tmp_path, capsys):
    make_run(tmp_path, "run", state="new", scores=["x"], step="many", checkpoint=3)
    make_run(tmp_path, "other", state=["x"], scores={"x": "y"})
    assert [line.split() for line in printed(capsys, tmp_path).splitlines()[1:]] == [["other", "-"], ["run", "new"]]
