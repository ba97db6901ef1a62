"""datasets/making/atomic_folders.py: folders that get their name when they are complete."""

import pytest

import util
from datasets.making import atomic_folders


def test_a_folder_gets_its_name_at_the_end(tmp_path):
    with atomic_folders.unfinished_folder(tmp_path / "a" / "mug") as folder:
        (folder / "file").write_text("1")
        assert not (tmp_path / "a" / "mug").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["mug"]
    assert [path.name for path in (tmp_path / "a" / "mug").iterdir()] == ["file"]


def test_a_failed_block_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_folders.unfinished_folder(tmp_path / "mug") as folder:
        (folder / "file").write_text(str(1 / 0))
    assert not list(tmp_path.iterdir())


def test_a_failed_block_leaves_the_folder_that_it_was_to_replace(tmp_path):
    (tmp_path / "mug").mkdir()
    (tmp_path / "mug" / "old").write_text("1")
    with pytest.raises(ZeroDivisionError), atomic_folders.unfinished_folder(tmp_path / "mug", overwrite=True):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.rglob("*")] == ["mug", "old"]
    with atomic_folders.unfinished_folder(tmp_path / "mug", overwrite=True):
        pass
    assert not list((tmp_path / "mug").iterdir())


def test_what_a_killed_run_left_is_deleted_where_nothing_is_kept(tmp_path):
    (tmp_path / ".mug.unfinished" / "rgb").mkdir(parents=True)
    (tmp_path / ".mug.unfinished" / atomic_folders.PLAN).write_text("null")
    with atomic_folders.unfinished_folder(tmp_path / "mug"):
        pass
    assert not list((tmp_path / "mug").iterdir())


def test_a_kept_folder_is_resumed_with_the_same_plan_only(tmp_path):
    def keep(plan, overwrite=False):
        with atomic_folders.unfinished_folder(tmp_path / "mug", overwrite, plan, lambda folder: True) as folder:
            found = (folder / "file").exists()
            (folder / "file").write_text("1")
            if plan != "finish":
                raise KeyboardInterrupt
        return found

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            keep("one")
    with pytest.raises(util.InputError, match="other options.*--overwrite"):
        keep("finish")
    assert not keep("finish", overwrite=True)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("1")
    with pytest.raises(util.InputError, match="cannot write to"), atomic_folders.unfinished_folder(tmp_path / "file" / "mug"):
        pass


def test_a_failed_block_leaves_no_parents_that_it_made(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_folders.unfinished_folder(tmp_path / "a" / "b" / "mug"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())
