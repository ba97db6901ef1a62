import json

import pytest
from benches import tables_in
from torch.utils.tensorboard import SummaryWriter

import demo
from bench import seeds

SCORES = {"psnr": 21.0, "ssim": 0.8, "miou": 0.5, "part_iou": {"background": 0.9, "chair_arm": None}}


@pytest.fixture
def ran(monkeypatch):
    """What the demo was asked for; it runs nothing and scores higher with larger seeds."""
    asked = []

    def run(options, more):
        asked.append((options, more))
        scores = SCORES | {"psnr": 21.0 + options.seed}
        summary = {"seconds": 10.0, "train_val": scores, "single_shot": scores}
        with SummaryWriter(options.folder / "logs" / options.obj_name / "vanilla_srn" / "events") as writer:
            for step, value in enumerate([12.0, 17.5, 15.25, 16.0, 18.0, 17.0]):
                writer.add_scalar("val_psnr", value, step)
        (options.folder / "logs" / "summary.json").write_text(json.dumps(summary))

    monkeypatch.setattr(demo, "run", run)
    return asked


def test_means_and_spread_over_seeds_are_shown(ran, tmp_path, capsys):
    seeds.main(["--root", str(tmp_path), "--seeds", "1,3", "--json", str(tmp_path / "figures.json")])
    (table,) = tables_in(capsys.readouterr().out)
    place = table["score"].index("psnr")
    row = [float(table[column][place]) for column in ("mean", "deviation", "least", "largest", "seeds")]
    assert row == [23.0, 1.414, 22.0, 24.0, 2]
    place = table["score"].index("largest drop of the validation PSNR")
    assert float(table["mean"][place]) == 2.25
    assert "IoU background" in table["score"] and "IoU chair_arm" not in table["score"]  # which no run saw
    assert len(json.loads((tmp_path / "figures.json").read_text())["rows"]) == len(table["score"])


def test_each_seed_has_a_folder_and_is_run_once(ran, tmp_path):
    arguments = ["--root", str(tmp_path), "--obj_name", "Table", "--pretrain", "--lr 1e-3 --seed 9"]
    seeds.main([*arguments, "--seeds", "0,2"])
    seeds.main([*arguments, "--seeds", "0,2,4"])
    assert [options.folder.name for options, _ in ran] == ["Table_0", "Table_2", "Table_4"]
    assert ran[0][1]["1 pretrain"] == ["--lr", "1e-3", "--seed", "9"] and set(ran[0][1]) <= set(demo.SCRIPTS)
