"""runs/locks.py: one process holds a lock at a time."""

import errno
import json
import multiprocessing
import os
import socket

import pytest

import util
from runs import locks


def test_one_lock_at_a_time_and_the_holder_is_named(tmp_path):
    lock = locks.Lock(tmp_path / "lock")
    with pytest.raises(locks.Held, match=f"process {os.getpid()} on '{socket.gethostname()}'"):
        locks.Lock(tmp_path / "lock")
    lock.release()
    assert not list(tmp_path.iterdir())
    locks.Lock(tmp_path / "lock").release()


def test_a_lock_that_a_killed_process_left_is_free(tmp_path):
    def hold():
        locks.Lock(tmp_path / "lock")
        os._exit(1)

    process = multiprocessing.get_context("fork").Process(target=hold)
    process.start()
    process.join()
    assert (tmp_path / "lock").exists()
    locks.Lock(tmp_path / "lock").release()


def test_a_forked_worker_that_outlives_its_program_does_not_keep_the_lock(tmp_path):
    lock = locks.Lock(tmp_path / "lock")
    context = multiprocessing.get_context("fork")
    is_up, has_ended = context.Event(), context.Event()
    worker = context.Process(target=lambda: (is_up.set(), has_ended.wait()))
    worker.start()
    is_up.wait()
    os.close(lock.descriptor)  # as when the program is killed
    locks._held.discard(lock.descriptor)
    locks.Lock(tmp_path / "lock").release()
    has_ended.set()
    worker.join()


@pytest.fixture
def without_locks(monkeypatch):
    """A file system that has no locks."""

    def flock(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(locks.fcntl, "flock", flock)


def test_without_locks_of_the_file_system_a_file_is_the_lock(without_locks, tmp_path):
    lock = locks.Lock(tmp_path / "lock")
    substitute = tmp_path / "lock.pid"
    substitute.write_text(json.dumps({"process": 1, "host": socket.gethostname()}))  # a live one, but not ours
    with pytest.raises(locks.Held, match=f"process 1 on .*delete {substitute}"):
        locks.Lock(tmp_path / "lock")
    substitute.write_text(json.dumps({"process": 2**30, "host": "elsewhere"}))  # nobody here can know
    with pytest.raises(locks.Held, match="on 'elsewhere'"):
        locks.Lock(tmp_path / "lock")
    lock.release()
    assert not list(tmp_path.iterdir())


def test_a_stale_file_is_recognised_on_the_same_machine(without_locks, tmp_path):
    (tmp_path / "lock.pid").write_text(json.dumps({"process": 2**30, "host": socket.gethostname()}))
    locks.Lock(tmp_path / "lock").release()
    assert not list(tmp_path.iterdir())


def make_link(path, victim):
    path.symlink_to(victim)


@pytest.mark.parametrize(
    "plant",
    [make_link, lambda path, victim: os.link(victim, path), lambda path, _: os.mkfifo(path), lambda path, _: path.mkdir()],
    ids=["link", "hard link", "pipe", "folder"],
)
def test_what_is_no_lock_of_ours_is_refused_and_left_as_it_is(tmp_path, plant):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    plant(tmp_path / "lock", victim)
    with pytest.raises(util.InputError, match="lock: expected a lock file, found something else"):
        locks.Lock(tmp_path / "lock")
    assert victim.read_text() == "precious" and os.path.lexists(tmp_path / "lock")


def test_a_dangling_link_makes_no_file_elsewhere(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(util.InputError):
        locks.Lock(tmp_path / "lock")
    assert not (tmp_path / "elsewhere").exists()


def test_whoever_waits_gets_the_lock_when_it_is_given_up(tmp_path, monkeypatch, capsys):
    lock = locks.Lock(tmp_path / "lock")
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: lock.release())
    with locks.held_in_turn(tmp_path / "lock", "note: waiting"):
        assert (tmp_path / "lock").exists()
    assert capsys.readouterr().out.startswith("note: waiting (process")
