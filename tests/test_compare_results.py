import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

import compare_results

ROOT = Path(__file__).resolve().parent.parent


def write_run(folder, run=None, **summary):
    """The results.json of an evaluation; `run` is what it says of itself."""
    folder.mkdir(parents=True, exist_ok=True)
    known = dict(views_digest="ab", data_root="/data/Chair.test", img_sidelength=64) | (run or {})
    instances = [dict(instance_id="a"), dict(instance_id="b")]
    results = dict(run=known, num_images=6, num_instances=2, instances=instances)
    (folder / "results.json").write_text(json.dumps(results | summary))
    return str(folder)


@pytest.fixture
def compare(capsys):
    """Calls compare_results.main; returns {title: cells} of the table, and the text below it."""

    def call(*arguments):
        compare_results.main([str(argument) for argument in arguments])
        table, _, notes = capsys.readouterr().out.partition("\n\n")
        cells = [[cell.strip() for cell in line.split(" | ")] for line in table.splitlines()]
        rows = {first.removeprefix("| "): [cell.removesuffix(" |") for cell in others] for first, *others in cells}
        assert all(line.startswith("| ") and line.endswith(" |") for line in table.splitlines())
        return rows, notes

    return call


def test_runs_stand_side_by_side_with_the_best_in_bold(tmp_path, compare):
    one = write_run(tmp_path / "one", psnr=20.0, psnr_instances=19.0, ssim=0.9, cloud_distance=0.02, num_clouds=2)
    two = write_run(tmp_path / "two", psnr=21.5, psnr_instances=18.0, ssim=0.9, cloud_distance=0.01, num_clouds=2)
    rows, notes = compare(one, two)
    assert rows["score"] == ["one", "two"] and rows["---"] == ["---:", "---:"]
    assert rows["images"] == ["6", "6"] and rows["instances"] == ["2", "2"]
    assert rows["PSNR (dB)"] == ["20.0000", "**21.5000**"]
    assert rows["PSNR (dB), mean over instances"] == ["**19.0000**", "18.0000"]
    assert rows["SSIM"] == ["**0.9000**", "**0.9000**"]
    assert rows["distance to the rendered surface"] == ["0.0200", "**0.0100**"]  # less is better
    assert "mIoU" not in rows and notes == ""


def test_all_scores_have_their_rows_in_order(tmp_path, compare):
    names = ["psnr", "ssim", "psnr_rgba", "ssim_rgba", "miou", "miou_no_background"]
    summary = {
        score: 0.5
        for score in [
            *names,
            *(f"{name}_instances" for name in names),
            "category_miou",
            "category_miou_no_background",
            "miou_3d",
            "category_miou_3d",
        ]
    }
    rows, _ = compare(write_run(tmp_path / "run", part_iou={"seat": 0.5}, part_iou_3d={"seat": 0.25}, **summary))
    kinds = ["PSNR (dB)", "SSIM", "PSNR RGBA (dB)", "SSIM RGBA", "mIoU", "mIoU without background"]
    expected = ["score", "---", "images", "instances"]
    expected += [title for kind in kinds for title in (kind, f"{kind}, mean over instances")]
    expected += ["category mIoU", "category mIoU without background", "IoU seat"]
    assert list(rows) == [*expected, "3-D mIoU", "3-D category mIoU", "3-D IoU seat"]
    assert rows["3-D IoU seat"] == ["0.2500"]  # a single run has no best


def test_a_missing_value_is_a_dash_and_classes_of_one_run_have_rows(tmp_path, compare):
    one = write_run(tmp_path / "one", miou=None, part_iou={"background": 0.9, "seat": None})
    two = write_run(tmp_path / "two", miou=0.25, part_iou={"seat": 0.5, "leg|foot": 0.1})
    rows, _ = compare(one, two)
    assert rows["mIoU"] == ["-", "0.2500"]
    assert rows["IoU background"] == ["0.9000", "-"] and rows["IoU seat"] == ["-", "0.5000"]
    assert rows["IoU leg\\|foot"] == ["-", "0.1000"]  # an unescaped bar would end the cell


def test_a_results_file_may_be_named_itself_and_runs_of_one_name_are_told_apart(tmp_path, compare):
    one, two = (write_run(tmp_path / name / "results", psnr=1.0) for name in ("one", "two"))
    rows, _ = compare(one + "/results.json", two)
    assert rows["score"] == [one + "/results.json", two]
    rows, _ = compare(one + "/results.json", write_run(tmp_path / "three"))
    assert rows["score"] == ["results", "three"]


@pytest.mark.parametrize(
    "summary, run, note",
    [
        (dict(num_images=5), {}, "scored different numbers of images (one: 6, two: 5)"),
        ({}, dict(data_root="/old/Chair.test"), "different folders (one: /data/Chair.test, two: /old/Chair.test)"),
        ({}, dict(img_sidelength=128), "rendered at different sides (one: 64, two: 128)"),
        (dict(instances=[dict(instance_id="a"), dict(instance_id="c")]), {}, "scored different instances."),
        ({}, dict(views_digest="cd"), "scored different views."),
    ],
)
def test_runs_with_different_evaluations_are_noted(tmp_path, compare, summary, run, note):
    one, same = write_run(tmp_path / "one"), write_run(tmp_path / "same")
    assert compare(one, same)[1] == ""
    notes = compare(one, write_run(tmp_path / "two", run, **summary))[1]
    assert "Compare with care" in notes and note in notes and notes.count("\n* ") == 1


def test_a_run_without_a_record_of_its_evaluation_is_named(tmp_path, compare):
    old = tmp_path / "old"
    old.mkdir()
    (old / "results.json").write_text(json.dumps(dict(num_images=6, num_instances=2, psnr=20.0, ssim=0.5)))
    rows, notes = compare(old, write_run(tmp_path / "new", psnr=19.0, psnr_rgba=20.0))
    assert rows["PSNR (dB)"] == ["**20.0000**", "19.0000"] and rows["PSNR RGBA (dB)"] == ["-", "20.0000"]
    assert "* old: results.json does not say what was evaluated." in notes and notes.count("\n* ") == 1


def test_csv_has_no_marks_and_the_notes_stay_out_of_it(tmp_path, capsys):
    one = write_run(tmp_path / "one", psnr=20.0)
    two = write_run(tmp_path / "two", dict(img_sidelength=128), ssim=0.5)
    compare_results.main([one, two, "--csv"])
    written = capsys.readouterr()
    assert list(csv.reader(io.StringIO(written.out))) == [
        ["score", "one", "two"],
        ["images", "6", "6"],
        ["instances", "2", "2"],
        ["PSNR (dB)", "20.0000", ""],
        ["SSIM", "", "0.5000"],
    ]
    assert "rendered at different sides" in written.err


@pytest.mark.parametrize(
    "content, reason",
    [(None, "cannot read it"), ("{", "cannot read it"), ("[1]", "found no scores"), ("{}", "found no scores")],
)
def test_a_folder_without_results_is_one_sentence_and_exit_code_2(tmp_path, capsys, content, reason):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        compare_results.main([str(tmp_path)])
    written = capsys.readouterr().err
    assert stopped.value.code == 2
    assert written.count("\n") == 1 and reason in written and str(tmp_path) in written


@pytest.mark.parametrize("program", ["compare_results", "demo"])
def test_a_table_needs_no_torch(program):
    """Importing torch takes about two seconds."""
    code = f"import {program}, sys; print({{'torch', 'skimage', 'scipy'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
