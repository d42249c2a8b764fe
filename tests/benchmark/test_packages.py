# SPDX-License-Identifier: Apache-2.0
"""torch autograd, zennit and captum on unrolled cells, within what a benchmark allows."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from benchmark.conftest import Explained
from engine.checks import norms

from pyrel.benchmark import reference
from pyrel.benchmark.contestants import CONTESTANTS, Contestant
from pyrel.benchmark.jobs import Job, make_runner

PAIRS = [
    pytest.param(contestant, method, id=f"{contestant.name}-{method}")
    for contestant in CONTESTANTS
    for method in contestant.methods
    if contestant.name in ("torch-autograd", "zennit", "captum")
]


# captum says at each call that it sets hooks on ReLU modules, which it removes again.
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations:UserWarning")
@pytest.mark.parametrize(("contestant", "method"), PAIRS)
def test_answers(any_cell: Explained, contestant: Contestant, method: str, tmp_path: Path) -> None:
    for package in contestant.packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    weights = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(any_cell.cell.state_dict(), weights)
    runner = make_runner(contestant.maker, Job(any_cell.cell.config(), weights, method, options={}))
    wanted = reference.explain(any_cell.layers, any_cell.rows, method, box=contestant.box)
    decided = wanted.decided
    assert decided.sum() >= 5
    for _ in range(2):  # the hooks of one call must not disturb the next
        given = runner.relevance(runner.run(runner.load(any_cell.rows.copy())))
        error = norms(given - wanted.relevance.reshape(given.shape))
        assert (error[decided] <= wanted.allowed[decided]).all()


def test_large_batches_go_in_parts(
    any_cell: Explained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyrel.benchmark.peers import packages

    weights = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(any_cell.cell.state_dict(), weights)
    job = Job(any_cell.cell.config(), weights, "sensitivity", options={})
    runner = packages.autograd(job)
    x = runner.load(any_cell.rows.copy())
    whole = runner.relevance(runner.run(x))
    monkeypatch.setattr(packages, "_PART", 4)
    parts = runner.relevance(runner.run(x))
    assert parts.shape == whole.shape
    np.testing.assert_allclose(parts, whole, rtol=1e-4, atol=1e-6 * whole.max())
