# SPDX-License-Identifier: Apache-2.0
"""What tests of methods share that run changed copies of each sample."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from engine.cells import CELL_CASES, cell_graph
from engine.checks import RELATIVE, norms, rows, unchecked
from engine.zoo import ZOO, Exhibit
from reference import Reference, explain

import pyrel

Doubles = npt.NDArray[np.float64]

NAMED = {exhibit.name: exhibit for exhibit in ZOO} | {
    case.name: Exhibit(case.name, case.module, cell_graph, case.shape, case.low, case.high)
    for case in CELL_CASES
}
# Feed-forward, thesis cells, LSTM and GRU.
MODELS = (
    *("max-pool", "average-pool", "tanh", "layer-norm"),
    *("Shallow-T2-17", "Deep-T4-16-15-17", "DeepV2-T4-15-7-31-32", "ConvDeep-T3-4-3-17-8"),
    *("ConvDeepPlus-T4-3-5-9-7", "RLSTM-T5-17-9", "LSTM-plain-last", "GRU-plain-last"),
)
FEW = 6


def made(exhibit: Exhibit, method: str, **options: Any) -> pyrel.Explainer:
    """Compile an exhibit."""
    return unchecked(exhibit.captured, exhibit.inputs[:2], method, **exhibit.domain, **options)


def at_points(exhibit: Exhibit, points: Doubles, target: npt.NDArray[np.int64]) -> Reference:
    """Return the float64 gradients at points (copies, samples, ...), one sample after another."""
    return explain(
        exhibit.graph,
        points.reshape(-1, *exhibit.shape),
        "gradient",
        np.tile(target, len(points)),
    )


def assert_sum_of_gradients(found: Any, wanted: Doubles, terms: Doubles, at: Reference) -> None:
    """Relevance is within what float32 keeps of its terms (copies, samples, ...).

    Samples for which a ReLU at some copy is within rounding of 0 are left out, which must be few;
    twice the margin, as the copies themselves are rounded.
    """
    safe = (at.margin.reshape(len(terms), -1) > 2).all(axis=0)
    assert safe.mean() >= 0.5
    size = np.abs(terms).sum(axis=0)
    scale = np.abs(terms) / np.maximum(np.abs(at.relevance.reshape(terms.shape)), 1e-300)
    doubt = rows((scale * at.doubt.reshape(terms.shape)).sum(axis=0))
    allowed = RELATIVE * norms(size) + np.sqrt((doubt**2).sum(axis=1))
    error = norms(rows(found) - rows(wanted))
    assert (error <= allowed)[safe].all(), (error / allowed)[safe].max()
    assert norms(wanted).min() > 0


def peak_of(call: Callable[[], object]) -> int:
    """Return the bytes that a call holds at most, beyond what is there before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
