# SPDX-License-Identifier: Apache-2.0
"""Explain the two-digit network by the paper's methods, and measure (section 6.1)."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pyrel.data import TwoDigitSamples
from pyrel.experiment.nearest_root import NearestRoot, nearest_root
from pyrel.experiment.problem import Images
from pyrel.experiment.relevance_models import DeepTaylorMinMax, relevance_of_pools
from pyrel.experiment.two_digit_training import (
    HIGH,
    LOW,
    POSITIVE,
    TwoDigitNetwork,
    TwoDigitTraining,
    draw_samples,
    train_two_digit,
)
from pyrel.explainer import Explainer
from pyrel.metrics import (
    Summary,
    conservation_error,
    conservation_fit,
    consistency,
    pixel_mass_map,
    relevance_histogram,
    relevance_in_region,
    total_relevance,
)
from pyrel.nn import DetectionPooling

METHODS = (
    "sensitivity",
    "nearest_root",
    "nearest_smooth_root",
    "deep_taylor_minmax",
    "deep_taylor",
)

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class RootSearch:
    """How the nearest roots are searched; see `nearest_root`.

    Attributes
    ----------
    iterations : int
        For the network as it is.
    sharpness : tuple of float
        t of the smooth networks, one after the other; of the last one no unit is off by more than
        log 2 / t.
    smooth_iterations : int
        For each of these.
    """

    iterations: int = 40
    sharpness: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
    smooth_iterations: int = 100

    def __post_init__(self) -> None:
        """Check that smooth networks are named."""
        if not self.sharpness or min(self.sharpness) <= 0:
            raise ValueError(f"sharpness: wanted numbers above 0, given {self.sharpness}")

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name; JSON can hold them."""
        return dataclasses.asdict(self)


@dataclass(frozen=True, eq=False)
class Maps:
    """Explanations of samples by one method.

    Attributes
    ----------
    relevance : float32, shape (n, 28, 56)
        NaN where the method found nothing.
    seconds : float
        CPU time for each sample.
    """

    relevance: _Floats
    seconds: float

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        """(n,) where there is a map."""
        return np.asarray(~np.isnan(self.relevance).any(axis=(1, 2)))


def run_two_digit(
    training: Images,
    test: Images,
    config: TwoDigitTraining,
    search: RootSearch | None = None,
    samples: int = 1000,
    shown: int = 12,
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Train, explain test samples by `METHODS` and measure.

    Parameters
    ----------
    training, test : (images, labels)
    config : TwoDigitTraining
    search : RootSearch, optional
        The default is that of `RootSearch`.
    samples : int
        Test samples, the same for every seed.
    shown : int
        Positive samples whose maps are kept.

    Returns
    -------
    numbers : dict
        JSON-able; see `judged` and `fit_of`.
    arrays : dict
        "x" (shown, 28, 56), "digits" (shown, 2) and for each method its map "relevance METHOD",
        the sums "sum METHOD" (samples,) and the "counts" and "edges METHOD" of a histogram;
        "output" (samples,).
    """
    begun = time.process_time()
    trained = train_two_digit(training, config)
    seconds = time.process_time() - begun
    drawn = draw_samples(test, samples, seed=0)
    output, maps = explain_two_digit(trained, drawn.x, search or RootSearch())
    numbers = fit_of(trained, drawn, output) | {
        "training seconds": round(seconds, 1),
        "methods": {name: judged(of, output, drawn) for name, of in maps.items()},
        "baselines": _baselines(drawn, output),
    }
    return numbers, _arrays(drawn, output, maps, shown)


def explain_two_digit(
    trained: TwoDigitNetwork, x: _Floats, search: RootSearch
) -> tuple[_Floats, dict[str, Maps]]:
    """Explain samples by sensitivity, at nearest roots, and by both deep Taylor models.

    Returns
    -------
    output : float32, shape (n,)
        f of each sample.
    maps : dict of Maps
        By the names `METHODS`.
    """
    network, bounds = trained.network, {"low": LOW, "high": HIGH}
    sensitivity = Explainer(network, x[:1], "sensitivity", low=LOW, high=HIGH)
    minmax = DeepTaylorMinMax(network, trained.model, x[:1], **bounds)
    free = Explainer(network, x[:1], "deep_taylor", low=LOW, high=HIGH)

    def at_root(x: _Floats) -> _Floats:
        given, iterations = torch.from_numpy(x), search.iterations
        found = nearest_root(
            lambda x: network(x)[:, 0], given, low=LOW, high=HIGH, iterations=iterations
        )
        return np.asarray(found.relevance.numpy())

    ways: dict[str, Callable[[_Floats], _Floats]] = {
        "sensitivity": lambda x: sensitivity(x, 0).relevance,
        "nearest_root": at_root,
        "nearest_smooth_root": lambda x: smooth_root(network, x, search).relevance.numpy(),
        "deep_taylor_minmax": lambda x: minmax(x).relevance,
        "deep_taylor": lambda x: free(x, 0).relevance,
    }
    maps = {}
    for name, way in ways.items():
        begun = time.process_time()
        relevance = way(x)
        maps[name] = Maps(relevance, (time.process_time() - begun) / max(len(x), 1))
    return np.asarray(free.forward(x))[:, 0], maps


def smooth_root(network: DetectionPooling, x: _Floats, search: RootSearch) -> NearestRoot:
    """Search the nearest roots of networks with smooth units, each from that of the one before.

    The units are those of table 1, note b: log(0.5 + 0.5 e^(tz)) / t, max(0, z) for t → ∞. Returns
    what is found for the last t.
    """
    given = torch.from_numpy(x)
    found: NearestRoot | None = None
    for sharpness in search.sharpness:
        found = nearest_root(
            partial(_smooth_output, network, sharpness),
            given,
            low=LOW,
            high=HIGH,
            iterations=search.smooth_iterations,
            start=None if found is None else found.root,
        )
    assert found is not None
    return found


def _smooth_output(network: DetectionPooling, sharpness: float, x: torch.Tensor) -> torch.Tensor:
    return network.activities(x, sharpness=sharpness)[-1][1][:, 0]


def fit_of(trained: TwoDigitNetwork, samples: TwoDigitSamples, output: _Floats) -> dict[str, Any]:
    """Return how well the network fits the targets, and the model the true relevance.

    "rmse" of f; "correct", the fraction of samples on whose side of 50 f is; "model rmse" of R̂_k
    over samples and pools, and "relevance rms", that of a model which says 0.
    """
    with torch.no_grad():
        x = torch.from_numpy(samples.x)
        activities = trained.network.activities(x)
        relevance = relevance_of_pools(trained.network, activities)
        modelled = trained.model(x, activities[1][0])
        error = (modelled - relevance).square().mean().sqrt()
    target = POSITIVE * samples.y
    return {
        "iterations": int(trained.history[-1]["iteration"]) if trained.history else 0,
        "rmse": float(np.sqrt(np.mean((output - target) ** 2))),
        "correct": float(((output > POSITIVE / 2) == samples.y).mean()),
        "model rmse": float(error),
        "relevance rms": float(relevance.square().mean().sqrt()),
        "training rmse": trained.history[-1]["network"] if trained.history else None,
    }


def judged(maps: Maps, output: _Floats, samples: TwoDigitSamples) -> dict[str, Any]:
    """Return the measures of one method.

    "conservation" is the fit of ΣR to f on positive samples, "largest error" the largest |ΣR − f|
    over max(f, Σ|R|) of all, "conservative", "positive" and "consistent" fractions of samples by
    Definitions 1 to 3 to 1e-5, "empty at zero" the fraction of samples with f = 0 that have no
    relevance, "against" Σ max(0, −R)/Σ|R| over all, "wanted digit" the share of max(0, R) in the
    half of the wanted digit where one of two is wanted, "found" the fraction that has a map.
    """
    found = maps.found
    relevance, f = maps.relevance[found], output[found].astype(np.float64)
    if not len(relevance):
        return {"found": 0.0, "seconds": maps.seconds}
    total, positive = total_relevance(relevance), samples.y[found]
    of = consistency(relevance, f)
    size = float(np.abs(relevance).sum(dtype=np.float64))
    against = float(-np.minimum(relevance, 0).sum(dtype=np.float64))
    return {
        "found": float(found.mean()),
        "seconds": maps.seconds,
        "conservation": dataclasses.asdict(conservation_fit(total[positive], f[positive])),
        "largest error": float(conservation_error(relevance, np.maximum(f, 0)).max()),
        "conservative": float(of.conservative.mean()),
        "positive": float(of.positive.mean()),
        "consistent": float(of.consistent.mean()),
        "empty at zero": _mean(of.empty_at_zero),
        "least": float(relevance.min()),
        "against": against / size if size else 0.0,
        "wanted digit": _share(relevance, samples.relevant[found]),
    }


def _share(relevance: _Floats, relevant: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return the share of the wanted digit's half over samples with one wanted digit."""
    one = relevant.sum(axis=1) == 1
    halves = relevance[one].reshape(-1, 28, 2, 28).transpose(0, 2, 1, 3)
    share = Summary.of(relevance_in_region(halves, relevant[one]))
    return {"mean": share.mean, "samples": share.used, "left out": share.left_out}


def _baselines(samples: TwoDigitSamples, output: _Floats) -> dict[str, Any]:
    """Return the shares of maps that know no network."""
    mass = pixel_mass_map(samples.x, LOW)
    return {
        "uniform": 0.5,
        "pixel mass": _share(np.asarray(mass, np.float32), samples.relevant),
        "zero outputs": int((output <= 0).sum()),
        "positive samples": int(samples.y.sum()),
    }


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None


def _arrays(
    samples: TwoDigitSamples, output: _Floats, maps: Mapping[str, Maps], shown: int
) -> dict[str, npt.NDArray[Any]]:
    """Return what figures 5 and 6 show."""
    chosen = np.flatnonzero(samples.y)[:shown]
    arrays: dict[str, npt.NDArray[Any]] = {
        "x": samples.x[chosen].astype(np.float16),
        "digits": samples.digits[chosen],
        "output": output,
    }
    for name, of in maps.items():
        arrays[f"relevance {name}"] = _scaled(of.relevance[chosen])
        arrays[f"sum {name}"] = of.relevance.sum(axis=(1, 2), dtype=np.float64)
        histogram = relevance_histogram(of.relevance[of.found])
        arrays[f"counts {name}"], arrays[f"edges {name}"] = histogram.counts, histogram.edges
    return arrays


def _scaled(relevance: _Floats) -> npt.NDArray[np.float16]:
    """Return maps whose largest relevance of all samples is 1, so that samples can be compared."""
    known = np.nan_to_num(relevance)
    largest = np.abs(known).max(initial=0.0)
    return (known / largest if largest else known).astype(np.float16)
