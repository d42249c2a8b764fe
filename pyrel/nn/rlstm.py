# SPDX-License-Identifier: Apache-2.0
"""The cell with gates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pyrel.nn._checks import positive_tuple
from pyrel.nn.cell import Cell
from pyrel.nn.convolution import ConvEncoder, Pooling, checked_pooling
from pyrel.nn.layers import SoftplusLinear, draw_weights

FORGET_BIAS = 1.0


class RLSTM(Cell):
    """R-LSTM: one layer of ReLU units ``a(1')``, then LSTM cells whose candidates are ReLU units.

    Thesis, sections 4.6.2 and 4.6.4. With ``[a(1'); h]`` of the encoded step and the last output::

        i, f, o = sigmoid(W [a(1'); h] + b)
        g = relu(V [a(1'); h] - softplus(c))
        state = f * state + i * g
        h = o * state

    from zeros; the scores are read from the last ``h`` by one layer. As the state is never
    negative, no tanh is needed on the output. Biases of ``a(1')``, g and the scores are never
    positive, as in the other cells; those of the gates are free, 0 at the start and 1 for the
    forget gate (Jozefowicz et al. 2015). At T = 1 nothing is handed on: there is no forget gate,
    and nothing reads ``h``.

    ``sizes`` is ``(a(1'), cells)``. For D inputs a step, E units ``a(1')``, H cells and K classes
    the number of parameters is ``(D + 1) E + 4 (E + H + 1) H + (H + 1) K``; with the thesis's 256
    and 75 that is 150,792 for the 28 x 7 pixels of the majority experiment. Dropout falls on
    ``a(1')`` (at each step) and on the last ``h``. The other parameters are those of `Cell`.

    Parameters
    ----------
    convolutions : (int, int), optional
        Numbers of maps of the two convolutions of :class:`ConvDeep`, which then stand before
        ``a(1')``; ``step_shape`` is a height and a width. By default there are none.
    pooling : {"max", "sum"}
        Of the convolutions.
    """

    default_sizes: ClassVar[tuple[int, ...]] = (256, 75)
    size_names: ClassVar[tuple[str, ...]] = ("a(1')", "cells")
    majority_sizes: ClassVar[tuple[int, ...]] = (256, 75)

    def __init__(
        self,
        steps: int,
        step_shape: Iterable[int] = (28, 7),
        classes: int = 10,
        sizes: Iterable[int] | None = None,
        dropout: float = 0.5,
        stationary: bool = False,
        convolutions: Iterable[int] | None = None,
        pooling: Pooling = "max",
    ) -> None:
        super().__init__(steps, step_shape, classes, sizes, dropout, stationary)
        self.convolutions = None if convolutions is None else _two_maps(convolutions)
        self.pooling = checked_pooling(pooling)
        features = self.step_features
        if self.convolutions is not None:
            self.images = ConvEncoder(self.step_shape, self.convolutions, pooling)
            features = self.images.features
        encoded, cells = self.sizes
        joined = encoded + (cells if self.steps > 1 else 0)
        self.encoder = SoftplusLinear(features, encoded)
        self.gates = nn.Linear(joined, (3 if self.steps > 1 else 2) * cells)
        self.candidate = SoftplusLinear(joined, cells)
        self.output = SoftplusLinear(cells, self.classes)
        self.reset_gates()

    def reset_gates(self) -> None:
        """Draw the weights of the gates anew; set their biases back."""
        draw_weights(self.gates.weight)
        nn.init.zeros_(self.gates.bias)
        if self.steps > 1:
            nn.init.constant_(self.gates.bias.chunk(3)[1], FORGET_BIAS)

    def config(self) -> dict[str, Any]:
        """Return what :func:`pyrel.nn.build` needs to make this cell again; JSON can hold it."""
        maps = None if self.convolutions is None else list(self.convolutions)
        return super().config() | {"convolutions": maps, "pooling": self.pooling}

    def last_state(self, x: Tensor) -> Tensor:
        """Return the last ``h``: (n, steps, *step_shape) to (n, cells)."""
        drop = self.dropout.over_steps()
        a = self.encode(x[:, 0], drop)
        if self.steps == 1:
            i, o = torch.sigmoid(self.gates(a)).chunk(2, 1)
            return o * (i * F.relu(self.candidate(a)))
        joined = torch.cat([a, x.new_zeros(x.shape[0], self.sizes[-1])], 1)
        i, _, o = torch.sigmoid(self.gates(joined)).chunk(3, 1)
        state = i * F.relu(self.candidate(joined))
        for t in range(1, self.steps):
            joined = torch.cat([self.encode(x[:, t], drop), o * state], 1)
            i, f, o = torch.sigmoid(self.gates(joined)).chunk(3, 1)
            state = f * state + i * F.relu(self.candidate(joined))
        return o * state

    def encode(self, x: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``a(1')`` of one step with dropout: (n, *step_shape) to (n, a(1'))."""
        row = x.flatten(1) if self.convolutions is None else self.images(x)
        return drop(F.relu(self.encoder(row)))


def _two_maps(convolutions: Iterable[int]) -> tuple[int, int]:
    maps = positive_tuple("convolutions", convolutions)
    if len(maps) != 2:
        raise ValueError(f"convolutions must be two numbers of maps, not {maps}")
    return maps[0], maps[1]
