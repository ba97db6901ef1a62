"""Fixtures shared by the tests."""

import deviations
import pytest
import scenes
import torch

import train
import util
from kernels import backends

torch.set_num_threads(1)  # tiny models gain nothing from more, and lose much where other programs run


@pytest.fixture(scope="session", autouse=True)
def memory_as_it_is():
    """It would be kept for the whole process, where tests look at how much a step takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(util, "keep_freed_memory", lambda: False)
        yield


@pytest.fixture(autouse=True)
def pytorch_alone():
    """A test begins with what PyTorch computes, whatever a program that another one called has switched on."""
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
    """The training split of a tiny class folder: two instances of four views, 16 x 16. Not to be changed."""
    return scenes.write_split(tmp_path_factory.mktemp("ball_split") / "Ball" / "Ball.train")


@pytest.fixture(scope="session")
def semantic_run(ball_split, tmp_path_factory):
    """The run folder of a tiny semantic SRN after two steps on `ball_split`. Not to be changed."""
    logs = tmp_path_factory.mktemp("semantic_run")
    train.main(scenes.train_options(ball_split, logs, "semantic"))
    return logs / "semantic"


@pytest.fixture
def refuses(capsys):
    """Calls a program's main and asserts that it refuses: exit code 2, the reason on the last line, no traceback."""

    def call(main, arguments, reason):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        written = capsys.readouterr().err.strip().splitlines()
        assert stopped.value.code == 2
        assert reason in written[-1]
        assert not any("Traceback" in line for line in written)

    return call
