"""datasets/making/class_folder.py: resuming interrupted runs, broken objects, several processes."""

import json
from dataclasses import replace

import imageio.v3 as iio
import pytest

import util
from datasets.making import class_folder, solids, viewpoints

pytest.importorskip("embreex")


def contents(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_an_object_without_labels_is_written_without_a_cloud(tmp_path):
    unlabelled = solids.box((-0.3, -0.3, -0.3), (0.3, 0.3, 0.3), 0, (1, 0, 0))
    job = class_folder.RenderJob("train", "box", lambda: unlabelled, viewpoints.spiral(1))
    class_folder.write_instance(tmp_path, job, class_folder.Style(sidelength=8))
    assert sorted(path.name for path in (tmp_path / "box").iterdir()) == ["intrinsics.txt", "pose", "rgb", "seg"]


def box(label=1, faults=()):
    return replace(solids.box((-0.3, -0.3, -0.3), (0.3, 0.3, 0.3), label, (1, 0, 0)), faults=faults)


def fails_with(error):
    raise error


def write_boxes(out, loads, style=class_folder.Style(sidelength=8), **options):
    jobs = [class_folder.RenderJob("train", f"box_{i}", load, viewpoints.spiral(2)) for i, load in enumerate(loads)]
    return class_folder.write_class(out / "Box", ["background", "box"], jobs, style, {}, **options)


def test_an_interruption_before_the_first_instance_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_boxes(tmp_path, [lambda: fails_with(KeyboardInterrupt)])
    assert not list(tmp_path.iterdir())


def test_an_interrupted_run_is_resumed_and_gives_the_same_bytes(tmp_path, capsys):
    calls = []

    def counted():
        calls.append("loaded")
        return box()

    with pytest.raises(KeyboardInterrupt):
        write_boxes(tmp_path / "stopped", [counted, lambda: fails_with(KeyboardInterrupt), counted])
    assert not (tmp_path / "stopped" / "Box").exists() and calls == ["loaded"]
    write_boxes(tmp_path / "stopped", [counted, box, counted])
    assert calls == ["loaded"] * 2  # the first box is not rendered again
    assert "1 of 3 instances are rendered already" in capsys.readouterr().out
    write_boxes(tmp_path / "through", [box, box, box])
    assert contents(tmp_path / "stopped") == contents(tmp_path / "through")


def test_instances_that_a_killed_run_left_unfinished_are_rendered_again(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write_boxes(tmp_path / "killed", [box, lambda: fails_with(KeyboardInterrupt), box])
    split = tmp_path / "killed" / ".Box.unfinished" / "Box.train"
    for name in (".box_1", "box_2"):  # killed while rendering; killed before the line in the journal
        (split / name / "rgb").mkdir(parents=True)
        (split / name / "rgb" / "000007.png").write_text("half a picture")
    write_boxes(tmp_path / "killed", [box] * 3)
    write_boxes(tmp_path / "through", [box] * 3)
    assert contents(tmp_path / "killed") == contents(tmp_path / "through")


def test_an_unfinished_run_is_not_resumed_with_other_options(tmp_path):
    loads = [box, lambda: fails_with(KeyboardInterrupt)]
    with pytest.raises(KeyboardInterrupt):
        write_boxes(tmp_path, loads)
    other = class_folder.Style(sidelength=16)
    with pytest.raises(util.InputError, match="other options.*--overwrite"):
        write_boxes(tmp_path, [box, box], other)
    write_boxes(tmp_path, [box, box], other, overwrite=True)
    assert iio.imread(tmp_path / "Box" / "Box.train" / "box_0" / "rgb" / "000000.png").shape == (16, 16, 4)


def test_two_processes_cannot_write_the_same_folder(tmp_path):
    def meanwhile():
        with pytest.raises(util.InputError, match="being written by process"):
            write_boxes(tmp_path, [box])
        return box()

    write_boxes(tmp_path, [meanwhile])
    assert [path.name for path in tmp_path.iterdir()] == ["Box"]


def test_all_broken_objects_are_listed_and_left_out_only_with_skip_broken(tmp_path, capsys):
    loads = [box, lambda: fails_with(util.InputError("b.obj: no faces")), lambda: box(faults=("c.png: no such file",))]
    with pytest.raises(util.InputError, match="2 of 3 objects.*b.obj: no faces.*--skip_broken"):
        write_boxes(tmp_path, loads)
    printed = capsys.readouterr().out
    assert "box_1: b.obj: no faces" in printed and "box_2: c.png: no such file" in printed
    assert not (tmp_path / "Box").exists()

    outcomes = write_boxes(tmp_path, loads, skip_broken=True)
    assert [(outcome.views, len(outcome.faults)) for outcome in outcomes] == [(2, 0), (0, 1), (2, 1)]
    folder = tmp_path / "Box"
    assert sorted(path.name for path in (folder / "Box.train").iterdir()) == ["box_0", "box_2"]
    assert len((folder / class_folder.LEFT_OUT).read_text().splitlines()) == 2
    assert json.loads((folder / "dataset.json").read_text())["splits"]["train"]["instances"] == 2


def test_a_repaired_object_is_rendered_and_no_longer_listed(tmp_path):
    with pytest.raises(util.InputError):
        write_boxes(tmp_path, [box, lambda: box(faults=("a.png: no such file",))])
    write_boxes(tmp_path, [box, box])
    assert not (tmp_path / "Box" / class_folder.LEFT_OUT).exists()
    assert len(list((tmp_path / "Box" / "Box.train").iterdir())) == 2


def test_faults_that_skip_broken_accepted_stop_a_run_without_it(tmp_path):
    faulty = [box, lambda: box(faults=("a.png: no such file",)), lambda: fails_with(KeyboardInterrupt)]
    with pytest.raises(KeyboardInterrupt):
        write_boxes(tmp_path, faulty, skip_broken=True)
    with pytest.raises(util.InputError, match="1 of 3 objects.*a.png"):
        write_boxes(tmp_path, [*faulty[:2], box])


def test_a_class_folder_without_instances_is_refused_with_skip_broken_too(tmp_path):
    with pytest.raises(util.InputError, match="none of 1 objects"):
        write_boxes(tmp_path, [lambda: fails_with(util.InputError("b.obj: no faces"))], skip_broken=True)
    assert not list(tmp_path.iterdir())


def test_workers_that_finish_while_another_fails_keep_their_instances(tmp_path):
    """Ctrl-C or an error ends the run; the finished instances are in the journal, whichever process rendered them."""
    with pytest.raises(RuntimeError):
        write_boxes(tmp_path, [lambda: fails_with(RuntimeError("a bug")), box, box], num_workers=2)
    folder = tmp_path / ".Box.unfinished"
    journal = {outcome.name for outcome in class_folder.read_journal(folder / class_folder.JOURNAL)}
    assert journal and journal == {path.name for path in (folder / "Box.train").iterdir()}
    write_boxes(tmp_path, [box] * 3, num_workers=2)
    assert len(list((tmp_path / "Box" / "Box.train").iterdir())) == 3
