"""The stage scripts, run as users run them, one after the other on a tiny class."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import plyfile
import pytest

import checkpoints
import make_dataset

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
SIDE, NUM_CHAIRS, NUM_UNSEEN, NUM_VIEWS = 16, 4, 2, 70
ONE_STAGE = ["--img_sidelengths", str(SIDE), "--batch_size_per_img_sidelength", "4"]
TINY_MODEL = ["--hidden_features", "16", "--embedding_size", "8", "--tracing_steps", "3"]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder whose name contains a blank, with a tiny data set, in which the four stages have run in order."""
    folder = tmp_path_factory.mktemp("two words")
    made = f"procedural --obj_name Chair --sidelength {SIDE} --instances {NUM_CHAIRS} --views 4 --train_val_views 2"
    made += f" --val_instances 1 --test_instances {NUM_UNSEEN} --test_views {NUM_VIEWS} --num_workers 1"
    make_dataset.main([*made.split(), "--out", str(folder / "data")])
    run("training_scripts/vanilla_srn.sh", folder, *ONE_STAGE, *TINY_MODEL, "--max_steps_per_img_sidelength", "6")
    run("seg_scripts/linear_update.sh", folder, *ONE_STAGE, "--max_steps_per_img_sidelength", "10")
    run("test_scripts/single_shot.sh", folder, *ONE_STAGE, "--max_steps_per_img_sidelength", "4")
    run("test_scripts/multi_shot.sh", folder, *ONE_STAGE, "--max_steps_per_img_sidelength", "4")
    for results in ("train_val", "single_shot", "multi_shot"):
        run(f"result_scripts/{results}.sh", folder, "--img_sidelength", str(SIDE))
    return folder


def run(script, folder, *flags, expect=0):
    """Run a stage script from a foreign folder, with relative DATA and LOGS."""
    environment = os.environ | {"DATA": "data", "LOGS": "logs", "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([ROOT / script, *flags], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == expect, done.stderr
    return done


def rows_of(folder):
    with open(folder / "final_miou.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_stage_leaves_a_checkpoint_of_its_instances(workplace):
    for name, steps, count in (
        ("vanilla_srn", {6}, NUM_CHAIRS),
        ("linear_update", range(1, 100), NUM_CHAIRS),
        ("single_shot", {4}, NUM_UNSEEN),
        ("multi_shot", {4}, NUM_UNSEEN),
    ):
        checkpoint = checkpoints.load(workplace / "logs" / "Chair" / name)
        assert checkpoint["step"] in steps  # the linear update counts steps of Newton's method
        assert len(checkpoint["instances"]) == count


def test_single_shot_is_scored_on_the_69_views_it_was_not_given(workplace):
    results = workplace / "logs" / "Chair" / "single_shot_results"
    summary = json.loads((results / "results.json").read_text())
    assert summary["num_instances"] == NUM_UNSEEN and summary["num_images"] == NUM_UNSEEN * (NUM_VIEWS - 1)
    assert len(rows_of(results)) == NUM_UNSEEN
    assert [path.name for path in sorted((results / "000000" / "input").iterdir())] == ["000065.png"]


def test_multi_shot_is_scored_on_the_20_views_it_was_not_given(workplace):
    summary = json.loads((workplace / "logs" / "Chair" / "multi_shot_results" / "results.json").read_text())
    assert summary["num_images"] == NUM_UNSEEN * (NUM_VIEWS - 50)


def test_training_chairs_are_scored_in_the_views_of_train_val(workplace):
    rows = rows_of(workplace / "logs" / "Chair" / "train_val_results")
    assert [row["instance_id"] for row in rows] == checkpoints.load(workplace / "logs/Chair/vanilla_srn")["instances"]
    assert all(float(row["psnr"]) > 0 and 0 <= float(row["miou"]) <= 1 for row in rows)


def test_results_hold_pictures_of_every_kind_and_view(workplace):
    folder = workplace / "logs" / "Chair" / "single_shot_results" / "000001"
    for kind in ("rgb", "rgb_gt", "seg", "seg_gt", "normals", "comparison"):
        paths = sorted((folder / kind).iterdir())
        assert [path.stem for path in paths] == [f"{i:06d}" for i in range(NUM_VIEWS)], kind
        assert iio.imread(paths[0]).shape[0] == SIDE
    assert iio.imread(folder.parent / "contact_sheet.png").shape[1] > 1000


def test_point_clouds_agree_between_text_and_ply(workplace):
    folder = workplace / "logs" / "Chair" / "train_val_results" / "000000"
    for kind in ("rgb", "seg"):
        text = np.loadtxt(folder / f"point_cloud_{kind}.txt", ndmin=2).reshape(-1, 6)
        ply = plyfile.PlyData.read(folder / f"point_cloud_{kind}.ply")["vertex"]
        assert np.allclose(text[:, :3], np.stack([ply[axis] for axis in "xyz"], axis=-1), atol=1e-5)
        assert np.array_equal(text[:, 3:], np.stack([ply[c] for c in ("red", "green", "blue")], axis=-1))


def test_semantic_srn_trains_and_is_evaluated_by_its_own_head(workplace):
    steps = ["--max_steps_per_img_sidelength", "2"]
    run("training_scripts/semantic_srn.sh", workplace, *ONE_STAGE, *TINY_MODEL, *steps)
    checkpoint = checkpoints.load(workplace / "logs" / "Chair" / "semantic_srn")
    assert checkpoint["sizes"]["num_classes"] == 5
    assert any(key.startswith("class_generator.") for key in checkpoint["model"])


def test_a_second_run_keeps_the_first(workplace):
    logs = workplace / "logs" / "Chair"
    before = sorted(path.name for path in (logs / "multi_shot" / "checkpoints").iterdir())
    changed = ["--max_steps_per_img_sidelength", "2"]
    run("test_scripts/multi_shot.sh", workplace, *ONE_STAGE, *changed, expect=2)
    done = run("test_scripts/multi_shot.sh", workplace, *ONE_STAGE, *changed, "--resume", "never")
    assert "multi_shot.1" in done.stdout
    assert sorted(path.name for path in (logs / "multi_shot.1" / "checkpoints").iterdir()) == before
    assert checkpoints.load(logs / "multi_shot")["step"] == 2


def test_a_users_error_is_one_line_and_exit_code_2(workplace):
    done = run("test_scripts/single_shot.sh", workplace, "--specific_observation_idcs", "99", "--resume", "never", expect=2)
    assert done.stderr.count("\n") == 1 and "there is no 99" in done.stderr
