# SPDX-License-Identifier: Apache-2.0
"""Refuses inputs that are no dense array or tensor of numbers, with advice for each kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.utils.rnn import PackedSequence


def refuse_unreadable(name: str, value: Any, wanted: str = "an array or a tensor") -> None:
    """Refuse what is no dense array or tensor of numbers that are there.

    Parameters
    ----------
    name : str
        What a message calls the argument.
    value : object
    wanted : str
        What the argument has to be, for the message.

    Raises
    ------
    TypeError
        If it is neither `numpy.ndarray` nor `torch.Tensor`, or one of a kind that cannot be read:
        masked, of objects, structured, sparse, nested, quantised, complex, or without values.
    """
    if isinstance(value, torch.Tensor):
        reason = _of_tensor(value)
    elif isinstance(value, np.ndarray):
        reason = _of_array(value)
    else:
        reason = _of_other(value)
    if reason is not None:
        raise TypeError(f"{name}: wanted {wanted}, got {reason}")


def refuse_unreadable_weight(name: str, weight: torch.Tensor) -> None:
    """Refuse a parameter or buffer as `refuse_unreadable` does; complex ones can be read."""
    parts = weight.is_complex() and weight.layout == torch.strided
    refuse_unreadable(f"model: {name}", weight.real if parts else weight, "a tensor with values")


def _of_tensor(x: torch.Tensor) -> str | None:
    shape = "(n, ...)" if x.is_nested else str(tuple(x.shape))
    if x.is_nested:
        return (
            "a nested tensor; give sequences of different lengths as one padded tensor, "
            "torch.nested.to_padded_tensor(x, 0.0), and lengths= to an explainer made with "
            "lengths=True"
        )
    if x.layout != torch.strided:
        return f"a sparse tensor ({x.layout}) of shape {shape}; give x.to_dense()"
    if x.is_meta or isinstance(x, FakeTensor):
        where = "the meta device" if x.is_meta else "no device (a FakeTensor)"
        return f"a tensor of shape {shape} on {where}, which has no values; give one that has"
    if x.is_quantized:
        return f"a quantised tensor ({x.dtype}) of shape {shape}; give x.dequantize()"
    if x.is_complex():
        return f"complex numbers ({x.dtype}); give torch.view_as_real(x) to a model that takes such"
    return None


def _of_array(x: np.ndarray[Any, Any]) -> str | None:
    if isinstance(x, np.ma.MaskedArray):
        return (
            "a masked array, whose mask would be lost; give x.filled(value), or lengths= if the "
            "mask marks the ends of sequences"
        )
    if x.dtype.kind == "O":
        return (
            f"an array of Python objects of shape {x.shape}; give x.astype('float32'), or, of "
            "sequences of different lengths, one padded array and lengths="
        )
    if x.dtype.names is not None:
        return f"a structured array ({x.dtype}); give one array of numbers"
    if x.dtype.kind == "c":
        return f"complex numbers (dtype {x.dtype}); give x.real, x.imag or both"
    return None


def _of_other(x: Any) -> str:
    kind = type(x).__name__
    if isinstance(x, Mapping):
        return f"a mapping ({kind}); a model that takes one tensor is explained: give that tensor"
    if isinstance(x, PackedSequence):
        return f"a {kind}; give the padded tensor, and lengths="
    if isinstance(x, list | tuple):
        return f"a {kind}; give np.asarray(x), or torch.stack(x) of tensors"
    if hasattr(x, "to_numpy"):
        return f"{kind}; give x.to_numpy()"
    if hasattr(x, "__array__") or hasattr(x, "__dlpack__"):
        return f"{kind}; give np.asarray(x)"
    return "None" if x is None else kind
