# SPDX-License-Identifier: Apache-2.0
"""Open sizes of an exported program, and the guards that they have to satisfy."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch.export import ExportedProgram


def bounds_the_batch(program: ExportedProgram) -> bool:
    """Whether a branch confined the batch size that the program holds for."""
    size = first_input(program).shape[0]
    if fixed(size) is not None:
        return False
    allowed = _range(program, size)
    return allowed is not None and bool(allowed.lower > 2 or allowed.upper < 1 << 31)


def first_input(program: ExportedProgram) -> torch.Tensor:
    """Return the model's input as torch.export saw it: sizes that are open are symbols."""
    name = program.graph_signature.user_inputs[0]
    value: torch.Tensor = next(n for n in program.graph.nodes if n.name == name).meta["val"]
    return value


def fixed(size: int | torch.SymInt) -> int | None:
    """Return a size that the program holds for alone; None if the size is open."""
    return size if isinstance(size, int) else size.node.maybe_as_int()


def _range(program: ExportedProgram, size: int | torch.SymInt) -> Any:
    """Return the range that branches confined an open size to, if they did."""
    return None if isinstance(size, int) else program.range_constraints.get(size.node.expr)


def holds_for(program: ExportedProgram, steps: int) -> bool:
    """Whether a program with an open second dimension computes what the model does at a size of it.

    Where the model branches on the size, torch.export recorded the condition as a guard.
    """
    value = first_input(program)
    size = value.shape[1]
    if fixed(size) is not None:
        return fixed(size) == steps
    allowed = _range(program, size)
    guards = guards_of(program)
    if guards is None or (allowed is not None and not allowed.lower <= steps <= allowed.upper):
        return False
    batch = fixed(value.shape[0])
    # Some guards are about accidents, as a batch as large as the number of steps.
    sizes = [2, 3, 5] if batch is None else [batch]
    rest = value.shape[2:]
    return any(all(_true(guard, (n, steps, *rest)) for guard in guards) for n in sizes)


def guards_of(program: ExportedProgram) -> list[str] | None:
    """Return the conditions on sizes for which the program holds; None if it did not keep them."""
    return getattr(program, "_guards_code", None)


def _true(guard: str, shape: tuple[int, ...]) -> bool:
    """Evaluate a guard, an expression of sizes, which all inputs have in common."""
    names = {"max": max, "min": min, "math": math, "torch": torch}
    given = SimpleNamespace(size=lambda: shape)
    try:
        return bool(eval(guard, {"__builtins__": {}, **names}, {"L": defaultdict(lambda: given)}))
    except Exception:  # it reads something else: then nothing is known
        return False
