# SPDX-License-Identifier: Apache-2.0
"""The cells that learn a representation before the recurrence and a decision after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from pyrel.nn.feedback import FeedbackCell
from pyrel.nn.layers import SoftplusLinear


class Deep(FeedbackCell):
    """Deep cell: ``x_t`` to ``a(1')``, ``[a(1'); r_t]`` to ``a(4)``, the last one to ``a(4')``.

    Thesis, section 4.2.2 and figure 4.3b. ``sizes`` is ``(a(1'), a(4), a(4'))``. Dropout falls on
    ``a(1')`` (at each step) and on the last ``a(4)``. The other parameters are those of
    :class:`Cell` and, for ``recurrent``, of :class:`FeedbackCell`.

    Examples
    --------
    >>> cell = pyrel.nn.Deep(steps=4).eval()
    >>> cell(torch.zeros(2, 4, 28, 7)).shape
    torch.Size([2, 10])
    """

    default_sizes: ClassVar[tuple[int, ...]] = (512, 256, 64)
    size_names: ClassVar[tuple[str, ...]] = ("a(1')", "a(4)", "a(4')")
    cell_index: ClassVar[int] = 1
    majority_sizes: ClassVar[tuple[int, ...]] = (256, 128, 32)

    def __init__(
        self,
        steps: int,
        step_shape: Iterable[int] = (28, 7),
        classes: int = 10,
        sizes: Iterable[int] | None = None,
        recurrent: int = 128,
        dropout: float = 0.5,
        stationary: bool = False,
    ) -> None:
        super().__init__(steps, step_shape, classes, sizes, recurrent, dropout, stationary)
        self.encoder = SoftplusLinear(self.step_features, self.sizes[0])
        self.decision = SoftplusLinear(*self.sizes[-2:])

    def encode_steps(self, x: Tensor) -> list[Tensor]:
        """Encode each step with the same layers, and the same dropout where it is stationary."""
        drop = self.dropout.over_steps()
        return [self.encode(x[:, t].flatten(1), drop) for t in range(self.steps)]

    def encode(self, x: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``a(1')`` with dropout: (n, step features) to (n, a(1'))."""
        return drop(F.relu(self.encoder(x)))

    def read_out(self, state: Tensor) -> Tensor:
        """Return the scores by way of ``a(4')``: (n, a(4)) to (n, classes)."""
        scores: Tensor = self.output(F.relu(self.decision(self.dropout(state))))
        return scores


class DeepV2(Deep):
    """Deep cell with one more layer ``a(1'')`` between ``a(1')`` and the recurrence.

    Thesis, section 4.2.2 and figure 4.4. ``sizes`` is ``(a(1'), a(1''), a(4), a(4'))``. Dropout
    falls between ``a(1')`` and ``a(1'')`` (at each step) and on the last ``a(4)``. The other
    parameters are those of :class:`Deep`.

    The thesis gives the number of parameters of its majority experiment, 161,386, but not the
    widths. ``(128, 256, 128, 32)`` with 256 recurrent units has exactly that many; it is the only
    choice of powers of two that does, and it keeps the cell and the layers above it as in
    :class:`Deep`.
    """

    default_sizes: ClassVar[tuple[int, ...]] = (512, 256, 128, 64)
    size_names: ClassVar[tuple[str, ...]] = ("a(1')", "a(1'')", "a(4)", "a(4')")
    cell_index: ClassVar[int] = 2
    majority_sizes: ClassVar[tuple[int, ...]] = (128, 256, 128, 32)

    def __init__(
        self,
        steps: int,
        step_shape: Iterable[int] = (28, 7),
        classes: int = 10,
        sizes: Iterable[int] | None = None,
        recurrent: int = 128,
        dropout: float = 0.5,
        stationary: bool = False,
    ) -> None:
        super().__init__(steps, step_shape, classes, sizes, recurrent, dropout, stationary)
        self.encoder_2 = SoftplusLinear(*self.sizes[:2])

    def encode(self, x: Tensor, drop: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``a(1'')`` of the dropped-out ``a(1')``: (n, step features) to (n, a(1''))."""
        return F.relu(self.encoder_2(super().encode(x, drop)))
