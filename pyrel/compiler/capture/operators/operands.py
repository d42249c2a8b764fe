# SPDX-License-Identifier: Apache-2.0
"""Checks of what an operator is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pyrel.compiler.capture.parameters import stored
from pyrel.compiler.capture.traced import Traced, TruthValues
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.graph.nodes import Floats


class UnsupportedOperandsError(Exception):
    """The operator is known, but not with these operands."""


def array(tracer: Tracer, tensor: torch.Tensor) -> Floats:
    """Values of a parameter, the same array each time."""
    _check_finite(tracer, tensor)
    return tracer.weights.array(tensor)


def matrix(tracer: Tracer, tensor: torch.Tensor) -> Floats:
    """Weights of a linear layer as they are stored, the same array each time."""
    _check_finite(tracer, tensor)
    return tracer.weights.matrix(tensor)


def blocks(tracer: Tracer, tensor: torch.Tensor) -> Floats:
    """Weights as they are stored, for one that takes a copy of parts of them; not kept."""
    _check_finite(tracer, tensor)
    return stored(tensor)


def _check_finite(tracer: Tracer, tensor: torch.Tensor) -> None:
    if not tracer.weights.are_finite(tensor):
        raise UnsupportedOperandsError("a weight or bias holds NaN or infinity")


def constant(value: object, role: str) -> torch.Tensor:
    """Return a tensor that must not depend on the input."""
    if isinstance(value, Traced):
        raise UnsupportedOperandsError(f"the {role} depends on the input, it must be constant")
    return number(value)


def number(value: Any) -> torch.Tensor:
    """Return a constant as a tensor; Python's floats stay as exact as they are."""
    return torch.as_tensor(value, dtype=torch.float64 if isinstance(value, float) else None)


def traced(value: Any, role: str = "operand") -> Traced:
    """Return a tensor that must depend on the input."""
    if not isinstance(value, Traced):
        raise UnsupportedOperandsError(f"the {role} is constant, while others depend on the input")
    return value


def either(value: object) -> Traced | torch.Tensor:
    """Return a traced tensor, or the constant tensor of a number."""
    return value if isinstance(value, Traced) else number(value)


def type_of(operand: Traced | torch.Tensor) -> torch.dtype | None:
    """Return the type of a constant, and of truth values, of which some may be constants."""
    if isinstance(operand, Traced):
        return torch.bool if isinstance(operand, TruthValues) else None
    return operand.dtype


def refuse_ids(tracer: Tracer, value: object) -> None:
    """Refuse token ids themselves, among which a count of others would choose."""
    if isinstance(value, Traced) and tracer.holds_ids(value):
        raise UnsupportedOperandsError(
            "token ids are chosen by what is made of token ids; choose among the rows that they "
            "look up instead"
        )


@dataclass(frozen=True)
class NoValue:
    """A result that pyrel cannot work out; whoever reads it is refused."""

    what: str
