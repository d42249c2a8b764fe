# SPDX-License-Identifier: Apache-2.0
"""The comparison with captum's integrated gradients runs, small, and reports right errors."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import pyrel

pytest.importorskip("captum.attr")

import compare_integrated_gradients as tool  # noqa: E402 - needs captum


@pytest.fixture
def threads() -> Iterator[None]:
    before = pyrel.show_config()["num_threads"], torch.get_num_threads()
    yield
    pyrel.set_num_threads(before[0])
    torch.set_num_threads(before[1])


def test_completeness_is_what_relevance_misses() -> None:
    model, rng = torch.nn.Linear(6, 3), np.random.default_rng(1)
    x, target = rng.random((4, 6), np.float32), np.array([2, 0, 1, 2])
    exact = x * model.weight.detach().numpy()[target]
    # Six products of at most 1 in float32, added up in float64.
    assert np.abs(tool.completeness(model, x, target, exact)).max() <= 6 * np.finfo(np.float32).eps
    missing = exact.copy()
    missing[1, 3] += 0.25
    errors = tool.completeness(model, x, target, missing)
    np.testing.assert_allclose(errors, [0, 0.25, 0, 0], rtol=0, atol=1e-6)


@pytest.mark.usefixtures("threads")
def test_it_compares_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--rounds", "1", "--batch", "3", "--n-steps", "4", "--json", str(tmp_path / "ig.json")]
    monkeypatch.setattr(sys, "argv", ["compare_integrated_gradients.py", *given])
    monkeypatch.setattr(tool, "STEPS", 6)  # which compile sooner than 12
    tool.main()
    found = json.loads((tmp_path / "ig.json").read_text())
    assert (found["batch"], found["n_steps"], found["threads"], found["rounds"]) == (3, 4, 1, 1)
    assert "processor seconds: captum over pyrel" in capsys.readouterr().out
    assert found["largest difference of maps over the largest relevance"] <= 1e-5
    errors = [found[name]["completeness error"]["largest"] for name in ("pyrel", "captum")]
    assert min(errors) > 1e-4  # four points are few
    assert errors[0] == pytest.approx(errors[1], rel=1e-2)
    for name in ("pyrel", "captum"):
        assert found[name]["seconds"]["best"] > 0
