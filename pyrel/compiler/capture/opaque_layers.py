# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers, and local response normalisation, as opaque operators of an export.

torch.export runs a model on tensors without values, and would run ``nn.LSTM`` step by step, though
it leaves one operator in the graph. With opaque operators a layer takes the same time at any
number of steps, which may then stay open. ``pack_padded_sequence`` reads the values of the lengths;
a sequence of full length takes its place. Local response normalisation would be powers of what a
pool over three axes gives. Nothing outside the exporting thread is changed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.utils import rnn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from pyrel.compiler.capture.forks import exporting

_LAYER = (
    "Tensor input, {} hx, Tensor[] params, bool has_biases, int num_layers, float dropout, "
    "bool train, bool bidirectional, bool batch_first"
)
_CELL = "Tensor input, {} hx, Tensor w_ih, Tensor w_hh, Tensor? b_ih=None, Tensor? b_hh=None"

# The arguments are those of ATen's operators of the same names.
_SCHEMAS = {
    "lstm": f"({_LAYER.format('Tensor[]')}) -> (Tensor, Tensor, Tensor)",
    **dict.fromkeys(
        ["gru", "rnn_tanh", "rnn_relu"], f"({_LAYER.format('Tensor')}) -> (Tensor, Tensor)"
    ),
    "lstm_cell": f"({_CELL.format('Tensor[]')}) -> (Tensor, Tensor)",
    **dict.fromkeys(
        ["gru_cell", "rnn_tanh_cell", "rnn_relu_cell"], f"({_CELL.format('Tensor')}) -> Tensor"
    ),
}

LAYERS = ("gru", "lstm", "rnn_relu", "rnn_tanh")  # those that take packed sequences
RECURRENT = frozenset(_SCHEMAS) | {f"packed_{name}" for name in LAYERS}


def _layer_shapes(
    x: torch.Tensor,
    hx: Any,
    params: Any,
    has_biases: bool,
    num_layers: int,
    _dropout: float,
    _train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[torch.Tensor, ...]:
    states = hx if isinstance(hx, list | tuple) else [hx]
    directions = 2 if bidirectional else 1
    samples, steps = (x.shape[0], x.shape[1]) if batch_first else (x.shape[1], x.shape[0])
    # In memory the steps come first, whichever way torch returns them: a view may depend on that.
    out = x.new_empty(steps, samples, directions * states[0].shape[2])
    ends = [x.new_empty(num_layers * directions, samples, state.shape[2]) for state in states]
    return out.transpose(0, 1) if batch_first else out, *ends


def _cell_shapes(
    x: torch.Tensor, hx: Any, *_weights: Any
) -> torch.Tensor | tuple[torch.Tensor, ...]:
    if isinstance(hx, list | tuple):
        return tuple(x.new_empty(x.shape[0], state.shape[1]) for state in hx)
    return x.new_empty(x.shape[0], hx.shape[1])


_RESPONSE = "(Tensor input, int size, float alpha=1e-4, float beta=0.75, float k=1.) -> Tensor"


def _define() -> Any:
    library: Any = torch.library.Library("pyrel", "DEF")  # type: ignore[no-untyped-call]
    library.define("local_response_norm" + _RESPONSE)
    library.impl(
        "local_response_norm", nn.functional.local_response_norm, "CompositeExplicitAutograd"
    )
    torch.library.register_fake(
        "pyrel::local_response_norm", lambda x, *_: torch.empty_like(x), lib=library
    )
    for name, schema in _SCHEMAS.items():
        library.define(name + schema)
        library.impl(name, getattr(torch._VF, name), "CompositeExplicitAutograd")
        shapes = _cell_shapes if name.endswith("_cell") else _layer_shapes
        torch.library.register_fake(f"pyrel::{name}", shapes, lib=library)
    for name, (schema, full, shape) in _PACKING.items():
        library.define(name + schema)
        library.impl(name, full, "CompositeExplicitAutograd")
        torch.library.register_fake(f"pyrel::{name}", shape, lib=library)
    # Nobody may read the sizes; but they keep in the graph what lengths are made of.
    torch.fx.node.has_side_effect(torch.ops.pyrel.packed_lengths.default)
    return library


def _without_sizes(layer: Callable[..., Any], *args: Any) -> Any:
    """Run a layer over packed sequences of full length, the sizes of which come last."""
    return layer(*args[:-1])


def _full_sizes(lengths: torch.Tensor, steps: int, batch: int) -> torch.Tensor:
    """Refuse constant lengths that are not full: it is sequences of full length that are packed."""
    if bool((lengths != steps).any()):
        raise ValueError(
            f"sequences of {steps} steps are packed with lengths of {sorted(set(lengths.tolist()))}"
            "; let forward take the lengths as its second argument, and give them to an Explainer "
            "made with lengths=True"
        )
    return torch.full((steps,), batch, dtype=torch.int64)


# What packing and unpacking is made of, and what it is for sequences of full length. Lengths that
# are made of token ids get their own meaning when the program is interpreted.
_PACKING: dict[str, tuple[str, Callable[..., Any], Callable[..., Any]]] = {
    "packed_lengths": (
        "(Tensor lengths, SymInt steps, SymInt batch) -> Tensor",
        _full_sizes,
        lambda lengths, steps, batch: lengths.new_empty(steps, dtype=torch.int64),
    ),
    "lengths_of": (
        "(Tensor sizes, SymInt batch) -> Tensor",
        lambda sizes, batch: torch.full((batch,), len(sizes), dtype=torch.int64),
        lambda sizes, batch: sizes.new_empty(batch),
    ),
    "padded": (
        "(Tensor by_step, Tensor sizes, float filler) -> Tensor",
        lambda by_step, sizes, filler: by_step.clone(),
        lambda by_step, sizes, filler: torch.empty_like(by_step),
    ),
    **{
        f"packed_{name}": (
            _SCHEMAS[name].replace("bool batch_first", "bool batch_first, Tensor sizes"),
            functools.partial(_without_sizes, getattr(torch._VF, name)),
            functools.partial(_without_sizes, _layer_shapes),
        )
        for name in LAYERS
    },
}

LIBRARY = _define()  # the operators last as long as it does


class _OpaqueLayers(TorchFunctionMode):
    """Calls opaque operators for recurrent layers, and packs sequences as of full length."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        swapped = _SWAPPED.get(func, func)
        if swapped is not func and _is_packed(args):
            swapped = func
        elif func in _OF_PACKED and _unpacked:
            return _OF_PACKED[func](*args, _unpacked[-1])
        return swapped(*args, **(kwargs or {}))


def _is_packed(args: Any) -> bool:
    """Whether these are the arguments of the form for packed sequences: data, batch sizes, ...."""
    return len(args) == 9 and not isinstance(args[3], bool)


def _pack(
    x: torch.Tensor, lengths: torch.Tensor, batch_first: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    by_step = x.transpose(0, 1) if batch_first else x
    by_step = by_step[:-1] if _shortened else by_step
    sizes = torch.ops.pyrel.packed_lengths(lengths, *by_step.shape[:2])
    return by_step.flatten(0, 1), sizes


def _by_step(data: torch.Tensor, steps: Any) -> torch.Tensor:
    return data.reshape(steps, data.shape[0] // steps, *data.shape[1:])


def _pad(
    data: torch.Tensor,
    batch_sizes: torch.Tensor,
    batch_first: bool,
    padding_value: float,
    total_length: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    steps = batch_sizes.shape[0]
    by_step = _by_step(data, steps)
    lengths = torch.ops.pyrel.lengths_of(batch_sizes, by_step.shape[1])
    by_step = torch.ops.pyrel.padded(by_step, batch_sizes, padding_value)
    beyond = total_length - steps
    by_step = nn.functional.pad(
        by_step, [0, 0] * (by_step.dim() - 1) + [0, beyond], value=padding_value
    )
    return by_step.transpose(0, 1) if batch_first else by_step, lengths


def _giving_back(dropout: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a dropout that gives back its very operand if it has nothing to do, as torch's does.

    A weight is then the parameter that it was, and may be assigned as one.
    """
    signature = inspect.signature(dropout)

    def dropped(*args: Any, **kwargs: Any) -> torch.Tensor:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        operand: torch.Tensor = given.arguments["input"]
        return dropout(*args, **kwargs) if given.arguments["training"] else operand

    return dropped


_DROPOUTS = (
    nn.functional.dropout,
    nn.functional.dropout1d,
    nn.functional.dropout2d,
    nn.functional.dropout3d,
    nn.functional.alpha_dropout,
    nn.functional.feature_alpha_dropout,
)

# What is called in place of torch's functions while a model is exported.
_SWAPPED: dict[Callable[..., Any], Callable[..., Any]] = {
    torch._VF._pack_padded_sequence: _pack,
    torch._VF._pad_packed_sequence: _pad,
    **{getattr(torch._VF, name): getattr(torch.ops.pyrel, name) for name in _SCHEMAS},
    **{dropout: _giving_back(dropout) for dropout in _DROPOUTS},
    nn.functional.local_response_norm: torch.ops.pyrel.local_response_norm,
}


_OF_PACKED = {
    getattr(torch._VF, name): getattr(torch.ops.pyrel, f"packed_{name}") for name in LAYERS
}

_unpacked: list[torch.Tensor] = []  # the sizes of the packed sequences that layers unpacked


_shortened: list[bool] = []  # not empty where no sequence is as long as the batch


@contextlib.contextmanager
def shortened() -> Iterator[None]:
    """Pack batches as torch does those whose longest sequence has one step less than the batch."""
    _shortened.append(True)
    try:
        yield
    finally:
        _shortened.pop()


def _unpacking(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return the forward of a layer that unpacks a packed sequence and packs what comes out."""
    exporting = threading.get_ident()

    @functools.wraps(forward)
    def unpacking(layer: nn.RNNBase, input: Any, hx: Any = None) -> Any:  # noqa: A002
        if threading.get_ident() != exporting or not isinstance(input, PackedSequence):
            return forward(layer, input, hx)
        data, sizes, order, back = input
        by_step = _by_step(data, sizes.shape[0])
        given = by_step.transpose(0, 1) if layer.batch_first else by_step
        _unpacked.append(sizes)
        try:
            out, state = forward(layer, given, None if hx is None else _permuted(hx, order))
        finally:
            _unpacked.pop()
        out = out.transpose(0, 1) if layer.batch_first else out
        return PackedSequence(out.flatten(0, 1), sizes, order, back), _permuted(state, back)

    return unpacking


def _permuted(state: Any, order: torch.Tensor | None) -> Any:
    if order is None:
        return state
    if isinstance(state, tuple):
        return tuple(_permuted(part, order) for part in state)
    return state.index_select(1, order)


@contextlib.contextmanager
def _functions_replaced() -> Iterator[None]:
    """Let layers take packed sequences, also where a subclass calls their forward."""
    layers: list[Any] = [nn.RNN, nn.LSTM, nn.GRU]
    forwards, invert = [layer.forward for layer in layers], rnn.invert_permutation
    for layer, forward in zip(layers, forwards, strict=True):
        layer.forward = _unpacking(forward)
    # torch writes into an empty tensor, whose size is unknown; the result is the same.
    rnn.invert_permutation = _inverted
    try:
        yield
    finally:
        rnn.invert_permutation = invert
        for layer, forward in zip(layers, forwards, strict=True):
            layer.forward = forward


@contextlib.contextmanager
def opaque_layers() -> Iterator[None]:
    """Let recurrent layers be opaque operators of what this thread exports."""
    with exporting, _OpaqueLayers(), _functions_replaced():
        yield


def _inverted(permutation: torch.Tensor | None) -> torch.Tensor | None:
    return None if permutation is None else torch.argsort(permutation)
