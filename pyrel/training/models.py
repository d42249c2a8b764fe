# SPDX-License-Identifier: Apache-2.0
"""Trained cells as files: safe to load from strangers, complete in themselves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import pyrel.nn
from pyrel.compiler.program.file_limits import Limits
from pyrel.files.foreign import parsing
from pyrel.files.tensors import read_tensors, write_tensors


def save_model(
    path: str | os.PathLike[str],
    model: pyrel.nn.Cell,
    *,
    low: npt.ArrayLike | None = None,
    high: npt.ArrayLike | None = None,
    training: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Save a cell: its weights, and in the header all that is needed to use it.

    Parameters
    ----------
    path : path
        Replaced in one step if it exists; folders are made as needed.
    model : pyrel.nn.Cell
    low, high : scalar or array, optional
        Domain of the inputs, broadcastable to one sample, as ``Explainer`` takes it.
    training : mapping, optional
        JSON-able account of the training, such as ``TrainingResult.summary()``.
    extra : mapping, optional
        Further JSON-able entries.

    Raises
    ------
    TypeError
        The model is no cell of pyrel, or an entry is nothing that JSON can hold.
    ValueError
        An entry is NaN or infinite.
    OSError
        The file cannot be written.
    """
    if not isinstance(model, pyrel.nn.Cell):
        raise TypeError(
            f"model must be a cell of pyrel.nn, which its configuration can rebuild, not "
            f"{type(model).__name__}; save other modules with safetensors or torch.export"
        )
    content = {
        "cell": model.config(),
        "low": None if low is None else np.asarray(low, dtype=np.float64).tolist(),
        "high": None if high is None else np.asarray(high, dtype=np.float64).tolist(),
        "training": dict(training or {}),
        "extra": dict(extra or {}),
    }
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_tensors(target, "model", model.state_dict(), content)


def load_model(
    path: str | os.PathLike[str], *, limits: Limits | None = None
) -> tuple[pyrel.nn.Cell, dict[str, Any]]:
    """Load a cell that :func:`save_model` wrote.

    Nothing in the file is executed, and torch's random state stays as it is.

    Parameters
    ----------
    path : path
    limits : pyrel.Limits, optional
        How large the cell may be, lest a stranger's file takes much time; ``pyrel.Limits()`` by
        default.

    Returns
    -------
    model : pyrel.nn.Cell
        On the CPU, in eval mode.
    metadata : dict
        ``cell`` (the configuration), ``low`` and ``high`` (the domain; None where it was not
        given), ``training``, ``extra``, ``pyrel_version`` and ``format_version``.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        The file is truncated, changed, foreign, of another format or larger than the limits allow,
        or an entry has a type that it should not have; the message names the file.
    """
    source = Path(path)
    limits = limits or Limits()
    tensors, content = read_tensors(source, "model", limits)
    with parsing(source, "does not hold a cell that this pyrel knows: {error}"):
        _check_entries(content)
        _check_size(content["cell"], limits)
        with torch.device("meta"):  # neither memory nor random numbers before the shapes are known
            model = pyrel.nn.build(content["cell"])
        _check_shapes(model.state_dict(), tensors)
        model.load_state_dict(tensors, assign=True)
    return model.eval(), {k: v for k, v in content.items() if k not in ("kind", "checksum")}


def _check_entries(content: Mapping[str, Any]) -> None:
    for name in ("cell", "training", "extra"):
        if not isinstance(content.get(name), dict):
            raise TypeError(f"{name} must be a mapping, not {content.get(name)!r}")
    for name in ("low", "high"):
        if name not in content:
            raise ValueError(f"{name} is missing")
        # An array of ragged lists is a ValueError of numpy's.
        if content[name] is not None and np.asarray(content[name]).dtype.kind not in "iuf":
            raise TypeError(f"{name} must be a number or an array of them, not {content[name]!r}")


def _check_size(cell: Mapping[str, Any], limits: Limits) -> None:
    """Refuse a cell that a capture would unroll for very long; other sizes show in the weights."""
    steps, shape = cell.get("steps"), cell.get("step_shape", ())
    if not isinstance(steps, int) or not isinstance(shape, list | tuple):
        return  # which the cell refuses
    limits.check("steps", steps, "steps")
    if all(type(number) is int and number > 0 for number in shape):
        limits.check_shape("inputs", (steps, *shape), "elements of an input")


def _check_shapes(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    for name in sorted(wanted.keys() | given.keys()):
        shapes = [
            f"{side[name].dtype} {tuple(side[name].shape)}" if name in side else "nothing"
            for side in (wanted, given)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(f"its cell has {shapes[0]} as {name}, the file {shapes[1]}")
