# SPDX-License-Identifier: Apache-2.0
"""Times of pyrel's own steps: ``pytest bench``, with pytest-benchmark.

How pyrel compares with others is the matter of ``pyrel bench``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import pyrel
from pyrel.benchmark.cases import thesis_model
from pyrel.compiler.lowering.lower import lower
from pyrel.methods import get as get_method

CELLS = [("Shallow", 7), ("Deep", 12), ("DeepV2", 4)]
METHODS = ["deep_taylor", "sensitivity"]

every_cell = pytest.mark.parametrize(("name", "steps"), CELLS, ids=lambda v: str(v))


def samples(cell: pyrel.nn.Cell, count: int) -> Any:
    return np.random.default_rng(0).random((count, cell.steps, *cell.step_shape), np.float32)


@every_cell
def test_capture(benchmark: BenchmarkFixture, name: str, steps: int) -> None:
    cell = thesis_model(name, steps, 0).cell
    graph = benchmark.pedantic(pyrel.capture, (cell, samples(cell, 1)), rounds=3, warmup_rounds=1)
    assert graph.classes == 10


@every_cell
@pytest.mark.parametrize("method", METHODS)
def test_lower(benchmark: BenchmarkFixture, name: str, steps: int, method: str) -> None:
    cell = thesis_model(name, steps, 0).cell
    graph = pyrel.capture(cell, samples(cell, 1))
    bounds = np.zeros(graph.input_size), np.ones(graph.input_size)
    program = benchmark(lower, graph, get_method(method), *bounds)
    assert program.load(pyrel.show_config()["isa"]).flops > 0


@every_cell
def test_pack(benchmark: BenchmarkFixture, name: str, steps: int) -> None:
    """Weights into panels for the instruction set."""
    cell = thesis_model(name, steps, 0).cell
    graph = pyrel.capture(cell, samples(cell, 1))
    bounds = np.zeros(graph.input_size), np.ones(graph.input_size)
    program = lower(graph, get_method("deep_taylor"), *bounds)
    assert benchmark(program.load, pyrel.show_config()["isa"]).flops > 0


@every_cell
def test_load(benchmark: BenchmarkFixture, name: str, steps: int, tmp_path: Path) -> None:
    """A saved program, checked and packed."""
    cell = thesis_model(name, steps, 0).cell
    saved = pyrel.Explainer(cell, samples(cell, 1), low=0.0, high=1.0)
    saved.save(tmp_path / "program.pyrel")
    loaded = benchmark(pyrel.Explainer.load, tmp_path / "program.pyrel")
    assert loaded.flops == saved.flops


@every_cell
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", [1, 64, 1024])
def test_explain(
    benchmark: BenchmarkFixture, name: str, steps: int, method: str, batch: int
) -> None:
    cell = thesis_model(name, steps, 0).cell
    x = samples(cell, batch)
    explainer = pyrel.Explainer(cell, x, method, low=0.0, high=1.0)
    e = benchmark(explainer, x)
    if method == "deep_taylor":
        # What the engine promises, of the relevance put in or of what is there.
        size = np.maximum(e.output.max(axis=1), e.relevance.reshape(batch, -1).sum(axis=1))
        assert (np.abs(e.conservation + e.absorbed) <= 1e-5 * size).all()
    else:
        assert (e.relevance >= 0).all() and (e.relevance > 0).any()
