# SPDX-License-Identifier: Apache-2.0
"""Cells that the tests of the benchmark explain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import reference_graph as ref
from engine.cells import CELL_CASES, CellCase, cell_graph

import pyrel
from pyrel.benchmark.layers import Layers, layers_of

CASES = [case for case in CELL_CASES if (case.low, case.high) == (0.0, 1.0)]


@dataclass
class Explained:
    """A cell, its layers, and inputs of several samples in [0, 1]."""

    cell: pyrel.nn.Cell
    layers: Layers
    x: npt.NDArray[np.float32]

    @property
    def rows(self) -> npt.NDArray[np.float32]:
        return self.x.reshape(len(self.x), self.layers.steps, -1)

    def graph(self, high: float = 1.0) -> ref.Node:
        return cell_graph(self.cell, ref.input_node(self.x.shape[1:], 0.0, high))


def explained(case: CellCase) -> Explained:
    cell = case.module()
    assert isinstance(cell, pyrel.nn.Cell)
    state = {name: value.numpy() for name, value in cell.state_dict().items()}
    x = np.random.default_rng(5).random((19, *case.shape), np.float32)
    return Explained(cell, layers_of(cell.config(), state), x)


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def any_cell(request: pytest.FixtureRequest) -> Explained:
    return explained(request.param)


@pytest.fixture
def small() -> pyrel.nn.Cell:
    """A cell that is measured in no time."""
    (case,) = [case for case in CASES if case.name == "Deep-T2-31-33-16"]
    return explained(case).cell
