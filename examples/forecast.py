# SPDX-License-Identifier: Apache-2.0
"""Explain several horizons of a forecast of discharge, from rain and from what a basin is like.

Rain fills a reservoir that drains by a share of its content each day. So it is known what each
day's rain adds to the discharge of a later day: area · k · (1 − k)^days · rain, where area and k
are static features of the basin. An LSTM over rain and temperature, beside these features, learns
to forecast the discharge in 1, 3 and 7 days if no more rain falls; temperature has nothing to do
with it. Then the relevance of each day for a horizon is compared with what that day adds. Needs the
extra ``report``:

    python examples/forecast.py --out forecast.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import pyrel

HORIZONS = (1, 3, 7)  # days ahead
METHODS = ("lrp_epsilon", "gradient_x_input", "integrated_gradients")
RAIN, TEMPERATURE = 0, 1

Floats = npt.NDArray[np.float32]


class Basins(NamedTuple):
    """Samples, and what of the discharge the rain of each day adds.

    Attributes
    ----------
    weather : (n, days, 2), rain and temperature
    static : (n, 2), area and share k that drains in a day
    discharge : (n, horizons)
    added : (n, horizons, days), the sum over days is the discharge
    """

    weather: Floats
    static: Floats
    discharge: Floats
    added: Floats


def make_basins(count: int, days: int, seed: int) -> Basins:
    """Return basins drawn at random; the same arguments give the same ones."""
    rng = np.random.default_rng(seed)
    rain = rng.exponential(1.0, (count, days)) * (rng.random((count, days)) < 0.3)
    temperature = rng.normal(0.0, 1.0, (count, days))
    area, k = rng.uniform(0.5, 1.5, count), rng.uniform(0.1, 0.4, count)
    waited = np.array(HORIZONS)[:, None] + np.arange(days)[::-1]  # days from the rain on
    left = (1 - k)[:, None, None] ** waited
    added = (area * k)[:, None, None] * left * rain[:, None]
    weather = np.stack([rain, temperature], axis=2)
    static = np.stack([area, k], axis=1)
    made = (weather, static, added.sum(axis=2), added)
    return Basins(*(values.astype(np.float32) for values in made))


class Forecast(nn.Module):
    """An LSTM over the weather; the static features stand beside it at each day."""

    def __init__(self, units: int = 32) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, units, batch_first=True)
        self.output = nn.Linear(units, len(HORIZONS))

    def forward(self, weather: Tensor, static: Tensor) -> Tensor:
        """Return the discharge at the horizons, (n, horizons)."""
        beside = static[:, None].expand(-1, weather.shape[1], -1)
        states, _ = self.lstm(torch.cat([weather, beside], dim=2))
        discharge: Tensor = self.output(states[:, -1])
        return discharge


def train(model: Forecast, basins: Basins, *, epochs: int, seed: int) -> None:
    """Train with Adam on the squared error, with a rate that falls to 0; show how it goes."""
    rng = np.random.default_rng(seed)
    size = 64
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    weather, static, discharge = (torch.from_numpy(values) for values in basins[:3])
    batches = len(weather) // size
    for epoch in range(1, epochs + 1):
        total = 0.0
        order = torch.from_numpy(rng.permutation(len(weather)))
        for number in range(batches):
            some = order[number * size : (number + 1) * size]
            optimizer.zero_grad()
            loss = F.mse_loss(model(weather[some], static[some]), discharge[some])
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.item()
        schedule.step()
        print(f"Epoch {epoch} of {epochs}: squared error {total / batches:.5f}", file=sys.stderr)
    model.eval()


def explained_variance(model: Forecast, basins: Basins) -> Floats:
    """Return the share of the variance of the discharge that is forecast, by horizon."""
    with torch.no_grad():
        found = model(torch.from_numpy(basins.weather), torch.from_numpy(basins.static)).numpy()
    rest = ((found - basins.discharge) ** 2).mean(axis=0)
    share: Floats = 1 - rest / basins.discharge.var(axis=0)
    return share


def explain(model: Forecast, basins: Basins, method: str) -> list[pyrel.Explanation]:
    """Explain the forecast for each of `HORIZONS`."""
    x = {"weather": basins.weather, "static": basins.static}
    # On a day without rain, and in a basin of no size, nothing flows: what a path begins at.
    options = {"baseline": 0.0} if method == "integrated_gradients" else {}
    explainer = pyrel.Explainer(model, x, method, task="regression", **options)
    return [explainer(x, target=horizon) for horizon in range(len(HORIZONS))]


def agreement(relevance: Floats, added: Floats) -> float:
    """Return the mean correlation over samples of the rain's relevance with what it adds."""
    found = [np.corrcoef(r, a)[0, 1] for r, a in zip(relevance, added, strict=True) if a.any()]
    return float(np.mean(found))


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, explain, print how forecasts and explanations do, draw one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("forecast.png"), help="the picture")
    parser.add_argument("--basins", type=int, default=6000, help="to train on")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    model = Forecast()
    training = make_basins(options.basins, options.days, options.seed)
    tested = make_basins(200, options.days, options.seed + 1)
    train(model, training, epochs=options.epochs, seed=options.seed)
    for horizon, share in zip(HORIZONS, explained_variance(model, tested), strict=True):
        print(f"In {horizon} days: {100 * share:.1f} % of the variance is forecast")
    explained = {method: explain(model, tested, method) for method in METHODS}
    for method, explanations in explained.items():
        for index, (horizon, e) in enumerate(zip(HORIZONS, explanations, strict=True)):
            weather = e.relevance["weather"]
            fits = agreement(weather[:, :, RAIN], tested.added[:, index])
            size = np.abs(weather).sum(axis=(0, 1))
            print(
                f"{method}, in {horizon} days: correlation with what each day's rain adds "
                f"{fits:.3f}, temperature has {100 * size[TEMPERATURE] / size.sum():.0f} % of "
                "the relevance of the weather"
            )
    from pyrel import plots

    figure = plots.series(
        tested.weather[0],
        explained["lrp_epsilon"][1].relevance["weather"][0],
        features=["rain", "temperature"],
        time=np.arange(1 - options.days, 1),
        time_label="day",
        title=f"Relevance for the discharge in {HORIZONS[1]} days (LRP-ε)",
    )
    figure.savefig(options.out, dpi=110)
    print(f"Wrote {options.out}")


if __name__ == "__main__":
    main()
