# SPDX-License-Identifier: Apache-2.0
"""Which products are of bfloat16, and which class is that of float32 where outputs are of such.

With "bf16" these are the products of relevance, denominators too; with "bf16_all" those of the
forward pass as well. Sums are always in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pyrel import _core
from pyrel.engine.arrays import Float32s, Int64s
from pyrel.methods.options import word

PRECISIONS = ("float32", "bf16", "bf16_all")

_PROBES = 64
_AT_ONCE = 1024  # samples that are copied to be looked at again
_TIMES = 3.0  # the largest error that was seen; about ten times that of a typical output


def classes_of_float32(
    output: Float32s,
    predicted: Int64s,
    forward: Callable[[Int64s], tuple[Float32s, Int64s]],
) -> Int64s:
    """Correct the classes that outputs in bfloat16 predict, running few samples in float32.

    Up to 64 samples, spread over the batch, are run in any case, and show how far the outputs are
    off, relative to their size. Then all whose two largest outputs are closer than three times
    the largest error seen so far. Bounds on rounding that hold in every case are far too wide; so
    this is as sure as that margin is wide, and for 64 samples or fewer it is certain.

    Parameters
    ----------
    output : ndarray, shape (n, classes)
    predicted : ndarray of int64, shape (n,)
    forward : callable
        Takes numbers of samples and returns their outputs and classes in float32.

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    n, width = output.shape
    classes = predicted.copy()
    if n == 0 or width == 1:
        return classes
    highest = np.partition(output, -2, axis=1)[:, -2:].astype(np.float64)
    size = np.maximum(np.abs(output).max(axis=1), np.finfo(np.float32).tiny).astype(np.float64)
    unknown = np.ones(n, dtype=bool)
    error = 0.0
    some = np.unique(np.linspace(0, n - 1, min(n, _PROBES)).astype(np.int64))
    with np.errstate(invalid="ignore"):  # infinite outputs, where they are let pass
        apart = (highest[:, 1] - highest[:, 0]) / size
        while some.size:
            exact, classes[some] = forward(some)
            unknown[some] = False
            off = np.abs(exact.astype(np.float64) - output[some]).max(axis=1) / size[some]
            error = float(np.fmax(error, np.fmax.reduce(off)))
            some = np.flatnonzero(unknown & ~(apart > _TIMES * error))[:_AT_ONCE]
    return classes


def check_precision(precision: str, isa: str, device: str | None = None) -> str:
    """Refuse a precision that is unknown, or that the instruction set or device cannot compute.

    Returns it, as Python's str.
    """
    precision = word("precision", precision, *PRECISIONS)
    if precision != "float32" and device not in (None, "cpu"):
        raise ValueError(refused_precision(precision, str(device)))
    if precision != "float32" and not _core.has_bf16(isa):
        raise ValueError(
            f"precision: {precision!r} needs products of bfloat16 (avx512_bf16), and {isa} has none"
        )
    return precision


def refused_precision(precision: str, device: str) -> str:
    """Say that a CUDA device does not compute in a precision."""
    return (
        f"precision: {precision!r} is for the CPU, and products on {device} are in float32; wanted "
        "precision='float32', or device='cpu'"
    )
