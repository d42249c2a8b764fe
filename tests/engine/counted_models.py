# SPDX-License-Identifier: Apache-2.0
"""Models that count the ids of their tokens that are no padding, 0, and pack or mask by that."""

from __future__ import annotations

import torch
from engine.mask_models import UNITS, Layers, Masked
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


class Packed(Masked):
    """Layers over packed sequences, and their final states."""

    exact = True
    kind: type[nn.RNNBase] = nn.LSTM
    layers = 1
    both = False

    def __init__(self) -> None:
        super().__init__()
        self.core = self.kind(UNITS, UNITS, self.layers, batch_first=True, bidirectional=self.both)
        self.out = nn.Linear(UNITS * (1 + self.both), 3)

    def packed(self, e: Tensor, x: Tensor) -> tuple[nn.utils.rnn.PackedSequence, Tensor]:
        """Run the layers; return their outputs, packed, and the last layer's final states."""
        lengths = (x != 0).sum(1).cpu()
        out, states = self.core(
            pack_padded_sequence(e, lengths, batch_first=True, enforce_sorted=False)
        )
        h = states[0] if isinstance(states, tuple) else states
        return out, h[-1 - self.both :].transpose(0, 1).flatten(1)

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        return self.packed(e, x)[1]


class TwoWays(Packed):
    """Two layers of both directions, from first states that are not zero."""

    layers = 2
    both = True

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(4, 1, UNITS))

    def packed(self, e: Tensor, x: Tensor) -> tuple[nn.utils.rnn.PackedSequence, Tensor]:
        lengths, order = (x > 0).sum(1).sort(0, descending=True)
        first = self.first.expand(4, x.shape[0], UNITS).contiguous()
        packed = pack_padded_sequence(e[order], lengths, batch_first=True)
        out, (h, _) = self.core(packed, (first, 0.5 * first))
        return out, h[-2:].transpose(0, 1).flatten(1)[order.argsort()]


class GruMean(Packed):
    """A GRU of both directions, the mean of whose outputs is taken, padding being zero."""

    kind = nn.GRU
    both = True
    exact = False  # a sum of more addends is stabilised more

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        out, lengths = pad_packed_sequence(
            self.packed(e, x)[0], batch_first=True, total_length=x.shape[1]
        )
        return out.sum(1) / lengths.unsqueeze(1)


class RnnLast(Packed):
    """The last output of two layers of RNN, steps first, by an index."""

    kind = nn.RNN
    layers = 2

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        lengths = x.ne(0).sum(1)
        out, _ = pad_packed_sequence(self.packed(e, x)[0], total_length=x.shape[1])
        return out[lengths - 1, torch.arange(x.shape[0])]


class PackedLargest(Packed):
    """The largest output of a ReLU layer, padding being less than any."""

    kind = nn.RNN

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.RNN(UNITS, UNITS, nonlinearity="relu", batch_first=True)

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        out, _ = pad_packed_sequence(
            self.packed(e, x)[0],
            batch_first=True,
            padding_value=-1.0,
            total_length=x.shape[1],
        )
        return out.max(1).values


class Last(Layers):
    """The last output of a layer that runs over padding, too, by an index and by gather."""

    def reduced(self, h: Tensor, x: Tensor) -> Tensor:
        last = h[torch.arange(x.shape[0]), (x != 0).sum(dim=1) - 1]
        places = ((x != 0).float().sum(1).long() - 1).clamp(min=0).view(-1, 1, 1)
        return last + h.gather(1, places.expand(-1, 1, h.shape[2])).squeeze(1)


class MeanOfLengths(Layers):
    """Means by masks made of lengths, which weigh and choose."""

    exact = False

    def reduced(self, h: Tensor, x: Tensor) -> Tensor:
        lengths = x.ne(0).sum(1)
        mask = torch.arange(x.shape[1])[None] < lengths[:, None]
        mean = (h * mask.unsqueeze(-1)).sum(1) / lengths.clamp(min=1).unsqueeze(1)
        beyond = torch.arange(x.shape[1]).expand(x.shape[0], -1) >= lengths[:, None]
        kept = torch.where(~beyond[..., None], torch.tanh(h).masked_fill(beyond[..., None], 3), 0)
        return mean + kept.sum(1) / lengths[:, None].float()


class Largest(Layers):
    """The largest where a mask made of lengths says, and where one of ids does."""

    def reduced(self, h: Tensor, x: Tensor) -> Tensor:
        lengths = (x != 0).sum(1)
        mask = torch.arange(x.shape[1])[None] < lengths[:, None]
        largest = h.masked_fill(~mask[..., None], -torch.inf).amax(1)
        m = (x != 0).float()
        return largest + h.masked_fill(m[..., None] == 0, float("-inf")).max(dim=1)[0]


class Compared(Layers):
    """Counts held to numbers, and masks of two ids in each element."""

    as_alone = False

    def reduced(self, h: Tensor, x: Tensor) -> Tensor:
        m = x != 0
        two = (m[:, 1:] & m[:, :-1]) ^ (m[:, 1:] | (x[:, :-1] == 4))
        both = (x != 0) & (x != 1)
        count = m.sum(1)
        many = (count > 2.5).float() + (count == 4) * 0.5 - (count != 1).float() + count.bool()
        few = torch.logical_not(count - 1).to(h.dtype) + torch.logical_and(count, count < 3)
        rest = (h[:, 1:] * two[..., None]).sum(1) + (h * both[..., None]).sum(1)
        return rest * many[:, None] + h[:, 0] * few[:, None] + count[:, None] / 8


class Reduced(Layers):
    """Other ways to count, to reduce masks and to choose by them."""

    as_alone = False

    def reduced(self, h: Tensor, x: Tensor) -> Tensor:
        m, steps = x != 0, x.shape[1]
        first = torch.count_nonzero(x, dim=1).clamp(2, 5).minimum(torch.tensor(3))
        last = (m.cumsum(1) == x.sign().sum(1, keepdim=True)) & m
        chosen = torch.take_along_dim(h, (m.sum(1) - 1)[:, None, None], 1)[:, 0]
        hot = torch.nn.functional.one_hot(m.sum(1) - 1, steps).to(h.dtype)
        rest = torch.bmm(hot[:, None], h)[:, 0] + (h * last[..., None]).sum(1) + chosen
        rest = rest * m.all(1, keepdim=True) + h[:, 0] * (x == 4).any(1, keepdim=True)
        h = h.clone()
        h[m] = 0.5
        return rest + h.sum(1) / first[:, None]


MODELS = (
    Packed,
    TwoWays,
    GruMean,
    RnnLast,
    PackedLargest,
    Last,
    MeanOfLengths,
    Largest,
    Compared,
    Reduced,
)
