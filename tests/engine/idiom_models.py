# SPDX-License-Identifier: Apache-2.0
"""What people write in forward(), each idiom around the layers of one model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

STEPS, FEATURES, WIDTH, CLASSES = 5, 4, 6, 3

Forward = Callable[..., Tensor]


class Derived(nn.LSTM):
    """A layer whose forward calls torch's, once by keyword."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        return super().forward(input, hx=hx)


class Model(nn.Module):
    """Layers of every kind, and the forward passes it is given; an output for each of these."""

    def __init__(self, *forwards: Forward) -> None:
        super().__init__()
        torch.manual_seed(11)
        self.forwards = forwards
        self.into, self.out = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.lstm, self.gru, self.rnn = (
            kind(FEATURES, WIDTH, batch_first=True) for kind in (nn.LSTM, nn.GRU, nn.RNN)
        )
        self.derived = Derived(FEATURES, WIDTH, batch_first=True)
        self.stacked = nn.GRU(FEATURES, WIDTH, 2, batch_first=True)
        self.both = nn.LSTM(FEATURES, WIDTH, bidirectional=True)
        self.projected = nn.LSTM(FEATURES, WIDTH, proj_size=2)
        self.by_step = nn.LSTM(FEATURES, WIDTH)
        self.lstm_cell, self.gru_cell = nn.LSTMCell(FEATURES, WIDTH), nn.GRUCell(FEATURES, WIDTH)
        self.rnn_cell = nn.RNNCell(FEATURES, WIDTH)

    def only(self, *layers: str) -> Model:
        """Drop the other layers, which take most of the time of an export, used or not."""
        for name in {name for name, _ in self.named_children()} - {*layers, "out"}:
            delattr(self, name)
        return self

    def first(self, x: Tensor, layers: int = 1) -> Tensor:
        return torch.full((layers, x.shape[0], WIDTH), 0.25, dtype=x.dtype)

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.stack([self.out(each(self, *inputs))[:, 0] for each in self.forwards], 1)


def by_keyword(m: Any, x: Tensor) -> Tensor:
    return m.lstm(input=x)[0][:, -1]


def state_by_keyword(m: Any, x: Tensor) -> Tensor:
    return m.gru(x, hx=m.first(x))[0][:, -1]


def both_by_keyword(m: Any, x: Tensor) -> Tensor:
    _, (h, c) = m.lstm(hx=(m.first(x), m.first(x)), input=x)
    return h[0] + c[0]


def plain_by_keyword(m: Any, x: Tensor) -> Tensor:
    return m.rnn(input=x, hx=m.first(x))[1][-1]


def layers_by_keyword(m: Any, x: Tensor) -> Tensor:
    return m.stacked(input=x)[1][-1]


def forward_called(m: Any, x: Tensor) -> Tensor:
    return m.lstm.forward(x)[0][:, -1] + nn.GRU.forward(m.gru, input=x)[0][:, -1]


def derived_called(m: Any, x: Tensor) -> Tensor:
    return m.derived(input=x)[0][:, -1]


def cells_by_keyword(m: Any, x: Tensor) -> Tensor:
    h = c = g = r = m.first(x)[0]
    for t in range(3):
        h, c = m.lstm_cell(input=x[:, t], hx=(h, c))
        g, r = m.gru_cell(hx=g, input=x[:, t]), m.rnn_cell(x[:, t], hx=r)
    return m.out(input=h) @ m.out.weight + g + r


def functions_by_keyword(m: Any, x: Tensor) -> Tensor:
    h = functional.linear(input=x[:, 0], weight=m.into.weight, bias=m.into.bias)
    return torch.tanh(input=functional.relu(input=h, inplace=True))


BY_KEYWORD = (
    by_keyword,
    state_by_keyword,
    both_by_keyword,
    plain_by_keyword,
    layers_by_keyword,
    forward_called,
    derived_called,
    cells_by_keyword,
    functions_by_keyword,
)


def packed(layer: str, x: Tensor, lengths: Tensor, m: Any, hx: Any = None) -> tuple[Any, Any]:
    sequences = pack_padded_sequence(
        input=x, lengths=lengths, batch_first=True, enforce_sorted=False
    )
    out, state = getattr(m, layer)(input=sequences, hx=hx)
    assert isinstance(out, PackedSequence)
    return pad_packed_sequence(sequence=out, batch_first=True)[0], state


def packed_by_keyword(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
    out, (h, c) = packed("lstm", x, lengths, m)
    return out[:, -1] + h[0] * c[0]


def packed_with_state(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
    return packed("stacked", x, lengths, m, hx=m.first(x, 2))[1][-1]


def packed_into_derived(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
    return packed("derived", x, lengths, m)[1][0][-1]


def sorted_by_hand(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
    longest, order = lengths.sort(0, descending=True)
    sequences = pack_padded_sequence(x[order], longest.cpu(), batch_first=True)
    out, _ = pad_packed_sequence(m.lstm(sequences)[0], batch_first=True, total_length=x.size(1))
    return out[torch.argsort(order)][torch.arange(x.size(0)), lengths - 1]


PACKED = (packed_by_keyword, packed_with_state, packed_into_derived, sorted_by_hand)


def steps_viewed(m: Any, x: Tensor) -> Tensor:
    """Look at the outputs of a layer that takes the steps first as one matrix of rows."""
    rows = m.by_step(x.transpose(0, 1))[0].view(-1, WIDTH)
    return torch.tanh(rows).view(x.shape[1], -1, WIDTH)[-1]


def both_viewed(m: Any, x: Tensor) -> Tensor:
    out = m.both(x.permute(1, 0, 2))[0]
    return out.view(out.shape[0], out.shape[1], 2, WIDTH)[-1].sum(1)


def projected_viewed(m: Any, x: Tensor) -> Tensor:
    out = m.projected(x.transpose(0, 1))[0].view(-1, 2).view(x.shape[1], -1, 2)
    return functional.pad(out[-1], [0, WIDTH - 2])


def turned_and_viewed(m: Any, x: Tensor) -> Tensor:
    """View outputs that torch keeps by step, though the layer gives them by sample."""
    out = m.lstm(x)[0].transpose(0, 1).view(-1, WIDTH)
    return out.view(x.shape[1], x.shape[0], WIDTH)[-1]


def elementwise_and_viewed(m: Any, x: Tensor) -> Tensor:
    """View a transposed tensor after an operator that keeps where its elements lie."""
    turned = torch.tanh(m.into(x)).transpose(0, 1)
    return (2.0 * turned).transpose(0, 1).view(x.shape[0], -1)[:, -WIDTH:]


def states_viewed(m: Any, x: Tensor) -> Tensor:
    _, (h, _) = m.both(x.transpose(0, 1))
    return h.view(1, 2, x.size(0), WIDTH)[0, 1]


def viewed_like(m: Any, x: Tensor) -> Tensor:
    out = m.by_step(x.transpose(0, 1))[0]
    return out.view_as(out.reshape(-1, WIDTH)).view_as(out)[-1]


def contiguity_asked(m: Any, x: Tensor) -> Tensor:
    out, turned = m.lstm(x)[0], m.by_step(x.transpose(0, 1))[0]
    return turned[-1] if turned.is_contiguous() and out.stride(0) == WIDTH else out[:, 0]


VIEWED = (
    steps_viewed,
    both_viewed,
    projected_viewed,
    turned_and_viewed,
    elementwise_and_viewed,
    states_viewed,
    viewed_like,
    contiguity_asked,
)


def new_zeroed(m: Any, x: Tensor) -> Tensor:
    h = x.data.new(1, len(x), WIDTH).zero_()
    return m.lstm(x, (h, x.new(1, x.size(0), WIDTH).fill_(0.5)))[0][:, -1]


def legacy(m: Any, x: Tensor) -> Tensor:
    zeros = torch.Tensor(x.size(0), WIDTH).zero_().type_as(x)
    return m.into(x[:, 0]) + zeros + torch.DoubleTensor(x.size(0), WIDTH).fill_(2).type_as(x)


def by_index(m: Any, x: Tensor) -> Tensor:
    out = torch.empty(x.size(0), STEPS, WIDTH, dtype=x.dtype)
    for t, h in enumerate(m.lstm(x)[0].unbind(1)):
        out[:, t] = h
    return out.mean(1)


def by_slice(m: Any, x: Tensor) -> Tensor:
    out = x.new_empty(x.size(0), WIDTH)
    out[:, 2:] = m.into(x[:, 0])[:, 2:]
    out[:, :2] = 0.5
    return torch.tanh(out)


def by_copy(m: Any, x: Tensor) -> Tensor:
    return torch.empty_like(x).copy_(x)[:, 0] @ m.into.weight.T


def by_ellipsis(m: Any, x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    out[...] = x
    return m.into(out[:, -1])


def by_list(m: Any, x: Tensor) -> Tensor:
    out = x.new_empty(x.size(0), WIDTH)
    out[:, [4, 0, 2]] = m.into(x[:, 0])[:, :3]
    out[:, torch.tensor([False, True, False, True, False, True])] = m.into(x[:, 1])[:, 3:]
    return out


def by_operators(m: Any, x: Tensor) -> Tensor:
    places = torch.tensor([3, 1, 0, 2, 5, 4])
    out, other = x.new_empty(x.size(0), WIDTH), x.new_empty(x.size(0), WIDTH)
    out.index_copy_(1, places, m.into(x[:, 0]))
    other.scatter_(1, places.expand(len(x), -1), m.into(x[:, 1]))
    other.index_fill_(1, places[:1], 2.0).masked_fill_(places == 4, -1.0)
    return out + other


def kept_of_a_part(m: Any, x: Tensor) -> Tensor:
    """Read no more than what was written of a buffer that is longer."""
    out = torch.empty(x.size(0), 40, WIDTH, dtype=x.dtype)
    out[:, :STEPS] = m.lstm(x)[0]
    return out.transpose(0, 1)[1:STEPS].sum(0)


def filled_with_a_value(m: Any, x: Tensor) -> Tensor:
    h = m.into(x[:, 0])
    one = torch.empty_like(x[:, 0, 0]).fill_(x.new_ones(()))
    return h * x.new_empty(1).fill_(0.5) + one[:, None]


def added_to(m: Any, x: Tensor) -> Tensor:
    out = torch.empty(x.size(0), WIDTH, dtype=x.dtype)
    out[:] = 0
    for t in range(STEPS):
        out += m.into(x[:, t])
    return out


def index_filled(m: Any, x: Tensor) -> Tensor:
    last = torch.empty(x.size(0), dtype=torch.int64)
    last[:] = STEPS - 2
    return m.lstm(x)[0][torch.arange(x.size(0)), last]


def written_in_a_block(m: Any, x: Tensor) -> Tensor:
    """What is written under no_grad into an empty tensor has no gradient."""
    out = torch.empty(x.size(0), WIDTH, dtype=x.dtype)
    with torch.no_grad():
        out[:, :2] = m.into(x[:, 0])[:, :2]
        nn.init.constant_(out[:, 2:], 0.5)
    return out + m.into(x[:, 1])


def filled_by_parameter(m: Any, x: Tensor) -> Tensor:
    out = x.new_empty(x.size(0), WIDTH)
    out[:] = m.out.weight[0]
    return out * m.into(x[:, 0])


WRITTEN = (
    new_zeroed,
    legacy,
    by_index,
    by_slice,
    by_copy,
    by_ellipsis,
    by_list,
    by_operators,
    kept_of_a_part,
    filled_with_a_value,
    added_to,
    index_filled,
    written_in_a_block,
    filled_by_parameter,
)


def never_written(m: Any, x: Tensor) -> Tensor:
    return m.into(x[:, 0]) + torch.empty(WIDTH)


def partly_written(m: Any, x: Tensor) -> Tensor:
    out = x.new_empty(x.size(0), WIDTH)
    out[:, :5] = m.into(x[:, 0])[:, :5]
    return out


def step_not_written(m: Any, x: Tensor) -> Tensor:
    out = torch.empty_like(m.lstm(x)[0])
    for t in range(1, STEPS):
        out[:, t] = m.into(x[:, t])
    return out.sum(1)


def old_kept(m: Any, x: Tensor) -> Tensor:
    out = torch.empty(x.size(0), WIDTH)
    out += m.into(x[:, 0])
    return out


UNWRITTEN = {
    "aten.empty": (never_written, old_kept),
    "aten.new_empty": (partly_written,),
    "aten.empty_like": (step_not_written,),
}
