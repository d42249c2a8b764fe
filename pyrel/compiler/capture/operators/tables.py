# SPDX-License-Identifier: Apache-2.0
"""Which handler takes an operator: the tables that `pyrel.compiler.capture.operators` looks in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyrel.compiler.capture.opaque_layers import LAYERS
from pyrel.compiler.capture.operators import (
    activations,
    arithmetic,
    comparisons,
    complex_values,
    composed,
    contractions,
    elementwise,
    gradients,
    normalisation,
    of_several_ids,
    packing,
    recurrence,
    resampling,
    selection,
    sorting,
    spectra,
    statistics,
    windows,
)
from pyrel.compiler.graph.functions import Function

Handler = Callable[..., Any]

FAMILIES: dict[str, dict[str, Handler]] = {
    "linear": {
        "addmm": arithmetic.addmm,
        "bmm": arithmetic.matmul,
        "einsum": contractions.einsum,
        "linear": arithmetic.linear,
        "matmul": arithmetic.matmul,
        "mm": arithmetic.matmul,
        "mv": arithmetic.matmul,
    },
    "convolution": {
        "conv1d": windows.convolution(1),
        "conv2d": windows.convolution(2),
        "conv3d": windows.convolution(3),
        "conv_transpose1d": resampling.transposed_convolution(1),
        "conv_transpose2d": resampling.transposed_convolution(2),
        "conv_transpose3d": resampling.transposed_convolution(3),
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
        "hardtanh": activations.hardtanh,
        "relu6": activations.relu6,
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
        "l1_loss": elementwise.loss(elementwise.absolute),
        "log": activations.simple(Function.log),
        "log10": elementwise.logarithm(10.0),
        "log1p": activations.simple(Function.log1p),
        "log2": elementwise.logarithm(2.0),
        "mse_loss": elementwise.loss(activations.simple(Function.square)),
        "pow": elementwise.power,
        "reciprocal": arithmetic.reciprocal,
        "rsqrt": elementwise.inverse_root,
        "sin": activations.simple(Function.sin),
        "sqrt": activations.simple(Function.sqrt),
        "square": activations.simple(Function.square),
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
        "cumprod": elementwise.cumulative_product,
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
        "logaddexp": statistics.log_add_exp,
        "logcumsumexp": statistics.log_cumulative_sum_exp,
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
        "adaptive_max_pool3d": windows.adaptive_max_pool(3),
        "amax": selection.largest,
        "max": selection.maximum,
        "max_pool1d": windows.max_pool(1),
        "max_pool1d_with_indices": windows.max_pool_with_positions(1),
        "max_pool2d": windows.max_pool(2),
        "max_pool2d_with_indices": windows.max_pool_with_positions(2),
        "max_pool3d": windows.max_pool(3),
        "max_pool3d_with_indices": windows.max_pool_with_positions(3),
        "maximum": selection.maximum,
    },
    "average": {
        "_adaptive_avg_pool2d": windows.adaptive_average_pool(2),
        "_adaptive_avg_pool3d": windows.adaptive_average_pool(3),
        "adaptive_avg_pool1d": windows.adaptive_average_pool(1),
        "adaptive_avg_pool2d": windows.adaptive_average_pool(2),
        "adaptive_avg_pool3d": windows.adaptive_average_pool(3),
        "avg_pool1d": windows.average_pool(1),
        "avg_pool2d": windows.average_pool(2),
        "avg_pool3d": windows.average_pool(3),
    },
    "sorted value": {
        "kthvalue": sorting.of_rank,
        "median": sorting.median,
        "sort": sorting.sort,
        "topk": sorting.top,
    },
    "minimum": {
        "amin": selection.smallest,
        "min": selection.minimum,
        "minimum": selection.minimum,
    },
    "comparison": {
        "__and__": comparisons.both,
        "__or__": comparisons.one_or_both,
        "bitwise_and": comparisons.both,
        "bitwise_not": comparisons.opposite,
        "bitwise_or": comparisons.one_or_both,
        "eq": comparisons.negated(comparisons.differs),
        "ge": comparisons.negated(comparisons.less),
        "gt": comparisons.greater,
        "le": comparisons.negated(comparisons.greater),
        "logical_and": comparisons.both,
        "logical_not": comparisons.opposite,
        "logical_or": comparisons.one_or_both,
        "lt": comparisons.less,
        "ne": comparisons.differs,
        "sign": comparisons.sign,
    },
    "interpolation": {
        "upsample_bilinear2d": resampling.linear("upsample_bilinear2d"),
        "upsample_linear1d": resampling.linear("upsample_linear1d"),
        "upsample_trilinear3d": resampling.linear("upsample_trilinear3d"),
    },
    "Fourier transform": spectra.HANDLERS,
    "complex value": {name: complex_values.HANDLERS[name] for name in complex_values.ONLY},
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
        "upsample_nearest1d": resampling.nearest("upsample_nearest1d"),
        "upsample_nearest2d": resampling.nearest("upsample_nearest2d"),
        "upsample_nearest3d": resampling.nearest("upsample_nearest3d"),
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

_MORE: dict[str, dict[str, Handler]] = {
    "linear": {"baddbmm": composed.add_matrix_product},
    "sum": {"diff": composed.differences},
    "product": composed.PRODUCTS,
    "sorted value": composed.EXTREMES,
    "comparison": composed.CHOICES,
    "move": composed.TRIANGLES,
    "deviation": {"std_mean": composed.deviation_and_mean},
}
for _family, _handlers in _MORE.items():
    FAMILIES[_family] |= _handlers
for _members in FAMILIES.values():
    _names = {a: _members[n] for a, n in composed.ALIASES.items() if n in _members}
    _members |= _names

# These only move elements, so they run on the element ids themselves.
MOVES = frozenset(
    """alias broadcast_tensors broadcast_to cat chunk clone concat concatenate contiguous copy
    diagonal expand expand_as flatten flip hstack lift_fresh lift_fresh_copy movedim moveaxis mT
    narrow numpy_T permute pixel_shuffle pixel_unshuffle ravel repeat repeat_interleave reshape
    reshape_as roll rot90 select select_scatter slice slice_scatter split split_with_sizes squeeze
    stack swapaxes swapdims t tensor_split tile transpose unbind unflatten unfold unsafe_chunk
    unsafe_split unsqueeze view view_as vstack _unsafe_view""".split()
)

# These make constants; of a traced operand they use no more than its shape.
FACTORIES = frozenset(
    """arange full full_like new_full new_ones new_zeros ones ones_like zero zeros
    zeros_like""".split()
)

# Those of `pyrel.compiler.capture.gradient_marks`.
MARKS: dict[str, Handler] = {
    "custom_gradient": gradients.custom_gradient,
    "written": gradients.written,
}

# Those of `pyrel.compiler.capture.opaque_layers`, which read the sizes of packed batches.
OF_PACKED: dict[str, Handler] = {
    "lengths_of": packing.lengths_of,
    "padded": packing.padded,
    **{f"packed_{kind}": recurrence.layer(kind) for kind in LAYERS},
}
# These have rules for what is made of token ids alone.
OF_SEVERAL_IDS: dict[str, Handler] = {
    "all": of_several_ids.all_of,
    "any": of_several_ids.any_of,
    "argsort": packing.argsort,
    "one_hot": of_several_ids.one_hot,
    "packed_lengths": packing.batch_sizes,
}

KNOWN = {name: handler for family in FAMILIES.values() for name, handler in family.items()}
COMPUTE = KNOWN | MARKS | OF_SEVERAL_IDS | OF_PACKED

# Token ids may go through these, and through what only moves elements.
TAKE_IDS = (
    frozenset(FAMILIES["move"])
    | MARKS.keys()
    | {*("_to_copy", "detach", "embedding", "to", "type_as")}
)

# Entries of empty tensors that are not written yet may go through these.
TAKE_UNWRITTEN = (
    frozenset(FAMILIES["move"]) | MARKS.keys() | {*("_to_copy", "detach", "fill", "to", "type_as")}
)
