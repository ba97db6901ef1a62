import pytest
import scenes

import util
from datasets.checks import split_folders


def test_splits_are_found_in_a_class_folder(own_split):
    scenes.write_split(own_split.parent / "Ball.test", names=("ball_x",), num_views=1)
    (own_split.parent / "notes").mkdir()
    (own_split.parent / ".cache" / "x" / "rgb").mkdir(parents=True)
    assert split_folders.find_splits(own_split.parent) == [own_split.parent / "Ball.test", own_split]
    assert split_folders.find_splits(own_split) == [own_split]


def test_a_split_without_instances_is_told(own_split):
    root = own_split.parent
    assert split_folders.empty_splits(root, [own_split]) == []
    for name in ("Ball.val", "Ball.test/nothing", "notes", "Cup.train"):
        (root / name).mkdir(parents=True)
    assert [fault.path.name for fault in split_folders.empty_splits(root, [own_split])] == ["Ball.test", "Ball.val"]
    assert split_folders.empty_splits(own_split, [own_split]) == []


def test_what_is_no_data_set_is_refused(own_split, tmp_path):
    for path, reason in (
        (own_split / "ball_a", "one instance"),
        (tmp_path / "none", "no such folder"),
        (own_split.parent.parent, "neither a split nor a class folder"),
    ):
        with pytest.raises(util.InputError, match=reason):
            split_folders.find_splits(path)


def test_the_class_list_is_found_by_the_folders_names(own_split, tmp_path):
    path = own_split.parent / "Ball-level-1.txt"
    assert split_folders.find_class_list(own_split) == path
    assert split_folders.find_class_list(own_split, "Cup").name == "Cup-level-1.txt"
    renamed = own_split.rename(own_split.parent / "balls_train")
    assert split_folders.find_class_list(renamed) == path
    path.unlink()
    assert split_folders.find_class_list(renamed) is None


@pytest.mark.parametrize("level", [".", "Ball.train"])
def test_a_split_or_class_that_may_not_be_read_is_refused(own_split, deny, level):
    deny(own_split.parent / level)
    with pytest.raises(util.InputError, match=f"{own_split.parent / level}: cannot be read as a folder .*Permission denied"):
        split_folders.find_splits(own_split.parent)
