# SPDX-License-Identifier: Apache-2.0
"""Constants of a program, as float32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def single(values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Return a copy in float32, C-ordered.

    Raises
    ------
    ValueError
        If a finite value is too large for float32.
    """
    wide = np.asarray(values)
    with np.errstate(over="ignore"):
        narrow = np.array(wide, dtype=np.float32, order="C")
    finite = not narrow.size or bool(np.isfinite([narrow.min(), narrow.max()]).all())
    if wide.dtype != np.float32 and not finite:
        lost = np.isinf(narrow) & np.isfinite(wide)
        if lost.any():
            raise ValueError(
                f"the model overflows in float32 when it is compiled: a constant is "
                f"{wide[lost].flat[0]:.3g}, and float32 holds up to 3.4e+38. Weights, or their "
                "products with each other or with low and high, are too large for it"
            )
    return narrow
