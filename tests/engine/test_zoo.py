# SPDX-License-Identifier: Apache-2.0
"""Every method on every operator and recurrent layer, compiled, against the reference."""

from __future__ import annotations

import numpy as np
import pytest
from engine.checks import assert_amplification, assert_relevance, rows
from engine.zoo import Exhibit, every_exhibit
from reference import CONSERVING, METHODS

import pyrel


@every_exhibit
@pytest.mark.parametrize("method", METHODS)
def test_agrees_with_the_reference(exhibit: Exhibit, method: str) -> None:
    if method == "deep_taylor" and not exhibit.explained_by_deep_taylor:
        with pytest.raises(pyrel.UnsupportedModelError, match="deep_taylor"):
            exhibit.compiled(method)
        return
    expected = exhibit.expected(method)
    # Targets are given: the two largest outputs may be within rounding of each other.
    e = exhibit.compiled(method)(exhibit.inputs, target=expected.target)
    assert e.relevance.shape == exhibit.inputs.shape
    left_out = assert_relevance(e, expected, method)
    if method in CONSERVING:
        assert_amplification(e, expected, method, exhibit.name)
    assert left_out <= (0.0 if method in CONSERVING else 0.1) * len(exhibit.inputs)


@every_exhibit
@pytest.mark.parametrize("method", CONSERVING)
def test_half_of_the_relevance_to_gates(exhibit: Exhibit, method: str) -> None:
    refused = method == "deep_taylor" and not exhibit.explained_by_deep_taylor
    if refused or not exhibit.has_gates:
        return
    expected = exhibit.expected(method, "half")
    e = exhibit.compiled(method, gates="half")(exhibit.inputs, target=expected.target)
    assert_relevance(e, expected, method)


@every_exhibit
def test_a_batch_is_its_samples_alone(exhibit: Exhibit) -> None:
    explainer = exhibit.compiled("lrp_epsilon")
    together = explainer(exhibit.inputs)
    alone = [explainer(exhibit.inputs[i : i + 1]) for i in (0, 17, 39)]
    np.testing.assert_array_equal(
        rows(together.relevance)[[0, 17, 39]], np.concatenate([rows(e.relevance) for e in alone])
    )
