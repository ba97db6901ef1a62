import json
from types import SimpleNamespace

import pytest
import torch
from benches import tables_in

from bench import trace

TINY = ["--side", "8", "--batch", "2", "--hidden_features", "16", "--embedding_size", "8", "--tracing_steps", "2"]


def test_it_prints_the_longest_operators_and_writes_the_same_as_json(tmp_path, capsys):
    trace.main([*TINY, "--device", "cpu", "--rows", "5", "--json", str(tmp_path / "figures.json")])
    out = capsys.readouterr().out
    (table,) = tables_in(out)
    figures = json.loads((tmp_path / "figures.json").read_text())
    rows = figures["rows"]
    assert [row["kernel"] for row in rows] == table["kernel or operator"] and len(rows) == 5
    assert [row["ms"] for row in rows] == sorted((row["ms"] for row in rows), reverse=True)
    assert all(row["share"] == pytest.approx(row["ms"] / figures["ms_per_step"]) for row in rows)
    assert sum(row["ms"] for row in rows) < figures["ms_per_step"]
    assert out.startswith(f"{figures['ms_per_step']:.1f} ms of cpu time per step")


def test_operators_are_counted_per_step():
    events = trace.events_of(lambda: torch.ones(2, 2) @ torch.ones(2, 2), torch.device("cpu"))
    assert {name: count for name, count, _ in events}["aten::mm"] == trace.NUM_STEPS


def test_on_a_gpu_only_kernels_count(monkeypatch):
    """An operator's device time is that of its kernels, and an annotation spans kernels: neither may be added."""
    cpu, cuda = torch.autograd.DeviceType.CPU, torch.autograd.DeviceType.CUDA
    events = [
        event("aten::mm", cpu, 2000),
        event("gemm", cuda, 2000),
        event("copy", cuda, 3000),
        event("Optimizer.step#Adam.step", cuda, 5000, is_user_annotation=True),
    ]

    class Profile:
        def __init__(self, activities):
            self.key_averages = lambda: events

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(trace, "profile", Profile)
    monkeypatch.setattr(trace.measuring, "synchronise", lambda device: None)
    assert trace.events_of(lambda: None, torch.device("cuda")) == [("copy", 1, 3.0), ("gemm", 1, 2.0)]


def event(key, device_type, self_device_us, is_user_annotation=False):
    return SimpleNamespace(
        key=key,
        count=1,
        device_type=device_type,
        self_device_time_total=self_device_us,
        is_user_annotation=is_user_annotation,
    )
