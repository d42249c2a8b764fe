# SPDX-License-Identifier: Apache-2.0
"""The explanations by hand against the float64 reference of the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference_graph as ref
import torch
from benchmark.conftest import Explained
from engine.checks import norms
from reference import explain
from reference_forward import forward

from pyrel.benchmark import reference
from pyrel.benchmark.peers.by_hand import METHODS, ByHand
from pyrel.benchmark.peers.with_numpy import NumpyLibrary
from pyrel.benchmark.peers.with_torch import TorchLibrary

every_method = pytest.mark.parametrize("method", METHODS)

# Both sides are float64 and add the same terms in another order.
FLOAT64 = 1e-10


@every_method
def test_float64_is_the_reference(any_cell: Explained, method: str) -> None:
    wanted = explain(any_cell.graph(), any_cell.x, method).relevance
    by_hand = ByHand(any_cell.layers, NumpyLibrary(np.float64), method)
    given = by_hand(any_cell.rows.astype(np.float64))
    assert (norms(wanted) > 0).sum() >= 5
    assert (norms(given - wanted.reshape(given.shape)) <= FLOAT64 * norms(wanted)).all()


def test_plus_rule_at_pixels(any_cell: Explained) -> None:
    wanted = explain(any_cell.graph(high=np.inf), any_cell.x, "deep_taylor").relevance
    by_hand = ByHand(any_cell.layers, NumpyLibrary(np.float64), "deep_taylor", box=False)
    given = by_hand(any_cell.rows.astype(np.float64))
    assert (norms(given - wanted.reshape(given.shape)) <= FLOAT64 * norms(wanted)).all()


def float32(library: str, by_hand_of: Any, x: Any) -> Any:
    if library == "numpy":
        return by_hand_of(NumpyLibrary())(x)
    return by_hand_of(TorchLibrary())(torch.from_numpy(x)).numpy()


@every_method
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_float32_is_within_what_is_allowed(any_cell: Explained, library: str, method: str) -> None:
    """The same bounds that a benchmark holds every contestant to."""
    wanted = reference.explain(any_cell.layers, any_cell.rows, method)
    given = float32(library, lambda do: ByHand(any_cell.layers, do, method), any_cell.rows)
    assert given.dtype == np.float32
    decided = wanted.decided
    assert decided.sum() >= 5
    assert (norms(given - wanted.relevance)[decided] <= wanted.allowed[decided]).all()


@every_method
def test_undecided_is_what_the_tests_find_in_doubt(any_cell: Explained, method: str) -> None:
    bounds = explain(any_cell.graph(), any_cell.x, method)
    ours = reference.explain(any_cell.layers, any_cell.rows, method)
    rows = np.arange(len(any_cell.x))
    unknown = bounds.uncertainty[rows, bounds.target]
    doubtful = bounds.start <= unknown if method == "deep_taylor" else bounds.margin <= 1
    assert not (ours.decided & doubtful).any()
    highest = np.sort(bounds.output, axis=1)
    lead = highest[:, -1] - (highest[:, -2] if highest.shape[1] > 1 else -np.inf)
    clear = lead > 2 * bounds.uncertainty.max(axis=1)
    assert (ours.decided | doubtful | ~clear | (norms(ours.relevance) == 0)).all()


def test_zeros_are_counted(any_cell: Explained) -> None:
    any_cell.x.reshape(len(any_cell.x), -1)[:, 0] = 0.0
    zeros = reference.explain(any_cell.layers, any_cell.rows, "gradient").zeros
    graph = any_cell.graph()
    values = forward(graph, any_cell.x).values
    hidden = [values[node.serial] for node in ref.reachable(graph) if isinstance(node, ref.Relu)]
    share = (np.concatenate(hidden, axis=1) == 0).mean()
    assert zeros["activations"] == pytest.approx(share, abs=1e-12)
    assert zeros["input"] == pytest.approx(1 / any_cell.x[0].size)


def test_other_methods_are_refused(any_cell: Explained) -> None:
    with pytest.raises(ValueError, match="no 'lrp_epsilon' by hand; there are deep_taylor"):
        ByHand(any_cell.layers, NumpyLibrary(), "lrp_epsilon")
