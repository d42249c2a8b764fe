# SPDX-License-Identifier: Apache-2.0
"""The count of useful operations."""

from __future__ import annotations

import pytest
from benchmark.conftest import CASES, explained
from engine.cases import compiled
from engine.cells import CellCase

from pyrel.benchmark.cases import thesis_model
from pyrel.benchmark.contestants import METHODS
from pyrel.benchmark.layers import Layers, layers_of
from pyrel.benchmark.work import cell_flops, compulsory_bytes, useful_flops


def layers_for(name: str, steps: int) -> Layers:
    cell = thesis_model(name, steps, 0).cell
    return layers_of(cell.config(), {k: v.numpy() for k, v in cell.state_dict().items()})


def test_deep_at_majority_sizes() -> None:
    """196→256, 256+256→128, 128→256, 128→32, 32→10, three products each, first r skipped."""
    layers = layers_for("Deep", 12)
    each_step = 196 * 256 + 256 * 128
    between = 256 * 128 + 128 * 256
    products = 12 * each_step + 11 * between + 128 * 32 + 32 * 10
    assert useful_flops(layers, "deep_taylor") == 2 * 3 * products == 10_323_840
    assert useful_flops(layers, "sensitivity") == 2 * 2 * products
    assert layers.parameters == 153_578
    ends = 2 * 12 * 196 * 4
    cell = thesis_model("Deep", 12, 0).cell
    assert cell_flops(cell, "deep_taylor") == useful_flops(layers, "deep_taylor")
    assert compulsory_bytes(cell, 1) == ends + 153_578 * 4
    assert compulsory_bytes(cell, 1000) == pytest.approx(ends + 153_578 * 4 / 1000)


def test_sizes_of_the_thesis() -> None:
    assert layers_for("Shallow", 7).parameters == 291_210
    assert layers_for("DeepV2", 4).parameters == 306_890


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_what_the_engine_computes(case: CellCase, method: str) -> None:
    assert compiled(case, method).flops == useful_flops(explained(case).layers, method)
