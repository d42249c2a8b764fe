# SPDX-License-Identifier: Apache-2.0
"""Small made-up studies: what the tests of metrics, figures and report look at."""

import functools

import numpy as np

from pyrel import metrics

STEPS, HEIGHT, WIDTH = 12, 28, 7


def make_samples(n, seed=0):
    """Blobs for digits, with the steps of the majority; no data set is needed."""
    rng = np.random.default_rng(seed)
    odd = rng.integers(0, 3, size=n)
    relevant = np.repeat(odd[:, None] != np.arange(3), STEPS // 3, axis=1)
    rows, columns = np.mgrid[0:HEIGHT, 0:HEIGHT]
    digits = np.empty((n, 3, HEIGHT, HEIGHT), dtype=np.float32)
    for i, j in np.ndindex(n, 3):
        radius, thick = rng.uniform(5, 9), rng.uniform(1, 2)
        distance = np.hypot(rows - 14, (columns - 14) * rng.uniform(1, 1.6))
        digits[i, j] = np.exp(-(((distance - radius) / thick) ** 2))
    image = digits.transpose(0, 2, 1, 3).reshape(n, HEIGHT, STEPS, WIDTH)
    y = rng.integers(0, 10, size=n)
    return np.ascontiguousarray(image.transpose(0, 2, 1, 3)), y, relevant


def made_up_relevance(x, relevant, inside, seed):
    """Relevance on the ink, `inside` times as strong in the relevant steps."""
    noise = np.random.default_rng(seed).random(x.shape, dtype=np.float32)
    weight = np.where(relevant, np.float32(inside), np.float32(1.0))
    return x * noise * weight[:, :, None, None]


def _of_all_classes(relevance, y):
    """Maps of ten classes: those of the others are fainter, and empty for the class after y."""
    strength = np.full((len(y), 10), 0.5, dtype=np.float32)
    strength[np.arange(len(y)), y] = 1.0
    strength[np.arange(len(y)), (y + 1) % 10] = 0.0
    return relevance[:, None] * strength[:, :, None, None, None]


def make_curves(n, methods, seed, points=6):
    """Curves that fall to nothing, those of later methods faster; one sample has no map."""
    rng = np.random.default_rng(seed)
    removed = np.arange(points)
    start = rng.uniform(0.8, 1.0, size=(n, 1))
    curves = {}
    for i, method in enumerate(methods):
        scores = start * (1 - removed / (points - 1)) ** (1.5 + i) * rng.uniform(0.9, 1, (n, 1))
        scores[0] = np.nan if method == "sensitivity" else scores[0]
        curves[method] = metrics.Degradation(removed, scores)
    random = metrics.Degradation(removed, start * (1 - removed / (points - 1)))
    return metrics.DegradationCurves(curves, random)


@functools.cache
def make_study(n=30, shown=3, seed=0, names=("Shallow", "Deep"), signed=False, title="A study"):
    x, y, relevant = make_samples(n, seed)
    cells = {}
    for k, name in enumerate(names):
        rng = np.random.default_rng(seed + k)
        output = rng.uniform(2, 9, size=n)
        maps = made_up_relevance(x, relevant, 1 + k, seed + k)
        deep_taylor = maps * (output / maps.sum(axis=(1, 2, 3)))[:, None, None, None]
        sensitivity = made_up_relevance(x, relevant, 1.0, seed + 9 + k) ** 2
        if signed:
            sensitivity = sensitivity - sensitivity.mean()
        sensitivity[0] = 0.0
        relevances = {
            "sensitivity": sensitivity.astype(np.float32),
            "deep_taylor": deep_taylor.astype(np.float32),
        }
        y_shown = y[:shown]
        outputs = rng.uniform(-3, 2, size=(shown, 10))
        outputs[np.arange(shown), np.where(np.arange(shown) == 1, (y_shown + 1) % 10, y_shown)] = 9
        evaluations = {
            "sensitivity": metrics.evaluate(relevances["sensitivity"], relevant, output=output),
            "deep_taylor": metrics.evaluate(
                relevances["deep_taylor"],
                relevant,
                output=output,
                start=output,
                absorbed=np.zeros(n),
            ),
        }
        cells[name] = metrics.CellResult(
            accuracy=metrics.Summary.of(rng.random(n) < 0.95),
            evaluations=evaluations,
            heatmaps={m: _of_all_classes(r[:shown], y_shown) for m, r in relevances.items()},
            outputs=outputs,
            facts={"parameters": 153578, "training seconds": 61.25},
            degradation=make_curves(n, (*relevances, "pixel_mass"), seed + k),
        )
    return metrics.Study(
        title=title,
        problem="Which class appears twice among three digits?",
        relevant=relevant,
        cells=cells,
        baselines=metrics.evaluate_baselines(x, relevant),
        shown=metrics.ShownSamples(x[:shown], y[:shown], relevant[:shown], np.arange(shown)),
        config={"seed": 7, "data": {"name": "made up", "test samples": n}},
    )
