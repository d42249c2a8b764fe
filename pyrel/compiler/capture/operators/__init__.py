# SPDX-License-Identifier: Apache-2.0
"""The ATen operators that capture understands, each in terms of a `Tracer`.

To support another operator, add a function to its family in `tables.FAMILIES`, or its name to
`tables.MOVES` where it only moves elements, or to `tables.FACTORIES` where it makes a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pyrel.compiler.capture.operators import (
    complex_values,
    composed,
    of_counts,
    of_ids,
    packing,
    selection,
    spectra,
)
from pyrel.compiler.capture.operators.hints import hint
from pyrel.compiler.capture.operators.nested import leaves, mapped
from pyrel.compiler.capture.operators.operands import NoValue, UnsupportedOperandsError
from pyrel.compiler.capture.operators.tables import (
    COMPUTE,
    FACTORIES,
    FAMILIES,
    KNOWN,
    MOVES,
    OF_PACKED,
    TAKE_IDS,
    TAKE_UNWRITTEN,
)
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.errors import NO_RULE

__all__ = [
    "NO_RULE",
    "UnsupportedOperandsError",
    "apply",
    "families",
    "hint",
    "stopped",
    "supported",
]

# torch.export has seen that these views exist. The traced tensors may lie in memory otherwise.
_MOVED: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.view.default: torch.reshape,
    torch.ops.aten.view.dtype: selection.refuse_bits,
    torch.ops.aten.view_as.default: torch.Tensor.reshape_as,
}

# Checks that torch.export leaves in the graph.
_IGNORED = frozenset(
    """_assert_scalar _assert_tensor_metadata _assert_async sym_constrain_range
    sym_constrain_range_for_size""".split()
)

UNINITIALISED = frozenset(["empty", "new_empty", "empty_like", "empty_strided", "empty_permuted"])

_OF_IDS = (
    "What is made of token ids can weigh and choose values, as masks and lengths do. Or let "
    "forward take the lengths of sequences as its second argument in place of counting ids, and "
    "give them to an Explainer made with lengths=True: what lies beyond the end of a sequence is "
    "then left out"
)


def supported() -> list[str]:
    """Names of the operators that may touch values which depend on the input."""
    return sorted({*KNOWN, *MOVES, *FACTORIES})


def families() -> dict[str, tuple[str, ...]]:
    """Names of the supported operators, by what becomes of them in a graph.

    "move" only rearranges elements, "nothing" returns its operand, "constant" does not depend on
    the input.
    """
    names = {family: set(handlers) for family, handlers in FAMILIES.items()}
    names["move"] |= MOVES
    names["constant"] |= FACTORIES
    return {family: tuple(sorted(members)) for family, members in names.items()}


def apply(
    tracer: Tracer,
    target: Any,
    name: str,
    args: Any,
    kwargs: Any,
    dtype: torch.dtype | None = None,
) -> Any:
    """Run operator ``name`` on traced operands; ``NotImplemented`` where it is unknown.

    ``dtype`` is the result's, None where there is not one tensor.
    """
    name = composed.ALIASES.get(name, name)
    try:
        result = _applied(tracer, target, name, args, kwargs, dtype)
    except UnsupportedOperandsError as error:
        if not _reads_made_of_ids(tracer, (args, kwargs)):
            raise
        raise UnsupportedOperandsError(f"{error}. {_OF_IDS}") from None
    if isinstance(result, Traced) and tracer.builder.lookups:
        operands = [v for v in leaves((args, kwargs)) if _is_tensor(v) or _is_number(v)]
        of_counts.note(tracer, name, operands, result, dtype)
    if result is NotImplemented and _reads_made_of_ids(tracer, (args, kwargs)):
        raise UnsupportedOperandsError(f"{hint(name)}. {_OF_IDS}")
    return result


def stopped(tracer: Tracer, value: Any) -> Any:
    """Return a value of any kind, through which no gradient goes."""
    if isinstance(value, complex_values.Complex):
        return complex_values.HANDLERS["detach"](tracer, value)
    return tracer.stop(value) if isinstance(value, Traced) else value


def _reads_made_of_ids(tracer: Tracer, values: Any) -> bool:
    """Whether something among nested values was made of token ids, as a mask is."""
    if not tracer.builder.lookups:
        return False
    traced = (v for v in leaves(values) if isinstance(v, Traced))
    return any(tracer.numbers.is_of_ids_alone(v) and bool((v.ids >= 0).any()) for v in traced)


def _applied(
    tracer: Tracer, target: Any, name: str, args: Any, kwargs: Any, dtype: torch.dtype | None
) -> Any:
    values = list(leaves((args, kwargs)))
    for leaf in values:
        packed = isinstance(leaf, packing.PackedSizes) and name in OF_PACKED
        packed = packed or isinstance(leaf, complex_values.Complex)
        if isinstance(leaf, NoValue) and not packed:
            raise UnsupportedOperandsError(f"{leaf.what} is used, which pyrel does not work out")
    if name in _IGNORED:
        return None
    if name == "sym_size":
        return args[0].ids.shape[args[1]]
    if name in UNINITIALISED:
        if dtype is not None and dtype.is_complex:
            raise UnsupportedOperandsError("an empty complex tensor: start from zeros")
        plain = mapped(_shape_only, (args, kwargs))
        return tracer.unwritten(target(*plain[0], **plain[1]).shape, f"aten.{name}")
    if name in FACTORIES:
        plain = mapped(_shape_only, (args, kwargs))
        return target(*plain[0], **plain[1])
    if complex_values.are_involved(values, dtype) and name not in spectra.HANDLERS:
        moved = _MOVED.get(target, target) if name in MOVES else None
        return complex_values.apply(tracer, moved, name, args, kwargs)
    if name in MOVES:
        plain = mapped(lambda v: tracer.ids(v) if _is_tensor(v) else v, (args, kwargs))
        return mapped(Traced, _MOVED.get(target, target)(*plain[0], **_without_dtype(plain[1])))
    if name == "count_nonzero" and args and isinstance(args[0], Traced):
        not_zero = torch.ops.aten.ne.Scalar
        mask = apply(tracer, not_zero, "ne", (args[0], 0), {}, torch.bool)
        return apply(tracer, target, "sum", (mask, *args[1:]), {}, dtype)
    if name in of_ids.NAMES and dtype is not None and tracer.has_ids:
        made = of_ids.apply(tracer, target, name, args, kwargs, dtype)
        if made is not None:
            return made
    if name in of_counts.NAMES and dtype is not None and tracer.builder.lookups:
        found = of_counts.apply(tracer, name, args, dtype)
        if found is not None:
            return found
    if name not in COMPUTE:
        return NotImplemented
    if name not in TAKE_IDS and any(_holds_ids(tracer, leaf) for leaf in values):
        raise UnsupportedOperandsError(
            "integers are taken for token ids, which can be moved, and looked up in an embedding; "
            "give other numbers as floats, and lengths of sequences by lengths="
        )
    if name not in TAKE_UNWRITTEN:
        for leaf in values:
            if isinstance(leaf, Traced):
                tracer.empty.check(leaf)
    result = COMPUTE[name](tracer, *args, **kwargs)
    # A sum over one element is that element, but of another type.
    return of_ids.typed(tracer, result, dtype) if name == "sum" else result


def _holds_ids(tracer: Tracer, value: object) -> bool:
    return isinstance(value, Traced) and tracer.holds_ids(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Traced | torch.Tensor)


def _shape_only(value: object) -> object:
    value = value.real if isinstance(value, complex_values.Complex) else value
    return torch.empty(value.ids.shape) if isinstance(value, Traced) else value


def _without_dtype(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in kwargs.items() if k not in {"dtype", "device"}}
