# SPDX-License-Identifier: Apache-2.0
"""Every pass leaves a graph that can be lowered; graphs print as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine.zoo import ZOO, Exhibit
from torch import nn

import pyrel
from pyrel.compiler.graph.nodes import Graph, Linear
from pyrel.compiler.graph.verify import InvalidGraphError, verify
from pyrel.compiler.passes.pipeline import run_passes

METHODS = (
    pyrel.methods.Gradient(),
    pyrel.methods.DeepTaylor(gates="half"),
    pyrel.methods.LrpEpsilon(),
)


@pytest.mark.parametrize("exhibit", ZOO[::3], ids=lambda exhibit: exhibit.name)
def test_every_pass_leaves_a_valid_graph(exhibit: Exhibit) -> None:
    graph = exhibit.captured
    verify(graph)
    bound = np.full(graph.input_size, np.inf)
    low, high = -bound, bound
    if exhibit.domain:
        low, high = (np.full(graph.input_size, exhibit.domain[key]) for key in ("low", "high"))
    for method in METHODS:
        run_passes(graph, method, low, high, check=verify)


def small() -> Graph:
    """Return a graph of two dense layers with a ReLU between."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return pyrel.capture(model, torch.rand(2, 3))


def first(graph: Graph, **changes: object) -> Graph:
    """Change the first node."""
    return replace(graph, nodes=(replace(graph.nodes[0], **changes), *graph.nodes[1:]))


FAULTS: dict[str, Callable[[Graph], Graph]] = {
    "not computed before": lambda g: replace(g, nodes=g.nodes[::-1]),
    "written already": lambda g: replace(g, nodes=(*g.nodes, g.nodes[0])),
    "constant that there is not": lambda g: first(g, inputs=np.array([[0, 1, -9]])),
    "shapes do not fit": lambda g: first(g, bias=np.zeros(3)),
    "other weights than those of its name": lambda g: replace(
        g,
        nodes=(g.nodes[0], replace(g.nodes[1], weight_id=g.nodes[0].weight_id)),  # type: ignore[attr-defined, call-arg]
    ),
    "computed nowhere": lambda g: replace(g, outputs=g.outputs + 100),
    "is empty": lambda g: first(g, inputs=np.zeros((1, 0), np.int64)),
}


@pytest.mark.parametrize("message", FAULTS)
def test_faults_are_found(message: str) -> None:
    graph = small()
    assert isinstance(graph.nodes[0], Linear)
    if message == "computed nowhere":
        graph = replace(graph, nodes=(*graph.nodes, replace(graph.nodes[0], start=500)))
    with pytest.raises(InvalidGraphError, match=message):
        verify(FAULTS[message](graph))


def test_a_graph_prints_as_text() -> None:
    assert str(small()).splitlines() == [
        "  0..2  input (3,)",
        "16..19  dense(0..2) weight=4×3 relu=True  0",
        "32..33  dense(16..19) weight=2×4          2",
        "32..33  outputs",
    ]
