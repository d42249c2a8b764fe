# SPDX-License-Identifier: Apache-2.0
"""Which products are of bfloat16, and when outputs of such products are too close to trust.

With "bf16" these are the products of relevance, denominators too; with "bf16_all" those of the
forward pass as well. Sums are always in float32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyrel import _core
from pyrel.arrays import Float32s
from pyrel.program import Program

PRECISIONS = ("float32", "bf16", "bf16_all")

_PROBES = 64
# Times the largest error of the probes: about ten times the error of a typical output.
_MARGIN = 3.0


def gaps(output: Float32s) -> npt.NDArray[np.float64]:
    """Distance of the two largest outputs as a share of the largest size of an output."""
    if output.shape[1] == 1:
        return np.full(len(output), np.inf)
    highest = np.partition(output.astype(np.float64), -2, axis=1)[:, -2:]
    size = np.abs(output).max(axis=1, initial=0.0)
    apart = highest[:, 1] - highest[:, 0]
    return np.asarray(np.divide(apart, size, out=np.zeros_like(apart), where=size > 0))


def margin(
    program: Program, forward: Program, bounds: tuple[Float32s, Float32s] | None, isa: str
) -> float:
    """Return how close two outputs may be before their order in bfloat16 is not believed.

    Measured on random samples, as bounds on rounding that hold in every case are far too wide.
    """
    rng = np.random.default_rng(0)
    low, high = bounds or (np.float32(-1), np.float32(1))
    wide = np.isinf(low) | np.isinf(high)
    low, high = np.where(wide, -1, low), np.where(wide, 1, high)
    x = rng.uniform(low, high, (_PROBES, program.input_size)).astype(np.float32)
    output = {}
    for name, one in (("bf16", program), ("float32", forward)):
        output[name] = np.empty((_PROBES, program.classes), dtype=np.float32)
        relevance = np.empty_like(x) if one is program else None
        target = np.empty(_PROBES, dtype=np.int64)
        absorbed, conservation = np.empty((2, _PROBES), dtype=np.float32)
        one.load(isa).run(
            x, None, None, None, False, 1, relevance, output[name], target, absorbed, conservation
        )
    size = np.abs(output["float32"]).max(axis=1)
    error = np.abs(output["bf16"] - output["float32"]).max(axis=1)
    return _MARGIN * float(np.max(np.divide(error, size, out=np.zeros_like(size), where=size > 0)))


def check_precision(precision: str, isa: str) -> None:
    """Refuse a precision that is unknown, or that the instruction set cannot compute."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision: wanted {', '.join(PRECISIONS)}, got {precision!r}")
    if precision != "float32" and not _core.has_bf16(isa):
        raise ValueError(
            f"precision: {precision!r} needs products of bfloat16 (avx512_bf16), and {isa} has none"
        )
