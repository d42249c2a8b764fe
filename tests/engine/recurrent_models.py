# SPDX-License-Identifier: Apache-2.0
"""Classifiers over nn.RNN, nn.LSTM and nn.GRU: layers, directions, states, what is read out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import reference_graph as ref
import torch
from reference_layers import mean
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
    Variant(
        "RNN", {"nonlinearity": "relu", "bidirectional": True, "bias": False}, "all", given=True
    ),
    Variant("LSTM"),
    Variant("LSTM", {"bias": False, "batch_first": False}, "mean"),
    Variant("LSTM", {"bidirectional": True, "num_layers": 2}, "mean", given=True),
    Variant("LSTM", {"num_layers": 3}, "all"),
    Variant("LSTM", {"proj_size": 3, "num_layers": 3}, "hidden"),
    Variant("LSTM", {"proj_size": 2, "bidirectional": True}, "last", given=True),
    Variant("GRU"),
    Variant("GRU", {"bias": False, "num_layers": 3}, "last"),
    Variant("GRU", {"bidirectional": True, "num_layers": 2}, "mean"),
    Variant("GRU", {"num_layers": 2, "batch_first": False}, "hidden", given=True),
)


class Classifier(nn.Module):
    """A recurrent module and a linear layer over the last step, the mean, or the hidden states."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        self.variant = variant
        options = {"batch_first": True} | variant.options
        self.core: Any = getattr(nn, variant.kind)(FEATURES, WIDTH, **options)
        rows = self.core.num_layers * (1 + self.core.bidirectional)
        width = self.core.proj_size or WIDTH
        widths = (width, WIDTH)[: 2 if variant.kind == "LSTM" else 1]
        for number, size in enumerate(widths):
            self.register_buffer(f"state_{number}", torch.randn(rows, 1, size) * variant.given)
        read = {"hidden": rows, "all": STEPS * (1 + self.core.bidirectional)}
        count = read.get(variant.read_out, 1 + self.core.bidirectional)
        self.out = nn.Linear(count * width, CLASSES)

    @property
    def states(self) -> list[Tensor]:
        """The initial states, (layers · directions, 1, width) each."""
        return list(self.buffers())

    def read(self, steps: Tensor, hidden: Tensor) -> Tensor:
        """Scores from the outputs of all steps (n, T, width) and the last hidden states."""
        match self.variant.read_out:
            case "last":
                seen = steps[:, -1]
            case "mean":
                seen = steps.mean(1)
            case "all":
                seen = steps.flatten(1)
            case _:
                seen = hidden.transpose(0, 1).flatten(1)
        return self.out(seen)

    def forward(self, x: Tensor) -> Tensor:
        given: tuple[Any, ...] = ()
        if self.variant.given:
            states = [value.expand(-1, x.shape[0], -1).contiguous() for value in self.states]
            given = (states[0] if len(states) == 1 else tuple(states),)
        turned = not self.core.batch_first
        steps, last = self.core(x.transpose(0, 1) if turned else x, *given)
        steps = steps.transpose(0, 1) if turned else steps
        return self.read(steps, last[0] if isinstance(last, tuple) else last)

    @staticmethod
    def graph(m: Classifier, x: ref.Node) -> ref.Node:
        given = [value[:, 0].double().numpy() for value in m.states] if m.variant.given else ()
        run = recurrent(m.core, x, given)
        match m.variant.read_out:
            case "last":
                seen = ref.take(run.steps, -1)
            case "mean":
                seen = mean([ref.take(run.steps, t) for t in range(STEPS)])
            case "all":
                seen = ref.reshape(run.steps, run.steps.size)
            case _:
                seen = ref.reshape(run.hidden, run.hidden.size)
        weight, bias = (p.detach().double().numpy() for p in m.out.parameters())
        return ref.linear(seen, weight, bias)
