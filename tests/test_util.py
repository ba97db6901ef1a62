import errno
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import util

keep_freed_memory = util.keep_freed_memory  # the real function: conftest.py replaces it


def test_replacing_leaves_the_new_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with util.replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.parent == tmp_path
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_replacing_keeps_the_old_file_when_writing_fails(tmp_path, error):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(error), util.replacing(path) as temporary:
        temporary.write_text("half of")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_durable_file_is_on_the_disk_before_it_has_its_name_and_so_is_the_name(tmp_path, monkeypatch):
    flushed = []

    def fsync(descriptor):
        name = Path(f"/proc/self/fd/{descriptor}").resolve()
        flushed.append((name == tmp_path, (tmp_path / "x").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with util.replacing(tmp_path / "x", is_durable=True) as temporary:
        temporary.write_text("new")
    assert flushed == [(False, False), (True, True)]


def test_replacing_keeps_the_suffix_for_writers_that_depend_on_it(tmp_path):
    with util.replacing(tmp_path / "x.npy") as temporary:
        np.save(temporary, np.zeros(2))
    assert np.load(tmp_path / "x.npy").shape == (2,)


def test_a_file_written_by_replacing_has_the_rights_of_any_other(tmp_path):
    (tmp_path / "plain").write_text("")
    with util.replacing(tmp_path / "replaced"):
        pass
    assert (tmp_path / "replaced").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_as_rays_undoes_as_image():
    rays = torch.randn(2, 9, 5)
    assert torch.equal(util.as_rays(util.as_image(rays)), rays)
    image = torch.randn(2, 5, 4, 4)
    assert torch.equal(util.as_image(util.as_rays(image)), image)


def test_ray_and_pixel_have_the_same_place():
    image = util.as_image(torch.arange(9.0).view(1, 9, 1))
    assert image[0, 0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert util.as_image(torch.zeros(2, 9, 4)).shape == (2, 4, 3, 3)


def test_the_device_is_the_one_that_is_asked_for(monkeypatch):
    assert util.pick_device("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert util.pick_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(util.InputError, match="cuda:2: this machine has 2 CUDA devices"):
        util.pick_device("cuda:2")
    assert util.pick_device("auto") == torch.device("cuda")
    assert util.pick_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_cuda_where_there_is_none_is_an_error_not_the_cpu(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(util.InputError, match=f"--device {name}.*no CUDA"):
        util.pick_device(name)


def test_a_device_that_does_not_exist_is_an_input_error():
    with pytest.raises(util.InputError, match="gpu"):
        util.pick_device("gpu")


def test_a_users_error_ends_a_command_with_one_line_and_code_2(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["some/train.py"])

    @util.command
    def main(argv=None):
        raise util.InputError(f"{argv}: not there")

    with pytest.raises(SystemExit) as stopped:
        main("data")
    assert stopped.value.code == 2
    assert capsys.readouterr() == ("", "train.py: error: data: not there\n")


def test_other_errors_keep_their_traceback():
    @util.command
    def main(argv=None):
        raise KeyError("bug")

    with pytest.raises(KeyError):
        main()


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.ENOSPC, "No space", "logs/x"), "logs/x: the disk is full; .*--logging_root"),
        (OSError(errno.EDQUOT, "Quota", "logs/x"), "logs/x: the quota"),
        (PermissionError(errno.EACCES, "Permission denied", "logs/x"), "logs/x: this user has no right"),
        (FileNotFoundError(errno.ENOENT, "No such file", "logs/x"), "logs/x: it is gone"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n 4096.*--num_workers"),
        (MemoryError(), "out of memory; .*--rays_per_block"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory; .*--rays_per_block"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (RuntimeError("DataLoader worker (pid 9) is killed by signal: Killed. "), "reads images was ended"),
        (RuntimeError("DataLoader worker (pid 9) is killed by signal: Bus error. Insufficient shared memory"), "/dev/shm"),
        (RuntimeError("unable to write to file </torch_12_3>: No space left on device (28)"), "/dev/shm"),
    ],
    ids=repr,
)
def test_what_the_surroundings_cause_is_one_sentence_and_exit_code_2(capsys, error, said):
    @util.command
    def main(argv=None):
        raise error

    with pytest.raises(SystemExit) as stopped:
        main()
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and re.search(said, line), line


@pytest.mark.parametrize("error", [OSError("odd"), RuntimeError("shapes do not match"), OSError(errno.EINVAL, "Invalid")])
def test_other_errors_of_the_system_keep_their_traceback(error):
    assert util.cause_of(error) is None


def test_a_command_passes_on_arguments_and_result():
    assert util.command(lambda argv=None: argv)(["x"]) == ["x"]


@pytest.mark.slow
def test_importing_the_programs_neither_parses_nor_seeds_nor_opens_cuda():
    """Runs in a new process, with options that do not exist."""
    lines = [
        "import sys, torch, random",
        "sys.argv[1:] = ['--no-such-option']",
        "before = torch.get_rng_state(), random.getstate()",
        "import train, test",
        "assert (torch.get_rng_state() == before[0]).all() and random.getstate() == before[1]",
        "assert not torch.cuda.is_initialized()",
    ]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, cwd=Path(util.__file__).parent)


FREED = """
import sys, torch, util
from concurrent.futures import ThreadPoolExecutor
assert util.keep_freed_memory()
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096
def look():
    x = torch.ones(2**26)
    held = resident()
    del x
    assert resident() > held - 2**26, "given back"
    before = resident()
    x = torch.ones(2**25)
    assert resident() < before + 2**20, "not taken again"
if sys.argv[1] == "main":
    look()
else:
    ThreadPoolExecutor().submit(look).result()
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("where", ["main", "thread"])
def test_freed_memory_is_kept_for_the_next_tensor(where):
    subprocess.run([sys.executable, "-c", FREED, where], cwd=Path(util.__file__).parent, check=True)


def test_other_c_libraries_are_not_touched(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
