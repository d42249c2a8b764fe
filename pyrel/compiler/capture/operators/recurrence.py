# SPDX-License-Identifier: Apache-2.0
"""torch's recurrent layers and cells; `pyrel.compiler.capture.recurrent_cells` has the steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from pyrel.compiler.capture.operators.arithmetic import offsets
from pyrel.compiler.capture.operators.operands import (
    UnsupportedOperandsError,
    array,
    blocks,
    constant,
)
from pyrel.compiler.capture.operators.packing import PackedSizes
from pyrel.compiler.capture.recurrent_cells import (
    Affine,
    Cell,
    GruCell,
    LstmCell,
    Pair,
    RnnCell,
    State,
    run_layers,
)
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.graph.nodes import Addresses


def _lstm_cell(weights: Pair, projection: Any) -> Cell:
    return LstmCell.from_blocks(weights, projection=projection)


def _gru_cell(weights: Pair, _projection: Any) -> Cell:
    return GruCell.from_blocks(weights)


def _rnn_cell(relu: bool) -> Callable[[Pair, Any], Cell]:
    return lambda weights, _projection: RnnCell(weights, relu)


_CELLS = {
    "lstm": _lstm_cell,
    "gru": _gru_cell,
    "rnn_tanh": _rnn_cell(relu=False),
    "rnn_relu": _rnn_cell(relu=True),
}


def layer(kind: str) -> Callable[..., tuple[Traced, ...]]:
    """Make the handler of ``aten.lstm`` or its like."""

    def handler(
        tracer: Tracer,
        value: Any,
        hx: Any,
        params: Any,
        has_biases: Any,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: Any = None,
        sizes: Any = None,
    ) -> tuple[Traced, ...]:
        if batch_first is None or not isinstance(has_biases, bool):
            raise UnsupportedOperandsError(
                "the sequences are packed; give pyrel the module, and it unpacks them"
            )
        if train and dropout > 0 and num_layers > 1:
            raise UnsupportedOperandsError("dropout is active: export the model in eval mode")
        directions = 2 if bidirectional else 1
        count = len(params) // (num_layers * directions)
        cells = [
            _cell(tracer, kind, params[i : i + count], has_biases)
            for i in range(0, len(params), count)
        ]
        layers = [cells[i : i + directions] for i in range(0, len(cells), directions)]
        states = hx if isinstance(hx, list | tuple) else [hx]
        return _run(tracer, layers, value, states, batch_first, sizes)

    return handler


def cell(kind: str) -> Callable[..., Any]:
    """Make the handler of ``aten.lstm_cell`` or its like."""

    def handler(
        tracer: Tracer,
        value: Any,
        hx: Any,
        w_ih: Any,
        w_hh: Any,
        b_ih: Any = None,
        b_hh: Any = None,
    ) -> Any:
        one = _cell(tracer, kind, [w_ih, w_hh, b_ih, b_hh], True)
        states = [tracer.ids(state)[None] for state in (hx if isinstance(hx, list) else [hx])]
        steps = Traced(tracer.ids(value)[None])
        _, *final = _run(tracer, [[one]], steps, [Traced(s) for s in states], False)
        new = tuple(Traced(state.ids[0]) for state in final)
        return new if isinstance(hx, list) else new[0]

    return handler


def _cell(tracer: Tracer, kind: str, params: Sequence[Any], has_biases: bool) -> Cell:
    """Make a cell of W, U, then b and b' if there are such, then an LSTM's projection."""
    tensors = [None if p is None else constant(p, "weight") for p in params]

    def make() -> Cell:
        w_ih, w_hh = (blocks(tracer, t) for t in tensors[:2] if t is not None)
        b_ih, b_hh = tensors[2:4] if has_biases else (None, None)
        rest = tensors[4:] if has_biases else tensors[2:]
        projection = array(tracer, rest[0]) if rest and rest[0] is not None else None
        x = Affine(w_ih, offsets(tracer, b_ih, len(w_ih)))
        return _CELLS[kind](Pair(x, Affine(w_hh, offsets(tracer, b_hh, len(w_hh)))), projection)

    key = ("cell", kind, has_biases, *(id(t) for t in tensors))
    return tracer.weights.made(key, make, *tensors)


def _run(
    tracer: Tracer,
    layers: Sequence[Sequence[Cell]],
    value: Any,
    states: Sequence[Any],
    batch_first: bool,
    sizes: Any = None,
) -> tuple[Traced, ...]:
    """Run layers over every sequence of the batch; return outputs and final states as torch does.

    A sequence and its initial states, which have shape (layers · directions, n, units), are one
    row of addresses, and must belong to one sample. Packed sequences have ``sizes``.
    """
    ids = tracer.ids(value)
    ids = ids if batch_first else ids.transpose(0, 1)
    initial = [tracer.ids(state).transpose(0, 1) for state in states]
    n, steps = ids.shape[:2]
    widths = [state.shape[2] for state in initial]
    masks = [sizes.within.ids, sizes.beyond.ids] if isinstance(sizes, PackedSizes) else []
    row = torch.cat([ids.flatten(1), *(state.flatten(1) for state in initial), *masks], dim=1)
    ends = np.cumsum([ids[0].numel(), *(state[0].numel() for state in initial)])

    def run_row(addresses: Addresses) -> Addresses:
        x, *parts, last = np.split(addresses, ends)
        given = [part.reshape(-1, w) for part, w in zip(parts, widths, strict=True)]
        before: list[State] = list(zip(*given, strict=True))
        chosen = last.reshape(2, steps) if masks else None
        outputs, after = run_layers(tracer.builder, layers, x.reshape(steps, -1), before, chosen)
        return np.concatenate(
            [outputs, *(np.stack(part) for part in zip(*after, strict=True))], None
        )

    out = tracer.rows(Traced(row), lambda rows: np.stack([run_row(r) for r in rows])).ids
    sizes = np.diff(ends).tolist()
    outputs, *final = torch.split(out, [out.shape[1] - sum(sizes), *sizes], 1)
    outputs = outputs.reshape(n, steps, -1)
    outputs = outputs if batch_first else outputs.transpose(0, 1)
    split = [s.reshape(n, -1, w).transpose(0, 1) for s, w in zip(final, widths, strict=True)]
    return Traced(outputs), *(Traced(s) for s in split)
