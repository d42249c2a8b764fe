# SPDX-License-Identifier: Apache-2.0
"""The models of this suite with their reference graphs, inputs, and compiled explainers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import reference_graph as ref
import torch
from engine import models, wiring
from engine.cells import CELL_CASES, CellCase
from reference import Reference, explain
from torch import nn

import pyrel

Graph = Callable[[Any, ref.Node], ref.Node]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Case:
    """One user module: how to make it, the reference's graph, and where its inputs lie."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    low: Any = 0.0
    high: Any = 1.0
    seed: int = 1
    label: str = ""

    @property
    def name(self) -> str:
        return self.make.__name__ + self.label

    def module(self) -> nn.Module:
        """Return the module in eval mode with seeded weights."""
        torch.manual_seed(self.seed)
        module = self.make().eval()
        with torch.no_grad():
            for parameter in module.parameters():
                # Variance-keeping weights and visible biases: signals neither die nor drown.
                fan = sum(parameter.shape) / 2 if parameter.dim() > 1 else 50.0
                parameter.normal_(0.0, (2 / fan) ** 0.5)
        return module

    def graph(self, module: nn.Module, *, bounded: bool = True) -> ref.Node:
        """Return the output node of the reference."""
        domain = (self.low, self.high) if bounded else ()
        build: Graph = self.make.graph  # type: ignore[attr-defined]
        return build(module, ref.input_node(self.shape, *domain))


def sample(
    shape: tuple[int, ...], count: int, low: Any = 0.0, high: Any = 1.0, seed: int = 0
) -> Floats:
    """Inputs in [low, high] where a third of the values lie exactly on 0, low or high."""
    rng = np.random.default_rng([seed, count])
    low32, high32 = (np.broadcast_to(np.float32(b), shape) for b in (low, high))
    high32 = np.minimum(high32, np.float32(9))
    inside = rng.uniform(low32, high32, (count, *shape)).astype(np.float32)
    pick = rng.integers(0, 9, (count, *shape))
    edges = np.select([pick == 0, pick == 1, pick == 2], [np.float32(0), low32, high32], inside)
    return np.clip(edges, low32, high32)


def _step_bounds(steps: int, features: int) -> tuple[Floats, Floats]:
    """Bounds that differ in every element; some steps are constant zero."""
    rng = np.random.default_rng(steps)
    low, high = rng.uniform(size=(2, steps, features)).astype(np.float32)
    low[steps // 2], high[steps // 2] = 0.0, 0.0
    return -low, high


_PIXEL_LOW = np.linspace(-1.0, 0.0, 10, dtype=np.float32)
_PIXEL_HIGH = np.linspace(0.0, 2.0, 10, dtype=np.float32)

USER_CASES = (
    Case(models.OneLinear, (9,), -1.0, 1.0),
    Case(models.SequentialNet, (3, 5), seed=2),
    Case(models.Elman, (4, 7)),
    Case(models.EncodedAtOnce, (7, 6), -0.5, 1.5),
    Case(models.StackedSteps, (4, 5)),
    Case(models.Residual, (10,), _PIXEL_LOW, _PIXEL_HIGH),
    Case(models.Rearranged, (4, 8), -1.0, 0.5),
    Case(models.SharedEncoder, (5, 9)),
    Case(models.SlicedImage, (28, 84)),
    Case(models.FoldedBatch, (5, 6), -0.5, 0.5),
    Case(models.InitialState, (4, 5), -1.0, 1.0),
    Case(models.LinearAfterLinear, (12,), -1.0, 2.0),
    Case(models.FusedProjections, (4, 7)),
    Case(models.Bidirectional, (5, 4), 0.0, np.linspace(0.0, 1.0, 4, dtype=np.float32)),
    Case(models.Repeated, (6,), -1.0, 0.0),
    Case(models.Elman, (4, 7), *_step_bounds(4, 7), label="-bounds-per-step"),
    Case(models.EncodedAtOnce, (7, 6), *_step_bounds(7, 6), label="-bounds-per-step"),
    Case(models.FoldedBatch, (5, 6), *_step_bounds(5, 6), label="-bounds-per-step"),
    Case(models.StackedSteps, (4, 5), 0.0, np.inf, label="-non-negative"),
    Case(wiring.SlidingWindows, (7, 5), -1.0, 1.0, seed=3),
    Case(wiring.OneLayerForAll, (4, 9), -1.0, 1.0),
    Case(wiring.SeveralHeads, (11,)),
    Case(wiring.InputSkip, (6,), -0.5, 0.5),
    Case(wiring.RectifiedInput, (2, 7), -1.0, 1.0),
    Case(wiring.ParameterExpressions, (12,), seed=4),
    Case(wiring.SummedScores, (3, 8), -1.0, 1.0),
    Case(wiring.ManyLayers, (15,), seed=12),
    Case(wiring.AddedInputs, (2, 7)),
    Case(wiring.NestedConcat, (16,)),
    Case(wiring.EncodedPlusState, (3, 5)),
    Case(wiring.JoinedConstants, (3,), -1.0, 1.0),
    Case(wiring.AllStates, (12, 3), -1.0, 1.0),
)

ALL_CASES: tuple[Case | CellCase, ...] = (*CELL_CASES, *USER_CASES)


def by_name(name: str) -> Case | CellCase:
    """Return a case by its name."""
    (case,) = (case for case in ALL_CASES if case.name == name)
    return case


@functools.cache
def captured(case: Case | CellCase) -> tuple[nn.Module, Any]:
    """Return the module and its captured graph, once per process."""
    module = case.module()
    return module, pyrel.capture(module, sample(case.shape, 2, case.low, case.high))


@functools.cache
def compiled(case: Case | CellCase, method: str, *, bounded: bool = True) -> Any:
    """Return the explainer of a case, once per process; the tests check it by references."""
    domain: dict[str, Any] = {"low": case.low, "high": case.high} if bounded else {}
    _, graph = captured(case)
    example = sample(case.shape, 2, case.low, case.high)
    return pyrel.Explainer(graph, example, method=method, check=None, **domain)


@functools.cache
def expected(case: Case | CellCase, method: str, *, bounded: bool = True) -> Reference:
    """Return what the reference says about `inputs(case)`, once per process."""
    module, _ = captured(case)
    return explain(case.graph(module, bounded=bounded), inputs(case), method)


def inputs(case: Case | CellCase, count: int = 100) -> Floats:
    """Return the inputs that the cases are explained at; smaller counts are its first rows."""
    return sample(case.shape, 100, case.low, case.high)[:count]
