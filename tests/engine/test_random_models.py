# SPDX-License-Identifier: Apache-2.0
"""Random unrolled recurrent models, built twice from one plan: in torch and for the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import reference_graph as ref
import torch
from engine.cases import sample
from engine.checks import assert_deep_taylor, assert_relevance, unchecked
from engine.models import apply, apply_relu
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import explain
from torch import Tensor, nn

import pyrel


@dataclass(frozen=True)
class Plan:
    """One model: widths, how a step is encoded and joined, what the read-out sees."""

    steps: int
    features: int
    width: int
    encoder: str
    join: str
    skip: bool
    read_out: str
    classes: int
    low: float
    high: float
    seed: int


class Planned(nn.Module):
    """The torch module of a plan."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        torch.manual_seed(plan.seed)
        self.plan, width = plan, plan.width
        encoded = {"none": plan.features}.get(plan.encoder, width)
        self.encode = nn.Linear(plan.features, encoded)
        self.second = nn.Linear(encoded, encoded)
        joined = encoded + width if plan.join == "concat" else encoded
        self.inward = nn.Linear(joined, width)
        self.recurrent = nn.Linear(width, width, bias=False)
        self.skip = nn.Linear(width, width)
        self.out = nn.Linear(width * (plan.steps if plan.read_out == "stack" else 1), plan.classes)
        with torch.no_grad():
            for parameter in self.parameters():
                fan = sum(parameter.shape) / 2 if parameter.dim() > 1 else 50.0
                parameter.normal_(0.02, (1.6 / fan) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        plan = self.plan
        h, states = x.new_zeros(x.shape[0], plan.width), []
        at_once = torch.relu(self.encode(x)) if plan.encoder == "at-once" else x
        for t in range(plan.steps):
            e = at_once[:, t]
            if plan.encoder in ("one", "two"):
                e = torch.relu(self.encode(e))
            if plan.encoder == "two":
                e = torch.relu(self.second(e))
            if plan.join == "concat":
                h = torch.relu(self.inward(torch.cat([e, h], dim=1)))
            else:
                h = torch.relu(self.inward(e) + self.recurrent(h))
            if plan.skip:
                h = h + torch.relu(self.skip(h))
            states.append(h)
        if plan.read_out == "stack":
            h = torch.stack(states, 1).flatten(1)
        elif plan.read_out == "sum":
            h = states[0]
            for state in states[1:]:
                h = h + state
        return self.out(h)

    def graph(self, x: ref.Node) -> ref.Node:
        """Return the reference's output node."""
        plan = self.plan
        h: ref.Node = ref.zeros(plan.width)
        states: list[ref.Node] = []
        for t in range(plan.steps):
            e = ref.take(x, t)
            if plan.encoder != "none":
                e = apply_relu(self.encode, e)
            if plan.encoder == "two":
                e = apply_relu(self.second, e)
            if plan.join == "concat":
                h = apply_relu(self.inward, ref.concat([e, h]))
            else:
                h = ref.relu(ref.add(apply(self.inward, e), apply(self.recurrent, h)))
            if plan.skip:
                h = ref.add(h, apply_relu(self.skip, h))
            states.append(h)
        if plan.read_out == "stack":
            h = ref.reshape(ref.stack(states), plan.steps * plan.width)
        elif plan.read_out == "sum":
            h = states[0]
            for state in states[1:]:
                h = ref.add(h, state)
        return apply(self.out, h)


plans = st.builds(
    Plan,
    steps=st.integers(1, 5),
    features=st.integers(1, 40),
    width=st.one_of(st.integers(1, 10), st.sampled_from([15, 16, 17, 31, 32, 33])),
    encoder=st.sampled_from(["none", "one", "two", "at-once"]),
    join=st.sampled_from(["concat", "add"]),
    skip=st.booleans(),
    read_out=st.sampled_from(["last", "stack", "sum"]),
    classes=st.integers(1, 12),
    low=st.sampled_from([0.0, -1.0, -0.25]),
    high=st.sampled_from([1.0, 0.5, 3.0]),
    seed=st.integers(0, 2**16),
)


# Each example exports a model, about half a second; the sequence of plans is fixed, as everywhere.
@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(plan=plans, count=st.integers(1, 30))
def test_random_models_agree_with_the_reference(plan: Plan, count: int) -> None:
    module: Any = Planned(plan).eval()
    x = sample((plan.steps, plan.features), count, plan.low, plan.high, plan.seed)
    graph = module.graph(ref.input_node(x.shape[1:], plan.low, plan.high))
    captured = pyrel.capture(module, x)
    domain: dict[str, Any] = {"low": plan.low, "high": plan.high}
    # Targets are given: among many outputs the two largest may be within rounding of each other.
    wanted = explain(graph, x)
    taylor = unchecked(captured, x, method="deep_taylor", **domain)
    assert_deep_taylor(taylor(x, target=wanted.target), wanted)
    for method in ("gradient", "guided_backprop"):
        explainer = unchecked(captured, x, method=method, **domain)
        assert_relevance(explainer(x, target=wanted.target), explain(graph, x, method), method)
    epsilon = unchecked(captured, x, method="lrp_epsilon")
    expected = explain(graph, x, "lrp_epsilon", wanted.target)
    assert_relevance(epsilon(x, target=wanted.target), expected, "lrp_epsilon")
