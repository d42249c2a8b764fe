# SPDX-License-Identifier: Apache-2.0
"""Nothing of a model stays behind when it and its explainer are gone."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import pyrel

# One bare torch.export of this model keeps some 100 KB, and a capture exports it a few times.
MOST_BYTES = 50_000
X = np.zeros((2, 6, 5), np.float32)


class Small(nn.Module):
    """A model of any number of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.inner(x)).mean(1))


def compile_and_forget() -> tuple[weakref.ref[nn.Module], weakref.ref[pyrel.Explainer]]:
    model = Small()
    explainer = pyrel.Explainer(model, X, "gradient")
    explainer(X)
    return weakref.ref(model), weakref.ref(explainer)


def environments() -> int:
    return sum(type(each) is ShapeEnv for each in gc.get_objects())


def collect() -> None:
    """Free what nothing holds; some of torch's objects come back once, and go the next time."""
    gc.collect()
    gc.collect()


def test_captures_keep_nothing() -> None:
    compile_and_forget()  # what is made once in a process
    tracemalloc.start()
    try:
        compile_and_forget()  # of the last one torch keeps something, in place of the one before
        collect()
        before = environments()
        start = tracemalloc.get_traced_memory()[0]
        gone = [each for _ in range(2) for each in compile_and_forget()]
        collect()
        kept = tracemalloc.get_traced_memory()[0] - start
    finally:
        tracemalloc.stop()
    assert [each() for each in gone] == [None] * 4
    assert environments() <= before
    assert kept < 2 * MOST_BYTES


class HyperbolicSine(nn.Module):
    """What no rule is there for."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sinh()


def test_a_failed_capture_keeps_no_model() -> None:
    def fail() -> weakref.ref[nn.Module]:
        model = nn.Sequential(Small(), HyperbolicSine())
        try:
            pyrel.Explainer(model, X, "gradient")
        except pyrel.UnsupportedModelError:
            return weakref.ref(model)
        raise AssertionError

    gone = fail()
    gc.collect()
    assert gone() is None
