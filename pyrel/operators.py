# SPDX-License-Identifier: Apache-2.0
"""The ATen operators that capture understands, each in terms of a `Tracer`.

To support another operator, add a function to `_COMPUTE`, or its name to `_MOVES` where it only
moves elements or to `_FACTORIES` where it makes a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pyrel.graph import Floats
from pyrel.tracing import Traced, Tracer

Handler = Callable[..., Any]


class UnsupportedOperandsError(Exception):
    """The operator is known, but not with these operands."""


def _array(tracer: Tracer, tensor: torch.Tensor) -> Floats:
    values = tracer.array(tensor)
    if not np.isfinite(values).all():
        raise UnsupportedOperandsError("a weight or bias holds NaN or infinity")
    return values


def _constant(value: object, role: str) -> torch.Tensor:
    if isinstance(value, Traced):
        raise UnsupportedOperandsError(f"the {role} depends on the input, it must be constant")
    return torch.as_tensor(value)


def _linear(tracer: Tracer, value: Traced, weight: Any, bias: Any = None) -> Traced:
    matrix = _array(tracer, _constant(weight, "weight"))
    if matrix.ndim != 2:
        raise UnsupportedOperandsError(
            f"the weight has shape {matrix.shape}, two dimensions are wanted"
        )
    if not isinstance(value, Traced):
        raise UnsupportedOperandsError("a constant is multiplied by a constant")
    offset = np.zeros(matrix.shape[0]) if bias is None else _array(tracer, _constant(bias, "bias"))
    return tracer.linear(value, matrix, np.broadcast_to(offset, matrix.shape[:1]))


def _matmul(tracer: Tracer, left: Any, right: Any) -> Traced:
    if isinstance(left, Traced) and isinstance(right, Traced):
        raise UnsupportedOperandsError("both factors depend on the input")
    if isinstance(right, Traced):  # constant @ value: the value's columns are the rows
        rows = Traced(right.ids.transpose(-1, -2))
        return Traced(_linear(tracer, rows, left).ids.transpose(-1, -2))
    if right.dim() == 1:
        return Traced(_linear(tracer, left, right[None]).ids.squeeze(-1))
    return _linear(tracer, left, right.mT)


def _addmm(
    tracer: Tracer, bias: Any, left: Any, right: Any, *, beta: float = 1, alpha: float = 1
) -> Traced:
    return _add(tracer, _multiply(tracer, _matmul(tracer, left, right), alpha), bias, alpha=beta)


def _add(tracer: Tracer, left: Any, right: Any, *, alpha: float = 1) -> Traced:
    scaled = right if alpha == 1 else _multiply(tracer, right, alpha)
    return tracer.add(_value(left), _value(scaled))


def _value(value: object) -> Traced | torch.Tensor:
    return value if isinstance(value, Traced) else torch.as_tensor(value)


def _subtract(tracer: Tracer, left: Any, right: Any, *, alpha: float = 1) -> Traced:
    return _add(tracer, left, _multiply(tracer, right, -alpha))


def _reverse_subtract(tracer: Tracer, left: Any, right: Any, *, alpha: float = 1) -> Traced:
    return _add(tracer, right, _multiply(tracer, left, -alpha))


def _fill(tracer: Tracer, value: Traced, number: Any) -> torch.Tensor:
    return torch.full(value.ids.shape, float(_constant(number, "value")))


def _multiply(tracer: Tracer, left: Any, right: Any) -> Any:
    left, right = (tracer.constant(v) if isinstance(v, Traced) else v for v in (left, right))
    if isinstance(left, Traced) and isinstance(right, Traced):
        raise UnsupportedOperandsError("both factors depend on the input")
    if not isinstance(left, Traced):
        left, right = right, left
    if not isinstance(left, Traced):
        return left * right
    factor = torch.as_tensor(right)
    _array(tracer, factor)
    return left if (factor == 1).all() and factor.dim() == 0 else tracer.scale(left, factor)


def _divide(tracer: Tracer, left: Any, right: Any, *, rounding_mode: str | None = None) -> Traced:
    if rounding_mode is not None:
        raise UnsupportedOperandsError("the quotient is rounded")
    divisor = _constant(right, "divisor").to(torch.float64)
    if not isinstance(left, Traced):
        raise UnsupportedOperandsError("the dividend is constant")
    return tracer.scale(left, torch.from_numpy(_array(tracer, 1.0 / divisor)))


def _sum(tracer: Tracer, value: Traced, dim: Any = None, keepdim: bool = False, **_: Any) -> Traced:
    dims = list(range(value.ids.dim())) if not dim and dim != 0 else np.atleast_1d(dim).tolist()
    positive = sorted(d % value.ids.dim() for d in dims)
    kept = [d for d in range(value.ids.dim()) if d not in positive]
    shape = [value.ids.shape[d] for d in kept]
    addends = value.ids.permute(*positive, *kept).reshape(-1, *shape)
    total = tracer.add(*(Traced(a) for a in addends)).ids
    for d in positive if keepdim else []:
        total = total.unsqueeze(d)
    return Traced(total)


def _mean(
    tracer: Tracer, value: Traced, dim: Any = None, keepdim: bool = False, **_: Any
) -> Traced:
    total = _sum(tracer, value, dim, keepdim)
    return _multiply(tracer, total, total.ids.numel() / value.ids.numel())  # type: ignore[no-any-return]


def _clamp(tracer: Tracer, value: Traced, low: Any = None, high: Any = None) -> Traced:
    if low is None or isinstance(low, Traced | torch.Tensor) or low != 0 or high is not None:
        raise UnsupportedOperandsError("only clamp(min=0), which is a ReLU, is supported")
    return tracer.relu(value)


def _dropout(tracer: Tracer, value: Traced, _probability: float, train: bool) -> Traced:
    if train:
        raise UnsupportedOperandsError(
            "dropout is active: export the model in eval mode, and use nn.Dropout, which obeys it"
        )
    return value


def _identity(tracer: Tracer, value: Traced, *_args: Any, **_kwargs: Any) -> Traced:
    return value


def _relu(tracer: Tracer, value: Traced) -> Traced:
    return tracer.relu(value)


def _negate(tracer: Tracer, value: Traced) -> Any:
    return _multiply(tracer, value, -1.0)


_COMPUTE: dict[str, Handler] = {
    "add": _add,
    "addmm": _addmm,
    "clamp": _clamp,
    "clamp_min": _clamp,
    "div": _divide,
    "linear": _linear,
    "matmul": _matmul,
    "mean": _mean,
    "mm": _matmul,
    "mul": _multiply,
    "mv": _matmul,
    "neg": _negate,
    "fill": _fill,
    "relu": _relu,
    "rsub": _reverse_subtract,
    "sub": _subtract,
    "sum": _sum,
    "dropout": _dropout,
    "feature_dropout": _dropout,
    "alpha_dropout": _dropout,
    "to": _identity,
    "_to_copy": _identity,
    "type_as": _identity,
}

# These only move elements, so they run on the element ids themselves.
_MOVES = frozenset(
    """alias broadcast_to cat chunk clone concat concatenate contiguous copy detach detach_ expand
    expand_as flatten flip hstack lift_fresh lift_fresh_copy movedim moveaxis mT narrow
    numpy_T permute repeat reshape roll select select_scatter slice slice_scatter split
    split_with_sizes squeeze stack swapaxes swapdims t tile transpose unbind unflatten unfold
    unsqueeze view vstack _unsafe_view""".split()
)

# These pick elements by an index, which is constant.
_INDEXED = frozenset(["index", "index_select"])

# These make constants; of a traced operand they use no more than its shape.
_FACTORIES = frozenset(
    "new_zeros new_ones new_full zeros_like ones_like full_like zeros ones full arange".split()
)

# Checks that torch.export leaves in the graph.
_IGNORED = frozenset(
    """_assert_scalar _assert_tensor_metadata _assert_async sym_constrain_range
    sym_constrain_range_for_size""".split()
)

UNINITIALISED = frozenset(["empty", "new_empty", "empty_like", "empty_strided", "empty_permuted"])

NO_RULE = "no rule for this operator"
_NO_GATES = (
    "no rule for recurrent layers, gates or their activations yet; a recurrence of linear layers, "
    "ReLU and a Python loop over steps can be explained"
)

_HINTS = {
    **dict.fromkeys(["lstm", "gru", "rnn_tanh", "rnn_relu", "tanh", "sigmoid"], _NO_GATES),
    "softmax": "explain the raw scores: leave out the softmax",
    "log_softmax": "explain the raw scores: leave out the softmax",
    "_softmax": "explain the raw scores: leave out the softmax",
    **dict.fromkeys(UNINITIALISED, "start from zeros: what an empty tensor holds is undefined"),
}


def supported() -> list[str]:
    """Names of the operators that may touch values which depend on the input."""
    return sorted({*_COMPUTE, *_MOVES, *_INDEXED, *_FACTORIES})


def hint(name: str) -> str:
    """Say what would help a user whose model holds the unsupported operator ``name``."""
    return _HINTS.get(name, NO_RULE)


def apply(tracer: Tracer, target: Any, name: str, args: Any, kwargs: Any) -> Any:
    """Run operator ``name`` on traced operands; ``NotImplemented`` where it is unknown."""
    if name in _IGNORED:
        return None
    if name == "sym_size":
        return args[0].ids.shape[args[1]]
    if name in _FACTORIES:
        plain = torch.utils._pytree.tree_map_only(Traced, _shape_only, (args, kwargs))
        return target(*plain[0], **plain[1])
    if name in _INDEXED:
        return Traced(target(tracer.ids(args[0]), *args[1:], **kwargs))
    if name in _MOVES:
        plain = torch.utils._pytree.tree_map_only(
            (Traced, torch.Tensor), tracer.ids, (args, kwargs)
        )
        moved = target(*plain[0], **_without_dtype(plain[1]))
        return torch.utils._pytree.tree_map_only(torch.Tensor, Traced, moved)
    if name in _COMPUTE:
        return _COMPUTE[name](tracer, *args, **kwargs)
    return NotImplemented


def _shape_only(value: Traced) -> torch.Tensor:
    return torch.empty(value.ids.shape)


def _without_dtype(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in kwargs.items() if k not in {"dtype", "device"}}
