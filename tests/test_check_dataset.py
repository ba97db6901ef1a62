import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import PIL.ImageFile
import pytest
import scenes

import check_dataset
import datasets.checks
from datasets.checks import contents

PROGRAM = Path(check_dataset.__file__)


@pytest.fixture
def ball_class(ball_split, tmp_path):
    """A class folder of two splits that a test may change."""
    shutil.copytree(ball_split.parent, tmp_path / "Ball")
    scenes.write_split(tmp_path / "Ball" / "Ball.test", names=("ball_x", "ball_y", "ball_z"), num_views=3)
    return tmp_path / "Ball"


def rows_of(text):
    """{first word: the other words} of the lines of a table."""
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.split()}


def test_a_valid_class_is_summarised_in_a_table(ball_class, capsys):
    check_dataset.main([str(ball_class)])
    written = capsys.readouterr().out
    rows = rows_of(written)
    assert rows["Ball.train"][:6] == ["2", "4", "16", "x", "16", "8"]
    assert rows["Ball.test"][:6] == ["3", "3", "16", "x", "16", "9"]
    assert rows["Ball.train"][6:] == ["19.2", "45.2", "degrees", "1.3"]
    assert "pixel_center 0.5" in written and "3 classes" in written and "no faults" in written


def test_shares_of_classes_are_those_of_the_label_maps(ball_class, capsys):
    np.save(ball_class / "Ball.train" / "ball_a" / "seg" / "000000.npy", np.full((16, 16), -1))
    check_dataset.main([str(ball_class / "Ball.train")])
    labels = np.stack([np.load(path) for path in ball_class.glob("Ball.train/*/seg/*.npy")])
    lines = capsys.readouterr().out.splitlines()
    for name, i in (("0 background", 0), ("1 upper half", 1), ("2 lower half", 2), ("unlabelled", -1)):
        (line,) = [line for line in lines if line.startswith(name)]
        assert line.removeprefix(name).split() == [f"{100 * (labels == i).mean():.2f}", "%"]


def test_every_fault_is_printed_and_the_last_line_counts_them(ball_class, capsys, refuses):
    (ball_class / "Ball.train" / "ball_b" / "rgb" / "000002.png").write_bytes(b"?")
    (ball_class / "Ball.test" / "ball_y" / "intrinsics.txt").write_text("19.2 8 99 0.\n0. 0. 0.\n1.\n16 16\n")
    for path in (ball_class / "Ball.test" / "ball_z" / "pose").iterdir():
        np.savetxt(path, np.loadtxt(path) * [1, -1, -1, 1])
    refuses(check_dataset.main, [str(ball_class)], f"3 faults in 3 of 5 instances of {ball_class}; see above")
    with pytest.raises(SystemExit):
        check_dataset.main([str(ball_class)])
    written = capsys.readouterr().out
    for kind, path in (
        ("unreadable image (1)", "Ball.train/ball_b/rgb/000002.png: not a PNG file"),
        ("principal point (1)", "Ball.test/ball_y/intrinsics.txt: the principal point (8, 99) lies outside"),
        ("OpenGL axes (1)", "Ball.test/ball_z/pose: the poses look like OpenGL axes"),
    ):
        assert kind in written and path in written
    assert rows_of(written)["Ball.train"][0] == "2"


def test_faults_beyond_those_shown_are_counted(ball_class, capsys):
    for path in ball_class.glob("*/*/rgb/*.png"):
        path.write_bytes(b"?")
    with pytest.raises(SystemExit):
        check_dataset.main([str(ball_class), "--max_faults", "2"])
    written = capsys.readouterr()
    assert "unreadable image (17)" in written.out and written.out.count("not a PNG file") == 2
    assert "and 15 more" in written.out and "17 faults in 5 of 5 instances" in written.err


def test_a_split_without_labels_class_list_and_settings_is_checked(ball_split, tmp_path, capsys):
    root = tmp_path / "cars_train"
    shutil.copytree(ball_split, root)
    for folder in root.iterdir():
        shutil.rmtree(folder / "seg")
    check_dataset.main([str(root)])
    written = capsys.readouterr().out
    assert "no class list" in written and "pixel_center 0," in written and rows_of(written)["cars_train"][5] == "0"


def test_the_range_of_views_is_printed_with_the_instance_that_has_the_fewest(ball_class, capsys):
    for kind in ("rgb", "seg", "pose"):
        next(iter((ball_class / "Ball.test" / "ball_y" / kind).glob("000002.*"))).unlink()
    check_dataset.main([str(ball_class)])
    written = capsys.readouterr().out
    assert "2 to 3" in written and "ball_y has the fewest, 2" in written


def test_an_instance_in_another_unit_is_a_note(ball_class, capsys):
    check_dataset.main([str(ball_class)])
    assert "note" not in capsys.readouterr().out
    for path in (ball_class / "Ball.test" / "ball_y" / "pose").iterdir():
        pose = np.loadtxt(path)
        pose[:3, 3] *= 1000
        np.savetxt(path, pose)
    check_dataset.main([str(ball_class)])
    (note,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note")]
    assert "1 of 3 instances" in note and "ball_y 1.3e+03" in note and "usually 1.3" in note


def test_an_instance_without_images_and_an_empty_split_are_faults(ball_class, capsys, refuses):
    shutil.rmtree(ball_class / "Ball.test" / "ball_x" / "rgb")
    (ball_class / "Ball.val").mkdir()
    refuses(check_dataset.main, [str(ball_class)], "2 faults in 1 of 5 instances")
    with pytest.raises(SystemExit):
        check_dataset.main([str(ball_class)])
    written = capsys.readouterr().out
    assert "ball_x: no images, though" in written and "Ball.val: holds no instances" in written


def test_a_class_list_that_is_asked_for_must_be_there(ball_class, refuses):
    refuses(check_dataset.main, [str(ball_class), "--obj_name", "Cup"], "Cup-level-1.txt: cannot be read as a class list (")


def test_settings_that_cannot_be_read_are_a_fault(ball_class, refuses):
    (ball_class / "dataset.json").write_text(json.dumps({"pixel_center": 3}))
    refuses(check_dataset.main, [str(ball_class)], "1 fault in 0 of 5 instances")


def test_the_quick_check_decodes_nothing(ball_class, monkeypatch, capsys):
    monkeypatch.setattr(PIL.ImageFile.ImageFile, "load", lambda *_: pytest.fail("an image was decoded"))
    monkeypatch.setattr(contents, "count_pixels", lambda *_: pytest.fail("a label map was read"))
    check_dataset.main([str(ball_class), "--quick"])
    assert "no faults among names, headers and cameras" in capsys.readouterr().out


def test_several_processes_find_the_faults_that_one_finds(ball_class, capsys):
    (ball_class / "Ball.test" / "ball_y" / "pose" / "000001.txt").write_text("?")
    written = []
    for num_workers in (0, 2):
        with pytest.raises(SystemExit):
            check_dataset.main([str(ball_class), "--num_workers", str(num_workers)])
        written.append(capsys.readouterr().out)
    assert written[0] == written[1] and "unreadable pose" in written[0]


@pytest.mark.slow
@pytest.mark.parametrize("has_fault", [False, True])
def test_the_program_exits_with_0_or_2(ball_class, has_fault):
    if has_fault:
        (ball_class / "Ball.train" / "ball_a" / "pose" / "000000.txt").unlink()
    done = subprocess.run(
        [sys.executable, PROGRAM, ball_class, "--picture", ball_class.parent / "new" / "cameras.png"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 * has_fault, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert ("check_dataset.py: error: 1 fault in 1 of 5 instances" in last) == has_fault
    assert iio.imread(ball_class.parent / "new" / "cameras.png").shape[1] == 1500


def test_the_given_instance_is_drawn(ball_class, tmp_path, capsys):
    for arguments, drawn in (([], "ball_a"), (["--instance", "ball_y"], "ball_y")):
        check_dataset.main([str(ball_class), "--picture", str(tmp_path / "a.png"), *arguments])
        assert f"{drawn}\n" in capsys.readouterr().out


def test_an_instance_without_a_fault_is_drawn_if_there_is_one(ball_class, tmp_path, capsys):
    (ball_class / "Ball.train" / "ball_a" / "rgb" / "000000.png").write_bytes(b"?")
    with pytest.raises(SystemExit):
        check_dataset.main([str(ball_class), "--picture", str(tmp_path / "a.png")])
    assert "the cameras of " in (written := capsys.readouterr().out) and "ball_b\n" in written


def test_a_picture_that_cannot_be_drawn_is_reported(ball_class, tmp_path, refuses):
    arguments = [str(ball_class), "--picture"]
    refuses(check_dataset.main, [*arguments, str(tmp_path / "a.png"), "--instance", "mug"], "no instance mug with readable")
    (tmp_path / "file").write_text("")
    refuses(check_dataset.main, [*arguments, str(tmp_path / "file" / "a.png")], "cannot be written")


def test_without_matplotlib_one_sentence_says_how_to_install_it(ball_class, tmp_path, refuses, monkeypatch):
    monkeypatch.delattr(datasets.checks, "camera_picture", raising=False)
    monkeypatch.delitem(sys.modules, "datasets.checks.camera_picture", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    arguments = [str(ball_class), "--picture", str(tmp_path / "a.png")]
    refuses(
        check_dataset.main,
        arguments,
        "matplotlib.figure halted; None in sys.modules); run `pip install -r requirements/data.txt`",
    )
