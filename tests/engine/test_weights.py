# SPDX-License-Identifier: Apache-2.0
"""When an explainer sees the model's weights, and what the one-shot function remembers."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from engine.cases import by_name, compiled, inputs
from reference import METHODS
from torch import nn

import pyrel

# Without steps, whose loop torch.export would unroll at each of many captures.
CASE = by_name("Residual")
DOMAIN = {"low": CASE.low, "high": CASE.high}


@pytest.fixture
def module() -> Any:
    return CASE.module()


def explained(module: nn.Module) -> Any:
    return pyrel.explain(module, inputs(CASE, 5), **DOMAIN)


def outputs(module: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return module(torch.from_numpy(inputs(CASE, 5))).numpy()


def assert_outputs(e: Any, module: nn.Module) -> None:
    # Four product sums of at most 17 terms.
    np.testing.assert_allclose(e.output, outputs(module), rtol=1e-5, atol=1e-5)


def halve_data(module: Any) -> None:
    module.inward.weight.data.mul_(0.5)


def halve_in_place(module: Any) -> None:
    with torch.no_grad():
        module.inward.weight.mul_(0.5)


def halve_one_element_of_data(module: Any) -> None:
    module.out.bias.data[0] += 1.0


def replace_parameter(module: Any) -> None:
    module.out.weight = nn.Parameter(module.out.weight.detach() * 2)


def replace_data(module: Any) -> None:
    module.out.weight.data = module.out.weight.data * 2


def replace_layer(module: Any) -> None:
    module.out = nn.Linear(17, 3)


def load_state(module: Any) -> None:
    module.load_state_dict({name: value * 0.5 for name, value in module.state_dict().items()})


def step_optimiser(module: Any) -> None:
    module.train()
    optimiser = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.from_numpy(inputs(CASE, 5))).square().sum().backward()
    optimiser.step()
    module.eval()


CHANGES = (
    halve_data, halve_in_place, halve_one_element_of_data, replace_parameter, replace_data,
    replace_layer, load_state, step_optimiser,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_explainer_keeps_the_weights_it_was_made_from(module: Any, change: Any) -> None:
    x = inputs(CASE, 5)
    explainer = pyrel.Explainer(module, x, method="deep_taylor", **DOMAIN)
    before = explainer(x)
    change(module)
    after = explainer(x)
    np.testing.assert_array_equal(after.relevance, before.relevance)
    np.testing.assert_array_equal(after.output, before.output)


@pytest.mark.parametrize("change", CHANGES)
def test_explain_notices_changed_weights(module: Any, change: Any) -> None:
    assert_outputs(explained(module), module)
    before = outputs(module)
    change(module)
    assert not np.array_equal(before, outputs(module))
    assert_outputs(explained(module), module)


def test_explain_notices_changed_constants() -> None:
    """A plain attribute that the forward pass uses is no parameter, yet decides the graph."""

    class Cut(nn.Module):
        offset: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.out = nn.Linear(4, 3)
            self.register_buffer("offset", torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(x) + self.offset

    module = Cut().eval()
    x = np.ones((2, 4), np.float32)
    before = pyrel.explain(module, x, method="gradient").output
    module.offset += 1.0
    after = pyrel.explain(module, x, method="gradient").output
    np.testing.assert_allclose(after, before + 1.0, rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_explain_is_the_explainer(method: str) -> None:
    x = inputs(CASE, 9)
    e = pyrel.explain(CASE.module(), x, method=method, target=2, **DOMAIN)
    wanted = compiled(CASE, method)(x, target=2)
    np.testing.assert_array_equal(e.relevance, wanted.relevance)
    np.testing.assert_array_equal(e.target, np.full(9, 2))


def test_explain_default_is_deep_taylor(module: Any) -> None:
    x = inputs(CASE, 3)
    e = pyrel.explain(module, x, **DOMAIN)
    np.testing.assert_array_equal(e.relevance, compiled(CASE, "deep_taylor")(x).relevance)


def test_explain_with_other_options_is_another_explainer(module: Any) -> None:
    x = inputs(CASE, 3)
    narrow = pyrel.explain(module, x, **DOMAIN).relevance
    wide = pyrel.explain(module, x, low=CASE.low - 1, high=CASE.high + 1).relevance
    assert not np.array_equal(narrow, wide)
    np.testing.assert_array_equal(pyrel.explain(module, x, **DOMAIN).relevance, narrow)
    high = CASE.high + np.ones(CASE.shape, np.float32)
    one = pyrel.explain(module, x, low=CASE.low, high=high).relevance
    high[:] = CASE.high
    np.testing.assert_array_equal(
        pyrel.explain(module, x, low=CASE.low, high=high).relevance, narrow
    )
    assert not np.array_equal(one, narrow)


def test_explain_follows_the_shape_of_the_input() -> None:
    """The module takes any number of steps: each is a graph of its own."""
    module = by_name("Elman").module()
    rng = np.random.default_rng(0)
    for steps in (2, 5, 2):
        x = rng.uniform(size=(3, steps, 7)).astype(np.float32)
        e = pyrel.explain(module, x, low=0.0, high=1.0)
        assert e.relevance.shape == x.shape
        with torch.no_grad():
            wanted = module(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(e.output, wanted, rtol=1e-5, atol=1e-5)


def test_explain_does_not_keep_models_alive() -> None:
    module = CASE.module()
    explained(module)
    alive = weakref.ref(module)
    del module
    gc.collect()
    assert alive() is None


def test_two_models_are_not_confused() -> None:
    for number in range(3):
        module: Any = CASE.module()
        with torch.no_grad():
            module.out.bias.fill_(float(number))
        assert_outputs(explained(module), module)


def test_explain_restores_training_mode(module: Any) -> None:
    module.train()
    explained(module)
    assert module.training
