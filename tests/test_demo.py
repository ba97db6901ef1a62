import json
from types import SimpleNamespace

import pytest

import demo

SCORES = {"psnr": 21.5, "ssim": 0.86, "miou": 0.65}


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The commands that the demo runs in tmp_path; the result scripts leave scores, and nothing else happens."""
    commands = []

    def run(command, cwd, env):
        commands.append((command, env))
        if command[0].startswith("./result_scripts/"):
            folder = tmp_path / "logs" / env["CONFIG"] / "Chair" / command[0].split("/")[-1].replace(".sh", "_results")
            folder.mkdir(parents=True)
            (folder / "results.json").write_text(json.dumps(SCORES))
        return SimpleNamespace(returncode=int(command[0].endswith("broken.sh")))

    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.setattr(demo.subprocess, "run", run)
    return commands


@pytest.mark.parametrize("kind, config", [("procedural", "demo"), ("furniture", "demo_furniture")])
def test_data_are_made_and_every_stage_runs_on_them(ran, tmp_path, capsys, kind, config):
    demo.main(["--data", kind])
    assert "make_dataset.py" in ran[0][0] and kind in ran[0][0]
    assert [command[0] for command, _ in ran[1:]] == [f"./{script}" for _, script in demo.SCRIPTS]
    assert all(env["CONFIG"] == config and env["DATA"] == str(tmp_path / "data" / config) for _, env in ran)
    summary = json.loads((tmp_path / "logs" / config / "summary.json").read_text())
    assert summary["single_shot"] == SCORES and len(summary["stages"]) == 6
    printed = capsys.readouterr().out
    assert "21.50" in printed and "contact_sheet.png" in printed and "source .venv/bin/activate" in printed


def test_data_that_are_there_are_used(ran, tmp_path):
    (tmp_path / "data" / "demo" / "Chair").mkdir(parents=True)
    demo.main([])
    assert len(ran) == len(demo.SCRIPTS)


def test_a_stage_that_fails_ends_the_demo(ran, monkeypatch, refuses):
    monkeypatch.setattr(demo, "SCRIPTS", [("1 pretrain", "training_scripts/broken.sh"), *demo.SCRIPTS])
    refuses(demo.main, [], "training_scripts/broken.sh failed")
    assert len(ran) == 2
