# SPDX-License-Identifier: Apache-2.0
"""Einstein's sums: products of tensors with named axes, summed over those not in the result."""

from __future__ import annotations

import math
import string
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch

from pyrel.compiler.capture.operators.arithmetic import matmul, multiply, total
from pyrel.compiler.capture.operators.operands import UnsupportedOperandsError
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer

_ELLIPSIS = "..."


class _Named(NamedTuple):
    """A tensor, and the name of each of its axes, a letter."""

    value: Any
    axes: str

    def sizes(self) -> dict[str, int]:
        return dict(zip(self.axes, _elements(self.value).shape, strict=True))

    def moved(self, elements: torch.Tensor, axes: str) -> _Named:
        """Return other elements of the same tensor."""
        return _Named(Traced(elements) if isinstance(self.value, Traced) else elements, axes)

    def ordered(self, wanted: str) -> _Named:
        order = [self.axes.index(axis) for axis in wanted]
        return self.moved(_elements(self.value).permute(order), wanted)


def einsum(tracer: Tracer, equation: str, operands: Sequence[Any], **_: Any) -> Any:
    """``aten.einsum``: tensors are multiplied one after the other, as torch does."""
    names, written = _names(equation, [_elements(each).dim() for each in operands])
    parts = [_Named(v, axes) for v, axes in zip(operands, names, strict=True)]
    parts = _broadcast([_diagonal(each) for each in parts])
    found = parts[0]
    for number, other in enumerate(parts[1:], start=1):
        later = {*written, *"".join(each.axes for each in parts[number + 1 :])}
        left = _summed(tracer, found, {*later, *other.axes})
        found = _product(tracer, left, _summed(tracer, other, {*later, *found.axes}), later)
    return _summed(tracer, found, set(written)).ordered(written).value


def _elements(value: Any) -> torch.Tensor:
    found: torch.Tensor = value.ids if isinstance(value, Traced) else value
    return found


def _names(equation: str, dims: Sequence[int]) -> tuple[list[str], str]:
    """Return the axes of each operand and those of the result, letters for those of an ellipsis."""
    read, arrow, written = equation.replace(" ", "").partition("->")
    names = read.split(",")
    free = [c for c in string.ascii_letters if c not in equation]
    hidden = [
        dim - len(each.replace(_ELLIPSIS, "")) if _ELLIPSIS in each else 0
        for each, dim in zip(names, dims, strict=True)
    ]
    most = max(hidden)
    if most > len(free):
        raise UnsupportedOperandsError(
            f"{equation!r} has more than {len(string.ascii_letters)} axes"
        )
    letters = "".join(free[:most])
    # Axes of an ellipsis are counted from the last one on.
    names = [n.replace(_ELLIPSIS, letters[most - h :]) for n, h in zip(names, hidden, strict=True)]
    if arrow:
        return names, written.replace(_ELLIPSIS, letters)
    every = "".join(names)
    once = (axis for axis in sorted({*every} - {*letters}) if every.count(axis) == 1)
    return names, letters + "".join(once)


def _diagonal(part: _Named) -> _Named:
    """Take the diagonal of axes of one name."""
    for axis in dict.fromkeys(part.axes):
        while part.axes.count(axis) > 1:
            first, second = part.axes.find(axis), part.axes.rfind(axis)
            rest = "".join(a for i, a in enumerate(part.axes) if i not in {first, second})
            part = part.moved(_elements(part.value).diagonal(0, first, second), rest + axis)
    return part


def _broadcast(parts: Sequence[_Named]) -> list[_Named]:
    """Leave out axes of one element that are longer in another operand."""
    sizes: dict[str, int] = {}
    for part in parts:
        for axis, size in part.sizes().items():
            sizes[axis] = max(size, sizes.get(axis, 1))

    def squeezed(part: _Named) -> _Named:
        single = [a for a, size in part.sizes().items() if size == 1 != sizes[a]]
        dims = tuple(part.axes.index(axis) for axis in single)
        rest = "".join(axis for axis in part.axes if axis not in single)
        return part.moved(_elements(part.value).squeeze(dims), rest) if dims else part

    return [squeezed(part) for part in parts]


def _summed(tracer: Tracer, part: _Named, kept: set[str]) -> _Named:
    """Sum over axes that are read no more."""
    alone = [i for i, axis in enumerate(part.axes) if axis not in kept]
    if not alone:
        return part
    value = part.value
    summed = total(tracer, value, alone) if isinstance(value, Traced) else value.sum(alone)
    return _Named(summed, "".join(axis for axis in part.axes if axis in kept))


def _product(tracer: Tracer, left: _Named, right: _Named, later: Iterable[str]) -> _Named:
    """Multiply two tensors, and sum over common axes that are read no more."""
    first, second = left.axes, right.axes
    inner = [axis for axis in first if axis in second and axis not in later]
    batch = [axis for axis in first if axis in second and axis in later]
    rows = [axis for axis in first if axis not in second]
    columns = [axis for axis in second if axis not in first]
    axes = "".join([*batch, *rows, *columns])
    if not (isinstance(left.value, Traced) or isinstance(right.value, Traced)):
        return _Named(torch.einsum(f"{first},{second}->{axes}", left.value, right.value), axes)
    sizes = left.sizes() | right.sizes()

    def grouped(part: _Named, *groups: list[str]) -> Any:
        turned = part.ordered("".join(axis for group in groups for axis in group))
        shape = [math.prod(sizes[axis] for axis in group) for group in groups[1:]]
        common = [sizes[axis] for axis in batch]
        return turned.moved(_elements(turned.value).reshape([*common, *shape]), "").value

    multiplied = matmul if inner else multiply
    factors = grouped(left, batch, rows, inner), grouped(right, batch, inner, columns)
    product = multiplied(tracer, *factors)
    shape = [sizes[axis] for axis in axes]
    return _Named(Traced(_elements(product).reshape(shape)), axes)
