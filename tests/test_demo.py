import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import demo

SCORES = {"psnr": 21.5, "ssim": 0.86, "miou": 0.65, "part_iou": {"chair_arm": 0.25}}


@pytest.fixture
def ran(tmp_path, monkeypatch):
    """The commands that the demo runs in tmp_path; the result scripts leave scores, and nothing else happens."""
    commands = []

    def popen(command, cwd, env):
        commands.append((command, env))
        if command[0].startswith("./result_scripts/"):
            folder = Path(env["LOGS"]) / env["OBJ"] / command[0].split("/")[-1].replace(".sh", "_results")
            folder.mkdir(parents=True)
            (folder / "results.json").write_text(json.dumps(SCORES))
        return SimpleNamespace(returncode=int(command[0].endswith("broken.sh")), poll=lambda: 0)

    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.delenv("CONFIG", raising=False)
    monkeypatch.setattr(demo.subprocess, "Popen", popen)
    return commands


@pytest.mark.parametrize("kind, config", [("procedural", "demo"), ("furniture", "demo_furniture")])
def test_data_are_made_and_every_stage_runs_on_them(ran, tmp_path, capsys, kind, config):
    demo.main(["--data", kind])
    assert "make_dataset.py" in ran[0][0] and kind in ran[0][0]
    assert [command[0] for command, _ in ran[1:]] == [f"./{script}" for script in demo.SCRIPTS.values()]
    assert all(env["CONFIG"] == config and env["DATA"] == str(tmp_path / "data" / config) for _, env in ran)
    summary = json.loads((tmp_path / "logs" / config / "summary.json").read_text())
    assert summary["single_shot"] == SCORES and len(summary["stages"]) == 7
    printed = capsys.readouterr().out
    assert "21.50" in printed and "contact_sheet.png" in printed and "source .venv/bin/activate" in printed


def test_runs_are_gone_on_with_unless_they_are_to_be_made_anew(ran, tmp_path):
    demo.main([])
    assert not any("never" in command for command, _ in ran)
    ran.clear()
    demo.main(["--folder", str(tmp_path / "other"), "--anew"])
    stages = [command for command, _ in ran if command[0].startswith("./") and "suggest_labels" not in command[0]]
    assert stages and all(command[command.index("--resume") + 1] == "never" for command in stages)


def test_a_stage_that_a_signal_stops_stops_the_demo(ran, monkeypatch, capsys):
    process = SimpleNamespace(returncode=143, poll=lambda: 143)
    monkeypatch.setattr(demo.subprocess, "Popen", lambda *given, **named: process)
    with pytest.raises(SystemExit) as stopped:
        demo.main([])
    assert stopped.value.code == 143 and "the same command goes on from there" in capsys.readouterr().err


def test_data_that_are_there_are_used(ran, tmp_path):
    (tmp_path / "data" / "demo" / "Chair").mkdir(parents=True)
    demo.main([])
    assert len(ran) == len(demo.SCRIPTS)


def test_another_config_reads_the_same_data_and_has_runs_of_its_own(ran, tmp_path, monkeypatch):
    monkeypatch.setenv("CONFIG", "published_demo")
    demo.main([])
    assert "./seg_scripts/suggest_labels.sh" not in [command[0] for command, _ in ran]
    assert all(env["CONFIG"] == "published_demo" and env["DATA"] == str(tmp_path / "data" / "demo") for _, env in ran)
    assert (tmp_path / "logs" / "published_demo" / "summary.json").is_file()


def test_a_config_for_other_data_is_refused(ran, monkeypatch, refuses):
    monkeypatch.setenv("CONFIG", "chairs")
    refuses(demo.main, [], "CONFIG=chairs: expected demo or published_demo")
    assert not ran


def test_a_seed_reaches_the_data_and_all_stages_that_train(ran, tmp_path):
    demo.main(["--seed", "3", "--folder", str(tmp_path / "three"), "--obj_name", "Table"])
    seeded = [" ".join(command) for command, _ in ran if "--seed 3" in " ".join(command)]
    assert len(seeded) == 4 and "--obj_name Table" in seeded[0] and str(tmp_path / "three" / "data") in seeded[0]
    assert (tmp_path / "three" / "logs" / "summary.json").is_file()


def test_there_are_no_tables_among_the_furniture(ran, refuses):
    refuses(demo.main, ["--data", "furniture", "--obj_name", "Table"], "--obj_name Table")


def test_a_stage_that_fails_ends_the_demo(ran, monkeypatch, refuses):
    monkeypatch.setattr(demo, "SCRIPTS", demo.SCRIPTS | {"1 pretrain": "training_scripts/broken.sh"})
    refuses(demo.main, [], "training_scripts/broken.sh failed")
    assert len(ran) == 2  # the data and the first stage
