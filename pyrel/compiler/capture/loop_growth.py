# SPDX-License-Identifier: Apache-2.0
"""Whether a long loop over the steps goes on as its first steps do.

The operators that a model runs for a few short lengths and for the full one
(`pyrel.compiler.capture.eager_trace`) are cut into repetitions, as programs are. The traces have to
be the same but for how often these repeat, and each whole number and operand has to move evenly
with the iteration and with the length. So a step that does something else is found wherever it is,
if its effect on outputs and gradients is nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pyrel.compiler.capture.eager_trace import INPUT, UNIFORM, Step
from pyrel.compiler.program.loops import loops
from pyrel.compiler.program.rows import around_longest, slope_of

_Numbers = npt.NDArray[np.int64]

_MOST_APART = 2  # iterations at each end of a loop that may differ, as that of the first state
_FARTHEST = 4  # steps that windows reach: they show at the fewest steps that are tried
# Operators over values of the input that may take a whole number that moves with the steps.
_WITH_SIZES = frozenset(
    """view _unsafe_view reshape expand slice select unbind split split_with_sizes cat stack repeat
    permute transpose t unsqueeze squeeze clone copy_ detach alias""".split()
)
_WINDOWS = ("conv", "pool", "pad", "roll", "unfold", "upsample")


class _IrregularError(Exception):
    """Traces do not follow a pattern; the message says why."""


def irregular_loop(traces: Mapping[int, Sequence[Step]]) -> str | None:
    """Return why traces of some lengths are not of one loop; None if they are.

    Parameters
    ----------
    traces : mapping from int to sequence of Step
        By number of steps, at least three, the smallest two of which differ by one.
    """
    try:
        _check(traces)
    except _IrregularError as reason:
        return str(reason)
    return None


def _check(traces: Mapping[int, Sequence[Step]]) -> None:
    lengths = np.array(sorted(traces))
    by_length = [traces[n] for n in lengths.tolist()]
    known: dict[Hashable, int] = {}
    codes = [
        np.array([known.setdefault((s.code, s.kind), len(known)) for s in trace], dtype=np.int64)
        for trace in by_length
    ]
    cuts = [loops(each, least_saved=1) for each in codes]
    if len({tuple(period for _, period, _ in cut) for cut in cuts}) > 1:
        raise _IrregularError("operators do not repeat in the same way for all numbers of steps")
    for pieces in zip(*cuts, strict=True):
        period = pieces[0][1]
        bodies = [c[start : start + period] for c, (start, _, _) in zip(codes, pieces, strict=True)]
        if any((body != bodies[0]).any() for body in bodies):
            raise _IrregularError("operators depend on the number of steps")
        counts = np.array([count for _, _, count in pieces])
        _affine(counts[:, None], lengths, "how often a loop runs")
        for place in range(period):
            parts = [
                trace[start + place : start + period * count : period]
                for trace, (start, _, count) in zip(by_length, pieces, strict=True)
            ]
            _check_operator(parts, lengths)


def _check_operator(parts: Sequence[Sequence[Step]], lengths: _Numbers) -> None:
    """Check all iterations of an operator of a loop, for each number of steps."""
    first = parts[0][0]
    _check_moves([np.array([s.operands for s in part], dtype=np.int64) for part in parts], lengths)
    numbers = [np.array([s.numbers for s in part], dtype=np.int64) for part in parts]
    name = str(first.code[0] if isinstance(first.code, tuple) else first.code)  # aten.add.Tensor
    operator = name.split(".")[1] if "." in name else name
    if first.kind != UNIFORM and any(window in operator for window in _WINDOWS):
        _check_window(operator, first)
    if all((each == numbers[0][0]).all() for each in numbers):
        return
    if first.kind not in (INPUT, UNIFORM):
        raise _IrregularError(f"{name} takes another part of a constant at other steps")
    _check_moves(numbers, lengths)
    arguments = _arguments(first)
    moved = any((each[:, :arguments] != numbers[0][0, :arguments]).any() for each in numbers)
    if first.kind == INPUT and moved and operator not in _WITH_SIZES:
        raise _IrregularError(f"{name} computes with the number of a step as a value")


def _arguments(step: Step) -> int:
    """Count the whole numbers that are arguments, which come before those that are sizes."""
    return len(step.numbers) - step.sizes


def _check_window(operator: str, step: Step) -> None:
    """Refuse windows that may reach over all of the few steps."""
    arguments = step.numbers[: _arguments(step)]
    if max(map(abs, arguments), default=0) > _FARTHEST or max(step.kernel, default=0) > _FARTHEST:
        raise _IrregularError(f"{operator} may reach more than {_FARTHEST} steps")


def _check_moves(numbers: Sequence[_Numbers], lengths: _Numbers) -> None:
    """Check that numbers, (iterations, ...) for each length, move evenly."""
    counts = {len(each) for each in numbers}
    if len(counts) == 1 and len(numbers[0]) <= 2 * _MOST_APART:
        _affine(np.stack(numbers), lengths, "operands or sizes")
        return
    before, behind = np.max([_edges(each) for each in numbers], axis=0).tolist()
    if max(before, behind) > _MOST_APART or min(counts) - before - behind < 3:
        raise _IrregularError("operands or sizes do not move evenly in a loop")
    middle = [each[before : len(each) - behind] for each in numbers]
    for part in (
        [each[:before] for each in numbers],
        [each[len(each) - behind :] for each in numbers],
        [each[:1] for each in middle],
        [each[1:2] - each[:1] for each in middle],
    ):
        _affine(np.stack(part), lengths, "operands or sizes")


def _edges(numbers: _Numbers) -> tuple[int, int]:
    """Count the iterations before and behind the longest even stretch."""
    return around_longest((np.diff(numbers, 2, axis=0) == 0).all(axis=1))


def _affine(values: _Numbers, lengths: _Numbers, what: str) -> None:
    """Check that values, of which the first axis is that of the lengths, grow evenly."""
    if slope_of(values, lengths) is None:
        raise _IrregularError(f"{what} do not grow evenly with the number of steps")
