# SPDX-License-Identifier: Apache-2.0
"""The cells that look at the image of a step by convolutions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from pyrel.nn.convolution import ConvEncoder, Pooling, encoded_features
from pyrel.nn.feedback import FeedbackCell
from pyrel.nn.layers import SoftplusLinear


class ConvDeep(FeedbackCell):
    """Deep cell with two convolutions and poolings in place of the layer ``a(1')``.

    Thesis, section 4.2.2 and figure 4.4: conv 5 x 5, pool, conv 3 x 3, pool; the pooled maps are
    joined to ``r_t`` and mapped to ``a(4)``, the last one to ``a(4')``. ``sizes`` is
    ``(maps of C1, maps of C2, a(4), a(4'))``. The thesis does not say where dropout falls; here as
    in :class:`Deep`, on what is joined to ``r_t`` (at each step) and on the last ``a(4)``.

    The thesis gives the number of parameters of its majority experiment, 151,802, but not the
    sizes. ``(6, 44, 128, 32)`` with 256 recurrent units has exactly that many, and is the only
    choice of maps that has with the cell and the layers above it as in `Deep`.

    The other parameters are those of `Cell` and, for ``recurrent``, of `FeedbackCell`;
    ``step_shape`` is a height and a width.

    Parameters
    ----------
    pooling : {"max", "sum"}
        What a pool makes of its 2 x 2 window: the text of the thesis says max.
    """

    default_sizes: ClassVar[tuple[int, ...]] = (24, 48, 256, 128)
    size_names: ClassVar[tuple[str, ...]] = ("maps of C1", "maps of C2", "a(4)", "a(4')")
    cell_index: ClassVar[int] = 2
    majority_sizes: ClassVar[tuple[int, ...]] = (6, 44, 128, 32)
    literal: ClassVar[bool] = False

    def __init__(
        self,
        steps: int,
        step_shape: Iterable[int] = (28, 7),
        classes: int = 10,
        sizes: Iterable[int] | None = None,
        recurrent: int = 128,
        dropout: float = 0.5,
        stationary: bool = False,
        pooling: Pooling = "max",
    ) -> None:
        super().__init__(steps, step_shape, classes, sizes, recurrent, dropout, stationary)
        maps = self.sizes[0], self.sizes[1]
        literal = self.literal and self.steps > 1
        self.encoder = ConvEncoder(self.step_shape, maps, pooling, literal=literal)
        self.decision = SoftplusLinear(*self.sizes[-2:])

    @property
    def encoded_features(self) -> int:
        """Number of values in the pooled maps of a step."""
        return encoded_features(self.step_shape, (self.sizes[0], self.sizes[1]))

    def config(self) -> dict[str, Any]:
        """Return what :func:`pyrel.nn.build` needs to make this cell again; JSON can hold it."""
        return super().config() | {"pooling": self.encoder.pooling}

    def encode_steps(self, x: Tensor) -> list[Tensor]:
        """Return the pooled maps of each step with dropout."""
        drop = self.dropout.over_steps()
        encoded: list[Tensor] = []
        maps: list[Tensor] | None = None
        for t in range(self.steps):
            features, maps = self.encoder.step(x[:, t], maps)
            encoded.append(drop(features))
        return encoded

    def read_out(self, state: Tensor) -> Tensor:
        """Return the scores by way of ``a(4')``: (n, a(4)) to (n, classes)."""
        scores: Tensor = self.output(F.relu(self.decision(self.dropout(state))))
        return scores


class ConvDeepPlus(ConvDeep):
    """ConvDeep with literal connections: a convolution also reads its own maps of the last step.

    ConvDeep+ of the thesis, section 4.6.3 and figure 4.17: the maps (after ReLU, before pooling)
    that each convolution made at step t are further input channels of the same convolution at step
    t + 1; zeros at the first step. At T = 1 there are none, and the cell is :class:`ConvDeep`. The
    parameters are those of :class:`ConvDeep`.

    The thesis gives no sizes for this cell; those of :class:`ConvDeep` are used, so that the two
    differ by the literal connections alone: 170,126 parameters in the majority experiment.
    """

    literal: ClassVar[bool] = True
