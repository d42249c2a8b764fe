# SPDX-License-Identifier: Apache-2.0
"""Runs the samples of a batch: all with its steps, or each with a length of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyrel.engine import arrays
from pyrel.engine.arrays import Array, Float32s, Int64s
from pyrel.engine.inputs import Inputs
from pyrel.engine.programs import Programs
from pyrel.engine.results import Results
from pyrel.engine.run import Run


def explain_all(
    programs: Programs,
    inputs: Inputs,
    x: Array,
    target: Any,
    steps: int,
    relevance: Float32s | None,
) -> Results:
    """Explain samples that all have the steps that ``x`` has; without relevance, run forward."""
    loaded = programs.at(steps if len(x) else inputs.steps)
    targets = arrays.targets(target, len(x), loaded.classes)
    results = Results.places(relevance, len(x), loaded.classes)
    run = Run(x, loaded, inputs)
    for first, values in arrays.pieces(x):
        run.explain(values, targets, results, first)
    return results


def explain_by_length(
    programs: Programs,
    inputs: Inputs,
    x: Array,
    target: Any,
    lengths: Int64s,
    relevance: Float32s | None,
) -> Results:
    """Explain sequences of equal length together, by the program for that number of steps.

    Without ``relevance`` run them forward.
    """
    classes = programs.classes_at(inputs.steps)
    targets = arrays.targets(target, len(x), classes)
    results = Results.places(relevance, len(x), classes)
    order = np.argsort(lengths, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        steps = int(lengths[group[0]])
        loaded = programs.at(steps)
        if loaded.classes != classes:
            raise ValueError(
                f"lengths: the model has {loaded.classes} outputs for {steps} steps, and "
                f"{classes} for {inputs.steps}; one number of outputs is wanted"
            )
        run = Run(x, loaded, inputs)
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
