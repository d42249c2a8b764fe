# SPDX-License-Identifier: Apache-2.0
"""Contestants that fail in every way that one can; workers import them by name."""

from __future__ import annotations

import dataclasses
import os

import numpy as np

from pyrel.benchmark.jobs import Job, Runner
from pyrel.benchmark.peers import runners
from pyrel.benchmark.peers.by_hand import ByHand
from pyrel.benchmark.peers.with_numpy import NumpyLibrary


def slightly(job: Job) -> Runner:
    """Answer right but for one element, one part in a thousand."""
    right = runners.numpy(job)

    def run(x: np.ndarray) -> np.ndarray:
        relevance = right.run(x)
        largest = np.unravel_index(relevance.argmax(), relevance.shape)
        relevance[largest] *= 1.001
        return relevance

    return dataclasses.replace(right, run=run)


def of_another_rule(job: Job) -> Runner:
    """Take the z⁺ rule at the pixels."""
    explain = ByHand(job.layers(), NumpyLibrary(), job.method, box=False)
    return dataclasses.replace(runners.numpy(job), run=explain)


def not_finite(job: Job) -> Runner:
    """Answer NaN."""
    right = runners.numpy(job)
    return dataclasses.replace(right, run=lambda x: np.full_like(x, np.nan))


def of_another_shape(job: Job) -> Runner:
    """Leave a sample out."""
    right = runners.numpy(job)
    return dataclasses.replace(right, run=lambda x: right.run(x)[1:])


def dead(job: Job) -> Runner:
    """End the process."""
    os._exit(7)


def talkative(job: Job) -> Runner:
    """Print where a library should not."""
    os.write(1, b"a banner\n")
    print("another one", flush=True)
    return runners.numpy(job)
