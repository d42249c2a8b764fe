# SPDX-License-Identifier: Apache-2.0
"""Models as measures see them: a function on batches, and the score of the explained class."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyrel.metrics.maps import FloatArray

# Raw outputs (n, classes), or (n,), of a batch (n, ...): `explainer.forward`, or any such function.
Forward = Callable[[NDArray[Any]], Any]
# Told how many of how many model runs on one sample are done.
Progress = Callable[[int, int], None]
IntArray = NDArray[np.int64]

Score = Literal["probability", "log_probability", "log_odds", "output"]
SCORES: tuple[str, ...] = get_args(Score)


def outputs_of(forward: Forward, x: NDArray[Any]) -> FloatArray:
    """Run a model on one batch; outputs of shape (n,) become (n, 1).

    Raises
    ------
    ValueError
        If the outputs are not one row for each sample, or are NaN or infinite.
    """
    outputs = np.asarray(forward(x), dtype=np.float64)
    if outputs.ndim == 1:
        outputs = outputs[:, None]
    if outputs.ndim != 2 or len(outputs) != len(x) or not outputs.shape[1]:
        raise ValueError(
            f"forward: wanted outputs of shape ({len(x)}, classes), given {outputs.shape}"
        )
    if not np.isfinite(outputs).all():
        raise ValueError("forward: wanted finite outputs, given NaN or infinity")
    return outputs


def all_outputs(forward: Forward, x: NDArray[Any], max_bytes: int) -> FloatArray:
    """Run a model on all samples, in batches of at most `max_bytes` of input."""
    size = batch_size(x, max_bytes)
    starts = range(0, max(len(x), 1), size)
    return np.concatenate([outputs_of(forward, x[start : start + size]) for start in starts])


def batch_size(x: NDArray[Any], max_bytes: int) -> int:
    """Return how many samples of the size of those in `x` take `max_bytes`, at least one."""
    return max(1, max_bytes // max(1, x[:0].dtype.itemsize * int(np.prod(x.shape[1:]))))


def as_target(target: ArrayLike | None, outputs: FloatArray) -> IntArray:
    """Return the explained class of each sample: as given, or the predicted class for None.

    Raises
    ------
    TypeError
        If the classes are not integers.
    ValueError
        If their shape is neither () nor (n,), or one is no class.
    """
    if target is None:
        predicted: IntArray = outputs.argmax(axis=1)
        return predicted
    given = np.asarray(target)
    if given.dtype.kind not in "iu":
        raise TypeError(f"target: wanted integers, given dtype {given.dtype}")
    count, classes = outputs.shape
    if given.shape not in ((), (count,)):
        raise ValueError(f"target: wanted a class or shape ({count},), given {given.shape}")
    if given.size and not (given.min() >= 0 and given.max() < classes):
        bad = given.min() if given.min() < 0 else given.max()
        raise ValueError(f"target: wanted classes below {classes}, given {bad}")
    return np.array(np.broadcast_to(given, (count,)), dtype=np.int64)


def class_scores(outputs: FloatArray, target: IntArray, score: Score) -> FloatArray:
    """Return the score of the explained class.

    Parameters
    ----------
    outputs
        (n, classes) raw outputs z.
    target
        (n,) explained classes t.
    score
        "probability": p = exp(z_t) / Σ_c exp(z_c); "log_probability": ln p; "log_odds":
        ln(p / (1 - p)); "output": z_t.

    Raises
    ------
    ValueError
        For an unknown score, or another score than "output" of a model with one output.
    """
    if score not in SCORES:
        raise ValueError(f"score: wanted one of {', '.join(SCORES)}, given {score!r}")
    rows = np.arange(len(outputs))
    chosen: FloatArray = outputs[rows, target]
    if score == "output":
        return chosen
    if outputs.shape[1] == 1:
        raise ValueError(f"score: {score!r} wants two classes at least; 'output' takes one output")
    others = outputs.copy()
    others[rows, target] = -np.inf
    log_odds: FloatArray = chosen - np.logaddexp.reduce(others, axis=1)
    if score == "log_odds":
        return log_odds
    log_probability: FloatArray = -np.logaddexp(0.0, -log_odds)
    return np.exp(log_probability) if score == "probability" else log_probability


def as_count(value: int, argument: str, least: int = 1) -> int:
    """Return a whole number of at least `least`.

    Raises
    ------
    TypeError, ValueError
        If it is no whole number, or a smaller one.
    """
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{argument}: wanted a whole number, given {value!r}") from None
    if isinstance(value, bool) or count < least:
        raise ValueError(f"{argument}: wanted a whole number of at least {least}, given {value!r}")
    return count
