# SPDX-License-Identifier: Apache-2.0
"""How products are formed, and which class is that of float32 where outputs are of bfloat16.

With "bf16" these are the products of relevance, denominators too; with "bf16_all" those of the
forward pass as well. Sums are always in float32. The tensor cores of a CUDA device also form
products from numbers of TF32, of 11 significant bits: three of them are as exact as float32
("tf32x3"), one is not ("tf32").
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pyrel import _core
from pyrel.engine.arrays import Float32s, Int64s
from pyrel.methods.options import word

TENSOR_CORES = ("tf32x3", "tf32")  # of float32, on a CUDA device
_BFLOAT16 = ("bf16", "bf16_all")
OF_FLOAT32 = ("float32", *TENSOR_CORES)
PRECISIONS = (*OF_FLOAT32, *_BFLOAT16)

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
    on_device = device is not None and device != "cpu"
    if precision in TENSOR_CORES and not on_device:
        raise ValueError(
            f"precision: {precision!r} is computed by the tensor cores of a GPU; give "
            "device='cuda', or precision='float32'"
        )
    if precision in _BFLOAT16 and not on_device and not _core.has_bf16(isa):
        raise ValueError(
            f"precision: {precision!r} needs products of bfloat16 (avx512_bf16), and {isa} has none"
        )
    return precision


def of_programs(precision: str) -> str:
    """Return what programs are compiled for: they are the same for all that is not of bfloat16."""
    return precision if precision in _BFLOAT16 else "float32"


def on_device(precision: str, multiplies_bf16: bool) -> int:
    """Return the number of a precision in the CUDA library (Precision of csrc/cuda/image.h).

    Beside products of bfloat16, those of float32 are formed by tensor cores as well.
    """
    if precision not in TENSOR_CORES:
        precision = "tf32x3" if multiplies_bf16 else "float32"
    return OF_FLOAT32.index(precision)
