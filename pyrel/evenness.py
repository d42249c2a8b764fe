# SPDX-License-Identifier: Apache-2.0
"""Whether what a program computes changes evenly with the number of steps T.

A pattern over T is found at a few T (`pyrel.any_steps`). To trust it at others, nothing may happen
in the model from a certain T on only: no step of a window that first fits there, no mask that is
first false there. A branch on T is a guard of torch.export, and is checked for each T apart; the
rest is told here from the sizes in the program, which are expressions of T.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch.export import ExportedProgram
from torch.fx import Node

from pyrel.exporting import first_input, guards_of, holds_for

# Operators that make of constants which are the same at all steps constants which are so too. Those
# with a threshold are missing, and those that count the steps, as arange and cumsum.
_EVEN = frozenset(
    """
    zeros ones full new_zeros new_ones new_full zeros_like ones_like full_like
    expand expand_as repeat unsqueeze squeeze view reshape flatten transpose permute t select slice
    unbind split split_with_sizes chunk cat stack clone contiguous detach alias to _to_copy
    type_as sort argsort index_select index add sub mul div neg reciprocal sym_size getitem
    """.split()
)
_MANY_STEPS = 256
_MOST_BITS = 24


def grows_evenly(program: ExportedProgram) -> bool:
    """Whether all sizes are T times a number plus a number, and constants alike at all steps.

    Parameters
    ----------
    program : ExportedProgram
        With the second dimension of its first input open.
    """
    size = first_input(program).shape[1]
    if isinstance(size, int) or not size.node.expr.is_symbol:
        return False
    steps = size.node.expr
    nodes = list(program.graph.nodes)
    name = program.graph_signature.user_inputs[0]
    seen = _of_input(nodes, name)
    used = _reached([n for n in nodes if n.op == "output"], lambda node: node.all_input_nodes)
    lengths = [n for n in nodes if n.name in program.graph_signature.user_inputs[1:]]
    sizes = [n for n in nodes if any(steps in e.free_symbols for e in _expressions(n))]
    counting = _reached([*lengths, *sizes], lambda node: node.users)
    return all(
        all(_affine(e, steps) for e in _expressions(node))
        and (
            node in seen
            or node not in counting
            or node.op != "call_function"
            or _operator(node) in _EVEN
        )
        for node in used
    )


def span(program: ExportedProgram) -> tuple[int, int | None] | None:
    """Find the fewest and the most steps that a program with an open number of them holds for.

    Returns
    -------
    fewest, most : int
        ``most`` is None if there is no most.
    None
        If there are gaps between them.
    """
    tried = {*range(2, _MANY_STEPS), *(2**bits for bits in range(1, _MOST_BITS))}
    for text in (*guards_of(program), *map(str, program.range_constraints.values())):
        for number in map(int, re.findall(r"\d+", text)):
            tried |= {n for n in (number - 1, number, number + 1) if 2 <= n < 2**_MOST_BITS}
    numbers = sorted(tried)
    holding = [holds_for(program, n) for n in numbers]
    if True not in holding:
        return None
    first, last = holding.index(True), len(holding) - 1 - holding[::-1].index(True)
    if not all(holding[first : last + 1]):
        return None
    return numbers[first], None if last == len(numbers) - 1 else numbers[last]


# Operators that take no more than the size or type of the second operand, or of the only one.
_OF_SHAPE = re.compile(r"new_.*|.*_like|sym_.*")
_OF_OTHER = frozenset("expand_as view_as reshape_as type_as to".split())


def _of_input(nodes: list[Node], name: str) -> set[Node]:
    """Return the nodes whose values depend on those of the input, and not on its size only."""
    found: set[Node] = set()
    for node in nodes:
        operands = node.all_input_nodes
        operator = _operator(node)
        if _OF_SHAPE.fullmatch(operator):
            continue
        if operator in _OF_OTHER:
            operands = operands[:1]
        if node.name == name or any(operand in found for operand in operands):
            found.add(node)
    return found


def _reached(start: list[Node], following: Any) -> set[Node]:
    found: set[Node] = set()
    left = list(start)
    while left:
        node = left.pop()
        if node not in found:
            found.add(node)
            left += following(node)
    return found


def _expressions(node: Node) -> Iterator[sympy.Expr]:
    """Yield the sizes of what a node computes, and numbers that are computed from sizes."""
    left = [node.meta.get("val")]
    while left:
        value = left.pop()
        if isinstance(value, list | tuple):
            left += value
        elif isinstance(value, torch.Tensor):
            left += value.shape
        elif isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            yield value.node.expr


def _affine(expression: Any, steps: sympy.Symbol) -> bool:
    if steps not in expression.free_symbols:
        return True
    return bool(expression.is_polynomial(steps)) and sympy.degree(expression, steps) <= 1


def _operator(node: Node) -> str:
    return str(getattr(node.target, "__name__", node.target)).partition(".")[0]
