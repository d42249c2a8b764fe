# SPDX-License-Identifier: Apache-2.0
"""Faults of the compiler, put in by replacing one of its functions: each changes what comes out."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyrel.compiler.capture.capture import Capture
from pyrel.compiler.capture.operators import windows
from pyrel.compiler.capture.recurrent_cells import Affine, LstmCell, Pair
from pyrel.compiler.graph.builder import Builder
from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.nodes import Activation, Product, Scale
from pyrel.compiler.lowering import linear
from pyrel.compiler.lowering.lower import KINDS
from pyrel.compiler.lowering.relevance import Relevance
from pyrel.engine import captures, programs

STEPS, FEATURES = 6, 8


class Gated(nn.Module):
    """An LSTM, and a difference and a product of what it remembers."""

    def __init__(self) -> None:
        super().__init__()
        self.core, self.out = nn.LSTM(FEATURES, 8, batch_first=True), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        steps = self.core(x)[0]
        last, first = steps[:, -1], steps[:, 0]
        return self.out(torch.relu(last - 0.5 * first) + last * torch.sigmoid(-2 * first))


class Convolved(nn.Module):
    """Convolutions over the steps, and a ReLU between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(FEATURES, 6, 3, stride=2), nn.Conv1d(6, 4, 2)
        self.out = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.relu(self.first(x.transpose(1, 2)))
        return self.out(self.second(maps).amax(2))


@dataclass(frozen=True)
class Fault:
    """What is replaced by what, the model that shows it, and for which methods it does."""

    where: Any
    name: Any
    by: Callable[..., Any]  # of the function that stood there
    model: type[nn.Module] = Gated
    gradients: bool = False  # whether it shows in gradients alone
    steps: int = STEPS

    def put_in(self, patch: pytest.MonkeyPatch) -> None:
        """Replace it; or the way back of a kind of node."""
        if isinstance(self.name, str):
            patch.setattr(self.where, self.name, self.by(getattr(self.where, self.name)))
        else:
            kind = self.where[self.name]
            patch.setitem(self.where, self.name, kind._replace(back=self.by(kind.back)))
        # Graphs were made without it. It changes no exports, which take most of the time.
        kept = {
            number: (model, None if each is None else tuple(map(_without_graphs, each)))
            for number, (model, each) in captures._kept.items()
        }
        patch.setattr(captures, "_kept", kept)


def without_graphs(capture: Capture) -> Capture:
    """Keep the exported programs, of which graphs are made anew."""
    capture = copy.copy(capture)
    capture._kept, capture._merged, capture._batch_checked = {}, {}, False
    capture._weights = copy.copy(capture._weights)
    capture._weights._made = {}
    return capture


def _without_graphs(kept: captures.Kept) -> captures.Kept:
    return replace(kept, capture=without_graphs(kept.capture), explainers=[])


def _without_state(before: Any) -> Any:
    return lambda self, builder, x, h: self.x.of(builder, x)


def _without_bias(before: Any) -> Any:
    return lambda self, builder, addresses: before(
        replace(self, bias=np.zeros_like(self.bias)), builder, addresses
    )


def _swapped_gates(before: Any) -> Any:
    def made(weights: Pair, projection: Any = None) -> LstmCell:
        return before(weights.blocks("ifgo", "figo"), projection)

    return made


def _other_function(before: Any) -> Any:
    def made(self: Any, operand: Any, function: Any, *rest: Any, **options: Any) -> Any:
        function = Function.silu if function == Function.tanh else function
        return before(self, operand, function, *rest, **options)

    return made


def _transposed(before: Any) -> Any:
    def made(emitter: Any, node: Any, *rest: Any) -> Any:
        width = min(node.weight.shape)
        weight = node.weight.copy()
        weight[:width, :width] = weight[:width, :width].T
        return before(emitter, replace(node, weight=weight), *rest)

    return made


def _next_step(before: Any) -> Any:
    """Relevance of the input goes to the step behind."""

    def made(self: Any, addresses: Any) -> Any:
        space, offsets = before(self, addresses)
        if np.max(addresses) < self.emitter.graph.input_size and np.min(addresses) >= FEATURES:
            offsets = offsets // FEATURES % (STEPS - 1) * FEATURES + FEATURES
        return space, offsets

    return made


def _never(before: Any) -> Any:
    return lambda self, *rest: before(self, *rest) and False


def _added(before: Any) -> Any:
    def made(self: Any, operand: Any, coefficients: Any) -> Any:
        return before(self, operand, np.abs(coefficients))

    return made


def _opposite(before: Any) -> Any:
    def made(node: Any, *rest: Any) -> None:
        before(replace(node, coefficients=-node.coefficients), *rest)

    return made


def _wrong_stride(before: Any) -> Any:
    def made(count: int, kernel: int, stride: int, *rest: Any) -> Any:
        return before(count, kernel, 1 if stride > 1 else stride, *rest)

    return made


def _no_mask(before: Any) -> Any:
    return lambda *_: None


def _one_factor(before: Any) -> Any:
    def made(node: Any, relevance: Any, _: Any) -> None:
        relevance.pass_on(node, node.inputs[0], operands=node.inputs[1])

    return made


def _other_slope(before: Any) -> Any:
    def made(node: Any, *rest: Any) -> None:
        before(replace(node, function=Function.softplus), *rest)

    return made


def _smaller_weights(before: Any) -> Any:
    def made(pattern: Any, isa: str) -> Any:
        smaller = [0.99 * matrix for matrix in pattern.matrices]
        return before(replace(pattern, matrices=smaller, packed={}), isa)

    return made


FAULTS: dict[str, Fault] = {
    "lost term": Fault(Pair, "of", _without_state),
    "missing bias": Fault(Affine, "of", _without_bias),
    "swapped gates": Fault(LstmCell, "from_blocks", _swapped_gates),
    "wrong activation": Fault(Builder, "activation", _other_function),
    "transposed weight": Fault(linear, "_multiply", _transposed),
    "sign of a term": Fault(Builder, "scale", _added),
    "wrong stride": Fault(windows, "_sliding", _wrong_stride, Convolved),
    "wrong offset": Fault(Relevance, "place", _next_step, gradients=True),
    "dropped accumulate": Fault(Relevance, "accumulates", _never, gradients=True),
    "sign of a gradient": Fault(KINDS, Scale, _opposite, gradients=True),
    "lost mask": Fault(linear, "finish_relu", _no_mask, gradients=True),
    "lost factor": Fault(KINDS, Product, _one_factor, gradients=True),
    "wrong slope": Fault(KINDS, Activation, _other_slope, gradients=True),
    "pattern over the steps": Fault(programs, "bind_weights", _smaller_weights, steps=20),
}


@functools.cache
def seeded(make: type[nn.Module]) -> nn.Module:
    """Return the module with its weights."""
    torch.manual_seed(0)
    return make().eval()
