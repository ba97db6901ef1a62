"""Numerical precision of the matrix products: the choices of --precision, autocast, and the cast back to float32."""

import contextlib

import torch

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16}


def autocast(device_type, precision):
    """A context in which matrix products run in a precision of PRECISIONS. device_type: "cpu" or "cuda"."""
    dtype = PRECISIONS[precision]
    return torch.autocast(device_type, dtype) if dtype else contextlib.nullcontext()


def to_float32(outputs):
    """The dict of tensors with bfloat16 ones cast to float32."""
    return {name: x.float() if x.dtype == torch.bfloat16 else x for name, x in outputs.items()}
