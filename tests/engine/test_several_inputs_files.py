# SPDX-License-Identifier: Apache-2.0
"""Explainers of several inputs that are saved, loaded and kept."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.several_models import (
    CASES,
    GIVEN,
    MODEL,
    STATIC,
    N,
    WithStatic,
    X,
    mapped,
    random,
    same,
)

import pyrel
from pyrel.explain_file import explain_file
from pyrel.files.tensors import read_tensors, write_tensors


@pytest.mark.parametrize("name", ["truth values", "tokens", "nested"])
def test_a_saved_explainer_keeps_names_and_structure(name: str, tmp_path: Path) -> None:
    model, given = CASES[name]
    method = "gradient" if name == "nested" else "lrp_epsilon"
    options: dict[str, Any] = {"low": -1.0, "high": 1.0}
    explainer = pyrel.Explainer(model, given, method, **options)
    explainer.save(tmp_path / "a.program")
    e = explainer(given, 1)
    for other in (
        pyrel.Explainer.load(tmp_path / "a.program"),
        pickle.loads(pickle.dumps(explainer)),
    ):
        found = other(given, 1)
        assert same(found.relevance, e.relevance)
        assert type(found.relevance) is type(e.relevance)
        assert str(other.inputs) == str(explainer.inputs)
        assert other.input_shape == explainer.input_shape
        with pytest.raises(ValueError, match="is missing"):
            other(given[:1] if isinstance(given, tuple) else {}, 1)


def test_a_saved_explainer_keeps_bounds_and_constants(tmp_path: Path) -> None:
    options: dict[str, Any] = {"low": {"static": -0.5}, "high": {"static": 1}, "lengths": True}
    explainer = pyrel.Explainer(MODEL, GIVEN, "lrp_epsilon", constant=["static"], **options)
    explainer.save(tmp_path / "a.program")
    other = pyrel.Explainer.load(tmp_path / "a.program")
    assert str(other.inputs) == str(explainer.inputs)
    for one, two in zip(explainer.inputs.parts, other.inputs.parts, strict=True):
        assert (one.low is None) == (two.low is None)
        assert one.low is None or np.array_equal(one.low, two.low)
    lengths = [1, 2, 3, 4, 5]
    assert same(
        other(GIVEN, 1, lengths=lengths).relevance, explainer(GIVEN, 1, lengths=lengths).relevance
    )


def forged(path: Path, entries: dict[str, Any], first: dict[str, Any]) -> None:
    """Change what a file says of the inputs, and of the first of them."""
    tensors, content = read_tensors(path, "program")
    inputs = content["explainer"]["inputs"]
    content["explainer"] |= {"inputs": [inputs[0] | first, *inputs[1:]]} | entries
    write_tensors(path, "program", tensors, content)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "a.program"
    pyrel.Explainer(MODEL, GIVEN, "gradient").save(path)
    return path.read_bytes()


@pytest.mark.parametrize(
    ("entries", "first", "message"),
    [
        ({}, {"shape": [4, 3]}, "do not fit its inputs"),
        ({}, {"shape": [0, 3]}, "it has inputs"),
        ({}, {"shape": [1 << 40, 3]}, "elements of an input"),
        ({}, {"path": []}, "it has an input"),
        ({}, {"path": ["static"]}, "it has inputs"),
        ({}, {"path": [0]}, "it has inputs"),
        ({}, {"name": "a\nb"}, "it has an input"),
        ({}, {"name": "static"}, "it has inputs"),
        ({}, {"elements": "masks"}, "do not fit its inputs"),
        ({}, {"steps": False}, "its inputs have no steps"),
        ({"constant": ["y"]}, {}, "'y' is no input"),
        ({"input_shape": [22]}, {}, "do not fit"),
    ],
)
def test_a_file_that_says_nonsense_of_its_inputs_is_refused(
    entries: dict[str, Any], first: dict[str, Any], message: str, saved: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "a.program"
    path.write_bytes(saved)
    forged(path, entries, first)
    with pytest.raises(ValueError, match=message):
        pyrel.Explainer.load(path)


def test_a_file_of_samples_holds_one_input(saved: bytes, tmp_path: Path) -> None:
    path, source = tmp_path / "a.program", tmp_path / "x.npy"
    path.write_bytes(saved)
    np.save(source, X.numpy())
    with pytest.raises(TypeError, match=r"x\.npy: wanted the inputs x, static, got one array"):
        explain_file(pyrel.Explainer.load(path), source, tmp_path / "out.npz")


def test_explain_keeps_what_it_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    model = WithStatic().eval()
    exports: list[Any] = []
    export = torch.export.export
    monkeypatch.setattr(
        torch.export, "export", lambda *a, **k: exports.append(a) or export(*a, **k)
    )
    pyrel.explain(model, GIVEN, "gradient", target=1)
    first = len(exports)
    pyrel.explain(model, mapped(GIVEN, lambda x: x[:2]), "lrp_epsilon", target=1)
    pyrel.explain(model, {**GIVEN, "x": random(N, 9, 3)}, "gradient", target=1)
    assert first and len(exports) == first
    pyrel.explain(model, (X, STATIC), "gradient", target=1)
    assert len(exports) == 2 * first
