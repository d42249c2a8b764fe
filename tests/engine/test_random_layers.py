# SPDX-License-Identifier: Apache-2.0
"""Random small models of convolutions, pools and recurrent layers, in torch and the reference."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import reference_graph as ref
from engine.cases import sample
from engine.checks import RELATIVE, assert_relevance, norms, torch_gradient, unchecked
from engine.layer_graphs import layer_graph
from engine.operator_models import seeded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import CONSERVING, explain
from reference_recurrent import recurrent
from torch import Tensor, nn

import pyrel


@dataclass(frozen=True)
class Plan:
    """A convolution over the steps, a pool, and a recurrent module; what the read-out sees."""

    steps: int
    features: int
    maps: int
    kernel: int
    stride: int
    padding: int
    pool: str
    kind: str
    width: int
    layers: int
    bidirectional: bool
    bias: bool
    read_out: str
    seed: int


class Planned(nn.Module):
    """The torch module of a plan: (n, steps, features) to three scores."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.front = nn.Sequential(
            nn.Conv1d(plan.features, plan.maps, plan.kernel, plan.stride, plan.padding), nn.ReLU()
        )
        match plan.pool:
            case "max":
                self.front.append(nn.MaxPool1d(2, stride=1, padding=1))
            case "average":
                self.front.append(nn.AvgPool1d(2, stride=1, padding=1, count_include_pad=False))
        options: dict[str, Any] = {"nonlinearity": "relu"} if plan.kind == "RNN" else {}
        self.core: Any = getattr(nn, plan.kind)(
            plan.maps,
            plan.width,
            plan.layers,
            bias=plan.bias,
            bidirectional=plan.bidirectional,
            batch_first=True,
            **options,
        )
        self.out = nn.Linear(plan.width * (1 + plan.bidirectional), 3)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.core(self.front(x.transpose(1, 2)).transpose(1, 2))
        return self.out(steps[:, -1] if self.plan.read_out == "last" else steps.sum(1))

    def graph(self, x: ref.Node) -> ref.Node:
        """Return the reference's output node."""
        encoded = layer_graph(self.front, ref.permute(x, 1, 0))
        steps = recurrent(self.core, ref.permute(encoded, 1, 0)).steps
        if self.plan.read_out == "last":
            return layer_graph(self.out, ref.take(steps, -1))
        return layer_graph(self.out, ref.add(*(ref.take(steps, t) for t in range(steps.shape[0]))))


plans = st.builds(
    Plan,
    steps=st.integers(3, 6),
    features=st.sampled_from([1, 3, 8, 17]),
    maps=st.sampled_from([1, 4, 9, 16]),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    pool=st.sampled_from(["none", "max", "average"]),
    kind=st.sampled_from(["RNN", "LSTM", "GRU"]),
    width=st.sampled_from([1, 3, 8, 15, 17]),
    layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    bias=st.booleans(),
    read_out=st.sampled_from(["last", "sum"]),
    seed=st.integers(0, 2**16),
)


# Each example exports a model; the sequence of plans is fixed, so that runs are alike.
@settings(
    max_examples=14,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(plan=plans, count=st.integers(1, 20))
def test_random_layers_agree_with_the_reference(plan: Plan, count: int) -> None:
    module: Any = seeded(lambda: Planned(plan), plan.seed)
    x = sample((plan.steps, plan.features), count, -1.0, 1.0, plan.seed)
    graph = module.graph(ref.input_node(x.shape[1:], -1.0, 1.0))
    captured = pyrel.capture(module, x)
    wanted = explain(graph, x, "gradient")
    double = copy.deepcopy(module).double()
    _, theirs = torch_gradient(double, x.astype(np.float64), wanted.target)
    for method in ("gradient", *CONSERVING):
        explainer = unchecked(captured, x, method=method, low=-1.0, high=1.0)
        e = explainer(x, target=wanted.target)
        assert_relevance(e, explain(graph, x, method, wanted.target), method)
        if method == "gradient":
            safe = wanted.margin > 1
            bound = np.maximum(RELATIVE * norms(theirs), norms(wanted.doubt))
            assert (norms(e.relevance - theirs) <= bound)[safe].all()
