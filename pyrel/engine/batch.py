# SPDX-License-Identifier: Apache-2.0
"""Runs the samples of a batch: all with its steps, or each with a length of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from pyrel.engine import arrays
from pyrel.engine.arrays import Array, Float32s, Int64s
from pyrel.engine.inputs import CLIP, Inputs
from pyrel.engine.programs import Loaded, Programs
from pyrel.engine.progress import Progress, Told
from pyrel.engine.results import Results
from pyrel.engine.run import Run


def explain_all(
    programs: Programs,
    inputs: Inputs,
    x: Array,
    target: Any,
    steps: int,
    relevance: Float32s | None,
    told: Told | None = None,
) -> Results:
    """Explain samples that all have the steps that ``x`` has; without relevance, run forward.

    ``told`` is called with the runs of samples through a program that are done, and all of them.
    """
    loaded = programs.at(steps if len(x) else inputs.steps)
    targets = arrays.targets(target, len(x), loaded.classes)
    results = Results.places(relevance, len(x), loaded.classes)
    progress = None if told is None else progress_of(told, [(len(x), loaded)])
    run = Run(x, loaded, inputs, progress)
    parted = told is not None or inputs.out_of_range == CLIP  # which copies
    for first, values in arrays.pieces(x, parted=parted):
        run.explain(values, targets, results, first)
    return results


def explain_by_length(
    programs: Programs,
    inputs: Inputs,
    x: Array,
    target: Any,
    lengths: Int64s,
    relevance: Float32s | None,
    told: Told | None = None,
) -> Results:
    """Explain sequences of equal length together, by the program for that number of steps.

    Without ``relevance`` run them forward. ``told`` as for `explain_all`.
    """
    classes = programs.classes_at(inputs.steps)
    targets = arrays.targets(target, len(x), classes)
    results = Results.places(relevance, len(x), classes)
    order = np.argsort(lengths, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1)
    progress = None
    if told is not None:
        progress = progress_of(told, [(g.size, programs.at(int(lengths[g[0]]))) for g in groups])
    for group in groups:
        steps = int(lengths[group[0]])
        loaded = programs.at(steps)
        if loaded.classes != classes:
            raise ValueError(
                f"lengths: the model has {loaded.classes} outputs for {steps} steps, and "
                f"{classes} for {inputs.steps}; one number of outputs is wanted"
            )
        run = Run(x, loaded, inputs, progress)
        at_once = arrays.samples_in_a_piece(loaded.shape)
        for first in range(0, group.size, at_once):
            some = group[first : first + at_once]
            values = arrays.taken(x, some, steps)
            own = None if relevance is None else np.empty(values.shape, np.float32)
            part = Results.places(own, some.size, classes)
            run.explain(values, None if targets is None else targets[some], part, 0, some)
            if relevance is not None:
                relevance[some, :steps] = own
                relevance[some, steps:] = 0.0
            results.put(some, part)
    return results


def progress_of(told: Told, work: Iterable[tuple[int, Loaded]]) -> Progress:
    """Count the runs that samples take, a number of them with each of some programs."""
    return Progress(told, sum(samples * loaded.plan.runs for samples, loaded in work))
