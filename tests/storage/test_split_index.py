import json
import os
import pickle
import shutil

import numpy as np
import pytest
import scenes

import data_util
import dataio
import util
from datasets.storage import headers, split_index

OLD = 1_600_000_000  # a time long ago, so that files count as settled


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return scenes.write_split(tmp_path_factory.mktemp("index") / "Ball" / "Ball.train", ("a", "b", "c"), num_views=5)


@pytest.fixture
def split(sample, tmp_path):
    """Three instances of five views, all files old."""
    shutil.copytree(sample.parent, tmp_path / "Ball")
    settle(tmp_path)
    return tmp_path / "Ball" / "Ball.train"


def settle(folder, time=OLD):
    """Gives a folder and everything in it an old time."""
    for path in [*folder.rglob("*"), folder]:
        if path.suffix != ".npz":
            os.utime(path, (time, time))


def rewrite(path, content, time=OLD + 1):
    """Overwrites a file in place: its folder's time stays."""
    before = path.parent.stat().st_mtime_ns
    path.write_text(content)
    if time is not None:
        os.utime(path, (time, time))
    assert path.parent.stat().st_mtime_ns == before


def moved(path, x):
    """The text of a pose file with another position."""
    pose = np.loadtxt(path)
    pose[0, 3] = x
    return "\n".join(" ".join(f"{number:.18e}" for number in row) for row in pose) + "\n"


class Reads(list):
    """Names of the files that are read and of the folders that are listed."""

    def __init__(self, monkeypatch):
        list_names, load_poses = split_index.list_names, data_util.load_poses
        check_png, check_seg_labels = headers.check_png, headers.check_seg_labels

        def note(function, name):
            return lambda *arguments: self.append(name(*arguments)) or function(*arguments)

        def tail(path):
            return "/".join(str(path).split("/")[-3:])

        def poses(paths, *more):
            self.extend(map(tail, paths))
            return load_poses(paths, *more)

        monkeypatch.setattr(split_index, "list_names", note(list_names, lambda folder, kind: f"{folder.name}/{kind}"))
        monkeypatch.setattr(data_util, "load_poses", poses)
        monkeypatch.setattr(headers, "check_png", note(check_png, lambda path: tail(path)))
        monkeypatch.setattr(headers, "check_seg_labels", note(check_seg_labels, lambda path, _: tail(path)))

    def of(self, function, *arguments, **options):
        """What a call reads, and what it returns."""
        self.clear()
        result = function(*arguments, **options)
        return sorted(self), result


@pytest.fixture
def reads(monkeypatch):
    return Reads(monkeypatch)


def index(split, **options):
    return dataio.index_split(split, **{"with_labels": True, **options})


def assert_same(instances, expected):
    assert [x.name for x in instances] == [x.name for x in expected]
    for a, b in zip(instances, expected):
        assert (a.folder, a.views, a.intrinsics, a.with_rgb) == (b.folder, b.views, b.intrinsics, b.with_rgb)
        assert a.poses.dtype == np.float32
        np.testing.assert_array_equal(a.poses, b.poses)


def assert_right(split, **options):
    """What is opened with the index is what is opened without it."""
    assert_same(index(split, **options), index(split, cached=False, **options))


# Nothing is read twice


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(max_num_observations=2),
        dict(specific_observation_idcs=[3, 1]),
        dict(with_rgb=False),
        dict(with_labels=False),
        dict(specific_ins=["b"]),
        dict(max_num_instances=1),
    ],
)
def test_the_second_opening_reads_nothing_and_gives_the_same(split, reads, options):
    first, expected = reads.of(index, split, **options)
    again, found = reads.of(index, split, **options)
    assert first and not again
    assert_same(found, expected)
    assert_right(split, **options)


def test_the_index_lies_hidden_beside_the_split_also_where_the_split_is_the_current_folder(split, monkeypatch):
    monkeypatch.chdir(split)
    index(".")
    assert [path.name for path in split.parent.glob(".*")] == [".Ball.train.index.npz"]
    assert [folder.name for folder in dataio.instance_folders(split)] == ["a", "b", "c"]


def test_it_goes_where_the_class_folder_goes(split, tmp_path, reads):
    index(split)
    split.parent.rename(tmp_path / "moved")
    again, instances = reads.of(index, tmp_path / "moved" / "Ball.train")
    assert not again and scenes.paths_of(instances[0], "rgb")[0].is_file()


def test_only_the_views_that_are_asked_for_are_read_and_the_others_when_they_are(split, reads):
    first, _ = reads.of(index, split, specific_observation_idcs=[0, 4], with_labels=False, specific_ins=["b"])
    assert first == ["b/pose", "b/pose/000000.txt", "b/pose/000004.txt", "b/rgb", "b/rgb/000000.png", "b/rgb/000004.png"]
    more, _ = reads.of(index, split, specific_observation_idcs=[4, 1], specific_ins=["b"])
    assert more == ["b/pose/000001.txt", "b/rgb/000001.png", "b/seg", "b/seg/000001.npy", "b/seg/000004.npy"]
    assert_right(split)
    assert reads.of(index, split)[0] == []


def test_what_is_not_asked_for_need_not_be_there(split):
    index(split, with_labels=False)
    shutil.rmtree(split / "a" / "seg")
    assert len(index(split, with_labels=False)) == 3
    with pytest.raises(util.InputError, match="a: 5 images but 0 label maps"):
        index(split)


def test_instances_that_are_not_asked_for_stay_known(split, reads):
    index(split)
    rewrite(split / "a" / "pose" / "000000.txt", moved(split / "a" / "pose" / "000000.txt", 7))
    assert reads.of(index, split, specific_ins=["a"])[0] == ["a/pose/000000.txt"]
    assert reads.of(index, split)[0] == []


def test_equal_views_are_held_once(split):
    for _ in range(2):
        instances = index(split, max_num_observations=3)
        assert instances[0].views is instances[1].views is instances[2].views


def test_a_data_set_of_many_views_is_small_to_send(split):
    """To the processes of a data loader: poses and little else, no path and no tuple per view."""
    small, large = (len(pickle.dumps(index(split, max_num_observations=n))) for n in (1, 5))
    assert large - small < 3 * 4 * (64 + 16)


def test_without_the_index_nothing_is_written(split):
    index(split, cached=False)
    dataio.index_split(split, specific_ins=["a"], cached=False)
    assert not list(split.parent.glob(".*"))


# Whatever changes is read again


@pytest.mark.parametrize("time", [OLD + 1, OLD - 1, None])
def test_a_pose_that_is_rewritten_in_place_is_read_again_and_nothing_else(split, reads, time):
    index(split)
    path = split / "b" / "pose" / "000002.txt"
    rewrite(path, moved(path, 7), time)
    again, instances = reads.of(index, split)
    assert again == ["b/pose/000002.txt"]
    assert instances[1].poses[2][0, 3] == 7
    assert_right(split)


def test_a_pose_of_another_size_is_read_again_whatever_its_time(split):
    index(split)
    path = split / "b" / "pose" / "000002.txt"
    rewrite(path, "1 0 0 7\n0 1 0 0\n0 0 1 0\n0 0 0 1\n", OLD)
    assert index(split)[1].poses[2][0, 3] == 7


def test_a_pose_of_the_same_size_and_time_is_read_again(split):
    """An editor that puts the time back, an archive with times of whole seconds."""
    path = split / "b" / "pose" / "000002.txt"
    rewrite(path, moved(path, 6), OLD)
    index(split)
    size = path.stat().st_size
    rewrite(path, moved(path, 7), OLD)
    assert path.stat().st_size == size
    assert index(split)[1].poses[2][0, 3] == 7


def test_instances_that_change_places_are_read_again(split):
    index(split)
    for source, target in (("a", "between"), ("b", "a"), ("between", "b")):
        (split / source).rename(split / target)
    assert_right(split)


def test_views_that_were_added_may_be_asked_for_at_once(split):
    index(split)
    for instance in "abc":
        for kind, suffix in (("rgb", ".png"), ("pose", ".txt"), ("seg", ".npy")):
            shutil.copy(split / instance / kind / f"000000{suffix}", split / instance / kind / f"000005{suffix}")
    assert index(split, specific_observation_idcs=[5])[0].views == ("000005",)


def test_hidden_files_are_no_views(split):
    (split / "a" / "rgb" / "._000000.png").write_bytes(b"what macOS puts into archives")
    assert index(split)[0].views == tuple(f"{i:06d}" for i in range(5))


def test_a_pose_that_changes_twice_within_the_clock_s_tick_is_read_again(split):
    path = split / "b" / "pose" / "000002.txt"
    rewrite(path, moved(path, 6), None)
    stamp = path.stat()
    assert index(split)[1].poses[2][0, 3] == 6
    rewrite(path, moved(path, 7), None)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert path.stat().st_mtime_ns == stamp.st_mtime_ns and path.stat().st_size == stamp.st_size
    assert index(split)[1].poses[2][0, 3] == 7


def test_a_folder_that_changes_twice_within_the_clock_s_tick_is_looked_into_again(split):
    folder = split / "b" / "pose"
    (folder / "new.txt").write_text("")
    (folder / "new.txt").unlink()
    stamp = folder.stat()
    index(split)
    (folder / "000002.txt").unlink()
    os.utime(folder, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(util.InputError, match="b: 5 images but 4 poses"):
        index(split)


def test_other_intrinsics_are_read_again_and_poses_too_where_these_turn_them_round(split, reads):
    index(split)
    path = split / "c" / "intrinsics.txt"
    rewrite(path, path.read_text().replace("19.2", "29.2"))
    again, instances = reads.of(index, split)
    assert again == [] and instances[2].intrinsics.focal == 29.2
    rewrite(path, path.read_text() + "1\n", OLD + 2)
    again, _ = reads.of(index, split)
    assert again == [f"c/pose/00000{i}.txt" for i in range(5)]
    assert_right(split)


def test_views_that_come_go_or_are_renamed_are_noticed_and_other_instances_not_read(split, reads):
    index(split)
    for kind, suffix in (("rgb", "png"), ("pose", "txt"), ("seg", "npy")):
        folder = split / "a" / kind
        (folder / f"000001.{suffix}").unlink()
        (folder / f"000003.{suffix}").rename(folder / f"1.{suffix}")
        shutil.copy(folder / f"000004.{suffix}", folder / f"000009.{suffix}")
    again, instances = reads.of(index, split)
    assert {name.split("/")[0] for name in again} == {"a"}
    assert instances[0].views == ("000000", "000002", "000004", "000009", "1")
    assert_right(split)


def test_instances_that_come_or_go_are_noticed(split, reads):
    index(split)
    shutil.copytree(split / "b", split / "bb")
    shutil.rmtree(split / "a")
    again, instances = reads.of(index, split)
    assert {name.split("/")[0] for name in again} == {"bb"}
    assert [instance.name for instance in instances] == ["b", "bb", "c"]
    assert set(split_index.load(split)) == {"b", "bb", "c"}


def test_an_instance_in_the_place_of_another_is_read(split):
    index(split)
    (split / "a").rename(split / "x")
    (split / "b").rename(split / "a")
    (split / "x").rename(split / "b")
    rewrite(split / "a" / "pose" / "000000.txt", moved(split / "a" / "pose" / "000000.txt", 7))
    assert_right(split)


@pytest.mark.parametrize("kind, suffix", [("rgb", "png"), ("seg", "npy")])
def test_a_file_that_is_replaced_by_a_broken_one_is_found(split, kind, suffix):
    index(split)
    path = split / "b" / kind / f"000002.{suffix}"
    path.unlink()
    path.write_bytes(b"broken")
    with pytest.raises(util.InputError, match=f"000002.{suffix}"):
        index(split)


@pytest.mark.parametrize("kind, suffix", [("rgb", "png"), ("seg", "npy")])
def test_of_very_many_images_one_that_breaks_in_place_is_found_when_it_is_decoded(split, reads, monkeypatch, kind, suffix):
    monkeypatch.setattr(split_index, "MANY_IMAGES", 14)
    first, _ = reads.of(index, split, max_num_observations=3)
    again, _ = reads.of(index, split)  # now there are many, of which some have not been looked at
    assert again and not set(first) & set(again)
    rewrite(split / "b" / kind / f"000002.{suffix}", "broken")
    assert reads.of(index, split)[0] == []
    dataset = dataio.SceneClassDataset(index(split), 16, data_util.DatasetSettings(), num_classes=3)
    with pytest.raises(util.InputError, match=f"b/{kind}/000002.{suffix}: cannot be read"):
        dataset[7]
    (split / "b" / kind / "new").touch()
    with pytest.raises(util.InputError, match=f"b/{kind}/000002.{suffix}"):
        index(split)


FAULTS = {
    "a pose too few": lambda folder: (folder / "pose" / "000002.txt").unlink(),
    "an image too few": lambda folder: (folder / "rgb" / "000004.png").unlink(),
    "a label map too few": lambda folder: (folder / "seg" / "000000.npy").unlink(),
    "another name": lambda folder: (folder / "pose" / "000001.txt").rename(folder / "pose" / "7.txt"),
    "no images": lambda folder: shutil.rmtree(folder / "rgb"),
    "no poses": lambda folder: shutil.rmtree(folder / "pose"),
    "a file in the place of a folder": lambda folder: (shutil.rmtree(folder / "pose"), (folder / "pose").write_text("")),
    "no intrinsics": lambda folder: (folder / "intrinsics.txt").unlink(),
    "intrinsics of words": lambda folder: rewrite(folder / "intrinsics.txt", "words"),
    "an image of words": lambda folder: rewrite(folder / "rgb" / "000003.png", "words"),
    "an image cut short in place": lambda folder: os.truncate(folder / "rgb" / "000003.png", 100),
    "a label map cut short in place": lambda folder: os.truncate(folder / "seg" / "000003.npy", 140),
    "a label map that is empty": lambda folder: rewrite(folder / "seg" / "000003.npy", ""),
    "a pose of words": lambda folder: rewrite(folder / "pose" / "000003.txt", "words"),
    "a pose that is empty": lambda folder: rewrite(folder / "pose" / "000003.txt", ""),
    "a pose that is not finite": lambda folder: rewrite(folder / "pose" / "000003.txt", "nan 0 0 0\n" * 4),
    "a pose without rotation": lambda folder: rewrite(folder / "pose" / "000003.txt", "0 0 0 0\n" * 4),
    "a pose that is very long": lambda folder: rewrite(folder / "pose" / "000003.txt", "1 2 3 4 " * 2000),
    "a pose that leads nowhere": lambda folder: (
        (folder / "pose" / "000003.txt").unlink(),
        (folder / "pose" / "000003.txt").symlink_to("nowhere"),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_set_is_refused_with_the_same_sentence_with_an_index_and_without(split, fault):
    index(split)
    FAULTS[fault](split / "b")
    with pytest.raises(util.InputError) as without:
        index(split, cached=False)
    with pytest.raises(util.InputError) as with_index:
        index(split)
    assert str(with_index.value) == str(without.value)
    assert str(split / "b") in str(without.value) and "\n" not in str(without.value)


def test_a_view_that_does_not_exist_is_refused_with_an_index_too(split):
    index(split)
    for cached in (True, False):
        with pytest.raises(util.InputError, match=rf"{split}/a: has 5 views.* no 5; .*--specific_observation_idcs"):
            index(split, specific_observation_idcs=[5], cached=cached)


# The file


def foreign(**arrays):
    return lambda path: np.savez(path, **{**dict(np.load(path)), **arrays})


def with_text(change):
    """The index with another text: `change` is given the dict that was in it."""

    def spoil(path):
        text = json.loads(np.load(path)["text"].tobytes())
        foreign(text=np.frombuffer(json.dumps(text | change(text)).encode(), np.uint8))(path)

    return spoil


def with_instance(**changes):
    return with_text(lambda text: {"instances": text["instances"] | {"a": text["instances"]["a"] | changes}})


BAD_INDEXES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no index"),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-300]),
    "spoilt": lambda path: path.write_bytes(path.read_bytes().replace(b"\x00\x00\x80\x3f", b"\x00\x00\x80\x3e")),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({})),
    "a pickle within": foreign(poses=np.array([{}], dtype=object)),
    "another program's": lambda path: np.savez(path, numbers=np.arange(3)),
    "another version": with_text(lambda _: {"version": split_index.VERSION + 1}),
    "the version before": lambda path: np.savez(path, version=np.array(2), poses=np.zeros((15, 4, 4), np.float32)),
    "poses of other shape": foreign(poses=np.zeros((15, 3, 4), np.float32)),
    "poses too few": foreign(poses=np.zeros((14, 4, 4), np.float32)),
    "poses not finite": foreign(poses=np.full((15, 4, 4), np.nan, np.float32)),
    "stamps too few": foreign(stamps=np.zeros((3, 14, 2), np.int64)),
    "no camera": with_instance(intrinsics={}),
    "a camera not finite": with_instance(intrinsics=dict(focal=np.nan, cx=1, cy=1, height=2, width=2)),
    "no such listing": with_instance(names={"pose": 5}),
    "no views": with_instance(names={}),
    "names that lead elsewhere": with_text(lambda _: {"listings": [["../../secret"] * 5]}),
    "names that are none": with_text(lambda _: {"listings": [[1, 2, 3, 4, 5]]}),
}


@pytest.mark.parametrize("fault", BAD_INDEXES)
def test_an_index_that_cannot_be_used_is_ignored_and_made_anew(split, reads, capsys, fault):
    expected = index(split)
    path = split_index.path_of(split)
    BAD_INDEXES[fault](path)
    found, instances = reads.of(index, split)
    assert len(found) == 3 * (3 + 3 * 5)  # everything
    assert_same(instances, expected)
    assert capsys.readouterr().out.count(str(path)) == 1
    assert reads.of(index, split)[0] == [] and not capsys.readouterr().out


def test_where_the_index_cannot_be_written_the_split_is_read_all_the_same_and_a_note_says_so(split, capsys):
    path = split_index.path_of(split)
    path.mkdir()
    (path / "file").write_text("")
    assert len(index(split)) == 3
    assert capsys.readouterr().out.count("cannot be written") == 1
    assert sorted(x.name for x in split.parent.iterdir() if x.name.startswith(".")) == [path.name]


def test_a_run_that_fails_leaves_the_index_as_it_was(split, reads):
    index(split)
    before = split_index.path_of(split).read_bytes()
    shutil.copytree(split / "a", split / "d")
    (split / "d" / "intrinsics.txt").unlink()
    with pytest.raises(util.InputError):
        index(split)
    assert split_index.path_of(split).read_bytes() == before


def test_names_of_any_bytes_go_through_the_index(split, reads):
    for kind, suffix in (("rgb", "png"), ("pose", "txt"), ("seg", "npy")):
        folder = split / "a" / kind
        (folder / f"000001.{suffix}").rename(folder / f"a b-ü.{suffix}")
        (folder / f"000002.{suffix}").rename(folder / os.fsdecode(b"\xff." + suffix.encode()))
    settle(split)
    expected = index(split)
    again, instances = reads.of(index, split)
    assert again == [] and len(set(instances[0].views)) == 5
    assert_same(instances, expected)
    assert all(path.is_file() for path in scenes.paths_of(instances[0], "rgb"))


def test_several_processes_read_the_same(split, monkeypatch):
    expected = index(split, cached=False)
    monkeypatch.setattr(split_index, "FILES_PER_PROCESS", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    for _ in range(2):
        assert_same(index(split), expected)
    (split / "b" / "pose" / "000002.txt").unlink()
    with pytest.raises(util.InputError, match="b: 5 images but 4 poses"):
        index(split)
