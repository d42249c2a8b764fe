# SPDX-License-Identifier: Apache-2.0
"""Whether behaviour checked at a few sequence lengths T provably extends to all lengths.

A length-parametric program is found at a few T (`pyrel.compiler.program.generalise`). It is right
at other T if nothing in the model starts at a certain T: no window that first fits there, no mask
that is first false there. This is checked on the sizes in the exported program, which are
expressions of T: they have to grow affinely, as 2 T + 3 does. A branch on T is a guard of
torch.export, and is checked for each T.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch.export import ExportedProgram
from torch.fx import Node

from pyrel.compiler.capture.operators.nested import leaves
from pyrel.compiler.capture.places import place_of_node
from pyrel.compiler.capture.sizes import first_input, guards_of, holds_for

# Operators that make of constants which are the same at all steps constants which are so too. Those
# with a threshold are missing, and those that count the steps, as arange and cumsum. Lengths that
# are given, not counted in the input, are full.
_UNIFORM = frozenset(
    """
    zeros ones full new_zeros new_ones new_full zeros_like ones_like full_like
    expand expand_as repeat unsqueeze squeeze view reshape flatten transpose permute t select slice
    unbind split split_with_sizes chunk cat stack clone contiguous detach alias to _to_copy
    type_as add sub mul div neg reciprocal packed_lengths lengths_of
    """.split()
)
_OF_BATCH = frozenset("sort argsort index_select index getitem".split())  # for packing
# Operators over values of the input that may take a number of steps as an argument.
_WITH_SIZES = frozenset(
    "view reshape expand slice select narrow flatten unflatten repeat div".split()
)
# Operators that take no more than the size or type of the second operand, or of the only one.
_OF_SHAPE = re.compile(r"new_.*|.*_like|sym_.*")
_OF_OTHER = frozenset("expand_as view_as reshape_as type_as to".split())
_SYMBOLIC = torch.SymInt | torch.SymFloat | torch.SymBool
_FARTHEST = 8  # steps: what reaches as far shows at the fewest steps that are tried
_STEPS = ".size()[1]"  # of the input, in guards
# Of inputs that have as many steps as each other, which says nothing of how many.
_ALIKE = re.compile(r"L\['\w+'\]\.size\(\)\[1\] == L\['\w+'\]\.size\(\)\[1\]")
_MANY_STEPS = 256
_MOST_BITS = 24


def irregular_growth(program: ExportedProgram, inputs: int = 1) -> str | None:
    """Return why behaviour at a few T does not extend to all T; None if it provably does.

    Each size has to be a multiple of T plus a small number, and constants equal at all steps.

    Parameters
    ----------
    program : ExportedProgram
        With the second dimension of its first input open.
    inputs : int
        How many it has; lengths come behind them.
    """
    size = first_input(program).shape[1]
    if isinstance(size, int) or not size.node.expr.is_symbol:
        return "its number of steps is fixed, or a multiple of another number"
    steps = size.node.expr
    nodes = list(program.graph.nodes)
    names = program.graph_signature.user_inputs
    seen = _of_inputs(nodes, names[:inputs])
    used = _reached([n for n in nodes if n.op == "output"], lambda node: node.all_input_nodes)
    lengths = [n for n in nodes if n.name in names[inputs:]]
    sizes = {n for n in nodes if _depends(n.meta.get("val"), steps)}
    batch = {n for n in nodes if _is_number(n)} - sizes
    counting = _reached([*lengths, *sizes], lambda node: () if node in batch else node.users)
    counting -= batch

    def fault(node: Node) -> str | None:
        if not all(_affine(e, steps) for e in _expressions(node.meta.get("val"))):
            return (
                f"has a size other than a multiple of the number of steps plus {_FARTHEST} at most"
            )
        if node.op != "call_function" or node not in counting:
            return None
        if node in seen:
            if not _near(node, steps):
                return f"reads steps that are more than {_FARTHEST} apart"
            if not _takes_sizes_only(node):
                return "computes with the number of steps as a value"
        elif not _of_uniform_constants(node, steps, counting):
            return "makes constants that may differ from step to step"
        return None

    faults = ((node, fault(node)) for node in nodes if node in used)
    return next((_named(node, text) for node, text in faults if text is not None), None)


def _named(node: Node, fault: str) -> str:
    """Say which operator, in which module and line, has a fault."""
    place = place_of_node(node)
    within = f" in module {place.module!r}" if place.module else ""
    at = f" ({place.at})" if place.at else ""
    return f"{_operator(node)}{within} {fault}{at}"


def _of_uniform_constants(node: Node, steps: sympy.Symbol, checked: set[Node]) -> bool:
    """Whether a constant that depends on T, or on lengths, is the same at all steps.

    That is, it is made of such constants only, and not of parameters, from which it could take
    another part for each step.
    """
    operator = _operator(node)
    if operator == "sym_size":
        return True
    if not all(_is_number(other) or other in checked for other in node.all_input_nodes):
        return False
    if operator in _OF_BATCH:
        return not _depends(node.meta.get("val"), steps)
    return operator in _UNIFORM


def _is_number(node: Node) -> bool:
    return isinstance(node.meta.get("val"), _SYMBOLIC)


def _near(node: Node, steps: sympy.Symbol) -> bool:
    """Whether an operator combines near steps only, where its sizes do not show that."""
    operator = _operator(node)
    if operator in ("pad", "constant_pad_nd", "roll"):
        return max(map(abs, _numbers(node.args[1:])), default=0) <= _FARTHEST
    if "conv" in operator or "pool" in operator:
        read, *weights = (n.meta["val"] for n in node.all_input_nodes[:2])
        found = leaves(node.meta["val"])
        if _depends(list(read.shape[1:]), steps) or any(
            _depends(list(value.shape[2:]), steps) for value in found
        ):
            reach = max([1, *_numbers(node.args[1:]), *_numbers([w.shape[2:] for w in weights])])
            return reach <= _FARTHEST // 2  # kernels may be dilated
    return True


def _takes_sizes_only(node: Node) -> bool:
    """Whether no number of steps is counted as a value, but to divide by it."""
    if not isinstance(node.target, torch._ops.OpOverload) or _operator(node) in _WITH_SIZES:
        return True
    return not any(map(_is_number, node.all_input_nodes))


def _numbers(value: Any) -> Iterator[int]:
    """Yield the integers in nested lists."""
    return (n for n in leaves(value) if isinstance(n, int) and not isinstance(n, bool))


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
    guards = [g for g in guards_of(program) or [] if _STEPS in g and not _ALIKE.fullmatch(g)]
    if any(guard.count(_STEPS) > 1 or re.search(r"//|%|\*\*|\[0\]", guard) for guard in guards):
        return None  # not of the form a T + b < c, whose edges are found below
    for text in (*guards, *map(str, program.range_constraints.values())):
        given = [1, *map(int, re.findall(r"\d+", text.replace(_STEPS, "")))]
        edges = {c + sign * b for c in given for b in [0, *given] for sign in (-1, 1)}
        for a, edge in itertools.product({n for n in given if n}, edges):
            near = (edge // a + d for d in (-1, 0, 1, 2))
            tried |= {n for n in near if 2 <= n < 2**_MOST_BITS}
    numbers = sorted(tried)
    holding = [holds_for(program, n) for n in numbers]
    if True not in holding:
        return None
    first, last = holding.index(True), len(holding) - 1 - holding[::-1].index(True)
    if not all(holding[first : last + 1]):
        return None
    return numbers[first], None if last == len(numbers) - 1 else numbers[last]


def _of_inputs(nodes: list[Node], names: Sequence[str]) -> set[Node]:
    """Return the nodes whose values depend on those of inputs, and not on their size only."""
    found: set[Node] = set()
    for node in nodes:
        operands = node.all_input_nodes
        operator = _operator(node)
        if _OF_SHAPE.fullmatch(operator):
            continue
        if operator in _OF_OTHER:
            operands = operands[:1]
        if node.name in names or any(operand in found for operand in operands):
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


def _expressions(value: Any) -> Iterator[sympy.Expr]:
    """Yield the sizes of what a node computes, and numbers that are computed from sizes."""
    for leaf in leaves(value):
        for size in leaf.shape if isinstance(leaf, torch.Tensor) else (leaf,):
            if isinstance(size, _SYMBOLIC):
                yield size.node.expr


def _depends(value: Any, steps: sympy.Symbol) -> bool:
    """Whether a size, or a number, depends on that of the steps."""
    return any(steps in expression.free_symbols for expression in _expressions(value))


def _affine(expression: Any, steps: sympy.Symbol) -> bool:
    """Whether an expression is a (T + b), a > 0, with a b of a few steps."""
    if steps not in expression.free_symbols:
        return True
    if not expression.is_polynomial(steps) or sympy.degree(expression, steps) > 1:
        return False
    others = {symbol: 1 for symbol in expression.free_symbols - {steps}}
    expanded = sympy.expand(expression)
    a, b = (expanded.coeff(steps, power).subs(others) for power in (1, 0))
    return bool(a > 0 and abs(b) <= _FARTHEST * a)


def _operator(node: Node) -> str:
    return str(getattr(node.target, "__name__", node.target)).partition(".")[0]
