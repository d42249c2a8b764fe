# SPDX-License-Identifier: Apache-2.0
"""Random acyclic graphs of the supported operators, in torch and for the reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import reference_graph as ref
import torch
from engine.cases import sample
from engine.checks import assert_deep_taylor, assert_relevance, unchecked
from engine.models import apply
from engine.unplanned import assert_plan_changes_nothing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import explain
from torch import Tensor, nn

import pyrel

WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33)


@dataclass
class Recipe:
    """Operators in order; each names its operands by their number. Widths and kinds go along.

    Kinds: "input" (steps, zeros, and what contains them), "hidden" (>= 0) and "pre" (before ReLU).
    """

    steps: int
    features: int
    operators: list[tuple[Any, ...]] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    layers: list[tuple[int, int, bool]] = field(default_factory=list)

    def push(self, kind: str, width: int, *operator: Any) -> int:
        """Add an operator and return the number of its result."""
        self.operators.append(operator)
        self.widths.append(width)
        self.kinds.append(kind)
        return len(self.operators) - 1

    def having(self, *kinds: str, width: int | None = None) -> list[int]:
        """Return the nodes of some kinds, and of one width."""
        found = [number for number, kind in enumerate(self.kinds) if kind in kinds]
        return [n for n in found if width is None or self.widths[n] == width]


def draw_layer(draw: Any, recipe: Recipe, width: int, outputs: int) -> int:
    """Return a layer of that shape: sometimes one that is there already."""
    known = [k for k, layer in enumerate(recipe.layers) if layer[:2] == (width, outputs)]
    if known and draw(st.booleans()):
        return draw(st.sampled_from(known))
    recipe.layers.append((width, outputs, draw(st.booleans())))
    return len(recipe.layers) - 1


def draw_linear(draw: Any, recipe: Recipe, operand: int, outputs: int) -> int:
    """Add a linear layer over a node."""
    layer = draw_layer(draw, recipe, recipe.widths[operand], outputs)
    return recipe.push("pre", outputs, "linear", operand, layer)


def draw_operator(draw: Any, recipe: Recipe) -> None:
    """Add one operator, with a ReLU after most pre-activations."""
    values = recipe.having("input", "hidden")
    width = draw(st.sampled_from(WIDTHS))
    one, other = draw(st.sampled_from(values)), draw(st.sampled_from(values))
    match draw(
        st.sampled_from(["layer", "layer", "join", "sum", "residual", "add", "slice", "all"])
    ):
        case "layer":
            z = draw_linear(draw, recipe, one, width)
            if draw(st.booleans()):
                z = draw_linear(draw, recipe, z, width)
            recipe.push("hidden", width, "relu", z)
        case "join":
            parts = draw(st.lists(st.sampled_from(values), min_size=2, max_size=3))
            kind = "hidden" if set(parts) <= set(recipe.having("hidden")) else "input"
            recipe.push(kind, sum(recipe.widths[part] for part in parts), "cat", parts)
        case "sum":
            first = draw_linear(draw, recipe, one, width)
            second = draw_linear(draw, recipe, other, width)
            recipe.push("hidden", width, "relu", recipe.push("pre", width, "add", first, second))
        case "residual":
            z = draw_linear(draw, recipe, one, recipe.widths[other])
            total = recipe.push("pre", recipe.widths[other], "add", z, other)
            recipe.push("hidden", recipe.widths[other], "relu", total)
        case "add" if hidden := recipe.having("hidden"):
            one = draw(st.sampled_from(hidden))
            other = draw(st.sampled_from(recipe.having("hidden", width=recipe.widths[one])))
            recipe.push("hidden", recipe.widths[one], "add", one, other)
        case "slice":
            start = draw(st.integers(0, recipe.widths[one] - 1))
            stop = draw(st.integers(start + 1, recipe.widths[one]))
            recipe.push(recipe.kinds[one], stop - start, "slice", one, start, stop)
        case "all":
            same = recipe.having("input", "hidden", width=recipe.widths[one])
            rows = draw(st.lists(st.sampled_from(same), min_size=2, max_size=4))
            layer = draw_layer(draw, recipe, recipe.widths[one], width)
            recipe.push("hidden", width * len(rows), "all", rows, layer)


@st.composite
def recipes(draw: Any) -> Recipe:
    """Draw a graph: steps of the input, some operators, and a linear layer over what came last."""
    recipe = Recipe(draw(st.integers(1, 4)), draw(st.sampled_from(WIDTHS)))
    for t in range(recipe.steps):
        recipe.push("input", recipe.features, "step", t)
    if draw(st.booleans()):
        recipe.push("input", draw(st.sampled_from(WIDTHS)), "zeros")
    for _ in range(draw(st.integers(2, 9))):
        draw_operator(draw, recipe)
    last = [0, *recipe.having("input", "hidden")[-3:]]
    joined = recipe.push("input", sum(recipe.widths[part] for part in last), "cat", last)
    draw_linear(draw, recipe, joined, draw(st.integers(1, 5)))
    return recipe


class Drawn(nn.Module):
    """The torch module of a recipe."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.recipe = recipe
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=c) for a, b, c in recipe.layers)
        with torch.no_grad():
            for parameter in self.parameters():
                fan = sum(parameter.shape) / 2 if parameter.dim() > 1 else 50.0
                parameter.normal_(0.02, (1.6 / fan) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        v: list[Tensor] = []
        for operator, width in zip(self.recipe.operators, self.recipe.widths, strict=True):
            match operator:
                case ("step", t):
                    v.append(x[:, t])
                case ("zeros",):
                    v.append(x.new_zeros(x.shape[0], width))
                case ("linear", operand, layer):
                    v.append(self.layers[layer](v[operand]))
                case ("relu", operand):
                    v.append(torch.relu(v[operand]))
                case ("add", one, other):
                    v.append(v[one] + v[other])
                case ("cat", parts):
                    v.append(torch.cat([v[part] for part in parts], 1))
                case ("slice", operand, start, stop):
                    v.append(v[operand][:, start:stop])
                case ("all", rows, layer):
                    at_once = self.layers[layer](torch.stack([v[row] for row in rows], 1))
                    v.append(torch.relu(at_once).flatten(1))
        return v[-1]

    def graph(self, x: ref.Node) -> ref.Node:
        """Return the reference's output node."""
        v: list[ref.Node] = []
        for operator, width in zip(self.recipe.operators, self.recipe.widths, strict=True):
            match operator:
                case ("step", t):
                    v.append(ref.take(x, t))
                case ("zeros",):
                    v.append(ref.zeros(width))
                case ("linear", operand, layer):
                    v.append(apply(self.layers[layer], v[operand]))
                case ("relu", operand):
                    v.append(ref.relu(v[operand]))
                case ("add", one, other):
                    v.append(ref.add(v[one], v[other]))
                case ("cat", parts):
                    v.append(ref.concat([v[part] for part in parts]))
                case ("slice", operand, start, stop):
                    v.append(ref.take(v[operand], slice(start, stop)))
                case ("all", rows, layer):
                    at_once = apply(self.layers[layer], ref.stack([v[row] for row in rows]))
                    v.append(ref.reshape(ref.relu(at_once), width))
        return v[-1]


# Each example exports a model; the sequence of graphs is fixed, so that runs are alike.
@settings(
    max_examples=18,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(recipe=recipes(), seed=st.integers(0, 2**16), low=st.sampled_from([0.0, -1.0]))
def test_random_graphs_agree_with_the_reference(recipe: Recipe, seed: int, low: float) -> None:
    module: Any = Drawn(recipe, seed).eval()
    x = sample((recipe.steps, recipe.features), 1 + seed % 30, low, 1.0, seed)
    graph = module.graph(ref.input_node(x.shape[1:], low, 1.0))
    captured = pyrel.capture(module, x)
    wanted = explain(graph, x)
    domain: dict[str, Any] = {"low": low, "high": 1.0}
    taylor = unchecked(captured, x, method="deep_taylor", **domain)
    e = taylor(x, target=wanted.target)
    # Each share rounds by an eps of the relevance put in, and few layers stand above one another.
    assert_deep_taylor(e, wanted, floor=2 * ref.EPS32)
    single = taylor(x[-1:], target=wanted.target[-1:])
    np.testing.assert_array_equal(single.relevance[0], e.relevance[-1])
    assert_plan_changes_nothing(captured, x, method="deep_taylor", **domain)
    for method in ("gradient", "guided_backprop"):
        explainer = unchecked(captured, x, method=method, **domain)
        assert_relevance(explainer(x, target=wanted.target), explain(graph, x, method), method)
    epsilon = unchecked(captured, x, method="lrp_epsilon")
    expected = explain(graph, x, "lrp_epsilon", wanted.target)
    assert_relevance(epsilon(x, target=wanted.target), expected, "lrp_epsilon")
