# SPDX-License-Identifier: Apache-2.0
"""The learning rate as a function of the batch number alone, so that resuming needs no state."""

from __future__ import annotations

import math

from pyrel.training.config import TrainingConfig

_FIRST = 1 / 25  # of the highest rate, where a one-cycle run starts
_FINAL = 1e-4  # of the highest rate, where one-cycle and cosine runs end


def rate(config: TrainingConfig, batch: int, batches_per_epoch: int) -> float:
    """Return the learning rate of one batch.

    - ``constant``: always the same.
    - ``one-cycle``: rises along half a cosine from 1/25 of the highest rate in the first ``warmup``
      part of the run, then falls along half a cosine to 1/10,000 (Smith and Topin 2018).
    - ``cosine``: falls along half a cosine to 1/10,000 (Loshchilov and Hutter 2017, no restarts).
    - ``step``: times ``decay_factor`` after every ``decay_epochs`` epochs, which are fewer than the
      run has.

    Parameters
    ----------
    config : TrainingConfig
    batch : int
        Counted from 0 over the whole run.
    batches_per_epoch : int

    Returns
    -------
    float
    """
    highest = config.learning_rate
    # The last batch of the run has progress 1.
    progress = batch / max(1, config.epochs * batches_per_epoch - 1)
    if config.schedule == "step":
        return highest * config.decay_factor ** (batch // batches_per_epoch // config.decay_epochs)
    if config.schedule == "cosine":
        return highest * _half_cosine(1, _FINAL, progress)
    if config.schedule == "one-cycle":
        if progress < config.warmup:
            return highest * _half_cosine(_FIRST, 1, progress / config.warmup)
        return highest * _half_cosine(1, _FINAL, (progress - config.warmup) / (1 - config.warmup))
    return highest


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
