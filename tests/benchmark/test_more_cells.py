# SPDX-License-Identifier: Apache-2.0
"""ConvDeep, LSTM and GRU by hand against the float64 reference of the tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_graph as ref
import safetensors.torch
import torch
from engine.cells import cell_graph
from engine.checks import norms
from reference import explain
from reference_recurrent import recurrent

import pyrel
from pyrel.benchmark import noisy
from pyrel.benchmark.cases import Model, cases_of, thesis_cell
from pyrel.benchmark.contestants import EPSILON, chosen
from pyrel.benchmark.gated import GRU, LSTM
from pyrel.benchmark.jobs import Job
from pyrel.benchmark.layers import softplus_bias
from pyrel.benchmark.measuring import run
from pyrel.benchmark.peers.conv_by_hand import ConvByHand
from pyrel.benchmark.peers.lstm_lrp import LstmLrp
from pyrel.benchmark.peers.runners import torch_by_hand
from pyrel.benchmark.peers.with_torch import TorchLibrary
from pyrel.benchmark.results import Protocol
from pyrel.benchmark.work import cell_flops
from pyrel.nn import Cell, ConvDeep

# Both sides are float64 and add the same terms in another order; denominators of LRP are at
# least 1e-3, where terms of size 1 may cancel.
FLOAT64 = 1e-10
CELLS = ("ConvDeep", "LSTM", "GRU")


def cell_of(name: str) -> Cell:
    torch.manual_seed(4)
    if name == "ConvDeep":
        cell: Cell = ConvDeep(3, (7, 5), classes=3, sizes=(4, 5, 9, 7), recurrent=6)
    else:
        cell = {"LSTM": LSTM, "GRU": GRU}[name](4, (5,), classes=3, sizes=(6, 6))
    for parameter in cell.parameters():
        parameter.data.mul_(1.5)
    return cell.eval().requires_grad_(False)


def reference_of(cell: Cell) -> ref.Node:
    x = ref.input_node((cell.steps, *cell.step_shape), 0.0, 1.0)
    if isinstance(cell, ConvDeep):
        return cell_graph(cell, x)
    last = ref.take(recurrent(cell.layers, x).steps, cell.steps - 1)
    bias = softplus_bias(cell.output.bias.detach().numpy())
    return ref.linear(last, cell.output.weight.detach().double().numpy(), bias)


@pytest.fixture(params=CELLS)
def job(request: pytest.FixtureRequest, tmp_path: Path) -> Job:
    cell = cell_of(request.param)
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(cell.state_dict(), path)
    method = "deep_taylor" if request.param == "ConvDeep" else "lrp_epsilon"
    return Job(cell.config(), path, method, {})


def samples(job: Job) -> Any:
    shape = (19, job.config["steps"], int(np.prod(job.config["step_shape"])))
    return np.random.default_rng(5).random(shape, np.float32)


def test_float64_is_the_reference(job: Job) -> None:
    cell, x = job.cell(), samples(job)
    image = x.reshape(-1, cell.steps, *cell.step_shape)
    wanted = explain(reference_of(cell), image, job.method, epsilon=EPSILON).relevance
    wanted = wanted.reshape(x.shape)
    assert (norms(wanted) > 0).sum() >= 5
    by_hand = torch_by_hand(job, TorchLibrary(torch.float64))
    given = by_hand(torch.from_numpy(x.astype(np.float64))).numpy()
    assert (norms(given - wanted) <= FLOAT64 * norms(wanted)).all()
    if job.method == "lrp_epsilon":
        published = LstmLrp(job.config, job.state(), EPSILON)(x)
        assert (norms(published - wanted) <= FLOAT64 * norms(wanted)).all()
        other = LstmLrp(job.config, job.state(), EPSILON, bias_factor=1.0)(x)
        assert (norms(other - wanted) > 1e-3 * norms(wanted)).all()


def test_float32_is_within_what_is_allowed(job: Job) -> None:
    x = samples(job)
    wanted = noisy.explain(job, x)
    given = torch_by_hand(job, TorchLibrary())(torch.from_numpy(x)).numpy()
    assert given.dtype == np.float32
    assert wanted.decided.sum() >= 5
    error = norms(given - wanted.relevance)[wanted.decided]
    assert (error <= wanted.allowed[wanted.decided]).all()
    assert (wanted.allowed <= 2e-3 * norms(wanted.relevance))[wanted.decided].all()


def test_everybody_answers_right() -> None:
    """In one run: each of those who answer is a process of its own, for both methods."""
    cells = [cell_of(name) for name in CELLS[:2]]
    models = [Model(cell, "weights", "inputs") for cell in cells]
    cases = cases_of(models, ["deep_taylor", "lrp_epsilon"], [3])
    results = run(cases, chosen(["torch", "lstm-lrp"]), Protocol(blocks=1, calls=1, pause=0.0))
    assert [case.cell for case in results.cases] == list(CELLS[:2])
    for cell, case in zip(cells, results.cases, strict=True):
        assert case.names == ["pyrel", "torch"] + ["lstm-lrp"] * (case.method == "lrp_epsilon")
        assert all(excess is not None and excess <= 1 for excess in case.excesses.values())
        assert case.flops == cell_flops(cell, case.method)


def test_useful_work_of_convolutions() -> None:
    """Taps inside the image: 5 per side but 2 · (2 + 1) at its ends; 3 but 2 · 1 for 3 x 3."""
    cell = thesis_cell("ConvDeepWide", 12)
    first = (5 * 28 - 6) * (5 * 7 - 6) * 24
    second = (3 * 14 - 2) * (3 * 4 - 2) * 24 * 48
    state = 7 * 2 * 48 * 256
    between = 2 * 128 * 256
    products = 12 * (first + second + state) + 11 * between + 256 * 128 + 128 * 10
    assert cell_flops(cell, "deep_taylor") == 6 * products
    assert sum(p.numel() for p in thesis_cell("ConvDeep", 12).parameters()) == 151_802


@pytest.mark.parametrize(("name", "gates"), [("LSTM", 4), ("GRU", 3)])
def test_useful_work_of_gates(name: str, gates: int) -> None:
    rows = 25 * 200 * 300 + 25 * 300 * 300 + 2 * 24 * 300 * 300
    assert cell_flops(thesis_cell(name, 25), "lrp_epsilon") == 2 * (
        (gates + 1) * rows + 2 * 300 * 5
    )


def test_combinations_that_nobody_wrote_are_left_out() -> None:
    models = [Model(cell_of(name), "weights", "inputs") for name in ("ConvDeep", "LSTM")]
    cases = cases_of(models, ["sensitivity", "deep_taylor", "lrp_epsilon"], [1])
    found = [(case.cell, case.method) for _, case in cases]
    assert found == [("ConvDeep", "deep_taylor"), ("LSTM", "lrp_epsilon")]
    with pytest.raises(ValueError, match=r"none of sensitivity .*LSTM: lrp_epsilon"):
        cases_of(models, ["sensitivity"], [1])
    nobodys = Model(pyrel.nn.RLSTM(2), "weights", "inputs")
    with pytest.raises(ValueError, match="RLSTM: none"):
        cases_of([nobodys], ["deep_taylor"], [1])


def test_sum_pooling_is_refused() -> None:
    config = ConvDeep(2, (5, 3), pooling="sum").config()
    state = {k: v.numpy() for k, v in pyrel.nn.build(config).state_dict().items()}
    with pytest.raises(ValueError, match="max only"):
        ConvByHand(config, state, TorchLibrary())
