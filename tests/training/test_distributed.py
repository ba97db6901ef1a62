import subprocess
import sys
import time

import many_processes
import pytest
import torch
from torch import nn

import util
from training import distributed

# A single process


def test_a_single_process_needs_no_other():
    with distributed.running("cpu") as device:
        assert device == torch.device("cpu")
        assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
        distributed.barrier()
        assert distributed.sum_over_processes(torch.tensor(3.0)) == 3
        rows, values = torch.tensor([4]), torch.ones(1, 2)
        assert distributed.gather_rows(rows, values, limit=5) == (rows, values)
        net = nn.BatchNorm1d(2)
        assert distributed.wrap(net) is net
        distributed.average_statistics(net)
        assert net.running_var.tolist() == [1, 1]
    assert not torch.distributed.is_initialized()


def test_only_the_main_process_prints(capsys, monkeypatch):
    for name, value in many_processes.environment(rank=1).items():
        monkeypatch.setenv(name, value)
    with distributed.quiet_unless_main():
        print("from 1")
    monkeypatch.setenv("RANK", "0")
    with distributed.quiet_unless_main():
        print("from 0")
    assert capsys.readouterr().out == "from 0\n"


# Refused


@pytest.fixture
def as_one_of_two(monkeypatch):
    """Makes torch report one CUDA device to two processes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name, value in many_processes.environment().items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize("name", ["cuda", "auto"])
def test_more_processes_than_devices_are_refused(as_one_of_two, name):
    with pytest.raises(util.InputError, match=f"--device {name}: 2 processes .* 1 CUDA devices.* --nproc_per_node 1"):
        distributed.start(name)


def test_several_processes_on_one_named_device_are_refused(as_one_of_two):
    with pytest.raises(util.InputError, match="--device cuda:0: each of the 2 processes .* give --device cuda"):
        distributed.start("cuda:0")


def test_an_incomplete_environment_of_the_launcher_is_refused(as_one_of_two):
    as_one_of_two.delenv("MASTER_ADDR")
    with pytest.raises(util.InputError, match="but not MASTER_ADDR; .* torchrun"):
        distributed.start("cpu")


# Two processes


class Net(nn.Module):
    """A table of codes and a layer that clamps gradients. (B, 2), (B,) rows -> (B, 1)."""

    def __init__(self):
        super().__init__()
        self.codes = nn.Embedding(4, 2, sparse=True)
        self.scale = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm1d(2, affine=False)
        self.layer = nn.Linear(2, 1)

    def forward(self, x, rows):
        self.norm(x)
        hidden = self.codes(rows) + self.scale * x
        if hidden.requires_grad:
            hidden.register_hook(lambda grad: grad.clamp(-0.05, 0.05))
        return self.layer(hidden)


def make_net(seed):
    torch.manual_seed(seed)
    return Net()


BATCH = torch.arange(12.0).reshape(6, 2).sin(), torch.tensor([0, 2, 0, 1, 3, 1])  # each process takes three of the six rows


def loss_of(net, x, rows):
    return (net(x, rows) - x[:, :1]).square().sum() / 6


def what_a_process_finds():
    rank = distributed.rank()
    found = {"rank": rank, "sum": distributed.sum_over_processes(torch.tensor([1.0, 10.0]) * (rank + 1))}
    rows, values = (torch.tensor([5, 3]), torch.ones(2, 2)) if rank == 0 else (torch.tensor([7]), torch.full((1, 2), 2.0))
    found["gathered"] = [distributed.gather_rows(rows, values, limit) for limit in (None, 3)]
    found["nothing"] = distributed.gather_rows(rows[:0], values[:0])[0]

    net = make_net(seed=rank)  # different initial weights in each process
    wrapped = distributed.wrap(net, [net.codes.weight])
    found["start"] = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    for _ in range(2):
        net.zero_grad()
        loss_of(wrapped, *(part[3 * rank : 3 * rank + 3] for part in BATCH)).backward()
    found["gradients"] = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    found["own mean"] = net.norm.running_mean.clone()
    distributed.average_statistics(net)
    found["mean"], found["variance"] = net.norm.running_mean, net.norm.running_var

    net.layer.requires_grad_(False)
    net.scale.requires_grad_(False)
    found["nothing to wrap"] = distributed.wrap(net, [net.codes.weight]) is net
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return many_processes.run(what_a_process_finds, tmp_path_factory.mktemp("two"))


def test_sums_are_the_same_in_all_processes(two):
    assert [found["rank"] for found in two] == [0, 1]
    assert [found["sum"].tolist() for found in two] == [[3, 30]] * 2


def test_rows_come_from_all_processes_in_their_order(two):
    for found in two:
        for (rows, values), expected in zip(found["gathered"], ([5, 3, 7, -1], [5, 3, -1, 7, -1, -1])):
            assert rows.tolist() == expected
            assert values[:, 0].tolist() == [{-1: 0, 7: 2}.get(row, 1) for row in expected]
        assert len(found["nothing"]) == 0


def test_all_start_with_the_main_process_s_parameters(two):
    for found in two:
        for name, parameter in make_net(seed=0).named_parameters():
            assert torch.equal(found["start"][name], parameter), name


def test_gradients_of_the_networks_are_those_of_the_whole_batch(two):
    net = make_net(seed=0)
    loss_of(net, *BATCH).backward()
    assert net.scale.grad != 0
    for found in two:
        for name in ("scale", "layer.weight", "layer.bias"):
            torch.testing.assert_close(found["gradients"][name], net.get_parameter(name).grad)


def test_gradients_of_ignored_parameters_stay_each_process_s_own(two):
    for found, rows in zip(two, ([0, 2], [1, 3])):
        assert found["gradients"]["codes.weight"].coalesce().indices().tolist() == [rows]


def test_running_statistics_are_averaged_when_asked_for(two):
    assert not torch.allclose(two[0]["own mean"], two[1]["own mean"])
    for found in two:
        torch.testing.assert_close(found["mean"], (two[0]["own mean"] + two[1]["own mean"]) / 2)
        assert torch.equal(found["variance"], two[0]["variance"])


def test_a_module_without_other_trainable_parameters_is_not_wrapped(two):
    assert all(found["nothing to wrap"] for found in two)


FAILS = """
import sys
import torch
import util
from training import distributed

@util.command
def main(argv=None):
    with distributed.running("cpu"):
        distributed.barrier()
        if distributed.rank() == 1:
            raise util.InputError("what process 1 found")
        distributed.sum_over_processes(torch.zeros(1))  # process 1 will not come

main()
"""


@pytest.mark.slow
def test_a_process_that_fails_ends_the_others(tmp_path):
    (tmp_path / "fails.py").write_text(FAILS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    start = time.perf_counter()
    ended = subprocess.run(
        [*command, tmp_path / "fails.py"], capture_output=True, text=True, env={"PYTHONPATH": ".", "OMP_NUM_THREADS": "1"}
    )
    assert ended.returncode != 0 and "fails.py: error: what process 1 found\n" in ended.stderr
    assert time.perf_counter() - start < 120
