"""Every script with every config that it is made for: the programs accept the options that it passes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dataio
import demo
import make_dataset
import suggest_labels
import test
import train
from training.plan import Stage, resolve, stage_of

ROOT = Path(__file__).resolve().parent.parent
SEMANTIC = [
    (obj, config)
    for obj, config in (("Chair", "chairs"), ("Table", "tables"), ("Chair", "demo"), ("Chair", "demo_furniture"))
]
CLASSES = {  # the experiments of the semantic paper, and the demos: script -> stage
    "training_scripts/vanilla_srn.sh": Stage.PRETRAIN,
    "training_scripts/semantic_srn.sh": Stage.PRETRAIN,
    "seg_scripts/linear_update.sh": Stage.UPDATE_HEAD,
    "seg_scripts/unet_baseline.sh": Stage.UPDATE_HEAD,
    "test_scripts/single_shot.sh": Stage.FIT_CODES,
    "test_scripts/two_shot.sh": Stage.FIT_CODES,
    "test_scripts/multi_shot.sh": Stage.FIT_CODES,
    "test_scripts/reverse_linear.sh": Stage.FIT_CODES,
    "test_scripts/reverse_semantic.sh": Stage.FIT_CODES,
    "result_scripts/train_val.sh": None,
    "result_scripts/semantic_srn.sh": None,
    "result_scripts/unet_baseline.sh": None,
    "result_scripts/single_shot.sh": None,
    "result_scripts/two_shot.sh": None,
    "result_scripts/multi_shot.sh": None,
    "result_scripts/reverse_linear.sh": None,
    "result_scripts/reverse_semantic.sh": None,
}
SRN_2019 = [  # the experiments of the SRN paper: script, stage, OBJ and CONFIG if not the script's defaults
    ("training_scripts/cars.sh", Stage.PRETRAIN, {}),
    ("training_scripts/cars.sh", Stage.PRETRAIN, {"OBJ": "Chair", "CONFIG": "chairs_2019"}),
    ("training_scripts/shepard_metzler.sh", Stage.PRETRAIN, {}),
    ("test_scripts/cars_one_shot.sh", Stage.FIT_CODES, {}),
    ("test_scripts/cars_two_shot.sh", Stage.FIT_CODES, {}),
    ("test_scripts/cars_one_shot.sh", Stage.FIT_CODES, {"OBJ": "Chair", "CONFIG": "chairs_2019"}),
    ("test_scripts/cars_two_shot.sh", Stage.FIT_CODES, {"OBJ": "Chair", "CONFIG": "chairs_2019"}),
    ("result_scripts/cars_training_set.sh", None, {}),
    ("result_scripts/cars_one_shot.sh", None, {}),
    ("result_scripts/cars_two_shot.sh", None, {}),
    ("result_scripts/cars_training_set.sh", None, {"OBJ": "Chair", "CONFIG": "chairs_2019"}),
    ("result_scripts/cars_two_shot.sh", None, {"OBJ": "Chair", "CONFIG": "chairs_2019"}),
    ("result_scripts/shepard_metzler.sh", None, {}),
]
EXPERIMENTS = [
    (script, stage, {"OBJ": obj, "CONFIG": config}) for script, stage in CLASSES.items() for obj, config in SEMANTIC
] + SRN_2019
EXPERIMENTS += [
    (script, CLASSES[script], {"CONFIG": "published_demo"}) for script in demo.scripts_of("published_demo").values()
]


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    """An interpreter that only prints its arguments."""
    path = tmp_path_factory.mktemp("recorder") / "python"
    path.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    path.chmod(0o755)
    return path


def called(recorder, script, folder, *flags, **variables):
    environment = {name: value for name, value in os.environ.items() if name not in ("OBJ", "CONFIG", "SRN", "HEAD")}
    environment |= {"PYTHON": str(recorder), "DATA": str(folder / "data"), "LOGS": str(folder / "logs")} | variables
    done = subprocess.run([ROOT / script, *flags], cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("script, stage, variables", EXPERIMENTS, ids=lambda x: getattr(x, "__name__", None) or str(x))
def test_every_experiment_has_a_script_whose_options_are_understood(
    recorder, tmp_path, monkeypatch, script, stage, variables
):
    program, *arguments = called(recorder, script, tmp_path, "--seed", "5", **variables)
    monkeypatch.chdir(ROOT)
    options = (test if stage is None else train).read_options(arguments)
    assert program == ("test.py" if stage is None else "train.py")
    assert options.seed == 5 and options.log_dir and Path(options.data_root).parent.parent == tmp_path / "data"
    if stage is not None:
        assert stage_of(options) is stage


@pytest.mark.slow
def test_no_config_is_without_a_script(recorder, tmp_path):
    used = {
        arguments[arguments.index("-c") + 1]
        for script, _, variables in EXPERIMENTS
        for arguments in [called(recorder, script, tmp_path, **variables)]
    }
    configs = {
        str(path.relative_to(ROOT)) for folder in ("train_configs", "test_configs") for path in (ROOT / folder).iterdir()
    }
    assert configs == used


def test_no_script_is_without_a_test():
    scripts = {str(path.relative_to(ROOT)) for path in ROOT.glob("*_scripts/*.sh")}
    assert scripts - {script for script, _, _ in EXPERIMENTS} == {
        "result_scripts/interpolate.sh",
        "seg_scripts/suggest_labels.sh",
    }


@pytest.mark.parametrize("config", ["chairs", "tables"])
def test_the_linear_update_reads_the_thirty_label_maps_of_the_paper(recorder, tmp_path, monkeypatch, config):
    _, *arguments = called(recorder, "seg_scripts/linear_update.sh", tmp_path, OBJ="Chair", CONFIG=config)
    monkeypatch.chdir(ROOT)
    options = train.read_options(arguments)
    assert len(set(options.specific_ins)) == 10 and options.specific_observation_idcs == [0, 1, 2]
    assert resolve(options).schedule.parts() == [(128, 4, 0, 5000)] and options.lr == 4e-4 and options.class_weight == 8


def test_stage_2_learns_from_suggested_label_maps_where_there_is_a_suggestion(recorder, tmp_path, monkeypatch):
    program, *arguments = called(recorder, "seg_scripts/suggest_labels.sh", tmp_path, "--num_views", "2")
    options = suggest_labels.build_parser().parse_args(arguments)
    assert program == "suggest_labels.py" and options.out == str(tmp_path / "logs" / "Chair" / "label_selection.json")
    Path(options.out).parent.mkdir(parents=True)
    Path(options.out).write_text('{"chair_0003": [0, 5]}')
    monkeypatch.chdir(ROOT)
    for script in ("linear_update", "unet_baseline"):
        _, *arguments = called(recorder, f"seg_scripts/{script}.sh", tmp_path)
        sources = resolve(train.read_options(arguments)).sources
        assert sources.views_of == {"chair_0003": [0, 5]} and sources.specific_ins == ["chair_0003"]


def test_reverse_fits_look_at_no_image(recorder, tmp_path, monkeypatch):
    for script in ("test_scripts/reverse_linear.sh", "test_scripts/reverse_semantic.sh"):
        _, *arguments = called(recorder, script, tmp_path, CONFIG="chairs")
        with monkeypatch.context() as context:
            context.chdir(ROOT)
            options = train.read_options(arguments)
        plan = resolve(options)
        assert not plan.sources.reads_images and plan.observed == ["seg"]


def test_the_srns_own_classes_need_no_class_list(recorder, tmp_path):
    for script in ("train_val", "single_shot"):
        script = f"result_scripts/{script}.sh"
        assert "--obj_name" not in called(recorder, script, tmp_path, EVAL_MODE="srn")
        assert "--obj_name" in called(recorder, script, tmp_path)
    (tmp_path / "data" / "Chair").mkdir(parents=True)
    (tmp_path / "data" / "Chair" / "Chair-level-1.txt").write_text("0 background\n")
    assert "--obj_name" in called(recorder, script, tmp_path, EVAL_MODE="srn")


@pytest.mark.parametrize("kind, config", [("procedural", "demo"), ("furniture", "demo_furniture")])
def test_the_demos_chairs_have_the_views_that_every_script_of_the_semantic_paper_names(
    recorder, tmp_path, monkeypatch, kind, config
):
    monkeypatch.chdir(ROOT)
    made = [*demo.MAKE_DATA[kind].split(), *demo.FOR_BOTH.split(), "--obj_name", "Chair", "--out", str(tmp_path)]
    num_views = make_dataset.build_parser().parse_args(made).test_views
    tested = test.read_options(called(recorder, "result_scripts/two_shot.sh", tmp_path, CONFIG=config)[1:])
    rendered = dataio.choose_views(num_views, tested.max_num_observations)
    for script in ("single_shot", "two_shot", "reverse_linear", "reverse_semantic"):
        options = train.read_options(called(recorder, f"test_scripts/{script}.sh", tmp_path, CONFIG=config)[1:])
        assert set(options.specific_observation_idcs) <= set(rendered), script


@pytest.mark.slow
def test_every_training_script_can_be_launched_in_several_processes(recorder, tmp_path):
    for script, stage, variables in EXPERIMENTS:
        launched = called(recorder, script, tmp_path, LAUNCH="torchrun --nnodes 2 --nproc_per_node=4", **variables)
        alone = called(recorder, script, tmp_path, **variables)
        launcher = [] if stage is None else "-m torch.distributed.run --nnodes 2 --nproc_per_node=4".split()
        assert launched == launcher + alone


def test_any_launcher_can_be_used(recorder, tmp_path):
    launcher = tmp_path / "launcher"
    launcher.symlink_to(recorder)
    arguments = called(recorder, "training_scripts/vanilla_srn.sh", tmp_path, LAUNCH=f"{launcher} --fast", PYTHON="nothing")
    assert arguments[:2] == ["--fast", "train.py"]


def test_the_semantic_scripts_read_the_semantic_srn_unless_told_otherwise(recorder, tmp_path):
    for script in ("test_scripts/reverse_semantic.sh", "result_scripts/semantic_srn.sh"):
        arguments = called(recorder, script, tmp_path)
        assert arguments[arguments.index("--checkpoint_path") + 1] == str(tmp_path / "logs" / "Chair" / "semantic_srn")
        arguments = called(recorder, script, tmp_path, SRN="other")
        assert arguments[arguments.index("--checkpoint_path") + 1] == str(tmp_path / "other")


def test_without_a_split_of_other_views_nothing_is_validated(recorder, tmp_path):
    assert "--no_validation" in called(recorder, "training_scripts/vanilla_srn.sh", tmp_path)
    (tmp_path / "views").mkdir()
    arguments = called(recorder, "training_scripts/vanilla_srn.sh", tmp_path, VAL="views")
    assert arguments[arguments.index("--val_root") + 1] == str(tmp_path / "views")


def test_a_fit_is_resumed_on_request(recorder, tmp_path, monkeypatch):
    for script in ("single_shot", "reverse_linear", "cars_two_shot"):
        _, *arguments = called(
            recorder,
            f"test_scripts/{script}.sh",
            tmp_path,
            RESUME="1",
            SRN="fitted",
            CONFIG="chairs_2019" if script == "cars_two_shot" else "chairs",
        )
        with monkeypatch.context() as context:
            context.chdir(ROOT)
            options = train.read_options(arguments)
        assert options.freeze_networks and not options.overwrite_embeddings and stage_of(options) is Stage.FIT_CODES


def test_without_a_split_of_other_views_the_views_not_trained_on_are_scored(recorder, tmp_path):
    arguments = called(recorder, "result_scripts/train_val.sh", tmp_path)
    assert arguments[arguments.index("--data_root") + 1] == str(tmp_path / "data" / "Chair" / "Chair.train")


def test_a_film_may_show_the_classes_of_the_srn_itself(recorder, tmp_path):
    assert "--linear_path" not in called(recorder, "result_scripts/interpolate.sh", tmp_path, EVAL_MODE="srn")
    assert "--linear_path" in called(recorder, "result_scripts/interpolate.sh", tmp_path)
