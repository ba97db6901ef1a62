import json

import pytest
import torch
from benches import stay_in_process, tables_in

import srns
from bench import measuring, rendering, scene
from rendering import renderer as project_rendering

TINY = ["--hidden_features", "16", "--embedding_size", "8", "--tracing_steps", "2", "--device", "cpu"]


@pytest.fixture
def bench(monkeypatch):
    stay_in_process(monkeypatch)
    return rendering


def test_it_prints_both_modes_and_writes_the_same_as_json(bench, tmp_path, capsys):
    bench.main([*TINY, "--sides", "8,16", "--views", "3", "--reference", "--json", str(tmp_path / "figures.json")])
    (table,) = tables_in(capsys.readouterr().out)
    assert table["side"] == ["8", "8", "16", "16"] and table["mode"] == ["fast", "reference"] * 2
    assert table["at once"] == ["3"] * 4
    rows = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert [f"{row['fps']:.2f}" for row in rows] == table["fps"]
    for fast, reference in zip(rows[::2], rows[1::2]):
        assert fast["ratio"] == pytest.approx(fast["fps"] / reference["fps"]) and fast["s_per_image"] > 0


def test_a_batch_that_does_not_fit_into_memory_is_made_smaller_and_a_note_says_so(bench, monkeypatch, capsys):
    bytes_per_view = rendering.TENSORS_AT_ONCE * 4 * 16 * 8**2
    monkeypatch.setattr(measuring, "free_memory", lambda device: 4 * bytes_per_view)
    bench.main([*TINY, "--sides", "8", "--views", "3", "--reference"])
    out = capsys.readouterr().out
    assert tables_in(out)[0]["at once"] == ["3", "2"]
    assert "At 8 px the published batch of 32 views does not fit into memory" in out


def test_both_modes_render_the_same():
    options = rendering.build_parser().parse_args(TINY)
    model = scene.make_model(scene.sizes_of(options, 1), "cpu").eval()
    head = srns.LinearHead(16, 3)
    batch = scene.make_batch(2, 8, 1, "cpu")
    rgb, classes = rendering.render_as_published(model, head, scene.per_view(batch))
    outputs = project_rendering.render(model, batch, head)
    assert torch.allclose(rgb, outputs["rgb"], atol=1e-4)
    assert torch.equal(classes, outputs["seg_logits"].argmax(dim=-1))


def test_the_number_of_views_falls_with_their_size():
    options = rendering.build_parser().parse_args(["--device", "cpu"])
    assert [rendering.views_of(options, side) for side in (32, 64, 128, 512)] == [32, 16, 4, 1]


def test_invalid_options_are_refused(refuses):
    refuses(rendering.main, ["--sides", "64,x"], "expected")
