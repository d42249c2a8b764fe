# SPDX-License-Identifier: Apache-2.0
"""Explain trained cells with several methods and judge what comes out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import pyrel.methods
from pyrel.engine.config import num_threads
from pyrel.experiment.problem import DIGITS_IN_SAMPLE, HIGH, LOW, Problem
from pyrel.experiment.training import TrainedCell
from pyrel.explainer import Explainer
from pyrel.methods.enums import Start
from pyrel.metrics import (
    CellResult,
    Degradation,
    DegradationCurves,
    Perturbation,
    ShownSamples,
    Study,
    Summary,
    degradation,
    evaluate,
    evaluate_baselines,
    patch_regions,
    pixel_mass_map,
    random_degradation,
)
from pyrel.report.machine import machine_facts
from pyrel.training import predict

# Those of the thesis. In the cells of ReLUs, lrp_epsilon is gradient_x_input, but for ε.
METHODS = ("sensitivity", "guided_backprop", "gradient_x_input", "deep_taylor")
SHOWN = 6
# Of the degradation curves: samples, side of a patch in pixels, points, random orders of a sample.
DEGRADED, PATCH, POINTS, ORDERS = 200, 7, 31, 5

# Told what is being done, and how much of how many samples x methods x cells, explained and then
# degraded, is done.
Progress = Callable[[str, int, int], None]

_CHUNK = 250  # samples between two steps of the progress bar
_Floats = npt.NDArray[np.float32]
_Classes = npt.NDArray[np.int64]
_Flags = npt.NDArray[np.bool_]


def judge(
    cells: Sequence[TrainedCell],
    problem: Problem,
    samples: tuple[_Floats, _Classes, _Flags | None],
    *,
    methods: Sequence[str] = METHODS,
    title: str | None = None,
    config: Mapping[str, Any] | None = None,
    shown: int = SHOWN,
    degraded: int = DEGRADED,
    progress: Progress | None = None,
) -> Study:
    """Explain the true class of every sample with every method on every cell, and measure.

    Parameters
    ----------
    cells
        Of different names, all for inputs of one shape.
    problem
        Of kind "majority".
    samples
        x, y and relevant, as `Problem.samples` returns them.
    methods
        Names of `pyrel.methods.names()`.
    title
        Heading of the report; by default it names the cells and the data set.
    config
        JSON-able settings to print with the study; data, cells and machine are added.
    shown
        How many samples have their heatmaps in the report, for each class.
    degraded
        How many samples, the first, the degradation curves are of; 0 leaves them out.
    progress
        Called with (what, done, total) again and again.

    Raises
    ------
    ValueError
        Relevant steps are missing, a name is there twice or unknown, a cell takes other inputs, or
        `degraded` is below 0.
    UnsupportedModelError
        If a method has no rule for something in a cell.
    """
    x, y, relevant = samples
    if relevant is None:
        raise ValueError(f"problem: wanted 'majority', for {problem.kind!r} has no relevant steps")
    _check(cells, methods, x, degraded)
    predicted = [predict(cell.model, x).numpy().argmax(axis=1) for cell in cells]
    index = choose_shown(y, relevant, np.stack([p != y for p in predicted]), shown)
    results = _results(cells, predicted, methods, (x, y, relevant), index, degraded, progress)
    return Study(
        title=title or _title(results, problem),
        problem=problem.describe(),
        relevant=relevant,
        cells=results,
        baselines=evaluate_baselines(x, relevant, low=LOW, digits=DIGITS_IN_SAMPLE),
        shown=ShownSamples(x[index], y[index], relevant[index], index),
        config=dict(config or {}) | _described(cells, problem, len(x), degraded),
        class_names=problem.class_names,
    )


def _title(cells: Iterable[str], problem: Problem) -> str:
    return f"What {' and '.join(cells)} look at: majority samples of {problem.dataset}"


def choose_shown(y: _Classes, relevant: _Flags, wrong: _Flags, count: int) -> _Classes:
    """Return positions of samples worth showing, in ascending order.

    Up to a third of them, at least one, are samples that a cell gets wrong: the first of each cell,
    then the second, and so on. The others change in turn between the places of the odd image, and
    show each class once as long as classes last. The same arguments give the same choice.

    Parameters
    ----------
    y, relevant
        (n,) true classes, (n, steps) relevant steps.
    wrong
        (cells, n): whether a cell is wrong.
    count
        How many, at most n.
    """
    chosen = _failures(wrong)[: min(count, max(1, count // 3))]
    _, arrangement = np.unique(relevant, axis=0, return_inverse=True)
    arrangement = arrangement.reshape(-1)
    right = ~wrong.any(axis=0)
    free = np.ones(len(y), dtype=np.bool_)
    free[chosen] = False
    turn = 0
    while len(chosen) < min(count, len(y)):
        places = arrangement == turn % (arrangement.max() + 1)
        unseen = ~np.isin(y, y[chosen])
        wishes = (free & right & places & unseen, free & right & places, free)
        best = next(wish for wish in wishes if wish.any())
        chosen.append(int(np.argmax(best)))
        free[chosen[-1]] = False
        turn += 1
    return np.array(sorted(chosen), dtype=np.int64)


def _failures(wrong: _Flags) -> list[int]:
    """Return the samples that some cell gets wrong: each cell's first, each cell's second, ..."""
    of_cells = [np.flatnonzero(cell) for cell in wrong]
    turns = (
        int(failed[turn])
        for turn in range(max(map(len, of_cells), default=0))
        for failed in of_cells
        if turn < len(failed)
    )
    return list(dict.fromkeys(turns))


class _Count:
    """Counts samples over all cells and methods, for the progress bar."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._done, self._total = progress, 0, total

    def add(self, what: str, samples: int) -> None:
        self._done += samples
        if self._progress is not None:
            self._progress(what, self._done, self._total)


def _results(
    cells: Sequence[TrainedCell],
    predicted: Sequence[_Classes],
    methods: Sequence[str],
    samples: tuple[_Floats, _Classes, _Flags],
    index: _Classes,
    degraded: int,
    progress: Progress | None,
) -> dict[str, CellResult]:
    """Return what is found for each cell, by its name."""
    y = samples[1]
    degraded = min(degraded, len(y))
    work = len(y) * len(methods) + degraded * (len(methods) + 2)
    count = _Count(progress, work * len(cells))
    return {
        cell.name: _explain(cell, Summary.of(guess == y), methods, samples, index, degraded, count)
        for cell, guess in zip(cells, predicted, strict=True)
    }


def _explain(
    cell: TrainedCell,
    accuracy: Summary,
    methods: Sequence[str],
    samples: tuple[_Floats, _Classes, _Flags],
    index: _Classes,
    degraded: int,
    count: _Count,
) -> CellResult:
    """Return what is found for one cell; `index` are the samples to show."""
    x, y, relevant = samples
    count.add(f"compiling {cell.name}", 0)
    evaluations, heatmaps, curves = {}, {}, {}
    how = Perturbation(patch_regions(x.shape[1:], PATCH))
    few: dict[str, Any] = {"how": how, "removed": range(min(POINTS, how.regions.count + 1))}
    for name in methods:
        explainer = Explainer(cell.model, x[:1], name, low=LOW, high=HIGH)  # captured once
        relevance = np.empty_like(x)
        output, absorbed = np.empty(len(x)), np.empty(len(x))
        for first in range(0, len(x), _CHUNK):
            part = slice(first, min(first + _CHUNK, len(x)))
            e = explainer(x[part], target=y[part], out=relevance[part])
            output[part] = np.take_along_axis(e.output, y[part, None], axis=1)[:, 0]
            absorbed[part] = e.absorbed
            count.add(f"{name} on {cell.name}", part.stop - part.start)
        conserves = explainer.method.conserves
        evaluations[name] = evaluate(
            relevance,
            relevant,
            output=output,
            start=_start(explainer.method, output) if conserves else None,
            absorbed=absorbed if conserves else None,
            digits=DIGITS_IN_SAMPLE,
        )
        heatmaps[name], outputs = _of_all_classes(explainer, x[index])
        if degraded:
            head = slice(degraded)
            curves[name] = degradation(explainer.forward, x[head], relevance[head], y[head], **few)
            count.add(f"{name} on {cell.name}: degrading", degraded)
    made = None
    if degraded:
        made = _with_baselines(curves, explainer, (x[:degraded], y[:degraded]), few)
        count.add(f"random order on {cell.name}", 2 * degraded)
    return CellResult(accuracy, evaluations, heatmaps, outputs, cell.facts(), made)


def _of_all_classes(explainer: Explainer, x: _Floats) -> tuple[_Floats, _Floats]:
    """Explain every class of samples: (k, classes, ...) relevance and (k, classes) outputs."""
    outputs = np.asarray(explainer.forward(x))
    classes = outputs.shape[1]
    copies = np.repeat(x, classes, axis=0)
    made = explainer(copies, target=np.tile(np.arange(classes), len(x)))
    return made.relevance.reshape(len(x), classes, *x.shape[1:]), outputs


def _with_baselines(
    curves: Mapping[str, Degradation],
    explainer: Explainer,
    samples: tuple[_Floats, _Classes],
    few: Mapping[str, Any],
) -> DegradationCurves:
    """Add the curves of the brightness of the pixels and of random order."""
    x, y = samples
    mass = degradation(explainer.forward, x, pixel_mass_map(x, LOW), y, **few)
    random = random_degradation(explainer.forward, x, y, draws=ORDERS, **few)
    return DegradationCurves({**curves, "pixel_mass": mass}, random)


def _start(method: pyrel.methods.Method, output: npt.NDArray[np.float64]) -> Any:
    """Return the relevance that a method puts in at the output."""
    if method.start is Start.positive_output:
        return np.maximum(output, 0.0)
    return output if method.start is Start.output else np.ones_like(output)


def _check(cells: Sequence[TrainedCell], methods: Sequence[str], x: _Floats, degraded: int) -> None:
    if degraded < 0:
        raise ValueError(f"degraded: wanted 0 or more samples, given {degraded}")
    if not cells or not methods:
        raise ValueError("cells, methods: wanted at least one of each")
    names = [cell.name for cell in cells]
    if len(set(names)) < len(names):
        raise ValueError(f"cells: wanted different names, given {', '.join(names)}")
    for method in methods:
        pyrel.methods.get(method)
    for cell in cells:
        wanted = (cell.model.steps, *cell.model.step_shape)
        if wanted != x.shape[1:]:
            raise ValueError(
                f"{cell.name} takes samples of shape {wanted}, those of the problem have "
                f"{x.shape[1:]}; wanted cells of one problem"
            )


def _described(
    cells: Sequence[TrainedCell], problem: Problem, count: int, degraded: int
) -> dict[str, Any]:
    """Return the sections of the configuration that every study has."""
    curves = {
        "samples": min(degraded, count),
        "patches": f"{PATCH} × {PATCH} pixels",
        "replaced by": "mean of the patch",
        "random orders of a sample": ORDERS,
    }
    return {
        "data": {**vars(problem), "test samples": count},
        **({"degradation curves": curves} if degraded else {}),
        **{cell.name: cell.model.config() | _training(cell.training) for cell in cells},
        "machine": machine_facts(num_threads()),
    }


def _training(account: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decided the training of a cell, without settings that had no effect."""
    if not account:
        return {}
    config = dict(account["config"])
    if config.get("optimizer") != "sgd":
        config.pop("momentum", None)
    if config["schedule"] != "one-cycle":
        del config["warmup"]
    if config["schedule"] != "step":
        del config["decay_epochs"], config["decay_factor"]
    told = {"draws": account.get("draws"), "held_out": account.get("held_out")}
    return {"training": {k: v for k, v in (config | told).items() if v is not None}}
