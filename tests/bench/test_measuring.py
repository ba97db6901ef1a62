import os

import pytest
import torch

from bench import measuring

pytestmark = pytest.mark.slow

SIZES = dict(num_instances=2, latent_dim=4, hidden_features=8, tracing_steps=3)


def test_flops_are_those_of_the_matrix_products_per_ray():
    few, many = (measuring.flops_of(1, rays, False, tuple(SIZES.items())) for rays in (10, 30))
    phi = 3 * 8 + 3 * 8 * 8
    lstm = 4 * 16 * (8 + 16)
    colour = 5 * 8 * 8 + 8 * 3
    camera = 2 * 9  # upper bound for geometry.cast
    per_ray = (many - few) / 20
    expected = 2 * (4 * phi + 3 * (lstm + 16) + colour)
    assert expected <= per_ray <= expected + 2 * camera


def test_counting_flops_allocates_no_tensors():
    few, many = (measuring.flops_of(1, rays, False, tuple(SIZES.items())) for rays in (10**7, 2 * 10**7))
    assert many > 1.9 * few > 0  # real tensors of so many rays would not fit into memory


def test_modes_are_measured_in_turn():
    asked = []
    found = measuring.interleaved(("fast", "reference"), 2, lambda mode: asked.append(mode) or {"s": len(asked)})
    assert asked == ["fast", "reference", "fast", "reference"]
    assert measuring.medians(found["reference"]) == {"s": 3}


def test_the_ratio_compares_rows_with_equal_keys():
    rows = [
        {"mode": "fast", "batch": 1, "s": 2.0},
        {"mode": "reference", "batch": 4, "s": 5.0},
        {"mode": "fast", "batch": 4, "s": 2.0},
    ]
    assert [row["ratio"] for row in measuring.with_ratios(rows, "s", ["batch"])] == [None, None, 2.5]


def test_a_line_through_all_magnitudes_is_recovered():
    xs = [10, 1000, 1_000_000]
    assert measuring.line_through(xs, [3 * x + 5 for x in xs]) == pytest.approx((3, 5))


def test_missing_values_give_empty_cells():
    columns = {"a": ("A", ".1f"), "b": ("B", "")}
    assert measuring.table([{"a": 1.26}, {"a": None, "b": "x"}], columns).splitlines()[2:] == ["| 1.3 |  |", "|  | x |"]


def test_facts_describe_the_machine():
    facts = measuring.facts()
    assert facts["processor"] and facts["cores"] >= 1 and facts["torch"] == torch.__version__ and facts["device"] == "cpu"


def test_limit_and_memory_are_plausible():
    assert measuring.product_limit("cpu", "float32", [(8, 8, 8)], 0.01) > 0
    assert measuring.product_limit("cpu", "bfloat16", [(8, 8, 8)], 0.01) > 0
    assert measuring.peak_memory() > 50 and measuring.free_memory() > 2**20


def growth_of_a_step():
    """Growth of the peak by a tensor of 64 MiB."""
    torch.ones(2**26)  # 256 MiB, freed at once
    before = measuring.forget_peak()
    held = torch.ones(2**24)
    return len(held) and measuring.peak_memory() - before


def test_forget_peak_excludes_earlier_peaks():
    """Runs in a new process, since memory that other tests freed would hide the growth."""
    assert 60 < measuring.in_own_process(growth_of_a_step) < 100


def test_in_own_process_runs_in_another_process():
    assert measuring.in_own_process(os.getpid) != os.getpid()
