# SPDX-License-Identifier: Apache-2.0
"""Masks made of token ids: tables by id, that no gradient and no relevance goes through."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import captured_but_for_one_step, unchecked
from engine.mask_models import MODELS, Gated, Largest, Layers, Masked, Mean, Steps, Times, reference
from engine.sequences import assert_same, made
from torch import Tensor, nn

import pyrel
from pyrel.compiler.capture.capture import Capture, capture_at

# Padded at the end, in between, not at all, everywhere.
IDS = np.array([[1, 2, 3, 4, 0, 0], [5, 0, 6, 0, 4, 1], [3, 1, 5, 6, 2, 4], [0, 0, 0, 0, 0, 0]])
LOOPS = {make for make in MODELS if issubclass(make, Steps)}


def assert_gradients(explainer: pyrel.Explainer, model: Masked, x: Any) -> None:
    e = explainer(x)
    output, relevance = reference(model, x, e.target)
    # Some hundred terms of size one or less, of float32; −1e9 is an output where all is padding.
    size = np.maximum(1, np.abs(output).max(1, keepdims=True))
    assert (np.abs(e.output - output) <= 200 * 2.0**-23 * size).all()
    np.testing.assert_allclose(e.relevance, relevance, rtol=0, atol=200 * 2.0**-23)


@functools.cache
def captured(make: type[Masked], steps: int) -> Capture:
    if make in LOOPS:
        return capture_at(made(make), IDS[:, :steps])
    return captured_but_for_one_step(made(make), IDS[:, :steps])


@functools.cache
def compiled(make: type[Masked]) -> pyrel.Explainer:
    return pyrel.Explainer(captured(make, IDS.shape[1]), method="gradient")


@pytest.mark.parametrize("make", MODELS)
def test_outputs_and_gradients_are_torchs(make: type[Masked]) -> None:
    model, explainer = made(make), compiled(make)
    assert "gradients" in str(explainer.checked) and "no gradients" not in str(explainer.checked)
    assert_gradients(explainer, model, IDS)
    assert_gradients(explainer, model, IDS[:1])


@pytest.mark.parametrize("make", [m for m in MODELS if m not in LOOPS])
def test_any_number_of_steps(make: type[Masked]) -> None:
    model, explainer = made(make), compiled(make)
    assert explainer.any_steps
    rng = np.random.default_rng(0)
    for steps in (3, 19):
        assert_gradients(explainer, model, rng.integers(0, 7, (3, steps)))


def start_of(e: pyrel.Explanation, method: str) -> Any:
    start = np.take_along_axis(e.output, e.target[:, None], 1)[:, 0]
    return np.maximum(start, 0) if method == "deep_taylor" else start


def graph(make: type[Masked], steps: int) -> pyrel.Graph:
    """Make the graph for some steps; a loop is captured for these alone."""
    return captured(make, steps if make in LOOPS else IDS.shape[1]).graph(steps)


@pytest.mark.parametrize("options", [{}, {"gates": "half"}], ids=str)
@pytest.mark.parametrize("method", ["lrp_epsilon", "deep_taylor"])
@pytest.mark.parametrize("make", MODELS)
def test_relevance_is_conserved(make: type[Masked], method: str, options: dict[str, Any]) -> None:
    x = IDS[:3]
    if method == "deep_taylor" and not make.bounded:
        with pytest.raises(pyrel.UnsupportedModelError, match="may be negative; try lrp_epsilon"):
            pyrel.Explainer(graph(make, 6), method=method, **options)
        return
    check = None if options else "all"
    e = pyrel.Explainer(graph(make, 6), method=method, check=check, **options)(x)
    total = e.relevance.sum(1) + e.absorbed
    np.testing.assert_allclose(total, start_of(e, method), rtol=1e-4, atol=1e-5)
    assert np.abs(e.relevance).max() > 1e-3
    if method == "lrp_epsilon" and make in {Times, Gated, *LOOPS}:
        np.testing.assert_array_equal(e.relevance[x == 0], 0)


@pytest.mark.parametrize("make", [m for m in MODELS if m.as_alone])
def test_padding_at_the_end_changes_nothing(make: type[Masked]) -> None:
    """A sequence with padding behind it is explained as the sequence alone is."""
    padded = np.array([[2, 5, 1, 3, 0, 0]])
    for method, tolerance in (("gradient", 1e-5), ("lrp_epsilon", 1e-3)):
        e = unchecked(graph(make, 6), method=method)(padded)
        alone = unchecked(graph(make, 4), method=method)(padded[:, :4])
        np.testing.assert_allclose(e.output, alone.output, rtol=0, atol=1e-6)
        # The stabiliser takes some of each sum, of which there are more.
        allowed = tolerance * np.abs(alone.relevance).max()
        np.testing.assert_allclose(e.relevance[:, :4], alone.relevance, rtol=0, atol=allowed)
        np.testing.assert_array_equal(e.relevance[:, 4:], 0)


@pytest.mark.parametrize("method", ["gradient", "lrp_epsilon"])
@pytest.mark.parametrize("make", [Times, Mean, Largest, Steps, Gated])
def test_saved_and_copied(make: type[Masked], method: str, tmp_path: Path) -> None:
    follows_steps = make in {Times, Mean}  # and so is saved for any number of them
    explainer = unchecked(captured(make, 6) if follows_steps else graph(make, 6), method=method)
    explainer.save(tmp_path / "program")
    wanted = explainer(IDS[:3])
    assert_same(pyrel.Explainer.load(tmp_path / "program")(IDS[:3]), wanted)
    assert_same(copy.deepcopy(explainer)(IDS[:3]), wanted)


def test_columns_with_bounds_of_their_own() -> None:
    class Columns(Masked):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.Embedding(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            m = (x != 0).float()
            one, two = self.table(x[..., 0]) * m[..., :1], self.second(x[..., 1]) * m[..., 1:]
            return self.out((one + two).sum(1))

    model, x = made(Columns), np.array([[[1, 11], [0, 8], [6, 0]], [[3, 2], [1, 0], [0, 0]]])
    e = pyrel.Explainer(model, x, "lrp_epsilon", check="all")(x)
    with torch.no_grad():
        np.testing.assert_allclose(e.output, model(torch.from_numpy(x)), rtol=0, atol=1e-5)
    assert ((e.relevance == 0) == (x == 0)).all()


class Odd(Layers):
    """What is refused."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def reduced(self, h: Tensor, x: Tensor) -> Tensor:
        m = (x != 0)[..., None]
        match self.what:
            case "nan":
                return h.masked_fill(~m, torch.nan).amax(1)
            case "neighbours":
                return (h[:, 1:] * (x[:, 1:] == x[:, :-1])[..., None]).sum(1)
            case _:
                return h.sum(1) / h.round().sum(1)


@pytest.mark.parametrize(
    ("what", "operator", "why"),
    [
        ("nan", "masked_fill", "chooses nan; take one number"),
        ("neighbours", "eq", "combines several token ids.*Multiply masks"),
        ("score", "round", "it is a step function"),
    ],
)
def test_refused_by_name(what: str, operator: str, why: str) -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match=why) as r:
        pyrel.Explainer(Odd(what).eval(), IDS, "gradient")
    assert r.value.operator == f"aten.{operator}"


def test_ids_that_no_embedding_reads() -> None:
    class Kinds(Masked):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.table(x[..., 0]) * (x[..., 1] == 3)[..., None]).sum(1)

    with pytest.raises(pyrel.UnsupportedModelError, match="ids that no embedding reads"):
        pyrel.Explainer(made(Kinds), np.zeros((2, 4, 2), int), "gradient")


def test_a_mask_of_floats_has_no_rule_that_conserves() -> None:
    class Floats(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (x != 0)

    x = np.array([[1, 0, -2], [3, -1, 0]], np.float32)
    model = Floats()
    e = pyrel.Explainer(model, x, "gradient")(x, 0)
    np.testing.assert_array_equal(e.relevance, [[1, 0, 0]] * 2)
    for gates in ("signal", "half"):
        with pytest.raises(pyrel.UnsupportedModelError, match="values of the input are compared"):
            pyrel.Explainer(model, x, "lrp_epsilon", gates=gates)


class TwoMasks(Masked):
    """Attention of the third step to those before it that are no padding, by two masks."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        causal = torch.full((6, 6), -torch.inf).triu(1)
        scores, padding = e @ e.mT, (x == 0)[:, None]
        match self.way:
            case "added, filled":
                scores = (scores + causal).masked_fill(padding, -torch.inf)
            case "filled, filled":
                scores = scores.masked_fill(causal < 0, -torch.inf).masked_fill(padding, -torch.inf)
            case _:
                scores = scores.masked_fill(padding, -torch.inf) + causal
        return (scores.softmax(-1) @ e)[:, 2]


@pytest.mark.parametrize("way", ["added, filled", "filled, filled", "filled, added"])
def test_what_one_mask_leaves_out_another_may_too(way: str) -> None:
    torch.manual_seed(0)
    model = TwoMasks(way).eval()
    graph = pyrel.capture(model, IDS[:3])
    assert_gradients(unchecked(graph, method="gradient"), model, IDS[:3])
    e = unchecked(graph, method="lrp_epsilon")(IDS[:3])
    assert not e.relevance[IDS[:3] == 0].any() and not e.relevance[:, 3:].any()


def test_a_number_or_infinity_by_token_ids_is_refused() -> None:
    class Either(TwoMasks):
        def pooled(self, e: Tensor, x: Tensor) -> Tensor:
            scores = (e @ e.mT).masked_fill(torch.eye(6).bool(), -torch.inf)
            return (scores.masked_fill((x == 0)[:, None], -1e9).softmax(-1) @ e)[:, 2]

    with pytest.raises(pyrel.UnsupportedModelError, match="between numbers and infinity"):
        pyrel.capture(Either("").eval(), IDS[:3])
