# SPDX-License-Identifier: Apache-2.0
import copy

import numpy as np
import pytest
import torch
from torch import nn

import pyrel
from pyrel.experiment import randomisation_check, randomise_weights
from pyrel.experiment.randomisation import layers_with_weights


def make(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 2))


@pytest.fixture
def model():
    return make(0).eval()


def same(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_layers_are_randomised_from_the_output_down(model):
    before = copy.deepcopy(model)
    untrained = make(1)
    assert layers_with_weights(model) == ["4", "2", "0"]
    changed = dict(randomise_weights(model, lambda: untrained))
    assert list(changed) == ["4", "2", "0"]
    for i, copied in enumerate(changed.values()):
        for j, name in enumerate(changed):
            source = untrained if j <= i else before
            assert same(copied.get_submodule(name), source.get_submodule(name))
    assert same(model, before)


def test_layers_are_randomised_alone(model):
    untrained = make(1)
    for name, copied in randomise_weights(model, lambda: untrained, ["0", "4"], cascade=False):
        for other in ("0", "2", "4"):
            source = untrained if other == name else model
            assert same(copied.get_submodule(other), source.get_submodule(other))


def test_a_method_that_looks_at_the_weights_changes_and_pixels_do_not(model):
    x = np.random.default_rng(0).random((30, 12), dtype=np.float32)
    target = np.zeros(30, dtype=np.int64)
    told = []
    found = randomisation_check(
        model,
        lambda: make(1),
        lambda m: pyrel.Explainer(m, x[:1], "gradient_x_input", check=None),
        x,
        target,
        progress=told.append,
    )
    assert [layer.name for layer in found] == told == ["4", "2", "0"]
    assert all(abs(layer.rank.mean) < 0.9 for layer in found)
    # Two independent maps of 12 numbers: correlations of a standard deviation of 0.3.
    assert abs(found[-1].cosine.mean) < 0.9
    pixels = randomisation_check(
        model, lambda: make(1), lambda m: lambda x, target: x, x, target, layers=["4"]
    )
    assert pixels[0].rank.mean == pytest.approx(1.0)
    assert pixels[0].absolute_rank.mean == pytest.approx(1.0)


def test_empty_maps_are_left_out(model):
    x = np.random.default_rng(0).random((4, 12), dtype=np.float32)
    x[1] = 0.0
    (layer,) = randomisation_check(
        model, lambda: make(1), lambda m: lambda x, target: x, x, np.zeros(4, int), layers=["0"]
    )
    assert (layer.cosine.used, layer.cosine.left_out, layer.rank.left_out) == (3, 1, 1)


def test_bad_layers_and_models_are_named(model):
    with pytest.raises(ValueError, match="layers: wanted some of 4, 2, 0, given '1'"):
        next(randomise_weights(model, lambda: make(1), ["1"]))
    with pytest.raises(ValueError, match="fresh: wanted a model with the parameters of '4'"):
        next(randomise_weights(model, lambda: nn.Linear(12, 2)))
