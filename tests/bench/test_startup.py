import json

import pytest
from benches import tables_in

import train
import util
from bench import startup

pytestmark = pytest.mark.slow


def test_it_prints_starts_and_imports_and_writes_the_same_as_json(monkeypatch, tmp_path, capsys):
    asked = []

    def run(arguments):
        asked.append(list(map(str, arguments)))
        return "import time:  200 |  300 |   torch.nn\nimport time: 1000 |  9000 | torch\nimport time: 50 | 50 | re\n"

    monkeypatch.setattr(startup, "run", run)
    startup.main(["--repeats", "2", "--top", "1", "--reference", "--json", str(tmp_path / "figures.json")])
    starts, imports = tables_in(capsys.readouterr().out)
    assert list(zip(starts["program"], starts["until"], starts["mode"])) == [
        (program, until, mode)
        for program, work in (("train.py", "first step"), ("test.py", "first images"))
        for until, mode in (("--help", "fast"), (work, "fast"), (work, "reference"))
    ]
    assert [ratio != "" for ratio in starts["reference/fast"]] == [False, True, False] * 2
    assert imports["package"] == ["torch", "1 others", "whole process"] * 2
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["imports"][0]["s"] == pytest.approx(0.0012)
    assert sum(arguments == ["test.py", "--help"] for arguments in asked) == 2
    assert sum(arguments[0] == "-c" and "off" in arguments for arguments in asked) == 4


def test_a_command_that_fails_is_named():
    with pytest.raises(util.InputError, match="nothing_there.py: failed"):
        startup.run(["nothing_there.py"])


def test_the_programs_exit_after_their_first_step_or_images(tmp_path, monkeypatch):
    with monkeypatch.context() as here:
        here.setattr(startup, "run", lambda arguments: train.main(list(map(str, arguments[1:]))))
        commands = startup.commands(tmp_path, ["fast", "reference"])
    startup.run(commands["fast", "test.py", "first images"])
    startup.run(commands["reference", "test.py", "first images"])
    assert not (tmp_path / "logs" / "results" / "results.json").exists()
    startup.run(commands["reference", "train.py", "first step"])
    assert not list((tmp_path / "logs" / "again" / "checkpoints").iterdir())
    assert (tmp_path / "logs" / "srn" / "checkpoints").is_dir()
