"""Fixtures shared by the tests."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

PARITY = Path(__file__).parent / "data" / "parity"


class Parity:
    """Inputs, weights and results of the published implementations; see data/parity/README.md."""

    def __init__(self, folder):
        self.folder = folder
        spec = importlib.util.spec_from_file_location("parity_weights", folder / "weights.py")
        self.weights = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.weights)
        self.manifest = json.loads((folder / "manifest.json").read_text())

    def load(self, name):
        """{name: array} of `<name>.npz`."""
        with np.load(self.folder / f"{name}.npz") as arrays:
            return dict(arrays)

    def state(self, variant, dtype=None, aliases=False):
        """{published key: tensor} of a variant of the manifest; `dtype` converts the floats."""
        entries = self.manifest["variants"][variant]["state_dict"]
        arrays = self.weights.make_state([e for e in entries if aliases or not e.get("alias_of")])
        tensors = {key: torch.from_numpy(array) for key, array in arrays.items()}
        return {key: t.to(dtype) if dtype and t.is_floating_point() else t for key, t in tensors.items()}


@pytest.fixture(scope="session")
def parity():
    return Parity(PARITY)
