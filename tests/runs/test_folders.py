"""runs/folders.py, runs/record.py and runs/resuming.py: the folder of a run."""

import json
from types import SimpleNamespace

import pytest

import util
from runs import folders, record, resuming


def options_of(tmp_path, name="run", **more):
    return SimpleNamespace(**{"logging_root": str(tmp_path), "log_dir": name, "resume": "never", "lr": 0.1} | more)


def finished(tmp_path, name="run", text="old", **more):
    """The folder of a run that has ended and left a file."""
    with folders.start(options_of(tmp_path, name, **more), "train.py") as folder:
        folder.keep()
        (folder.path / "file").write_text(text)
    return folder.path


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_run_says_what_it_is_and_that_it_has_ended(tmp_path):
    facts = record.read(finished(tmp_path, seed=3))
    assert facts["state"] == record.FINISHED and facts["ended"] >= facts["started"] and facts["seed"] == 3
    assert facts["options"]["lr"] == 0.1 and facts["command"] and facts["versions"]["torch"] and facts["host"]
    assert names_in(tmp_path / "run") == ["file", "params.txt", "run.json"]


def test_an_earlier_run_is_moved_aside(tmp_path):
    for text in "abc":
        finished(tmp_path, text=text)
    assert [(tmp_path / name / "file").read_text() for name in ("run", "run.1", "run.2")] == ["c", "a", "b"]
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("error", [util.InputError("image.png: broken"), KeyboardInterrupt(), ValueError("a bug")])
def test_an_error_before_anything_is_worth_keeping_undoes_everything(tmp_path, error):
    earlier = finished(tmp_path)
    before = {path: path.read_bytes() for path in earlier.iterdir()}
    with pytest.raises(type(error)), folders.start(options_of(tmp_path), "train.py") as folder:
        (folder.path / "events").mkdir()
        assert (tmp_path / "run.1" / "file").exists()
        raise error
    assert {path: path.read_bytes() for path in earlier.iterdir()} == before and names_in(tmp_path) == ["run"]
    with pytest.raises(type(error)), folders.start(options_of(tmp_path, "a/b"), "train.py"):
        raise error
    assert names_in(tmp_path) == ["run"]  # nor a folder of the new run, nor its parents


def test_undoing_leaves_files_that_were_there_before(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError), folders.start(options_of(tmp_path), "train.py"):
        raise ValueError
    assert names_in(tmp_path / "run") == ["notes.txt"]


def test_an_error_after_something_was_kept_leaves_it_and_is_recorded(tmp_path):
    with pytest.raises(util.InputError), folders.start(options_of(tmp_path), "train.py") as folder:
        folder.keep()
        raise util.InputError("image.png: broken")
    facts = record.read(tmp_path / "run")
    assert (facts["state"], facts["message"]) == (record.FAILED, "image.png: broken")


def test_a_live_run_of_that_name_stops_a_second_one(tmp_path):
    with folders.start(options_of(tmp_path), "train.py") as folder:
        folder.keep()
        with pytest.raises(util.InputError, match="run: this run is being written by process .* --log_dir"):
            folders.start(options_of(tmp_path), "train.py")
    assert names_in(tmp_path) == ["run"]


@pytest.mark.parametrize("name", [".", "a/..", ".."])
def test_the_root_of_all_runs_is_no_run(tmp_path, name):
    finished(tmp_path / "logs")
    with pytest.raises(util.InputError, match=f"--log_dir {name}: is .* itself or above it"):
        folders.start(options_of(tmp_path / "logs", name), "train.py")
    assert names_in(tmp_path) == ["logs"] and names_in(tmp_path / "logs") == ["run"]


def test_temporary_files_of_a_killed_run_are_removed_by_the_next(tmp_path):
    path = finished(tmp_path)
    writing = util.replacing(path / "run.json")
    assert writing.__enter__().exists()  # the block is never left
    (path / ".mine").write_text("")
    with folders.start(options_of(tmp_path), "train.py", continues=True) as folder:
        assert names_in(folder.path) == [".lock", ".mine", "file", "params.txt", "run.json"]


def test_seconds_add_up_over_the_parts_of_a_run(tmp_path):
    path = finished(tmp_path)
    facts = record.read(path)
    (path / "run.json").write_text(json.dumps(facts | {"seconds": 1000}))
    with folders.start(options_of(tmp_path), "train.py", continues=True):
        pass
    assert record.read(path)["seconds"] >= 1000 and record.read(path)["started"] == facts["started"]


def test_a_record_that_cannot_be_written_is_said_once(tmp_path, capsys, monkeypatch):
    facts = record.Record(tmp_path / "run", options_of(tmp_path), "train.py", {})

    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(util, "replacing", full)
    facts.update(step=1)
    facts.update(step=2)
    assert capsys.readouterr().out.count("run.json cannot be written (No space left on device)") == 1


@pytest.mark.parametrize("text", ["", "{", "[1]", "[" * 100_000])
def test_a_damaged_record_is_none(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert record.read(tmp_path) is None


# --resume auto


def test_a_changed_option_is_named_and_others_are_free(tmp_path):
    finished(tmp_path, resume="auto", num_workers=0, batch=[1, 2])
    same = options_of(tmp_path, resume="auto", num_workers=4, batch=[1, 2])
    resuming.expect_same(same, {})
    same.lr, same.batch = 0.2, [1]
    with pytest.raises(
        util.InputError, match=r"started with --batch \[1, 2\], not \[1\], --lr 0.1, not 0.2; .*--resume never"
    ):
        resuming.expect_same(same, {})


def test_a_run_of_an_earlier_version_lacks_new_options_and_a_record(tmp_path):
    path = finished(tmp_path, resume="auto")
    (path / "run.json").unlink()
    resuming.expect_same(options_of(tmp_path, new_option=3), {"data_root": "x"})


def test_other_data_or_another_checkpoint_under_the_same_name_are_named(tmp_path):
    options = options_of(tmp_path, data_root=str(tmp_path / "Ball" / "train"))
    (tmp_path / "Ball" / "train" / "ball_a").mkdir(parents=True)
    inputs = resuming.inputs_of(options, ())
    with folders.start(options, "test.py", inputs=inputs) as folder:
        folder.keep()
    resuming.expect_same(options, inputs)
    (tmp_path / "Ball" / "dataset.json").write_text('{"seed": 1}')
    with pytest.raises(util.InputError, match="--data_root .* holds other contents than when this run was started"):
        resuming.expect_same(options, resuming.inputs_of(options, ()))


def test_what_has_ended_is_left_alone_and_said_so(tmp_path, capsys):
    options = options_of(tmp_path, resume="auto")
    assert not resuming.is_done(options, {})
    finished(tmp_path)
    assert resuming.is_done(options, {}) and "has ended on 2" in capsys.readouterr().out
    assert not resuming.is_done(options_of(tmp_path), {})
