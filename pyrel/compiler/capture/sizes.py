# SPDX-License-Identifier: Apache-2.0
"""Open sizes of an exported program, and the guards that they have to satisfy."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch.export import ExportedProgram

from pyrel.compiler.capture.calls import Call
from pyrel.compiler.graph.layout import Layout

_FEW = 32  # sizes of a batch that guards are tried with
_INDEX = re.compile(r"\.size\(\)\[(\d+)\]")  # of a size, in guards


def bounds_the_batch(program: ExportedProgram) -> bool:
    """Whether a branch confined the batch size that the program holds for."""
    size = first_input(program).shape[0]
    if fixed(size) is not None:
        return False
    allowed = _range(program, size)
    return allowed is not None and bool(allowed.lower > 2 or allowed.upper < 1 << 31)


def excluded_batches(program: ExportedProgram) -> list[int]:
    """Return for each guard on the batch size alone the least size that it does not hold for.

    The model may branch there. Or torch asked, as it does whether sizes are equal.
    """
    found = set()
    for guard in guards_of(program) or ():
        if set(_INDEX.findall(guard)) == {"0"}:
            tried = {*range(2, _FEW), *map(int, re.findall(r"\d+", guard))} - {0, 1}
            found.update([n for n in sorted(tried) if not _true(guard, _batches(n))][:1])
    return sorted(found)


def _batches(n: int) -> Mapping[str, Any]:
    """Return inputs of which each is a batch of ``n``."""
    batch = SimpleNamespace(size=lambda: (n,))
    return defaultdict(lambda: batch)


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


def hint_of(size: int | torch.SymInt) -> int:
    """Return the size with which a program was exported."""
    return size if isinstance(size, int) else int(size.node.hint)


def opened(call: Call | None, example: Any, program: ExportedProgram) -> tuple[Call | None, int]:
    """Return a call, whose steps are those that a program leaves open, and how many there are."""
    if call is not None:
        layout = _with_open_steps(call.layout, program)
        return replace(call, layout=layout), layout.steps
    shape = tuple(getattr(example, "shape", ()))
    return None, shape[1] if len(shape) > 1 else 0


def _with_open_steps(layout: Layout, program: ExportedProgram) -> Layout:
    """Mark the inputs of a layout whose steps a program leaves open, as the first one's."""
    shapes = [value.shape for value in inputs_of(program)]
    if not layout.steps or fixed(shapes[0][1]) is not None:
        return layout
    leaves = [
        replace(leaf, steps=leaf.steps and str(shape[1]) == str(shapes[0][1]))
        for leaf, shape in zip(layout.leaves, shapes, strict=False)
    ]
    return Layout(tuple(leaves))


def untied(layout: Layout, program: ExportedProgram) -> frozenset[int]:
    """Return the inputs whose steps a program leaves open apart from the first one's."""
    shapes = [value.shape for value in inputs_of(program)]
    if not layout.steps or fixed(shapes[0][1]) is not None:
        return frozenset()
    return frozenset(
        number
        for number, leaf in enumerate(layout.leaves)
        if leaf.steps
        and fixed(shapes[number][1]) is None
        and str(shapes[number][1]) != str(shapes[0][1])
    )


def inputs_of(program: ExportedProgram) -> list[torch.Tensor]:
    """Return the inputs of a program as torch.export saw them, in their order."""
    found = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return [found[name].meta["val"] for name in program.graph_signature.user_inputs]


def holds_for(program: ExportedProgram, steps: int) -> bool:
    """Whether a program with an open second dimension computes what the model does at a size of it.

    Where the model branches on the size, torch.export recorded the condition as a guard.
    """
    value = first_input(program)
    size = value.shape[1]
    if fixed(size) is not None:
        return fixed(size) == steps
    allowed = _range(program, size)
    if allowed is not None and not allowed.lower <= steps <= allowed.upper:
        return False
    return guards_hold(program, steps)


def guards_hold(program: ExportedProgram, steps: int) -> bool:
    """Whether the guards of a program hold for a number of steps, be it less than two."""
    guards = guards_of(program)
    if guards is None:
        return False
    batch = fixed(first_input(program).shape[0])
    # Some guards are about accidents, as a batch as large as the number of steps.
    sizes = [2, 3, 5] if batch is None else [batch]
    return any(_hold(program, guards, n, steps) for n in sizes)


def guards_of(program: ExportedProgram) -> list[str] | None:
    """Return the conditions on sizes for which the program holds; None if it did not keep them."""
    return getattr(program, "_guards_code", None)


def _hold(program: ExportedProgram, guards: list[str], batch: int, steps: int) -> bool:
    """Whether all guards hold for a batch and a number of steps."""
    first = first_input(program).shape
    names = program.graph_signature.user_inputs
    shapes = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name in names:
            _, *rest = node.meta["val"].shape
            open_sizes = {str(first[0]): batch, str(first[1]): steps}
            shapes[node.name] = batch, *(open_sizes.get(str(size), size) for size in rest)
    given = {name: SimpleNamespace(size=partial(tuple, shape)) for name, shape in shapes.items()}
    # What a program calls its inputs may be other names; those of one are all of the first.
    whole = SimpleNamespace(size=lambda: (batch, steps, *first[2:]))
    known = defaultdict(lambda: whole, given)
    return all(_true(guard, known) for guard in guards)


def _true(guard: str, inputs: Mapping[str, Any]) -> bool:
    """Evaluate a guard, an expression of sizes of inputs."""
    names = {"max": max, "min": min, "math": math, "torch": torch}
    try:
        return bool(eval(guard, {"__builtins__": {}, **names}, {"L": inputs}))
    except Exception:  # it reads something else: then nothing is known
        return False
