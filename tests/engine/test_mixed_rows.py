# SPDX-License-Identifier: Apache-2.0
"""Rows of a linear node that read pixels and hidden units in turn, as convolutions may."""

import numpy as np
import numpy.typing as npt
import pytest

import pyrel
from pyrel.compiler.graph.nodes import Graph, Linear, Node

ROWS, OUT = 2, 5


def alternating(pairs: int, at_once: bool) -> Graph:
    """Return a graph whose rows read ``pairs`` of a pixel and a hidden unit, as one node or two."""
    rng = np.random.default_rng(pairs)
    pixels = ROWS * pairs
    nodes: list[Node] = []
    size = pixels

    def add(inputs: npt.NDArray[np.intp], weight: npt.NDArray[np.float64], relu: bool) -> None:
        nonlocal size
        nodes.append(Linear(size, inputs, weight, np.full(len(weight), -0.01), relu))
        size += nodes[-1].size

    add(np.arange(pixels)[None], rng.normal(size=(pixels, pixels)), True)
    read = np.stack([np.arange(pixels), np.arange(pixels, 2 * pixels)], 1).reshape(ROWS, -1)
    weight = rng.normal(size=(OUT, 2 * pairs))
    for rows in [read] if at_once else np.split(read, ROWS):
        add(rows, weight, True)
    add(np.arange(size - ROWS * OUT, size)[None], np.abs(rng.normal(size=(2, ROWS * OUT))), False)
    return Graph((pixels,), tuple(nodes), np.arange(size - 2, size), np.zeros(0))


# More runs of inputs of one kind than a product takes are gathered, and then lie between others.
@pytest.mark.parametrize("pairs", [2, 4, 5, 9])
def test_rows_together_are_explained_as_rows_apart(pairs: int) -> None:
    x = np.random.default_rng(1).random((3, ROWS * pairs)).astype(np.float32)
    together, apart = (
        pyrel.Explainer(alternating(pairs, at_once), method="deep_taylor", low=0.0, high=1.0)(x)
        for at_once in (True, False)
    )
    assert together.output.max() > 0.1
    # Three layers of sums of at most 18 terms of one sign, on the way there and back: 6 * 19
    # roundings of 2^-24 in each, 1.4e-5 of the whole.
    bound = 1.4e-5 * together.output.max()
    np.testing.assert_allclose(together.relevance, apart.relevance, rtol=0, atol=bound)
    np.testing.assert_allclose(together.conservation, -together.absorbed, rtol=0, atol=bound)
