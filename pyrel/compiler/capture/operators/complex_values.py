# SPDX-License-Identifier: Apache-2.0
"""Complex values as pairs of real ones, and what is computed of them.

The graph has real values alone: sums and products of complex numbers are those of their parts, a
magnitude is the root of a sum of squares. A value becomes complex by a Fourier transform
(`pyrel.compiler.capture.operators.spectra`), by a complex constant, or by a change of type.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pyrel.compiler.capture.operators import arithmetic, contractions, statistics
from pyrel.compiler.capture.operators.nested import mapped
from pyrel.compiler.capture.operators.operands import NoValue, UnsupportedOperandsError, constant
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.graph.functions import Function

WHAT = "a complex value"
Part = Any  # a traced tensor, or a constant one
Parts = tuple[Part, Part]


@dataclass(frozen=True)
class Complex(NoValue):
    """A complex tensor that depends on the input; both parts have its shape."""

    real: Traced
    imaginary: Traced


def made(tracer: Tracer, real: Part, imaginary: Part) -> Complex:
    """Make a complex value of its parts, one of which may be constant."""
    ids = tracer.ids(real), tracer.ids(imaginary)
    shape = np.broadcast_shapes(*(each.shape for each in ids))
    return Complex(WHAT, *(Traced(each.expand(shape)) for each in ids))


def both(value: Any) -> Parts:
    """Real and imaginary part of a number, a constant or a traced tensor, complex or not."""
    if isinstance(value, Complex):
        return value.real, value.imaginary
    if isinstance(value, Traced):
        return value, 0.0
    if isinstance(value, complex):
        return value.real, value.imag
    tensor = constant(value, "operand")
    return (tensor.real, tensor.imag) if tensor.is_complex() else (tensor, 0.0)


def are_involved(values: Sequence[Any], dtype: torch.dtype | None) -> bool:
    """Whether an operand is complex, or the result."""
    return (dtype is not None and dtype.is_complex) or any(
        isinstance(v, Complex | complex) or (isinstance(v, torch.Tensor) and v.is_complex())
        for v in values
    )


def apply(tracer: Tracer, move: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Run an operator of complex values; by ``move``, if it only moves elements."""
    if move is not None:
        rest = {key: v for key, v in kwargs.items() if key not in ("dtype", "device")}
        return _moved(tracer, move, args, rest)
    if name not in HANDLERS:
        raise UnsupportedOperandsError(
            "a complex value is used. Of those sums, products, matrix products, quotients by "
            "constants, conjugates, parts, magnitudes and exponentials are supported"
        )
    return HANDLERS[name](tracer, *args, **kwargs)


def _moved(tracer: Tracer, target: Any, args: Any, kwargs: Any) -> Any:
    """Move both parts alike."""

    def part(number: int) -> Any:
        def of(value: Any) -> Any:
            if not isinstance(value, Complex | Traced | torch.Tensor):
                return value
            found = both(value)[number]
            return tracer.ids(torch.zeros(_shape(value)) if isinstance(found, float) else found)

        return target(*mapped(of, args), **mapped(of, kwargs))

    real, imaginary = part(0), part(1)
    if isinstance(real, list | tuple):
        return [Complex(WHAT, Traced(a), Traced(b)) for a, b in zip(real, imaginary, strict=True)]
    return Complex(WHAT, Traced(real), Traced(imaginary))


def _shape(value: Any) -> torch.Size:
    if isinstance(value, Complex):
        return value.real.ids.shape
    return value.ids.shape if isinstance(value, Traced) else value.shape


def _is_zero(part: Part) -> bool:
    return isinstance(part, float) and part == 0


def _sum(tracer: Tracer, left: Part, right: Part) -> Part:
    if _is_zero(left) or _is_zero(right):
        return right if _is_zero(left) else left
    traced = isinstance(left, Traced) or isinstance(right, Traced)
    return arithmetic.add(tracer, left, right) if traced else left + right


def _product(
    tracer: Tracer,
    left: Any,
    right: Any,
    product: Callable[[Tracer, Any, Any], Any] = arithmetic.multiply,
) -> Complex:
    """Multiply (a + ib) (c + id) by any product that is linear in both factors."""
    (a, b), (c, d) = both(left), both(right)

    def times(one: Part, other: Part) -> Part:
        return 0.0 if _is_zero(one) or _is_zero(other) else product(tracer, one, other)

    crossed = times(b, d)
    minus = -crossed if not isinstance(crossed, Traced) else arithmetic.negate(tracer, crossed)
    real, imaginary = _sum(tracer, times(a, c), minus), _sum(tracer, times(a, d), times(b, c))
    return made(tracer, *(_tensor(part) for part in (real, imaginary)))


def _tensor(part: Part) -> Part:
    return part if isinstance(part, Traced) else torch.as_tensor(part, dtype=torch.float64)


def multiply(tracer: Tracer, left: Any, right: Any) -> Complex:
    """``aten.mul``."""
    return _product(tracer, left, right)


def matmul(tracer: Tracer, left: Any, right: Any) -> Complex:
    """``aten.matmul`` and its like."""
    return _product(tracer, left, right, arithmetic.matmul)


def einsum(tracer: Tracer, equation: str, operands: Any, **__: Any) -> Complex:
    """``aten.einsum`` of two tensors."""
    if len(operands) != 2:
        raise UnsupportedOperandsError("of complex values an einsum of two tensors is supported")
    left, right = operands
    return _product(
        tracer, left, right, lambda _, a, b: contractions.einsum(tracer, equation, [a, b])
    )


def linear(tracer: Tracer, value: Any, weight: Any, bias: Any = None) -> Complex:
    """``aten.linear``."""
    turned = constant(weight, "weight").mT
    product = _product(tracer, value, turned, arithmetic.matmul)
    return product if bias is None else add(tracer, product, bias)


def add(tracer: Tracer, left: Any, right: Any, *, alpha: float = 1) -> Complex:
    """``aten.add``."""
    if alpha != 1:
        right = _product(tracer, right, float(alpha))
    sums = (_sum(tracer, *parts) for parts in zip(both(left), both(right), strict=True))
    return made(tracer, *map(_tensor, sums))


def subtract(tracer: Tracer, left: Any, right: Any, *, alpha: float = 1) -> Complex:
    """``aten.sub``."""
    return add(tracer, left, right, alpha=-alpha)


def reverse_subtract(tracer: Tracer, left: Any, right: Any, *, alpha: float = 1) -> Complex:
    """``aten.rsub``."""
    return add(tracer, right, left, alpha=-alpha)


def divide(tracer: Tracer, left: Any, right: Any) -> Complex:
    """``aten.div`` by a constant, or by a real value."""
    if isinstance(right, Complex):
        raise UnsupportedOperandsError("a complex value is divided by; write it as a product")
    if isinstance(right, Traced):
        return _product(tracer, left, arithmetic.reciprocal(tracer, right))
    divisor = constant(right, "divisor")
    wide = torch.complex128 if divisor.is_complex() else torch.float64
    return _product(tracer, left, 1.0 / divisor.to(wide))


def magnitude(tracer: Tracer, value: Complex) -> Traced:
    """``aten.abs``: √(re² + im²), whose derivative at 0 is 0."""
    parts = torch.stack([value.real.ids, value.imaginary.ids], -1)
    found: Traced = statistics.norm(tracer, Traced(parts), 2, -1)
    return found


def exponential(tracer: Tracer, value: Complex) -> Complex:
    """``aten.exp``: e^a (cos b + i sin b)."""
    size = tracer.activation(value.real, Function.exp)
    around = (tracer.activation(value.imaginary, f) for f in (Function.cos, Function.sin))
    return made(tracer, *(arithmetic.multiply(tracer, size, part) for part in around))


def conjugate(tracer: Tracer, value: Complex | Traced) -> Complex | Traced:
    """``aten.conj``; of a real value it is the value."""
    if isinstance(value, Traced):
        return value
    return made(tracer, value.real, _tensor(arithmetic.negate(tracer, value.imaginary)))


def real_part(_tracer: Tracer, value: Complex | Traced) -> Traced:
    """``aten.real``."""
    return value.real if isinstance(value, Complex) else value


def by_parts(function: Callable[..., Any]) -> Callable[..., Complex]:
    """Make the handler of what is done to both parts."""

    def handler(tracer: Tracer, value: Complex, *args: Any, **kwargs: Any) -> Complex:
        parts = (function(tracer, part, *args, **kwargs) for part in (value.real, value.imaginary))
        return made(tracer, *parts)

    return handler


def in_pairs(_tracer: Tracer, value: Complex) -> Traced:
    """``aten.view_as_real``: parts along a new last dimension."""
    return Traced(torch.stack([value.real.ids, value.imaginary.ids], -1))


def of_pairs(_tracer: Tracer, value: Traced) -> Complex:
    """``aten.view_as_complex``."""
    return Complex(WHAT, *(Traced(part) for part in value.ids.unbind(-1)))


def copied(
    tracer: Tracer, value: Any, *args: Any, dtype: torch.dtype | None = None, **_: Any
) -> Complex | Traced:
    """``aten.to``: a complex value that becomes a real one loses its imaginary part."""
    types = [dtype, *(each for each in args if isinstance(each, torch.dtype))]
    real = any(each is not None and not each.is_complex for each in types)
    if real or any(isinstance(each, Traced) for each in args):
        return real_part(tracer, value)
    return made(tracer, *map(_tensor, both(value)))


def same(_tracer: Tracer, value: Complex, *_: Any, **__: Any) -> Complex:
    """Return the value."""
    return value


HANDLERS: dict[str, Callable[..., Any]] = {
    "_conj": conjugate,
    "_to_copy": copied,
    "abs": magnitude,
    "add": add,
    "bmm": matmul,
    "complex": made,
    "conj": conjugate,
    "conj_physical": conjugate,
    "cumsum": by_parts(
        lambda tracer, part, dim, **_: arithmetic.accumulated(
            [Traced(each) for each in part.ids.unbind(dim)], dim, tracer.add
        )
    ),
    "detach": by_parts(lambda tracer, part: tracer.stop(part)),
    "div": divide,
    "einsum": einsum,
    "exp": exponential,
    "imag": lambda _, value: value.imaginary,
    "linear": linear,
    "matmul": matmul,
    "mean": by_parts(arithmetic.mean),
    "mm": matmul,
    "mul": multiply,
    "neg": by_parts(arithmetic.negate),
    "real": real_part,
    "resolve_conj": same,
    "resolve_neg": same,
    "rsub": reverse_subtract,
    "sub": subtract,
    "sum": by_parts(arithmetic.total),
    "to": copied,
    "view_as_complex": of_pairs,
    "view_as_real": in_pairs,
}

# What there is for complex values alone.
ONLY = frozenset(
    """_conj complex conj conj_physical imag real resolve_conj resolve_neg view_as_complex
    view_as_real""".split()
)
