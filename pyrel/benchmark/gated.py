# SPDX-License-Identifier: Apache-2.0
"""LSTM and GRU classifiers, beside the thesis's cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from pyrel import nn as cells
from pyrel.nn import Cell, SoftplusLinear


class LSTM(Cell):
    """Layers of torch's LSTM, all of one width; the last step of the last is read.

    By default as large as a common sentiment classifier: 200 inputs a step, two layers of 300.
    """

    default_sizes: ClassVar[tuple[int, ...]] = (300, 300)
    size_names: ClassVar[tuple[str, ...]] = ("layer 1", "layer 2")
    kind: ClassVar[type[nn.LSTM] | type[nn.GRU]] = nn.LSTM
    gates: ClassVar[int] = 4  # with the candidate

    def __init__(
        self,
        steps: int,
        step_shape: Iterable[int] = (200,),
        classes: int = 5,
        sizes: Iterable[int] | None = None,
        dropout: float = 0.0,
        stationary: bool = False,
    ) -> None:
        super().__init__(steps, step_shape, classes, sizes, dropout, stationary)
        if len(set(self.sizes)) > 1:
            raise ValueError(f"sizes of {type(self).__name__} must be equal, not {self.sizes}")
        width, count = self.sizes[0], len(self.sizes)
        self.layers = self.kind(self.step_features, width, count, batch_first=True)
        self.output = SoftplusLinear(width, self.classes)

    def last_state(self, x: Tensor) -> Tensor:
        """Return the last layer's h after the last step."""
        states: Tensor = self.layers(x)[0]
        return states[:, -1]


class GRU(LSTM):
    """The same with torch's GRU."""

    kind: ClassVar[type[nn.LSTM] | type[nn.GRU]] = nn.GRU
    gates: ClassVar[int] = 3


_GATED: dict[str, type[LSTM]] = {"LSTM": LSTM, "GRU": GRU}


def build(config: Mapping[str, Any]) -> Cell:
    """Make a cell from its configuration, one of these or one of `pyrel.nn`."""
    if config["cell"] in _GATED:
        arguments = dict(config)
        return _GATED[arguments.pop("cell")](**arguments)
    return cells.build(config)


def gated_cell(name: str, steps: int) -> Cell:
    """Return a new LSTM or GRU at its default sizes."""
    return _GATED[name](steps)
