import json
from pathlib import Path

import pytest

from bench import all as bench_all
from bench import measuring

STARTS = {"starts": [{"program": "train.py", "until": "--help", "mode": "fast", "s": 2.5}], "imports": []}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Arguments for a folder and a file of one's own; commands are not run, but write what startup.py would."""
    ran = []

    def run(command, cwd):
        ran.append(command)
        if "bench.meshes" in command:
            return type("Done", (), {"returncode": 1})
        Path(command[command.index("--json") + 1]).write_text(json.dumps(STARTS))
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(bench_all.subprocess, "run", run)
    return ["--out", str(tmp_path / "out"), "--file", str(tmp_path / "B.md")], tmp_path / "B.md", ran


def test_tables_stand_between_the_markers_and_the_rest_stays(place):
    arguments, file, ran = place
    file.write_text(f"# Mine\n\n{bench_all.BEGIN}\nold\n{bench_all.END}\n\nThe plan.\n")
    bench_all.main([*arguments, "--only", "startup"])
    text = file.read_text()
    assert text.startswith("# Mine\n") and text.endswith("\n\nThe plan.\n") and "old" not in text
    assert "| train.py | --help | fast | 2.50 |" in text and measuring.processor() in text
    assert len(ran) == 1 and ran[0][2] == "bench.startup"
    bench_all.main([*arguments, "--tables"])
    assert file.read_text() == text and len(ran) == 1


def test_a_line_names_what_has_not_been_measured(place):
    arguments, file, _ = place
    bench_all.main([*arguments, "--tables"])
    (line,) = [line for line in file.read_text().splitlines() if line.startswith("Not measured: ")]
    others = len(bench_all.ON_CPU) + len(bench_all.ON_REQUEST)
    assert line.count("`python -m bench.") == 2 * len(bench_all.ON_DEVICES) + others and "###" not in file.read_text()
    bench_all.main([*arguments, "--only", "startup"])
    text = file.read_text()
    assert text.count("### ") == 1 and "bench.startup" not in text.split("Not measured: ")[1]


def test_each_command_runs_with_the_reference_where_there_is_one(place):
    arguments, _, ran = place
    bench_all.main([*arguments, "--only", "training_semantic,data", "--devices", "cpu"])
    names = [command[2] for command in ran]
    assert names == ["bench.training", "bench.data"]
    assert "--reference" in ran[0] and "--semantic" in ran[0] and ran[0][-2:] == ["--device", "cpu"]
    assert "--device" not in ran[1]


def test_what_takes_hours_runs_only_where_it_is_named(place):
    assert "quality" not in [name for name, _ in bench_all.jobs([], ["cpu"])]
    assert bench_all.jobs(["quality"], ["cpu"]) == [("quality", "cpu")]


def test_a_command_that_fails_is_told_and_the_others_are_shown(place, refuses):
    arguments, file, _ = place
    refuses(bench_all.main, [*arguments, "--only", "meshes,startup"], "meshes on cpu: failed")
    assert "| train.py | --help | fast | 2.50 |" in file.read_text()


def test_what_cannot_work_is_refused(place, refuses):
    arguments, file, _ = place
    refuses(bench_all.main, [*arguments, "--only", "speed"], "--only speed: unknown command")
    refuses(bench_all.main, [*arguments, "--devices", "tpu", "--tables"], "expected cpu, cuda or both")
    file.write_text(bench_all.BEGIN)
    refuses(bench_all.main, [*arguments, "--tables"], "restore them, or remove both")


def test_the_commands_are_those_of_the_folder():
    folder = Path(bench_all.__file__).parent
    scripts = {path.stem for path in folder.glob("*.py") if "def main(" in path.read_text()} - {
        "all",
        "trace",
        *bench_all.STUDIES,
    }
    assert {script for script, *_ in bench_all.COMMANDS.values()} == scripts
