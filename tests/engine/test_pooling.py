# SPDX-License-Identifier: Apache-2.0
"""Who gets the relevance of a maximum: the winner, or all values in proportion."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import assert_relevance
from engine.zoo import ZOO, Exhibit
from reference import explain
from torch import Tensor, nn
from torch.nn import functional

import pyrel

POOLS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "1d": (lambda: nn.MaxPool1d(2), 1),
    "1d-overlapping": (lambda: nn.MaxPool1d(3, stride=1, dilation=2), 1),
    "1d-padded": (lambda: nn.MaxPool1d(3, 2, padding=1, ceil_mode=True), 1),
    "1d-adaptive": (lambda: nn.AdaptiveMaxPool1d(4), 1),
    "2d": (lambda: nn.MaxPool2d(2), 2),
    "2d-overlapping": (lambda: nn.MaxPool2d(2, stride=1, dilation=(1, 2)), 2),
    "2d-padded": (lambda: nn.MaxPool2d((3, 2), 2, padding=1, ceil_mode=True), 2),
    "2d-adaptive": (lambda: nn.AdaptiveMaxPool2d((3, 2)), 2),
}
SHAPES = {1: (3, 11), 2: (2, 7, 6)}


def differ(one: Any, other: Any) -> float:
    """Return the largest difference of two maps, relative to the largest relevance."""
    a, b = (np.asarray(e.relevance, np.float64) for e in (one, other))
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("above", ["linear", "sigmoid"])
@pytest.mark.parametrize("name", POOLS)
def test_relu_before_and_after_a_pool_is_one_map(name: str, above: str) -> None:
    """Below a sigmoid relevance arrives at windows in which all units are zero, too."""
    make, count = POOLS[name]
    torch.manual_seed(0)
    shape, pool = SHAPES[count], make()
    convolution: Any = (nn.Conv1d, nn.Conv2d)[count - 1](shape[0], 5, 3, padding=1)
    size = pool(convolution(torch.zeros(1, *shape))).numel()
    function: nn.Module = nn.Sigmoid() if above == "sigmoid" else nn.Identity()
    end = [function, nn.Flatten(), nn.Linear(size, 3)]
    x = np.random.default_rng(0).normal(size=(6, *shape)).astype(np.float32)
    before, after = (
        pyrel.Explainer(nn.Sequential(convolution, *pair, *end).eval(), x, method="lrp_epsilon")
        for pair in ((nn.ReLU(), pool), (pool, nn.ReLU()))
    )
    # Both divide by the same sums, whose rounding, 1e-6, grows where terms cancel.
    assert differ(before(x, target=1), after(x, target=1)) < 1e-4


class MaximumOverSteps(nn.Module):
    """ReLU units of each step, and their maxima over the steps, written in several ways."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encode, self.out, self.way = nn.Linear(4, 7), nn.Linear(7, 3), way

    def forward(self, x: Tensor) -> Tensor:
        z = self.encode(x)
        units = torch.relu(z)
        match self.way:
            case "amax":
                return self.out(units.amax(1))
            case "max":
                return self.out(units.max(1).values)
            case "maximum":
                return self.out(functools.reduce(torch.maximum, units.unbind(1)))
            case "pool":
                return self.out(functional.max_pool1d(units.mT, x.shape[1]).flatten(1))
            case _:
                return self.out(torch.relu(z.amax(1)))


def test_maxima_over_steps_are_one_map_however_written() -> None:
    x = np.random.default_rng(1).normal(size=(5, 12, 4)).astype(np.float32)
    ways = ("ReLU after", "amax", "max", "maximum", "pool")
    maps = [pyrel.explain(MaximumOverSteps(way).eval(), x, method="lrp_epsilon") for way in ways]
    for other in maps[1:]:
        assert differ(other, maps[0]) < 1e-4
    model = MaximumOverSteps("amax")
    with torch.no_grad():
        winners = torch.relu(model.encode(torch.from_numpy(x))).argmax(1).numpy()
    for sample, steps in zip(maps[1].relevance, winners, strict=True):
        # Only steps at which some unit is largest get any relevance.
        assert set(np.flatnonzero(np.abs(sample).sum(1))) <= set(steps.tolist())


def exhibit(name: str) -> Exhibit:
    return next(each for each in ZOO if each.name == name)


@pytest.mark.parametrize("name", ["max-pool", "max-pool-dilated", "max-pool-of-pixels"])
@pytest.mark.parametrize(
    ("method", "pooling"), [("lrp_epsilon", "proportional"), ("deep_taylor", "winner")]
)
def test_agrees_with_the_reference_where_it_is_not_the_default(
    name: str, method: str, pooling: str
) -> None:
    shown = exhibit(name)
    expected = explain(shown.graph, shown.inputs, method, pooling=pooling)
    e = shown.compiled(method, pooling=pooling)(shown.inputs, target=expected.target)
    assert assert_relevance(e, expected, method) == 0
    assert differ(e, shown.compiled(method)(shown.inputs, target=expected.target)) > 0.01


@pytest.mark.parametrize("method", ["lrp_epsilon", "deep_taylor"])
def test_proportional_is_refused_where_values_may_be_negative(method: str) -> None:
    shown = exhibit("max-pool-of-pre-activations")
    with pytest.raises(ValueError, match=r"pooling=.*module '1' may be below zero.*winner"):
        shown.compiled(method, pooling="proportional")
    winner = shown.compiled(method, pooling="winner")(shown.inputs, target=0)
    np.testing.assert_array_equal(
        winner.relevance, shown.compiled(method)(shown.inputs, target=0).relevance
    )


def test_a_maximum_without_a_module_is_refused_by_name() -> None:
    x = np.zeros((2, 20, 4), np.float32)
    model = MaximumOverSteps("ReLU after").eval()
    with pytest.raises(ValueError, match="maximum in the model itself"):
        pyrel.Explainer(model, x, method="lrp_epsilon", pooling="proportional")


@pytest.mark.parametrize("method", ["lrp_epsilon", "deep_taylor"])
@pytest.mark.parametrize("pooling", ["mean", "Winner", True, ["winner"]])
def test_other_words_are_refused(method: str, pooling: Any) -> None:
    with pytest.raises(ValueError, match='pooling: wanted "winner" or "proportional", got'):
        pyrel.methods.get(method, pooling=pooling)


def test_gradients_have_no_choice() -> None:
    with pytest.raises(TypeError, match="pooling"):
        pyrel.methods.get("gradient", pooling="proportional")


def test_the_choice_is_saved(tmp_path: Path) -> None:
    shown = exhibit("max-pool")
    path = tmp_path / "program.pyrel"
    for pooling in ("winner", "proportional"):
        explainer = shown.compiled("lrp_epsilon", pooling=pooling)
        explainer.save(path)
        loaded = pyrel.Explainer.load(path)
        assert repr(loaded) == repr(explainer)
        assert copy.deepcopy(loaded.method).options == explainer.method.options
        np.testing.assert_array_equal(
            loaded(shown.inputs).relevance, explainer(shown.inputs).relevance
        )
    assert "pooling='proportional'" in repr(loaded)
