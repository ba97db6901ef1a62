import copy

import many_processes
import pytest
import torch
from torch import nn

from training import distributed
from training.row_adam import RowAdam

SETTINGS = dict(lr=0.01, betas=(0.5, 0.9), eps=1e-5)
NUM_ROWS, SIZE = 7, 3


def make_table(seed=0):
    torch.manual_seed(seed)
    return nn.Parameter(torch.randn(NUM_ROWS, SIZE))


def gradient(rows, seed=0, coalesced=False):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(rows), SIZE, generator=generator)
    return torch.sparse_coo_tensor(
        torch.tensor([rows]), values, (NUM_ROWS, SIZE), is_coalesced=coalesced, check_invariants=True
    )


def take_steps(optimizer, table, rows_of_steps, first=0):
    for step, rows in enumerate(rows_of_steps, start=first):
        table.grad = gradient(rows, step)
        optimizer.step()


def both(**settings):
    """[(table, optimizer)] of PyTorch and of this project, with the same initial table."""
    return [
        (table, kind([table], **SETTINGS | settings))
        for kind in (torch.optim.SparseAdam, RowAdam)
        for table in [make_table()]
    ]


def assert_same_state(one, other, **tolerance):
    assert one.keys() == other.keys()
    assert one["step"] == other["step"] and type(one["step"]) is type(other["step"]) is int
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(one[name], other[name], **tolerance)


# One process


@pytest.mark.parametrize("repeats", [False, True])
def test_the_steps_are_those_of_sparse_adam(repeats):
    """Also if the rate changes or a gradient is missing; bit for bit if no rows are summed."""
    tolerance = dict(rtol=1e-5, atol=1e-6) if repeats else dict(rtol=0, atol=0)
    steps = [[4, 1, 4, 4], [1, 1], [], [6, 0, 6]] if repeats else [[4, 1], [1], [], [6, 0, 4]]
    (theirs, expected), (ours, found) = both()
    for table, optimizer in ((theirs, expected), (ours, found)):
        take_steps(optimizer, table, steps)
        optimizer.param_groups[0]["lr"] *= 0.1
        table.grad = None
        optimizer.step()
        take_steps(optimizer, table, steps, first=len(steps))
    torch.testing.assert_close(ours, theirs, **tolerance)
    assert_same_state(expected.state[theirs], found.state[ours], **tolerance)


def test_gradients_of_an_embedding_are_accepted():
    tables = [nn.Embedding(NUM_ROWS, SIZE, sparse=True, _weight=make_table().data) for _ in range(2)]
    for table, kind in zip(tables, (torch.optim.SparseAdam, RowAdam)):
        table(torch.tensor([5, 2, 5])).square().sum().backward()
        kind([table.weight], **SETTINGS).step()
    torch.testing.assert_close(*(table.weight for table in tables))


@pytest.mark.parametrize("first, second", [(0, 1), (1, 0)])
def test_state_dicts_are_exchanged_with_sparse_adam(first, second):
    pairs = both()
    (table, optimizer), (_, other) = pairs[first], pairs[second]
    take_steps(optimizer, table, [[1, 2], [2]])
    taken_over = nn.Parameter(table.detach().clone())
    other = type(other)([taken_over], lr=1.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, its_table in ((optimizer, table), (other, taken_over)):
        take_steps(each, its_table, [[2, 3], [1]], first=2)
    assert torch.equal(table, taken_over)
    assert_same_state(optimizer.state[table], other.state[taken_over], rtol=0, atol=0)


def test_rows_that_the_gradient_does_not_name_stay_where_they_are():
    table = make_table()
    before, optimizer = table.detach().clone(), RowAdam([table], **SETTINGS)
    take_steps(optimizer, table, [[1, 5], [5, 1, 1]])
    assert (table != before).any(dim=1).nonzero().flatten().tolist() == [1, 5]
    assert optimizer.state[table]["exp_avg"].any(dim=1).nonzero().flatten().tolist() == [1, 5]


def test_a_gradient_that_says_that_it_is_coalesced_is_not_summed(monkeypatch):
    monkeypatch.setattr("training.row_adam.sum_repeats", None)
    table = make_table()
    table.grad = gradient([1, 3], coalesced=True)
    RowAdam([table], **SETTINGS).step()


def test_a_dense_gradient_is_refused():
    table = make_table()
    table.grad = torch.ones_like(table)
    with pytest.raises(ValueError, match="sparse=True"):
        RowAdam([table]).step()


def test_a_step_with_an_infinite_gradient_changes_nothing():
    """Not even the step count, in the first step or a later one."""
    (skipped, optimizer), (expected, other) = both()[1], both()[1]
    for step, bad in enumerate([1.0, 0.0, 1.0, 0.0]):
        rows, optimizer.found_inf = [step, 1, 1], torch.tensor(bad)
        skipped.grad = gradient(rows, step) * (float("inf") if bad else 1)
        optimizer.step()
        if not bad:
            take_steps(other, expected, [rows], first=step)
        assert torch.equal(skipped, expected)
    del optimizer.found_inf
    for each, table in ((optimizer, skipped), (other, expected)):
        take_steps(each, table, [[1, 2]], first=9)
    assert torch.equal(skipped, expected)
    states = [each.state_dict()["state"][0] for each in (optimizer, other)]
    assert_same_state(*states, rtol=0, atol=0)
    assert states[0]["step"] == 3


# Two processes: rows of each in four steps, None for no gradient

STEPS = [([1, 4, 4], [2, 4]), (None, [0, 1]), ([6], []), ([0], [5, 5, 6])]


def steps_of_a_process():
    tables = []
    for rows_per_process in (None, 3):
        table = make_table()
        optimizer = RowAdam([table], **SETTINGS, rows_per_process=rows_per_process)
        for step, rows_of_processes in enumerate(STEPS):
            rows = rows_of_processes[distributed.rank()]
            table.grad = None if rows is None else gradient(rows, seed=10 * step + distributed.rank())
            optimizer.step()
        tables.append((table.detach(), optimizer.state_dict()["state"][0]))

    table = make_table()
    optimizer = RowAdam([table], **SETTINGS, rows_per_process=3)
    optimizer.step()  # no process has a row: row 0, the padding, must not change either
    optimizer.found_inf = torch.tensor(1.0)
    take_steps(optimizer, table, [[0, 1]])
    tables.append((table.detach(), optimizer.state_dict()["state"][0]))
    return tables


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return many_processes.run(steps_of_a_process, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("known_number_of_rows", [0, 1])
def test_two_processes_step_as_one_does_with_the_gradients_of_both(two, known_number_of_rows):
    table = make_table()
    optimizer = RowAdam([table], **SETTINGS)
    for step, rows_of_processes in enumerate(STEPS):
        parts = [gradient(rows, seed=10 * step + i) for i, rows in enumerate(rows_of_processes) if rows is not None]
        table.grad = sum(parts[1:], parts[0])
        optimizer.step()
    for tables in two:
        found, state = tables[known_number_of_rows]
        torch.testing.assert_close(found, table.detach())
        assert_same_state(state, optimizer.state_dict()["state"][0])


def test_the_tables_of_two_processes_are_the_same_bit_for_bit(two):
    for (one, state), (other, other_state) in zip(*two):
        assert torch.equal(one, other)
        assert_same_state(state, other_state, rtol=0, atol=0)


def test_two_processes_that_name_no_row_or_find_infinities_move_nothing(two):
    for tables in two:
        table, state = tables[2]
        assert torch.equal(table, make_table().detach()) and not state["exp_avg"].any() and state["step"] == 1
