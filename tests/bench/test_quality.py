import json

import imageio.v3 as iio
import numpy as np
import pytest
import scenes
import torch

from bench import quality
from training import loop, progress

pytestmark = pytest.mark.slow

TINY = "--img_sidelengths=16 --hidden_features=16 --embedding_size=8 --tracing_steps=2 --steps_til_val=2"


@pytest.fixture(scope="module")
def bench():
    return quality


def test_each_variant_includes_the_changes_before_it(bench):
    changes = [bench.options_of(variant) for variant in range(len(bench.CHANGES))]
    assert changes[0]["rays_per_block"] == 0 and changes[0]["initial_distance"] == 0
    assert "rays_per_block" not in changes[1] and changes[1]["rays_per_image"] == 0
    assert changes[4]["hidden_features"] == 96 and changes[4]["rays_per_image"] == 64
    assert changes[-1]["max_steps_per_img_sidelength"] == 3800 and "initial_distance" not in changes[-1]
    assert [change["fused"] for change in changes] == ["off"] * (len(changes) - 1) + ["auto"]


def test_it_trains_and_measures(bench, ball_split, tmp_path):
    """Runs in this process, since a new one takes seconds to start."""
    fit, after_step = loop.fit, progress.Run.after_step
    scenes.write_split(tmp_path / "Ball" / "Ball.train_val", first_view=50)
    (tmp_path / "Ball" / "Ball.train").symlink_to(ball_split)
    data = tmp_path / "Ball"
    given = bench.options_of(5) | dict(
        data_root=data / "Ball.train",
        val_root=data / "Ball.train_val",
        logging_root=tmp_path,
        log_dir="run",
        class_weight=0,
        device="cpu",
    )
    given = [f"--{key}={value}" for key, value in given.items()] + TINY.split()
    curve = bench.train_variant([*given, "--max_steps_per_img_sidelength=6"], None, 100.0)
    assert [step for _, step, _ in curve] == [2, 4, 6]
    assert all(later[0] > earlier[0] > 0 for earlier, later in zip(curve, curve[1:]))
    assert torch.tensor([psnr for _, _, psnr in curve]).isfinite().all()
    stopped = bench.train_variant([*given, "--max_steps_per_img_sidelength=1000"], None, 0.0)
    assert stopped == []  # the budget was spent before the first validation
    assert loop.fit is fit and progress.Run.after_step is after_step


def test_curves_are_drawn(bench, tmp_path):
    curves = {name: [(1.0, 1, 10.0 + i), (9.0, 2, 15.0 + i)] for i, name in enumerate(bench.CHANGES)}
    bench.draw(curves, tmp_path / "curves.png")
    image = iio.imread(tmp_path / "curves.png")
    assert image.shape[:2] == (600, 1080) and len(np.unique(image[..., :3].reshape(-1, 3), axis=0)) > 50


def test_tables_show_when_each_level_was_reached_and_a_bound_if_it_was_not(bench):
    names = list(bench.CHANGES)
    curves = {names[0]: [(10.0, 1, 5.0), (120.0, 2, 12.5)], names[4]: [(1.0, 1, 11.0), (4.0, 2, 13.0), (9.0, 3, 16.2)]}
    seconds, times = (bench.measuring.table(rows, columns) for _, rows, columns in bench.tables({"curves": curves}))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in seconds.splitlines()]
    assert cells[0] == ["variant", "10 dB", "12 dB", "13 dB", "14 dB", "15 dB", "16 dB", "best dB"]
    assert cells[2] == [names[0], "120", "120", "> 120", "> 120", "> 120", "> 120", "12.50"]
    assert cells[3] == [names[4], "1", "4", "4", "9", "9", "9", "16.20"]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in times.splitlines()]
    assert cells[2] == [names[0], "1.0", "1.0", "", "", "", ""]
    assert cells[3] == [names[4], "120.0", "30.0", "> 30.0", "> 13.3", "> 13.3", "> 13.3"]


def test_the_file_keeps_the_curves_of_other_variants(bench, tmp_path, monkeypatch, capsys):
    asked = []

    def measured(options):
        asked.append(options.budget)
        for variant in options.variants:
            yield list(bench.CHANGES)[variant], [(1.0, 1, 10.0 + variant)]

    monkeypatch.setattr(bench, "measure", measured)
    given = ["--data", str(tmp_path), "--json", str(tmp_path / "curves.json")]
    bench.main([*given, "--variants", "0,2", "--budget", "5,7"])
    bench.main([*given, "--variants", "2,5"])
    curves = json.loads((tmp_path / "curves.json").read_text())["curves"]
    assert [curve[0][2] for curve in curves.values()] == [10, 12, 15] and asked == [[5, 7], [1200]]


def test_invalid_options_are_refused(bench, tmp_path, refuses):
    given = ["--data", str(tmp_path)]
    refuses(bench.main, ["--data", str(tmp_path / "none")], "no such folder")
    refuses(bench.main, [*given, "--variants", "9"], "expected numbers from 0 to 7")
    refuses(bench.main, [*given, "--variants", "0,1", "--budget", "1,2,3"], "expected 1 number or 2, found 3")
