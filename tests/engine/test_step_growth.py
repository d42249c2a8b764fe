# SPDX-License-Identifier: Apache-2.0
"""Models in which something happens from a certain number of steps on only are told apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from engine.checks import captured_but_for_one_step
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, conv1d, pad

from pyrel.compiler.capture.capture import Capture, capture_at

EXAMPLE = 24  # steps
FADING = torch.cat([torch.ones(20, 1), torch.zeros(40, 1)])


class Read(nn.Module):
    """An LSTM and a linear layer over what is read of its states."""

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.core, self.out = nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 3)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.read(self.core(x)[0]))


def captured(read: Callable[[Tensor], Tensor]) -> Capture:
    return captured_but_for_one_step(Read(read), np.zeros((2, EXAMPLE, 6), np.float32))


EVEN: dict[str, Callable[[Tensor], Tensor]] = {
    "last": lambda h: h[:, -1],
    "third": lambda h: h[:, 2],
    "mean": lambda h: h.mean(1),
    "sum by steps": lambda h: h.sum(1) / h.shape[1],
    "max": lambda h: h.amax(1),
    "all but two": lambda h: h[:, 1:-1].sum(1),
    "flipped": lambda h: h.flip(1)[:, 0],
    "pooled": lambda h: adaptive_avg_pool1d(h.transpose(1, 2), 1)[:, :, 0],
    "lag of two": lambda h: (h + pad(h, (0, 0, 2, 0))[:, : h.shape[1]]).sum(1),
    "narrow": lambda h: conv1d(h.transpose(1, 2), torch.ones(5, 5, 3), padding=1).sum(2),
    "constants": lambda h: (
        h + torch.zeros_like(h) + h.new_full((1, h.shape[1], 1), 2.0) + torch.ones(h.shape[1], 1)
    ).sum(1),
}


@pytest.mark.parametrize("read", EVEN.values(), ids=EVEN)
def test_even(read: Callable[[Tensor], Tensor]) -> None:
    assert captured(read).grows_regularly


UNEVEN: dict[str, Callable[[Tensor], Tensor]] = {
    "every 16th": lambda h: h[:, ::16].mean(1),
    "mask": lambda h: (h * (torch.arange(h.shape[1]) < 20)[None, :, None]).sum(1),
    "counted": lambda h: (h * (torch.ones_like(h).cumsum(1) < 20)).sum(1),
    "counted alike": lambda h: (h * (torch.ones(h.shape[1], 1).expand_as(h).cumsum(1) < 20)).sum(1),
    "faded": lambda h: (h * torch.arange(h.shape[1])[:, None] / h.shape[1]).sum(1),
    "at most 20": lambda h: h.sum(1) / torch.full((1,), h.shape[1]).clamp(max=20),
    "lag": lambda h: (h + pad(h, (0, 0, 24, 0))[:, : h.shape[1]]).sum(1),
    "shifted": lambda h: (h + pad(h, (0, 0, 24, -24))).sum(1),
    "late": lambda h: (h + torch.cat([h.new_zeros(h.shape[0], 20, 5), h], 1)[:, 20:]).sum(1),
    "rolled": lambda h: (h + h.roll(20, 1)).sum(1),
    "cut or filled": lambda h: pad(h, (0, 0, 0, 30 - h.shape[1])).sum(1),
    "all but twenty": lambda h: h[:, 3:-17].sum(1),
    "far": lambda h: conv1d(h.transpose(1, 2), torch.ones(5, 5, 3), padding=20, dilation=20).sum(2),
    "table": lambda h: (h * FADING[: h.shape[1]]).sum(1),
    "spread table": lambda h: (h * FADING.expand(60, 5)[: h.shape[1]]).sum(1),
    "sorted": lambda h: (h * FADING[torch.zeros(h.shape[1]).argsort(stable=True)]).sum(1),
    "threshold": lambda h: torch.relu(h * 0 + h.shape[1] - 20).sum(1) + h[:, 0],
    "root": lambda h: h.sum(1) / h.shape[1] ** 0.5,
    "windows": lambda h: torch.relu(
        torch.conv1d(h.transpose(1, 2), torch.ones(5, 5, 3), stride=2)
    ).sum(2),
}


@pytest.mark.parametrize("read", UNEVEN.values(), ids=UNEVEN)
def test_uneven(read: Callable[[Tensor], Tensor]) -> None:
    found = captured(read)
    assert found.dynamic
    assert not found.grows_regularly


SPANS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, int | None] | None]] = {
    "all": (lambda h: h[:, -1], (1, None)),
    "below 700": (lambda h: h[:, -1] if h.shape[1] < 700 else h[:, 0], (1, 699)),
    "from 10": (lambda h: h[:, -1] if h.shape[1] > 9 else h[:, 0], (10, None)),
    "not 600, doubled": (lambda h: h[:, -1] if 2 * h.shape[1] != 1200 else h[:, 0], None),
    "not 300, squared": (lambda h: h[:, -1] if h.shape[1] ** 2 != 90000 else h[:, 0], None),
    "not 600": (lambda h: h[:, -1] if h.shape[1] != 600 else h[:, 0], None),
    "even": (lambda h: h.reshape(h.shape[0], -1, 2, 5)[:, :, 0].sum(1), None),
}


@pytest.mark.parametrize(("read", "span"), SPANS.values(), ids=SPANS)
def test_spans(read: Callable[[Tensor], Tensor], span: tuple[int, int | None] | None) -> None:
    assert capture_at(Read(read), np.zeros((2, EXAMPLE, 6), np.float32)).span() == span


def test_a_fixed_number_of_steps() -> None:
    class Loop(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = x.new_zeros(x.shape[0], 6)
            for step in range(x.shape[1]):
                total = torch.relu(total + x[:, step])
            return total

    found = capture_at(Loop(), np.zeros((2, EXAMPLE, 6), np.float32))
    assert not found.grows_regularly
    assert found.span() == (EXAMPLE, EXAMPLE)
