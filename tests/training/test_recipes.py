# SPDX-License-Identifier: Apache-2.0
"""The recipes for the majority problem."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import pyrel.data
import pyrel.nn
from pyrel.training import RECIPES, TrainingConfig, majority_draws, train

Images = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


@pytest.fixture
def digits() -> Images:
    images = np.random.Generator(np.random.PCG64(3)).integers(0, 256, (30, 28, 28), np.uint8)
    return images, np.arange(30) % 3


def test_draws_follow_one_another(digits: Images) -> None:
    both = majority_draws(*digits, [7, 9], steps=6)
    for part, seed in enumerate([7, 9]):
        one = pyrel.data.majority(*digits, seed, 6)
        rows = slice(30 * part, 30 * part + 30)
        assert np.array_equal(both.x[rows], one.x) and np.array_equal(both.y[rows], one.y)
        assert np.array_equal(both.relevant[rows], one.relevant)
        assert np.array_equal(both.digits[rows], one.digits)


def test_no_seeds_are_refused(digits: Images) -> None:
    with pytest.raises(ValueError, match="seeds must name at least one seed"):
        majority_draws(*digits, [])


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_draws_of_two_seeds_have_nothing_in_common(name: str, digits: Images) -> None:
    recipe = RECIPES[name]
    other = dataclasses.replace(recipe, config=dataclasses.replace(recipe.config, seed=1))
    drawn = [r.samples(*digits).x.reshape(recipe.draws, -1) for r in (recipe, other)]
    test = pyrel.data.majority(*digits, 0).x.reshape(1, -1)
    assert len(np.unique(np.concatenate([*drawn, test]), axis=0)) == 2 * recipe.draws + 1


def test_a_recipe_trains(digits: Images) -> None:
    recipe = RECIPES["mnist-mini"]
    samples = recipe.samples(*digits)
    settings: dict[str, Any] = recipe.config.to_dict() | {"epochs": 1}
    model = pyrel.nn.Deep.for_majority(dropout=recipe.dropout)
    result = train(model, samples.x, samples.y, config=TrainingConfig(**settings), progress=False)
    assert len(samples) == 30 * recipe.draws and len(result.history) == 1
