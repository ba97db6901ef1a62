"""Fixtures of the tests of datasets/checks."""

import os
import shutil

import pytest


@pytest.fixture
def own_split(ball_split, tmp_path):
    """A copy that a test may spoil."""
    shutil.copytree(ball_split.parent, tmp_path / "Ball")
    return tmp_path / "Ball" / "Ball.train"


@pytest.fixture
def deny(monkeypatch):
    """deny(folder): what is in it can neither be listed nor opened nor asked for, as for a user who may not read it.

    With `can_be_listed` the names in it can be read, and no more.
    """

    def refuse(folder, can_be_listed=False):
        def guarded(name, function):
            def call(path, *arguments, **options):
                is_it = str(path) == str(folder) and name in ("listdir", "scandir") and not can_be_listed
                if is_it or str(path).startswith(f"{folder}/"):
                    raise PermissionError(13, "Permission denied", str(path))
                return function(path, *arguments, **options)

            return call

        for name in ("listdir", "scandir", "stat", "lstat", "open"):
            monkeypatch.setattr(os, name, guarded(name, getattr(os, name)))

    return refuse
