# SPDX-License-Identifier: Apache-2.0
"""`Explanation.amplification`: the largest Σ|R| on the way, over what was put in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from engine.cases import by_name, compiled, expected, inputs
from engine.cells import CELL_CASES
from engine.checks import RELATIVE, assert_amplification
from engine.logs import heard
from engine.zoo import ZOO
from reference import GRADIENTS
from torch import nn

import pyrel
from pyrel.engine.stability import UNSTABLE


@pytest.mark.parametrize("method", GRADIENTS)
def test_gradients(method: str) -> None:
    case = by_name("Elman")
    e, wanted = compiled(case, method)(inputs(case)), expected(case, method)
    assert_amplification(e, wanted, method, case.name)


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_half_gates(name: str) -> None:
    exhibit = next(exhibit for exhibit in ZOO if exhibit.name.startswith(name))
    e = exhibit.compiled("lrp_epsilon", gates="half")(exhibit.inputs)
    wanted = exhibit.expected("lrp_epsilon", gates="half")
    assert_amplification(e, wanted, "lrp_epsilon", exhibit.name)


def test_deep_taylor_on_relus_makes_nothing() -> None:
    """Where every share is ≥ 0, Σ|R| falls from the start on: it is 1 but for rounding."""
    for case in (by_name("Elman"), *CELL_CASES[:3]):
        e = compiled(case, "deep_taylor")(inputs(case))
        found = e.amplification[e.amplification != 0]
        assert found.size
        np.testing.assert_allclose(found, 1.0, rtol=RELATIVE)


class Cancelling(nn.Module):
    """Two units of which the score is the small difference, over ReLUs that are not zero."""

    def __init__(self, difference: float) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(1, 2, bias=False), nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.one.weight.copy_(torch.tensor([[1.0], [2.0]]))
            self.two.weight.copy_(torch.tensor([[2.0, difference - 1.0]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(torch.relu(self.one(x)))


def test_a_difference_of_two_units_by_hand() -> None:
    """f = 2x + (d − 1) 2x = 2 d x: relevance x / d of the units is 1/d times the score, twice."""
    difference = 2.0**-10
    x = np.array([[1.0], [2.0]], np.float32)
    e = pyrel.Explainer(Cancelling(difference), x, method="lrp_epsilon", epsilon=1e-12)(x)
    wanted = (1 + (1 - difference)) / difference
    np.testing.assert_allclose(e.amplification, wanted, rtol=RELATIVE)
    np.testing.assert_allclose(np.abs(e.relevance[:, 0]), e.output[:, 0], rtol=1e-3)


def test_nothing_put_in() -> None:
    module = nn.Linear(3, 2, bias=False)
    for method in ("lrp_epsilon", "deep_taylor"):
        e = pyrel.Explainer(module, np.ones((2, 3), np.float32), method=method)(
            np.zeros((5, 3), np.float32)
        )
        np.testing.assert_array_equal(e.amplification, np.zeros(5))


@pytest.fixture
def records() -> Iterator[list[str]]:
    """What the logger `pyrel` says."""
    with heard() as texts:
        yield texts


def test_one_warning_for_each_explainer(records: list[str]) -> None:
    """From 2^-23 · A ≥ 1 % on: A is 2/d here, and the sample with a score of 0 has none."""
    x = np.array([[1.0], [0.0], [2.0]], np.float32)
    stable = pyrel.Explainer(Cancelling(2.0**-15), x, method="lrp_epsilon", epsilon=1e-12)
    stable(x)
    assert records == []
    for _ in range(2):
        unstable = pyrel.Explainer(Cancelling(2.0**-16), x, method="lrp_epsilon", epsilon=1e-12)
        unstable(x)
        unstable(torch.from_numpy(x))
    assert len(records) == 2
    assert records[0] == records[1]
    assert records[0].startswith("WARNING the relevance on the way to x[")
    assert "2 of 3 samples" in records[0]
    assert pytest.approx(0.01 * 2**23) == UNSTABLE


def test_gradients_and_deep_taylor_do_not_warn(records: list[str]) -> None:
    x = np.full((2, 1), 1e6, np.float32)
    module = Cancelling(2.0**-16)
    for method in (*GRADIENTS, "deep_taylor"):
        pyrel.Explainer(module, x, method=method, low=0.0, high=1e6)(x)
    compiled(by_name("Elman"), "deep_taylor")(inputs(by_name("Elman")))
    assert records == []


def test_the_library_leaves_logging_to_its_user() -> None:
    """Importing pyrel configures nothing, so Python prints warnings where its user does not."""
    code = "import logging, pyrel; logging.getLogger('pyrel').warning('heard')"
    code += "; assert not logging.root.handlers + logging.getLogger('pyrel').handlers"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "heard\n")
