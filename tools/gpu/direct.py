# SPDX-License-Identifier: Apache-2.0
"""Runs an explainer's program on the device by pointer, with choices that `Explainer` has not."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from machine import DEVICE
from torch import Tensor

from pyrel._core import Outcome
from pyrel.engine.cuda import tensors
from pyrel.engine.cuda.library import Batch
from pyrel.engine.precision import OF_FLOAT32, on_device

PRECISIONS = {name: on_device(name, False) for name in OF_FLOAT32}


class Choice(NamedTuple):
    """How a batch is divided, as PyrelCudaBatch says it; 0 lets the library choose."""

    groups: int = 0
    team: int = 0
    teams: int = 0
    by_steps: bool = False
    in_parts: int = 0


WHOLE, IN_PARTS = 1, 2  # values of in_parts, PYREL_CUDA_WHOLE and _IN_PARTS
OWN = Choice()


class Answer(NamedTuple):
    """What a run writes."""

    relevance: Tensor
    output: Tensor
    explained: Tensor
    absorbed: Tensor
    conservation: Tensor
    amplification: Tensor

    def same(self, other: Answer) -> bool:
        """Whether all bits are the same."""
        return all(torch.equal(_bits(a), _bits(b)) for a, b in zip(self, other, strict=True))


class Direct:
    """The program of an explainer for the number of steps of its example, on the device.

    Parameters
    ----------
    explainer : pyrel.Explainer
        Made with ``device="cuda"``.
    place : torch.device
        Where samples lie.
    """

    def __init__(self, explainer: Any, place: torch.device) -> None:
        loaded = explainer._programs.at(explainer.inputs.steps)
        self._engine, self._classes = loaded.core, loaded.classes
        self._bounds = [
            None if each is None else torch.tensor(each, device=place)
            for each in (loaded.low, loaded.high)
        ]

    def __call__(self, x: Tensor, precision: str = "float32", choice: Choice = OWN) -> Answer:
        """Explain the predicted classes of float32 samples on the device.

        Raises
        ------
        CudaError
            If the device fails, or has no such division.
        ValueError
            If the program refuses a sample, or there is no memory.
        """
        n = len(x)
        columns = [torch.empty(n, device=x.device) for _ in range(3)]
        answer = Answer(
            torch.empty_like(x),
            torch.empty((n, self._classes), device=x.device),
            torch.empty(n, dtype=torch.int64, device=x.device),
            *columns,
        )
        places = [None if each is None else each.data_ptr() for each in (*self._bounds, *answer)]
        batch = Batch(n, x.data_ptr(), None, *places)
        batch.check_finite, batch.stream = True, tensors.stream_of(DEVICE)
        self._engine.precision = PRECISIONS[precision]  # the program is the same for all three
        batch.groups, batch.team, batch.teams, batch.by_steps, batch.in_parts = choice
        status = self._engine.run_there(batch)
        if status.outcome != Outcome.done:
            raise ValueError(f"{status.outcome.name}: sample {status.sample}")
        return answer


def _bits(values: Tensor) -> Tensor:
    return values.view(torch.int32) if values.dtype == torch.float32 else values
