# SPDX-License-Identifier: Apache-2.0
"""Every operator and recurrent layer as a small model, with its reference and its inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference_graph as ref
from engine.cases import sample
from engine.cells import FURTHER_CELL_CASES, cell_graph
from engine.gate_models import GATE_MODELS
from engine.layer_graphs import layer_graph
from engine.operator_models import CHAINS, seeded
from engine.recurrent_models import FEATURES, STEPS, VARIANTS, Classifier
from reference import Reference, explain
from torch import nn

import pyrel


@dataclass(frozen=True, eq=False)
class Exhibit:
    """One model: how to make it, its graph for the reference, and where its inputs lie."""

    name: str
    make: Callable[[], nn.Module]
    build: Callable[[Any, ref.Node], ref.Node]
    shape: tuple[int, ...]
    low: float
    high: float
    vocabulary: int = 0

    @functools.cached_property
    def module(self) -> nn.Module:
        """The module in eval mode with its weights."""
        return self.make()

    @functools.cached_property
    def graph(self) -> ref.Node:
        """The output node of the reference."""
        return self.build(self.module, ref.input_node(self.shape, self.low, self.high))

    @functools.cached_property
    def inputs(self) -> npt.NDArray[Any]:
        """Forty samples, a third of their values on 0, low or high; or whole numbers."""
        if self.vocabulary:
            return np.random.default_rng(2).integers(0, self.vocabulary, (40, *self.shape))
        return sample(self.shape, 40, self.low, self.high)

    @property
    def domain(self) -> dict[str, float]:
        """What an explainer is told of the inputs."""
        return {} if self.vocabulary else {"low": self.low, "high": self.high}

    @functools.cached_property
    def captured(self) -> Any:
        """The captured graph, which explainers of all methods share."""
        return pyrel.capture(self.module, self.inputs[:2])

    @functools.cache  # noqa: B019
    def compiled(self, method: str, **options: Any) -> Any:
        """Return an explainer, the same one for the same options; the tests check it themselves."""
        settings: dict[str, Any] = {"check": None, **self.domain, **options}
        return pyrel.Explainer(self.captured, self.inputs[:2], method=method, **settings)

    @functools.cache  # noqa: B019
    def expected(self, method: str, gates: str = "signal") -> Reference:
        """What the reference says about the inputs."""
        return explain(self.graph, self.inputs, method, gates=gates)

    @property
    def has_gates(self) -> bool:
        """Whether anything is multiplied by a gate."""
        nodes = ref.reachable(self.graph)
        gates = (part.gate for n in nodes if isinstance(n, ref.Affine) for part in n.units)
        return any(isinstance(n, ref.Product) for n in nodes) or any(gates)

    @property
    def explained_by_deep_taylor(self) -> bool:
        """Whether the reference has a rule for every node."""
        try:
            self.expected("deep_taylor")
        except ref.MixedDomainError:
            return False
        return True


def _cells() -> list[Exhibit]:
    return [
        Exhibit(case.name, case.module, cell_graph, case.shape, case.low, case.high)
        for case in FURTHER_CELL_CASES
    ]


def _variants() -> list[Exhibit]:
    return [
        Exhibit(
            variant.name,
            functools.partial(seeded, functools.partial(Classifier, variant), 1),
            Classifier.graph,
            (STEPS, FEATURES),
            -1.0,
            1.0,
        )
        for variant in VARIANTS
    ]


def _gates() -> list[Exhibit]:
    return [
        Exhibit(
            make.__name__,
            functools.partial(seeded, make, 1),
            make.graph,
            make.shape,
            make.low,
            make.high,
            getattr(make, "vocabulary", 0),
        )
        for make in GATE_MODELS
    ]


OPERATORS = [
    Exhibit(name, functools.partial(seeded, make, 1), layer_graph, shape, low, high)
    for name, (make, shape, low, high) in CHAINS.items()
]
ZOO = [*OPERATORS, *_gates(), *_variants(), *_cells()]

every_exhibit = pytest.mark.parametrize("exhibit", ZOO, ids=lambda exhibit: exhibit.name)
