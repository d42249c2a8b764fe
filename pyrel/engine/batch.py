# SPDX-License-Identifier: Apache-2.0
"""Runs the samples of a batch: all with its steps, or each with a length of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from pyrel.engine import arrays
from pyrel.engine.arrays import Batch, Float32s, Int64s
from pyrel.engine.inputs import Inputs
from pyrel.engine.outputs import Places
from pyrel.engine.programs import Loaded, Programs
from pyrel.engine.progress import Progress, Told
from pyrel.engine.results import Results
from pyrel.engine.run import Run


def explain_all(
    programs: Programs,
    inputs: Inputs,
    x: Batch,
    target: Any,
    steps: int,
    relevance: Float32s | None,
    told: Told | None = None,
) -> Results:
    """Explain samples that all have the steps that ``x`` has; without relevance, run forward.

    ``told`` is called with the runs of samples through a program that are done, and all of them.
    """
    n = x.shape[0]  # len() of a tensor takes ten times as long
    outputs = programs.source.outputs
    loaded = programs.at(steps if n or outputs.follow_steps else inputs.steps)
    targets = outputs.numbers(target, n, loaded.classes)
    results = Results.places(relevance, n, loaded.classes)
    progress = None if told is None else progress_of(told, [(n, loaded)])
    run = Run(x, loaded, inputs, progress)
    parted = told is not None or inputs.clips  # which copies
    for first, values in arrays.pieces(x, parted=parted):
        run.explain(values, targets, results, first)
    return results


def explain_by_length(
    programs: Programs,
    inputs: Inputs,
    x: Batch,
    target: Any,
    lengths: Int64s,
    relevance: Float32s | None,
    told: Told | None = None,
) -> Results:
    """Explain sequences of equal length together, by the program for that number of steps.

    Without ``relevance`` run them forward. ``told`` as for `explain_all`.
    """
    groups = _groups(programs, inputs, x, target, lengths)
    results = Results.places(relevance, len(x), groups[0].places.whole)
    progress = None
    if told is not None:
        progress = progress_of(told, [(g.samples.size, programs.at(g.steps)) for g in groups])
    for group in groups:
        loaded = programs.at(group.steps)
        run = Run(x, loaded, inputs, progress)
        at_once = arrays.samples_in_a_piece(loaded.shape)
        for first in range(0, group.samples.size, at_once):
            some = group.samples[first : first + at_once]
            values = arrays.taken(x, some, group.steps)
            own = None if relevance is None else np.empty(values.shape, np.float32)
            part = Results.places(own, some.size, loaded.classes)
            targets = None if group.targets is None else group.targets[first : first + at_once]
            run.explain(values, targets, part, 0, some)
            if own is not None and relevance is not None:
                relevance[some] = 0.0
                arrays.put(x, relevance, (some,), own, group.steps)
            results.put(some, group.places.moved(part))
    return results


class _Group(NamedTuple):
    """Sequences of one length, which output of each is asked for, and where outputs go."""

    samples: Int64s
    steps: int
    targets: Int64s | None
    places: Places


def _groups(
    programs: Programs, inputs: Inputs, x: Batch, target: Any, lengths: Int64s
) -> list[_Group]:
    """Sort sequences by length, and find their targets before one of them is explained."""
    outputs = programs.source.outputs
    whole = programs.classes_at(arrays.steps_of(x) if outputs.follow_steps else inputs.steps)
    targets = outputs.numbers(target, len(x), whole)
    order = np.argsort(lengths, kind="stable")
    found = []
    for samples in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        steps = int(lengths[samples[0]])
        count = programs.classes_at(steps)
        if count != whole and not outputs.follow_steps:
            raise ValueError(
                f"lengths: the model has {count} outputs for {steps} steps, and {whole} for "
                f"{inputs.steps}; one number of outputs is wanted"
            )
        places = Places(outputs.of(whole), outputs.of(count))
        own = None if targets is None else places.within(targets[samples], samples, steps)
        found.append(_Group(samples, steps, own, places))
    return found


def progress_of(told: Told, work: Iterable[tuple[int, Loaded]]) -> Progress:
    """Count the runs that samples take, a number of them with each of some programs."""
    return Progress(told, sum(samples * loaded.plan.runs for samples, loaded in work))
