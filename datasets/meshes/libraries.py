"""Imports of the optional libraries that requirements/data.txt lists."""

import importlib

import util


def load(module, purpose):
    """The module of that name. Raises InputError if it is not installed; `purpose` starts the message."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise util.InputError(f"{purpose} needs {module} ({error}); run `pip install -r requirements/data.txt`") from None
