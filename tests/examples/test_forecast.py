# SPDX-License-Identifier: Apache-2.0
"""The example of a forecast, small."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from engine.logs import heard
from example_modules import example_module


@pytest.fixture(scope="module")
def forecast() -> ModuleType:
    return example_module("forecast")


def test_what_each_day_adds_is_what_drains(forecast: Any) -> None:
    basins = forecast.make_basins(5, 12, 0)
    assert basins.weather.shape == (5, 12, 2)
    for number in range(5):
        area, k = basins.static[number].astype(np.float64)
        content = 0.0
        for day in range(12):
            content += basins.weather[number, day, forecast.RAIN]
            if day < 11:
                content *= 1 - k
        drained = [area * k * content * (1 - k) ** h for h in forecast.HORIZONS]
        # Float32 keeps 24 bits of each term; twelve terms of one sign.
        np.testing.assert_allclose(basins.discharge[number], drained, rtol=1e-5)
    np.testing.assert_allclose(basins.added.sum(axis=2), basins.discharge, rtol=1e-5, atol=1e-7)


def test_horizons_are_explained_and_drawn(
    forecast: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "forecast.png"
    forecast.main(["--out", str(path), "--basins", "128", "--days", "17", "--epochs", "1"])
    said = capsys.readouterr().out
    assert said.count("correlation with what each day's rain adds") == 9
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("method", ["gradient", "lrp_epsilon"])
def test_static_features_follow_a_pattern_over_the_steps(
    forecast: Any, method: str, tmp_path: Path
) -> None:
    """So one file takes any number of days; gradients are those of torch."""
    import pyrel

    torch.manual_seed(0)
    model = forecast.Forecast(6).eval()
    few, many = (forecast.make_basins(3, days, 1) for days in (5, 23))
    with heard() as said:
        explainer = pyrel.Explainer(
            model, {"weather": few.weather, "static": few.static}, method, task="regression"
        )
        explainer.save(tmp_path / "program")
        loaded = pyrel.Explainer.load(tmp_path / "program")
        e = loaded({"weather": many.weather, "static": many.static}, target=1)
    assert not said
    if method == "gradient":
        weather, static = (torch.from_numpy(v).requires_grad_() for v in many[:2])
        model(weather, static)[:, 1].sum().backward()
        for name, given in (("weather", weather), ("static", static)):
            assert given.grad is not None
            # 23 steps of float32: a few hundred roundings of 6e-8 of the largest.
            bound = 2e-5 * given.grad.abs().max().item()
            np.testing.assert_allclose(e.relevance[name], given.grad.numpy(), atol=bound)
    else:
        total = e.relevance["weather"].sum(axis=(1, 2)) + e.relevance["static"].sum(axis=1)
        np.testing.assert_allclose(total + e.absorbed, e.output[:, 1], atol=1e-5)
