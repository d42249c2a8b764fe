# SPDX-License-Identifier: Apache-2.0
"""What models of several inputs are refused for: wrong calls, examples and bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine.several_models import (
    CASES,
    GIVEN,
    MODEL,
    STATIC,
    WithStatic,
    X,
    same,
)
from torch import nn

import pyrel


def wrong_calls() -> dict[str, tuple[Any, type[Exception], str]]:
    return {
        "missing": ({"x": X}, ValueError, r"x: static is missing; the inputs are x, static"),
        "extra": ({**GIVEN, "y": X}, ValueError, r"x: y is no input; the inputs are x, static"),
        "array": (X, TypeError, r"wanted a dictionary of the inputs x, static, .*; got Tensor"),
        "tuple": (
            (X, STATIC),
            TypeError,
            "^x: wanted a dictionary of the inputs x, static, as in the example; got a tuple$",
        ),
        "too deep": ({**GIVEN, "static": (X,)}, TypeError, "static: wanted one input, got a tuple"),
        "shape": ({**GIVEN, "static": X}, ValueError, r"static: wanted floats of shape \(n, 5\)"),
        "width": ({**GIVEN, "x": X[..., :2]}, ValueError, r"x: wanted floats of shape \(n, T, 3\)"),
        "sample": ({**GIVEN, "static": STATIC[0]}, ValueError, "static: .* give a batch of one"),
        "batch": (
            {**GIVEN, "static": STATIC[:2]},
            ValueError,
            "static: wanted 5 samples, as x has",
        ),
        "type": (
            {**GIVEN, "static": STATIC.int()},
            TypeError,
            "static: wanted floats .*, got dtype",
        ),
        "none": ({**GIVEN, "static": None}, TypeError, "static: wanted .* got None"),
        "nan": (
            {**GIVEN, "static": STATIC * np.nan},
            ValueError,
            r"static: .* static\[0, 0\] = nan",
        ),
        "key": ({**GIVEN, 3: X}, TypeError, "wanted names as keys"),
    }


@pytest.fixture(scope="module")
def taking_two() -> pyrel.Explainer:
    return pyrel.Explainer(MODEL, GIVEN, "gradient")


@pytest.mark.parametrize("case", wrong_calls())
def test_a_wrong_input_is_named(taking_two: pyrel.Explainer, case: str) -> None:
    given, kind, message = wrong_calls()[case]
    with pytest.raises(kind, match=message):
        taking_two(given, 1)
    with pytest.raises(kind, match=message):
        taking_two.forward(given)


class Nested(nn.Module):
    def forward(self, x: torch.Tensor, state: Any) -> torch.Tensor:
        added: torch.Tensor = state[0] + state[1] if isinstance(state, tuple) else state["h"]
        return x.sum(dim=1) + added


@pytest.mark.parametrize(
    ("example", "given", "message"),
    [
        ((X, STATIC), GIVEN, "x: wanted a tuple of the inputs x, static, .*; got a dictionary"),
        ((X, STATIC), [X, STATIC], "x: wanted a tuple of the inputs x, static, .*; got list"),
        (
            (X, (X[:, 0], X[:, 1])),
            (X, {"h": X[:, 0]}),
            r"state: wanted a tuple of the inputs state\[0\], state\[1\], .*; got a dictionary",
        ),
        (
            {"x": X, "state": {"h": X[:, 0]}},
            {"x": X, "state": X[:, 0]},
            r"state: wanted a dictionary of the inputs state\.h, .*; got Tensor",
        ),
    ],
)
def test_another_structure_than_that_of_the_example_is_told(
    example: Any, given: Any, message: str
) -> None:
    nested = isinstance(given, tuple) or "state" in given
    explainer = pyrel.Explainer(Nested() if nested else MODEL, example, "gradient", check=None)
    with pytest.raises(TypeError, match=f"^{message}$"):
        explainer.forward(given)
    explainer.forward(example)


def test_values_beyond_their_bounds_are_named_or_clipped() -> None:
    options: dict[str, Any] = {"low": {"static": -0.3}, "high": {"static": 0.7}}
    inside = pyrel.Explainer(MODEL, GIVEN, "lrp_epsilon", **options)
    beyond = {**GIVEN, "static": STATIC.clone()}
    beyond["static"][2, 4] = 0.75
    with pytest.raises(ValueError, match=r"static: wanted values in .* got static\[2, 4\] = 0.75"):
        inside(beyond, 1)
    clipping = pyrel.Explainer(MODEL, GIVEN, "lrp_epsilon", out_of_range="clip", **options)
    nearest = {"x": X, "static": beyond["static"].clamp(-0.3, 0.7)}
    far = {**beyond, "x": X * 50}  # which has no bounds
    assert same(clipping(beyond, 1).relevance, inside(nearest, 1).relevance)
    assert same(clipping(far, 1).relevance, inside({**nearest, "x": X * 50}, 1).relevance)


def test_token_ids_beyond_their_table_are_named() -> None:
    model, (tokens, x) = CASES["tokens"]
    explainer = pyrel.Explainer(model, (tokens, x), "gradient")
    tokens = tokens.clone()
    tokens[1, 3] = 9
    with pytest.raises(
        ValueError, match=r"tokens: wanted token ids from 0 to 8, got tokens\[1, 3\]"
    ):
        explainer((tokens, x), 1)
    with pytest.raises(TypeError, match="tokens: wanted token ids"):
        explainer((tokens.float(), x), 1)


def test_truth_values_are_no_numbers() -> None:
    model, given = CASES["truth values"]
    explainer = pyrel.Explainer(model, given, "gradient")
    with pytest.raises(TypeError, match="mask: wanted truth values of shape .* got dtype"):
        explainer({**given, "mask": given["mask"].float()}, 1)
    assert not explainer(given, 1).relevance["mask"].any()


def wrong_examples() -> dict[str, tuple[nn.Module, Any, type[Exception], str]]:
    pair = WithStatic().eval()
    return {
        "no argument": (
            pair,
            {"x": X, "stat": STATIC},
            ValueError,
            "stat is no argument of forward",
        ),
        "too few": (pair, (X,), ValueError, "static is missing; forward takes x, static"),
        "too few names": (pair, {"x": X}, ValueError, "static is missing; forward takes x, static"),
        "too many": (pair, (X, STATIC, X), ValueError, "forward takes x, static; got a tuple of 3"),
        "nothing": (pair, {}, ValueError, "no input in it; forward takes x, static"),
        "no array": (
            pair,
            (X, [1.0]),
            TypeError,
            "static: wanted an array or a tensor, got a list",
        ),
        "a number": (pair, (X, torch.tensor(1.0)), ValueError, r"static: wanted shape \(n, ...\)"),
        "one tensor": (
            pair,
            X,
            pyrel.UnsupportedModelError,
            "takes more than one input; give a tuple",
        ),
        "shapes": (
            pair,
            (STATIC, X),
            pyrel.UnsupportedModelError,
            r"inputs static \(n, 6, 3\)|raises",
        ),
    }


@pytest.mark.parametrize("case", wrong_examples())
def test_a_wrong_example_is_named(case: str) -> None:
    model, given, kind, message = wrong_examples()[case]
    with pytest.raises(kind, match=message):
        pyrel.Explainer(model, given, "gradient")


def test_bounds_of_what_is_no_input_are_refused() -> None:
    with pytest.raises(ValueError, match="low: 'y' is no input; the inputs are x, static"):
        pyrel.Explainer(MODEL, GIVEN, "lrp_epsilon", low={"y": 0.0}, high=1.0)
    with pytest.raises(ValueError, match="x: high: wanted both low and high|x: .*high=None"):
        pyrel.Explainer(MODEL, GIVEN, "lrp_epsilon", low={"x": 0.0})
    with pytest.raises(ValueError, match="low: wanted one number for all inputs of floats"):
        pyrel.Explainer(MODEL, GIVEN, "lrp_epsilon", low=np.zeros(5), high=np.ones(5))
    model, given = CASES["tokens"]
    with pytest.raises(ValueError, match="low: tokens is of token ids, which have none"):
        pyrel.Explainer(model, given, "lrp_epsilon", low={"tokens": 0.0}, high={"tokens": 1.0})


def test_names_of_constant_inputs_are_checked() -> None:
    with pytest.raises(ValueError, match="constant: 'mask' is no input; the inputs are x, static"):
        pyrel.Explainer(MODEL, GIVEN, "gradient", constant=["mask"])
    with pytest.raises(TypeError, match="constant: wanted names of inputs"):
        pyrel.Explainer(MODEL, GIVEN, "gradient", constant=[1])
    with pytest.raises(ValueError, match="constant: 'x' is no input; the model has one"):
        pyrel.Explainer(nn.Linear(5, 2), STATIC, "gradient", constant=["x"])


def test_an_input_that_multiplies_a_signal_is_named_as_what_may_be_constant() -> None:
    model, given = CASES["mask of floats"]
    with pytest.raises(
        pyrel.UnsupportedModelError, match=r'neither is a gate\..* constant=\["mask"\] makes'
    ):
        pyrel.Explainer(model, given, "lrp_epsilon")
    explainer = pyrel.Explainer(model, given, "lrp_epsilon", constant=["mask"])
    assert not explainer(given, 1).relevance["mask"].any()


def test_patterns_are_of_one_input() -> None:
    with pytest.raises(ValueError, match="models of one input; this takes x, static"):
        pyrel.patterns.fit(pyrel.capture(MODEL, GIVEN), X)
