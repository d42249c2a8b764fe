# SPDX-License-Identifier: Apache-2.0
"""Warns where relevance on the way is so large that rounding in float32 shows in the map."""

from __future__ import annotations

import logging

import numpy as np

from pyrel.compiler.capture.forks import RenewedLock
from pyrel.engine.arrays import Float32s

_LOGGER = logging.getLogger("pyrel")
ROUNDING = 2.0**-23  # of a float32, relative
LARGEST_ERROR = 0.01  # of the relevance put in
# Amplification from which rounding, so amplified, is as large.
UNSTABLE = LARGEST_ERROR / ROUNDING


class StabilityWarning:
    """Warns once, at the first batch that holds an unstable sample.

    Relevance whose absolute values add up to A · |start| is rounded to 24 bits, so it cannot add
    up to the start better than to about 2^-23 · A · |start|. A sample is unstable where that is 1 %
    of the start: A ≥ 83,886. Several threads may call at once.
    """

    def __init__(self) -> None:
        self._lock = RenewedLock()
        self._warned = False

    def check(self, amplification: Float32s) -> None:
        """Look at ``amplification`` of a batch; NaN counts as stable.

        It has shape (n,), or (n, steps), of which a sample has the largest.
        """
        if amplification.ndim > 1:
            amplification = np.fmax.reduce(amplification, axis=1, initial=0.0)
        (unstable,) = (amplification >= UNSTABLE).nonzero()
        if not unstable.size:
            return
        with self._lock:
            first, self._warned = not self._warned, True
        if first:
            sample = int(unstable[amplification[unstable].argmax()])
            _LOGGER.warning(
                "the relevance on the way to x[%d] is %.3g times what was put in "
                "(Explanation.amplification): rounding in float32, so amplified, may reach %.2g of "
                "the map. So it is for %d of %d samples of this batch. A larger epsilon, or "
                "deep_taylor, lets less relevance of both signs arise. This explainer does not "
                "warn again",
                sample,
                float(amplification[sample]),
                ROUNDING * float(amplification[sample]),
                unstable.size,
                amplification.size,
            )
