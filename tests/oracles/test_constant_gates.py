# SPDX-License-Identifier: Apache-2.0
"""LRP-ε on nn.RNN, nn.LSTM and nn.GRU against gradient × input with gates and slopes constant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import reference_graph as ref
import torch
from oracles.constant_gates import gradient_times_input, initial, unrolled
from reference import explain
from reference_graph import Array
from reference_recurrent import recurrent
from torch import Tensor, nn

STEPS, FEATURES, WIDTH, CLASSES = 6, 4, 5, 3


@dataclass(frozen=True)
class Variant:
    """A recurrent module, what of it the read-out sees, and whether states are given."""

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    read_out: str = "last"
    given: bool = False

    @property
    def name(self) -> str:
        options = "-".join(f"{key}={value}" for key, value in self.options.items())
        given = "-given" if self.given else ""
        return f"{self.kind}-{options or 'plain'}-{self.read_out}{given}"


VARIANTS = (
    Variant("RNN"),
    Variant("RNN", {"nonlinearity": "relu", "num_layers": 2}, "mean"),
    Variant("RNN", {"bidirectional": True, "num_layers": 3}, "hidden"),
    Variant("LSTM"),
    Variant("LSTM", {"bias": False}, "mean"),
    Variant("LSTM", {"bidirectional": True, "num_layers": 2}, "mean", given=True),
    Variant("LSTM", {"proj_size": 3, "num_layers": 3}, "hidden"),
    Variant("LSTM", {"proj_size": 2, "bidirectional": True}, "last", given=True),
    Variant("GRU"),
    Variant("GRU", {"bias": False, "num_layers": 3}, "last"),
    Variant("GRU", {"bidirectional": True, "num_layers": 2}, "mean"),
    Variant("GRU", {"num_layers": 2}, "hidden", given=True),
)


class Classifier(nn.Module):
    """A recurrent module and a linear layer over the last step, the mean, or the hidden states."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.read_out = variant.read_out
        self.core: Any = getattr(nn, variant.kind)(
            FEATURES, WIDTH, batch_first=True, **variant.options
        )
        steps, hidden = unrolled(
            self.core.double(), torch.ones(1, 1, FEATURES).double(), initial(self.core, 1), False
        )
        width = hidden.numel() if self.read_out == "hidden" else steps.shape[2]
        self.out = nn.Linear(width, CLASSES)
        self.states = [
            nn.Buffer(torch.randn(value.shape) * variant.given) for value in initial(self.core, 1)
        ]
        with torch.no_grad():
            for parameter in self.parameters():
                # float32 can hold the weights of both sides, though all is computed in float64.
                parameter.copy_(parameter.float() * 1.5)
        self.double()

    def read(self, steps: Tensor, hidden: Tensor) -> Tensor:
        match self.read_out:
            case "last":
                seen = steps[:, -1]
            case "mean":
                seen = steps.mean(1)
            case _:
                seen = hidden.transpose(0, 1).flatten(1)
        return self.out(seen)

    def forward(self, x: Tensor) -> Tensor:
        states = [value.to(x.dtype).expand(-1, len(x), -1).contiguous() for value in self.states]
        steps, last = self.core(x, states[0] if len(states) == 1 else tuple(states))
        return self.read(steps, last[0] if isinstance(last, tuple) else last)

    def constant_gates(self, x: Tensor, half: bool) -> Tensor:
        return self.read(*unrolled(self.core, x, [s.double() for s in self.states], half))

    def graph(self, x: ref.Node) -> ref.Node:
        given = [value[:, 0].double().numpy() for value in self.states]
        run = recurrent(self.core, x, given)
        match self.read_out:
            case "last":
                seen = ref.take(run.steps, -1)
            case "mean":
                steps = [ref.take(run.steps, t) for t in range(STEPS)]
                seen = ref.scale(ref.add(*steps), 1 / STEPS)
            case _:
                seen = ref.reshape(run.hidden, run.hidden.size)
        return ref.linear(seen, self.out.weight.detach().numpy(), self.out.bias.detach().numpy())


def inputs(count: int = 30) -> Array:
    """Return samples whose values float32 can hold."""
    rng = np.random.default_rng(3)
    shape = (count, STEPS, FEATURES)
    return rng.uniform(-1, 1, shape).astype(np.float32).astype(np.float64)


every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
both_options = pytest.mark.parametrize("gates", ["signal", "half"])


@every_variant
def test_forward_is_that_of_torch(variant: Variant) -> None:
    """The oracle computes what the module computes, at any ratio of gates."""
    module, x = Classifier(variant), torch.from_numpy(inputs())
    wanted = module(x).detach().numpy()
    for half in (False, True):
        given = module.constant_gates(x, half).detach().numpy()
        np.testing.assert_allclose(given, wanted, rtol=1e-12, atol=1e-13)


@every_variant
@both_options
def test_reference_without_stabiliser(variant: Variant, gates: str) -> None:
    module, x = Classifier(variant), inputs()
    ours = explain(
        module.graph(ref.input_node(x.shape[1:])), x, "lrp_epsilon", epsilon=0.0, gates=gates
    )
    theirs, scores = gradient_times_input(
        lambda leaf: module.constant_gates(leaf, gates == "half"),
        torch.from_numpy(x),
        torch.from_numpy(ours.target),
    )
    np.testing.assert_allclose(ours.output, scores.numpy(), rtol=1e-12, atol=1e-13)
    # Both are float64; a unit with |z| near 0 loses as many digits as z has fewer than its terms.
    error = np.abs(ours.relevance - theirs.numpy()).reshape(len(x), -1).sum(axis=1)
    assert (error <= 1e-10 * ours.peak).all()
    total = ours.relevance.reshape(len(x), -1).sum(axis=1) + ours.absorbed
    assert (np.abs(total - ours.start) <= 1e-10 * ours.peak).all()


@every_variant
def test_stabiliser_goes_to_zero(variant: Variant) -> None:
    """The default ε differs from none by its share, which shrinks with ε."""
    module, x = Classifier(variant), inputs()
    graph = module.graph(ref.input_node(x.shape[1:]))
    exact = explain(graph, x, "lrp_epsilon", epsilon=0.0)
    errors = []
    for epsilon in (1e-4, 1e-6, 1e-8):
        e = explain(graph, x, "lrp_epsilon", epsilon=epsilon)
        error = np.abs(e.relevance - exact.relevance).reshape(len(x), -1).sum(axis=1)
        errors.append(np.median(error / exact.peak))
    # The median sample has no unit with z as small as ε: the change is in proportion to ε.
    np.testing.assert_allclose(errors[0] / errors[1], 100, rtol=0.2)
    np.testing.assert_allclose(errors[1] / errors[2], 100, rtol=0.2)
