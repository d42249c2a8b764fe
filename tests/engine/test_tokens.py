# SPDX-License-Identifier: Apache-2.0
"""Models whose input is token ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import unchecked, unchecked_at
from engine.sequences import VOCABULARY, Last, Tokens, assert_same, batch, captured, made, shared
from torch import Tensor, nn

import pyrel
from pyrel.compiler.graph.nodes import Embedding, Graph, Linear

INTEGERS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64)
APART = ("smoothgrad", "occlusion")  # it takes floats; it needs to be told of a baseline


@pytest.mark.parametrize("method", [n for n in pyrel.methods.names() if n not in APART])
def test_relevance_is_that_of_tokens(method: str) -> None:
    x = batch(Tokens, 5, 6)
    e = shared(Tokens, method)(x)
    assert e.relevance.shape == (5, 6)
    assert e.relevance.dtype == np.float32
    assert np.abs(e.relevance).max() > 0


def test_a_token_has_what_its_embedding_has() -> None:
    """Relevance of a token is the sum over its embedding's elements, as their input's."""
    model, x = made(Tokens), batch(Tokens, 5, 6)
    rows = model.table(torch.from_numpy(x)).detach().numpy()
    for method in ("gradient", "sensitivity", "gradient_x_input", "lrp_epsilon"):
        inner = pyrel.explain(model.rest, rows, method)
        e = shared(Tokens, method)(x)
        # Sums of four numbers, in whatever order.
        wanted = inner.relevance.sum(axis=2)
        np.testing.assert_allclose(
            e.relevance, wanted, rtol=0, atol=4 * 2.0**-23 * np.abs(inner.relevance).max()
        )
        np.testing.assert_array_equal(e.output, inner.output)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_of_any_type(dtype: Any) -> None:
    x = batch(Tokens, 5, 6)
    wanted = shared(Tokens, "lrp_epsilon")(x)
    given = x.astype(dtype)
    assert_same(shared(Tokens, "lrp_epsilon")(given), wanted)
    tensor = torch.from_numpy(given)
    e = unchecked_at(made(Tokens), tensor, method="lrp_epsilon")(tensor)
    assert isinstance(e.relevance, torch.Tensor)
    assert_same(e, wanted)


@pytest.mark.parametrize("value", [-1, VOCABULARY, 2**24 + 1, 2**53 + 1])
def test_ids_without_a_row(value: int) -> None:
    x = batch(Tokens, 5, 6)
    x[3, 4], x[4, 0] = value, -9
    for given in (x, torch.from_numpy(x)):
        with pytest.raises(ValueError, match=rf"from 0 to 10, got x\[3, 4\] = {value}$"):
            shared(Tokens, "gradient")(given)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((2, 6), np.float32), np.zeros((2, 6)), np.zeros((2, 6), bool), torch.zeros(2, 6),
        torch.zeros((2, 6), dtype=torch.bool), np.zeros((2, 6), "U1"), np.zeros((2, 6), complex),
    ],
    ids=lambda x: f"{type(x).__name__}-{x.dtype}",
)  # fmt: skip
def test_what_are_no_ids(x: Any) -> None:
    with pytest.raises(TypeError, match=r"token ids below 11 of shape \(n, T\)"):
        shared(Tokens, "gradient")(x)


def test_integers_for_a_model_of_floats() -> None:
    with pytest.raises(TypeError, match=r"floats.*astype\('float32'\)"):
        shared(Last, "gradient")(np.zeros((2, 6, 4), np.int64))


def test_a_range_makes_no_sense() -> None:
    for bounds in ({"low": 0, "high": 10}, {"low": 0}, {"high": 10}):
        with pytest.raises(ValueError, match="leave them out"):
            unchecked(captured(Tokens, 6), batch(Tokens, 2, 6), "gradient", **bounds)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool"])
def test_an_example_of_floats_is_no_example_of_tokens(dtype: str) -> None:
    wanted = (
        rf"^example: wanted integers .* of shape \(n, 6\), got dtype {dtype} and shape \(2, 6\)$"
    )
    for give in (pyrel.Explainer, pyrel.explain):
        with pytest.raises(TypeError, match=wanted):
            give(made(Tokens), np.zeros((2, 6), dtype), "gradient")


def test_an_example_of_integers_is_no_example_of_floats() -> None:
    with pytest.raises(TypeError, match=r"floats of shape \(n, 6, 4\), got dtype torch.int64"):
        unchecked(made(Last), torch.zeros((2, 6, 4), dtype=torch.int64), "gradient")
    with pytest.raises(pyrel.UnsupportedModelError, match="give other numbers as floats"):
        unchecked(nn.Linear(4, 2), np.zeros((2, 4), np.int64), "gradient")


def test_explain_keeps_ids_and_floats_apart() -> None:
    class Either(nn.Module):
        """Takes ids or what is looked up."""

        def __init__(self) -> None:
            super().__init__()
            self.table, self.out = nn.Embedding(5, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(x if x.is_floating_point() else self.table(x[:, 0]))

    model = made(Either)
    ids = np.array([[1, 0, 0, 0, 0, 0]])
    assert pyrel.explain(model, ids, "gradient").relevance[0, 0] != 0
    x = np.ones((1, 6), np.float32)
    np.testing.assert_array_equal(
        pyrel.explain(model, x, "gradient", target=0).relevance[0], model.out.weight[0].detach()
    )


def test_a_graph_of_tokens_and_a_table_that_is_too_large() -> None:
    def graph(rows: int) -> Graph:
        table = np.zeros((rows, 1))
        table[5:8] = 1.0
        look_up = Embedding(16, np.arange(3), table)
        total = Linear(32, np.arange(16, 19)[None], np.ones((1, 3)), np.zeros(1))
        return Graph((3,), (look_up, total), np.array([32]), np.zeros(0), rows)

    e = unchecked(graph(9), method="gradient_x_input")(np.array([[5, 8, 0], [7, 6, 5]]))
    np.testing.assert_array_equal(e.relevance, [[1, 0, 0], [1, 1, 1]])
    with pytest.raises(pyrel.UnsupportedModelError, match="16,777,217 rows"):
        unchecked(graph(2**24 + 1), method="gradient")
