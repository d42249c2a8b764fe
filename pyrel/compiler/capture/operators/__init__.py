# SPDX-License-Identifier: Apache-2.0
"""The ATen operators that capture understands, each in terms of a `Tracer`.

To support another operator, add a function to its family in `_FAMILIES`, or its name to `_MOVES`
where it only moves elements, or to `_FACTORIES` where it makes a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pyrel.compiler.capture.opaque_layers import LAYERS
from pyrel.compiler.capture.operators import (
    activations,
    arithmetic,
    elementwise,
    gradients,
    normalisation,
    of_counts,
    of_ids,
    of_several_ids,
    packing,
    recurrence,
    selection,
    statistics,
    windows,
)
from pyrel.compiler.capture.operators.hints import hint
from pyrel.compiler.capture.operators.nested import leaves, mapped
from pyrel.compiler.capture.operators.operands import NoValue, UnsupportedOperandsError
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.graph.functions import Function
from pyrel.errors import NO_RULE

__all__ = ["NO_RULE", "UnsupportedOperandsError", "apply", "families", "hint", "supported"]

Handler = Callable[..., Any]

_FAMILIES: dict[str, dict[str, Handler]] = {
    "linear": {
        "addmm": arithmetic.addmm,
        "bmm": arithmetic.matmul,
        "linear": arithmetic.linear,
        "matmul": arithmetic.matmul,
        "mm": arithmetic.matmul,
        "mv": arithmetic.matmul,
    },
    "convolution": {
        "conv1d": windows.convolution(1),
        "conv2d": windows.convolution(2),
        "convolution": windows.any_convolution,
    },
    "recurrent layer": {
        "gru": recurrence.layer("gru"),
        "gru_cell": recurrence.cell("gru"),
        "lstm": recurrence.layer("lstm"),
        "lstm_cell": recurrence.cell("lstm"),
        "rnn_relu": recurrence.layer("rnn_relu"),
        "rnn_relu_cell": recurrence.cell("rnn_relu"),
        "rnn_tanh": recurrence.layer("rnn_tanh"),
        "rnn_tanh_cell": recurrence.cell("rnn_tanh"),
    },
    "embedding": {"embedding": selection.embedding},
    "ReLU": {"relu": activations.relu},
    "clamp": {
        "clamp": activations.clamp,
        "clamp_max": activations.clamp_max,
        "clamp_min": activations.clamp,
        "hardsigmoid": elementwise.hardsigmoid,
        "hardtanh": elementwise.hardtanh,
        "relu6": elementwise.relu6,
    },
    "activation": {
        "celu": activations.celu,
        "elu": activations.elu,
        "gelu": activations.gelu,
        "leaky_relu": activations.leaky_relu,
        "log_sigmoid": elementwise.log_sigmoid,
        "prelu": elementwise.prelu,
        "selu": activations.selu,
        "sigmoid": activations.simple(Function.sigmoid),
        "silu": activations.simple(Function.silu),
        "softplus": activations.softplus,
        "tanh": activations.simple(Function.tanh),
    },
    "function": {
        "abs": elementwise.absolute,
        "cos": activations.simple(Function.cos),
        "erf": activations.simple(Function.erf),
        "exp": activations.simple(Function.exp),
        "exp2": elementwise.exp2,
        "log": activations.simple(Function.log),
        "log10": elementwise.logarithm(10.0),
        "log1p": activations.simple(Function.log1p),
        "log2": elementwise.logarithm(2.0),
        "pow": elementwise.power,
        "reciprocal": arithmetic.reciprocal,
        "rsqrt": elementwise.inverse_root,
        "sin": activations.simple(Function.sin),
        "sqrt": activations.simple(Function.sqrt),
        "square": elementwise.square,
    },
    "sum": {
        "add": arithmetic.add,
        "mean": arithmetic.mean,
        "rsub": arithmetic.reverse_subtract,
        "softshrink": elementwise.softshrink,
        "cumsum": of_several_ids.cumulative,
        "sub": arithmetic.subtract,
        "sum": arithmetic.total,
    },
    "product": {
        "glu": elementwise.glu,
        "hardswish": elementwise.hardswish,
        "mish": elementwise.mish,
        "mul": arithmetic.multiply,
    },
    "multiple": {
        "div": arithmetic.divide,
        "neg": arithmetic.negate,
    },
    "softmax": {
        "_log_softmax": statistics.log_softmax,
        "_softmax": statistics.softmax,
        "cosine_similarity": statistics.cosine,
        "log_softmax": statistics.log_softmax,
        "logsumexp": statistics.log_sum_exp,
        "scaled_dot_product_attention": statistics.attention,
        "softmax": statistics.softmax,
    },
    "deviation": {
        "linalg_vector_norm": statistics.norm,
        "norm": statistics.norm,
        "std": statistics.deviation,
        "var": statistics.variance,
        "var_mean": statistics.variance_and_mean,
    },
    "maximum": {
        "adaptive_max_pool1d": windows.adaptive_max_pool(1),
        "adaptive_max_pool2d": windows.adaptive_max_pool(2),
        "amax": selection.largest,
        "max": selection.maximum,
        "max_pool1d": windows.max_pool(1),
        "max_pool1d_with_indices": windows.max_pool_with_positions(1),
        "max_pool2d": windows.max_pool(2),
        "max_pool2d_with_indices": windows.max_pool_with_positions(2),
        "maximum": selection.maximum,
    },
    "average": {
        "_adaptive_avg_pool2d": windows.adaptive_average_pool(2),
        "adaptive_avg_pool1d": windows.adaptive_average_pool(1),
        "adaptive_avg_pool2d": windows.adaptive_average_pool(2),
        "avg_pool1d": windows.average_pool(1),
        "avg_pool2d": windows.average_pool(2),
    },
    "minimum": {
        "amin": selection.smallest,
        "min": selection.minimum,
        "minimum": selection.minimum,
    },
    "batch norm": {
        "_native_batch_norm_legit_no_training": normalisation.batch_norm_in_eval_mode,
        "batch_norm": normalisation.batch_norm,
    },
    "layer norm": {
        "group_norm": statistics.group_norm,
        "instance_norm": statistics.instance_norm,
        "layer_norm": normalisation.layer_norm,
        "native_layer_norm": normalisation.layer_norm_with_statistics,
    },
    "root mean square norm": {"rms_norm": statistics.rms_norm},
    "local response norm": {"local_response_norm": normalisation.local_response_norm},
    "move": {
        "constant_pad_nd": lambda tracer, value, widths, filler=0: selection.pad(
            tracer, value, widths, "constant", filler
        ),
        "gather": selection.gather,
        "index": selection.index,
        "index_copy": selection.index_copy,
        "index_fill": selection.index_fill,
        "index_put": selection.index_put,
        "index_select": selection.index_select,
        "take_along_dim": selection.take_along_dim,
        "masked_fill": selection.masked_fill,
        "pad": selection.pad,
        "scatter": selection.scatter,
        "where": selection.where,
    },
    "nothing": {
        "_to_copy": arithmetic.identity,
        "alpha_dropout": arithmetic.dropout,
        "dropout": arithmetic.dropout,
        "feature_dropout": arithmetic.dropout,
        "to": arithmetic.identity,
        "type_as": arithmetic.identity,
    },
    "stopped gradient": {"detach": gradients.detach},
    "constant": {"fill": arithmetic.fill},
}

# These only move elements, so they run on the element ids themselves.
_MOVES = frozenset(
    """alias broadcast_to cat chunk clone concat concatenate contiguous copy expand
    expand_as flatten flip hstack lift_fresh lift_fresh_copy movedim moveaxis mT narrow
    numpy_T permute pixel_shuffle pixel_unshuffle ravel repeat repeat_interleave reshape reshape_as
    roll rot90 select select_scatter slice slice_scatter split split_with_sizes squeeze stack
    swapaxes swapdims t tensor_split tile transpose unbind unflatten unfold unsafe_chunk
    unsafe_split unsqueeze view view_as vstack _unsafe_view""".split()
)

# These make constants; of a traced operand they use no more than its shape.
_FACTORIES = frozenset(
    """arange full full_like new_full new_ones new_zeros ones ones_like zero zeros
    zeros_like""".split()
)

# Those of `pyrel.compiler.capture.gradient_marks`.
_MARKS: dict[str, Handler] = {
    "custom_gradient": gradients.custom_gradient,
    "written": gradients.written,
}

# Those of `pyrel.compiler.capture.opaque_layers`, which read the sizes of packed batches.
_OF_PACKED: dict[str, Handler] = {
    "lengths_of": packing.lengths_of,
    "padded": packing.padded,
    **{f"packed_{kind}": recurrence.layer(kind) for kind in LAYERS},
}
# These have rules for what is made of token ids alone.
_OF_SEVERAL_IDS: dict[str, Handler] = {
    "all": of_several_ids.all_of,
    "any": of_several_ids.any_of,
    "argsort": packing.argsort,
    "one_hot": of_several_ids.one_hot,
    "packed_lengths": packing.batch_sizes,
    "sort": packing.sort,
}

_KNOWN = {name: handler for family in _FAMILIES.values() for name, handler in family.items()}
_COMPUTE = _KNOWN | _MARKS | _OF_SEVERAL_IDS | _OF_PACKED

# Token ids may go through these, and through what only moves elements.
_TAKE_IDS = (
    frozenset(_FAMILIES["move"])
    | _MARKS.keys()
    | {*("_to_copy", "detach", "embedding", "to", "type_as")}
)

# Entries of empty tensors that are not written yet may go through these.
_TAKE_UNWRITTEN = (
    frozenset(_FAMILIES["move"])
    | _MARKS.keys()
    | {*("_to_copy", "detach", "fill", "to", "type_as")}
)

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
    return sorted({*_KNOWN, *_MOVES, *_FACTORIES})


def families() -> dict[str, tuple[str, ...]]:
    """Names of the supported operators, by what becomes of them in a graph.

    "move" only rearranges elements, "nothing" returns its operand, "constant" does not depend on
    the input.
    """
    names = {family: set(handlers) for family, handlers in _FAMILIES.items()}
    names["move"] |= _MOVES
    names["constant"] |= _FACTORIES
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
        packed = isinstance(leaf, packing.PackedSizes) and name in _OF_PACKED
        if isinstance(leaf, NoValue) and not packed:
            raise UnsupportedOperandsError(f"{leaf.what} is used, which pyrel does not work out")
    if name in _IGNORED:
        return None
    if name == "sym_size":
        return args[0].ids.shape[args[1]]
    if name in UNINITIALISED:
        plain = mapped(_shape_only, (args, kwargs))
        return tracer.unwritten(target(*plain[0], **plain[1]).shape, f"aten.{name}")
    if name in _FACTORIES:
        plain = mapped(_shape_only, (args, kwargs))
        return target(*plain[0], **plain[1])
    if name in _MOVES:
        plain = mapped(lambda v: tracer.ids(v) if _is_tensor(v) else v, (args, kwargs))
        return mapped(Traced, _MOVED.get(target, target)(*plain[0], **_without_dtype(plain[1])))
    if name == "count_nonzero" and args and isinstance(args[0], Traced):
        not_zero = torch.ops.aten.ne.Scalar
        mask = apply(tracer, not_zero, "ne", (args[0], 0), {}, torch.bool)
        return apply(tracer, target, "sum", (mask, *args[1:]), {}, dtype)
    if name in of_ids.NAMES and dtype is not None and not tracer.dtype.is_floating_point:
        made = of_ids.apply(tracer, target, name, args, kwargs, dtype)
        if made is not None:
            return made
    if name in of_counts.NAMES and dtype is not None and tracer.builder.lookups:
        found = of_counts.apply(tracer, name, args, dtype)
        if found is not None:
            return found
    if name not in _COMPUTE:
        return NotImplemented
    if name not in _TAKE_IDS and any(_holds_ids(tracer, leaf) for leaf in values):
        raise UnsupportedOperandsError(
            "integers are taken for token ids, which can be moved, and looked up in an embedding; "
            "give other numbers as floats"
        )
    if name not in _TAKE_UNWRITTEN:
        for leaf in values:
            if isinstance(leaf, Traced):
                tracer.empty.check(leaf)
    result = _COMPUTE[name](tracer, *args, **kwargs)
    # A sum over one element is that element, but of another type.
    return of_ids.typed(tracer, result, dtype) if name == "sum" else result


def _holds_ids(tracer: Tracer, value: object) -> bool:
    if tracer.dtype.is_floating_point or not isinstance(value, Traced):
        return False
    return tracer.holds_inputs(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Traced | torch.Tensor)


def _shape_only(value: object) -> object:
    return torch.empty(value.ids.shape) if isinstance(value, Traced) else value


def _without_dtype(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in kwargs.items() if k not in {"dtype", "device"}}
