"""Fixtures shared by the tests."""

from pathlib import Path

import deviations
import pytest
import scenes
import torch

import train
import util
from kernels import backends

torch.set_num_threads(1)  # tiny models gain nothing from more threads, and lose much when other programs run


SLOW = (  # modules and folders of which `make quick` runs nothing, beside the tests marked one by one
    "bench",
    "meshes/test_colour_transfer.py",
    "test_interpolate.py",
    "test_make_dataset.py",
    "test_parity.py",
    "test_test.py",
    "test_train.py",
    "training/test_code_fitting.py",
    "training/test_code_solver.py",
    "training/test_kills.py",
    "training/test_logistic_regression.py",
    "training/test_objectives.py",
    "training/test_resuming.py",
    "training/test_stages.py",
)


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=20, help="how often tests/training/test_kills.py kills runs")


def pytest_collection_modifyitems(items):
    folder = Path(__file__).parent
    for item in items:
        if item.path.relative_to(folder).as_posix().startswith(SLOW):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def default_allocator():
    """Programs under test do not keep freed memory, since that holds for the process and some tests measure memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(util, "keep_freed_memory", lambda: False)
        yield


@pytest.fixture(autouse=True)
def no_c_code():
    """Each test starts without the C code, which a program called by an earlier test may have switched on."""
    backends.select("torch")


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def parity():
    return deviations.Parity(deviations.PARITY)


@pytest.fixture(scope="session")
def ball_split(tmp_path_factory):
    """The training split of a tiny class folder: two instances, four views each, 16 x 16. Tests must not change it."""
    return scenes.write_split(tmp_path_factory.mktemp("ball_split") / "Ball" / "Ball.train")


@pytest.fixture(scope="session")
def semantic_run(ball_split, tmp_path_factory):
    """The run folder of a tiny semantic SRN after two steps on `ball_split`. Tests must not change it."""
    logs = tmp_path_factory.mktemp("semantic_run")
    train.main(scenes.train_options(ball_split, logs, "semantic"))
    return logs / "semantic"


@pytest.fixture
def refuses(capsys):
    """A function that calls a program's main and asserts that it fails with exit code 2, the reason on the last line of
    stderr, and no traceback."""

    def call(main, arguments, reason):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        written = capsys.readouterr().err.strip().splitlines()
        assert stopped.value.code == 2
        assert reason in written[-1]
        assert not any("Traceback" in line for line in written)

    return call
