import json

import pytest
import scenes
from benches import stay_in_process, tables_in

from bench import fitting
from training import watch as watching

pytestmark = pytest.mark.slow


@pytest.fixture
def bench(monkeypatch):
    stay_in_process(monkeypatch)
    monkeypatch.setattr(fitting, "FIRST_COPY_S", 0.0)
    return fitting


@pytest.fixture
def arguments(ball_split, semantic_run):
    return [
        "--data_root",
        str(ball_split),
        "--checkpoint_path",
        str(semantic_run),
        "--device",
        "cpu",
        "--img_sidelength",
        "16",
        "--specific_observation_idcs",
        "1",
        "--max_steps",
        "20",
    ]


def test_it_prints_both_modes_and_writes_the_same_as_json(bench, arguments, tmp_path, capsys):
    watch = watching.attach
    bench.main([*arguments, "--budget", "1", "--reference", "--json", str(tmp_path / "figures.json")])
    levels, ends = tables_in(capsys.readouterr().out)
    assert watching.attach is watch
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert ends["mode"] == ["fast", "reference"] and figures["objects"] == 2
    for row, way in zip(figures["ends"], figures["ways"].values()):
        assert 0 < row["novel_psnr"] < 60 and row["steps"] > 0 and row["s"] == way["copies"][-1][0]
        for seconds, mean, each in way["copies"]:
            assert seconds > 0 and len(each) == 2 and mean == pytest.approx(sum(each) / 2)
    assert [str(row["psnr"]) for row in figures["levels"]] == levels["input PSNR (dB)"]


def test_novel_views_are_views_that_codes_were_not_fitted_to(bench, arguments, ball_split):
    options, _ = bench.read_options([*arguments, "--novel_views", "2"])
    instances = bench.dataio.index_split(ball_split, specific_observation_idcs=[1])
    found = bench.novel_instances(options, instances, with_labels=False)
    assert [instance.views for instance in found] == [("000000", "000003")] * 2
    options.specific_observation_idcs = "0,1,2,3"
    assert bench.novel_instances(options, instances, with_labels=False) == []


def test_a_head_segments_the_novel_views(bench, arguments, ball_split, semantic_run, tmp_path, capsys):
    options = scenes.train_options(
        ball_split,
        tmp_path,
        "head",
        model_type="linear",
        checkpoint_path=semantic_run,
        embedding_size=None,
        hidden_features=None,
        tracing_steps=None,
    )
    bench.train.main(options)
    bench.main([*arguments, "--linear_path", str(tmp_path / "head"), "--max_steps", "2"])
    _, ends = tables_in(capsys.readouterr().out)
    assert 0 < float(ends["mIoU"][0]) <= 1 and ends["steps"] == ["2"]


def test_levels_show_when_each_mode_reached_them():
    fast = {"objects": 2, "copies": [(1.0, 20.4, []), (2.0, 22.1, [])]}
    reference = {"objects": 2, "copies": [(1.0, 19.0, []), (8.0, 21.5, [])]}
    rows = fitting.compare({"fast": fast, "reference": reference})
    assert [(row["psnr"], row["fast"], row["reference"], row["ratio"]) for row in rows] == [
        (19, 1.0, 1.0, 1.0),
        (20, 1.0, 8.0, 8.0),
        (21, 2.0, 8.0, 4.0),
        (22, 2.0, None, None),
    ]
    assert rows[1]["reference_each"] == 4.0


def test_the_reference_uses_the_options_of_the_paper(arguments):
    options, others = fitting.read_options([*arguments, "--num_starts", "4"])
    fast = fitting.train.read_options(fitting.arguments_of(options, "fast", others, "logs"))
    published = fitting.train.read_options(fitting.arguments_of(options, "reference", others, "logs"))
    assert (fast.code_solver, fast.num_starts) == ("fast", 4)
    assert (published.code_solver, published.code_init, published.lr) == ("published", "normal", 4e-4)
    assert (published.rays_per_image, published.rays_per_block) == (0, 0)
    assert published.batch_size_per_img_sidelength == [4] and published.specific_observation_idcs == [1]


def test_invalid_options_are_refused(refuses, monkeypatch, tmp_path):
    refuses(fitting.main, ["--data_root", "here"], "give --checkpoint_path too")
    refuses(fitting.main, ["--checkpoint_path", "here"], "give --data_root too")
    monkeypatch.setattr(fitting, "DEMO", {name: tmp_path / name for name in fitting.DEMO})
    refuses(fitting.main, [], "make the demo's files with `make demo`")
