# SPDX-License-Identifier: Apache-2.0
"""Rows of a convolution with few channels are joined: fewer rows, the same explanation."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pyrel
from pyrel.compiler.graph.facts import Facts
from pyrel.compiler.graph.nodes import Graph, Linear
from pyrel.compiler.passes import join_positions as joining
from pyrel.compiler.passes.contiguous import lay_out

LINES, WIDTH = 6, 7


def classifier(channels: int, maps: int, stride: int = 1) -> nn.Sequential:
    torch.manual_seed(channels)
    convolution = nn.Conv2d(channels, maps, 5, padding=2, stride=stride)
    size = maps * -(-LINES // stride) * -(-WIDTH // stride)
    return nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), nn.Linear(size, 4)).eval()


def captured(channels: int, maps: int, stride: int = 1) -> Graph:
    x = np.zeros((1, channels, LINES, WIDTH), np.float32)
    return pyrel.capture(classifier(channels, maps, stride), x)


def unknown(graph: Any) -> tuple[Any, Any]:
    """Bounds of an input of which nothing is known."""
    bound = np.full(graph.input_size, np.inf)
    return -bound, bound


def convolution(graph: Graph) -> Linear:
    return next(
        n
        for n in lay_out(Facts(graph, *unknown(graph)), True).nodes
        if isinstance(n, Linear) and n.size > 4
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_a_line_of_positions_is_one_row_without_the_padding_beside_it(stride: int) -> None:
    node = convolution(captured(1, 3, stride))
    positions = -(-WIDTH // stride)
    assert node.inputs.shape == (-(-LINES // stride), 5 * WIDTH)
    assert node.weight.shape == (3 * positions, 5 * WIDTH)


def test_rows_that_are_long_enough_stay_apart() -> None:
    node = convolution(captured(32, 32))
    assert node.inputs.shape == (LINES * WIDTH, 5 * 5 * 32)


# Without bounds deep Taylor takes the rule of squared weights at the input.
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (None, None)])
@pytest.mark.parametrize("method", ["deep_taylor", "lrp_epsilon", "sensitivity"])
@pytest.mark.parametrize("stride", [1, 2])
def test_joined_rows_are_explained_as_rows_apart(
    method: str,
    bounds: tuple[float | None, float | None],
    stride: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = captured(1, 3, stride)
    x = np.random.default_rng(2).random((3, 1, LINES, WIDTH), np.float32)
    low, high = bounds
    joined = pyrel.Explainer(graph, method=method, low=low, high=high)(x)
    monkeypatch.setattr(joining, "_CLEAR", 0.0)
    assert convolution(graph).inputs.shape[1] == 25
    apart = pyrel.Explainer(graph, method=method, low=low, high=high)(x)
    # Zeros between the weights change no sum.
    np.testing.assert_array_equal(joined.output, apart.output)
    np.testing.assert_allclose(
        joined.relevance, apart.relevance, rtol=0, atol=1e-5 * np.abs(apart.relevance).max()
    )
    np.testing.assert_allclose(joined.absorbed, apart.absorbed, rtol=0, atol=1e-5)
    if not np.isnan(joined.conservation).any():
        # Padding takes no part of it.
        np.testing.assert_allclose(joined.conservation, -joined.absorbed, rtol=0, atol=1e-5)
