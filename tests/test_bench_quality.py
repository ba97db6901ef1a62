import importlib.util
import sys
from pathlib import Path

import pytest
import scenes
import torch

PATH = Path(__file__).parent.parent / "bench" / "quality.py"
TINY = "--img_sidelengths=16 --hidden_features=16 --embedding_size=8 --tracing_steps=2 --steps_til_val=2"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_quality", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_quality"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["bench_quality"]


def test_each_variant_keeps_the_changes_before_it(bench):
    changes = [bench.options_of(variant) for variant in range(len(bench.CHANGES))]
    assert changes[0]["rays_per_block"] == 0 and changes[0]["initial_distance"] == 0
    assert "rays_per_block" not in changes[1] and changes[1]["rays_per_image"] == 0
    assert changes[4]["hidden_features"] == 96 and changes[4]["rays_per_image"] == 64
    assert changes[-1]["max_steps_per_img_sidelength"] == 2300 and "initial_distance" not in changes[-1]


def test_it_trains_measures_and_draws(bench, ball_split, tmp_path, capsys, monkeypatch):
    """In this process: a new one takes seconds to start."""
    import training
    import validation

    for owner, name in ((training, "fit"), (training.Run, "after_step"), (validation.Validation, "__call__"),
                        (validation.Preview, "__call__")):  # fmt: skip
        monkeypatch.setattr(owner, name, getattr(owner, name))  # put back afterwards
    scenes.write_split(tmp_path / "Ball" / "Ball.train_val", first_view=50)
    (tmp_path / "Ball" / "Ball.train").symlink_to(ball_split)
    arguments = bench.build_parser().parse_args(["--data", str(tmp_path / "Ball"), "--device", "cpu"])
    data = tmp_path / "Ball"
    given = bench.options_of(5) | dict(
        data_root=data / "Ball.train", val_root=data / "Ball.train_val", logging_root=tmp_path, log_dir="run",
        class_weight=0, device="cpu",
    )  # fmt: skip
    given = [f"--{key}={value}" for key, value in given.items()] + TINY.split()
    curve = bench.train_variant([*given, "--max_steps_per_img_sidelength=6"], None, 100.0, None)
    assert [step for _, step, _ in curve] == [2, 4, 6]
    assert all(later[0] > earlier[0] > 0 for earlier, later in zip(curve, curve[1:]))
    stopped = bench.train_variant([*given, "--max_steps_per_img_sidelength=1000"], None, 100.0, curve[0][2] - 20)
    assert len(stopped) == 1  # the first look was good enough
    assert torch.tensor([psnr for _, _, psnr in curve]).isfinite().all() and arguments.threads is None

    found = [{"variant": "slow", "curve": [(10.0, 1, 5.0), (20.0, 2, 12.5)]},
             {"variant": "quick", "curve": [(1.0, 1, 9.0), (4.0, 2, 13.0), (9.0, 3, 16.2)]}]  # fmt: skip
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in bench.table(found).splitlines()]
    assert rows[0] == ["variant", "s to 8 dB", "s to 10 dB", "s to 12 dB", "s to 12.5 dB", "s to 14 dB", "s to 16 dB",
                       "best dB", "times as fast to 12.50 dB"]  # fmt: skip
    assert rows[2] == ["slow", "20", "20", "20", "20", "", "", "12.50", "1.0"]
    assert rows[3] == ["quick", "1", "4", "4", "4", "9", "9", "16.20", "5.0"]
    pytest.importorskip("matplotlib")
    bench.draw(found, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_data_that_are_not_there_and_variants_that_there_are_not_are_told(bench, refuses, tmp_path):
    refuses(bench.main, ["--data", str(tmp_path / "none")], "no such folder")
    refuses(bench.main, ["--data", str(tmp_path), "--variants", "0,9"], "from 0 to 5, found [9]")
