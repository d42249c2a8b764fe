# SPDX-License-Identifier: Apache-2.0
"""Arrays of weights, checked, put in torch's order and into a torch module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

Array = npt.NDArray[np.floating]
Layer = TypeVar("Layer", nn.LSTM, nn.GRU, nn.RNN)

# Of each direction: rows of the input, of the recurrent product, and their biases.
Direction = tuple[Array, Array, Array | None, Array | None]

TORCH_LSTM = ("i", "f", "g", "o")
TORCH_GRU = ("r", "z", "n")


def filled(kind: type[Layer], directions: Sequence[Direction], **options: str) -> Layer:
    """Return a module of one layer from its matrices (input, recurrent) and biases.

    Torch adds two biases. Where there is one, the other is zero.
    """
    w, u, b, _ = directions[0]
    module = kind(
        w.shape[1],
        u.shape[1],
        bias=b is not None,
        batch_first=True,
        bidirectional=len(directions) == 2,
        **options,
    )
    state: dict[str, Tensor] = {}
    for suffix, (w, u, b, b_recurrent) in zip(("", "_reverse"), directions, strict=False):
        state[f"weight_ih_l0{suffix}"] = to_tensor(w)
        state[f"weight_hh_l0{suffix}"] = to_tensor(u)
        if b is not None:
            state[f"bias_ih_l0{suffix}"] = to_tensor(b)
            other = np.zeros_like(b) if b_recurrent is None else b_recurrent
            state[f"bias_hh_l0{suffix}"] = to_tensor(other)
    module.load_state_dict(state)
    return module.eval()


def reorder(matrix: Array, given: Sequence[str], wanted: Sequence[str]) -> Array:
    """Return a matrix with its blocks of rows in another order."""
    blocks = dict(zip(given, np.split(matrix, len(given)), strict=True))
    return np.concatenate([blocks[gate] for gate in wanted])


def checked_array(name: str, values: npt.ArrayLike, shape: tuple[int, ...] | None = None) -> Array:
    """Return finite real numbers of the wanted shape."""
    array = np.asarray(values)
    if array.dtype.kind != "f":
        raise ValueError(f"{name}: given {array.dtype}; wanted an array of floating-point numbers")
    if shape is not None:
        check_shape(name, array, shape)
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: holds NaN or infinity")
    return array


def checked_matrix(name: str, array: Array, gates: int) -> tuple[int, int]:
    """Return rows and columns of a matrix whose rows are so many gates."""
    if array.ndim != 2 or array.shape[0] % gates or not array.size:
        raise ValueError(f"{name}: given shape {array.shape}; wanted ({gates} x units, features)")
    return array.shape[0], array.shape[1]


def check_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Refuse an array of another shape."""
    if array.shape != shape:
        raise ValueError(f"{name}: given shape {array.shape}; wanted {shape}")


def to_tensor(array: Array) -> Tensor:
    """Return a copy of an array as float32 of torch."""
    return torch.from_numpy(np.array(array, np.float32))
