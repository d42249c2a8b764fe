# SPDX-License-Identifier: Apache-2.0
"""Explains the predicted class of each step of the outputs, in a few calls of the engine.

A forward pass finds the classes. Then samples are explained that stand there once for each step,
some at a time: each runs forward and back as a sample of its own.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from pyrel.engine import arrays
from pyrel.engine.arrays import Batch, Float32s, Int64s
from pyrel.engine.batch import explain_all, explain_by_length, progress_of
from pyrel.engine.inputs import Inputs
from pyrel.engine.outputs import EACH_STEP, Outputs, Places
from pyrel.engine.programs import Programs
from pyrel.engine.progress import Told
from pyrel.engine.results import Results
from pyrel.engine.run import Run

_BYTES = 1 << 25  # of repeated samples, their relevance and outputs, that are held at once


def is_each_step(target: Any) -> bool:
    """Whether a target asks for each step."""
    return isinstance(target, str) and target == EACH_STEP


def steps_of_outputs(programs: Programs, inputs: Inputs, steps: int) -> tuple[tuple[int, ...], int]:
    """Return the shape of a sample's outputs, and which dimension of it is the steps.

    Raises
    ------
    ValueError
        If the outputs have no such dimension, or one cannot tell which.
    """
    outputs: Outputs = programs.source.outputs
    shape = outputs.of(programs.classes_at(steps))
    return shape, outputs.axis_of_steps(shape, None if inputs.any_steps else inputs.steps)


class _Sequences(NamedTuple):
    """Sequences of one length, and the outputs that are explained of each, in two numberings."""

    samples: Int64s
    steps: int
    own: Int64s  # (sequences, steps of outputs), among the outputs of such a sequence
    whole: Int64s  # likewise among those of the batch


def explain_each_step(
    programs: Programs,
    inputs: Inputs,
    x: Batch,
    lengths: Int64s | None,
    steps: int,
    relevance: Float32s,
    told: Told | None,
) -> Results:
    """Explain each step of the outputs.

    Parameters
    ----------
    programs, inputs, x, told
        As `pyrel.engine.batch.explain_all` takes them.
    lengths : ndarray of int64, shape (n,), or None
    steps : int
        Of ``x``.
    relevance : ndarray of float32, shape (n, steps of the outputs, ...)
        Where it goes.

    Returns
    -------
    Results
        With an entry for each step where others have one for each sample, but for the outputs.
    """
    shape, axis = steps_of_outputs(programs, inputs, steps)
    if lengths is None:
        forward = explain_all(programs, inputs, x, None, steps, None)
    else:
        forward = explain_by_length(programs, inputs, x, None, lengths, None)
    numbers = _by_step(shape, axis)
    n, many = len(x), len(numbers)
    results = Results(
        relevance,
        forward.output,
        np.tile(numbers[:, 0], (n, 1)),
        *(np.zeros((n, many), np.float32) for _ in range(3)),
    )
    if lengths is not None:
        relevance[:] = 0.0
    found = _sequences(programs, x, lengths, steps, shape, axis, forward.output)
    progress = None
    if told is not None:
        work = [(each.own.size, programs.at(each.steps)) for each in found]
        progress = progress_of(told, work)
    for each in found:
        results.target[each.samples, : each.own.shape[1]] = each.whole
        _explain(Run(x, programs.at(each.steps), inputs, progress), x, each, results)
    return results


def _explain(run: Run, x: Batch, each: _Sequences, results: Results) -> None:
    """Explain all steps of sequences of one length, some at a time."""
    assert results.relevance is not None
    rows = max(1, _BYTES // (4 * (2 * math.prod(run.shape) + run.classes)))
    for first in range(0, each.own.size, rows):
        pairs = np.arange(first, min(first + rows, each.own.size))
        sequence, step = np.divmod(pairs, each.own.shape[1])
        some = each.samples[sequence]
        values = arrays.taken(x, some, each.steps)
        part = Results.places(np.empty(values.shape, np.float32), len(pairs), run.classes)
        run.explain(values, each.own[sequence, step], part, 0, some)
        assert part.relevance is not None
        arrays.put(x, results.relevance, (some, step), part.relevance, each.steps)
        results.absorbed[some, step] = part.absorbed
        results.conservation[some, step] = part.conservation
        results.amplification[some, step] = part.amplification


def _by_step(shape: tuple[int, ...], axis: int) -> Int64s:
    """Numbers of the outputs, (steps of the outputs, classes)."""
    every = np.arange(math.prod(shape)).reshape(shape)
    by_step: Int64s = np.moveaxis(every, axis, 0).reshape(shape[axis], -1)
    return by_step


def _sequences(
    programs: Programs,
    x: Batch,
    lengths: Int64s | None,
    steps: int,
    shape: tuple[int, ...],
    axis: int,
    output: Float32s,
) -> list[_Sequences]:
    """Sort sequences by length, and find the class with the largest output at each step."""
    groups = [(np.arange(len(x)), steps)] if len(x) else []
    if lengths is not None:
        groups = [(np.flatnonzero(lengths == n), int(n)) for n in np.unique(lengths)]
    found = []
    for samples, own_steps in groups:
        own_shape = programs.source.outputs.of(programs.classes_at(own_steps))
        within = Places(shape, own_shape).numbers
        numbers = _by_step(own_shape, axis)
        classes = output[samples][:, within[numbers]].argmax(axis=2)
        own = numbers[np.arange(len(numbers)), classes]
        found.append(_Sequences(samples, own_steps, own, within[own]))
    return found
