# SPDX-License-Identifier: Apache-2.0
"""Explains the predicted class of each step of the outputs, in a few calls of the engine.

A forward pass finds the classes. Then each sample goes back once for each step after one more
forward pass, some samples and steps at a time. Where a method does more than to run one program,
or a program does not keep what its forward pass wrote, as that of a file of one number of steps
may, samples stand there once for each step: each runs forward and back as a sample of its own.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from pyrel.engine import arrays
from pyrel.engine import config as runtime
from pyrel.engine.arrays import Batch, Float32s, Int64s
from pyrel.engine.batch import explain_all, explain_by_length, progress_of
from pyrel.engine.inputs import Inputs
from pyrel.engine.outputs import EACH_STEP, Outputs, Places
from pyrel.engine.programs import Programs
from pyrel.engine.progress import Told
from pyrel.engine.results import Results
from pyrel.engine.run import Run

_BYTES = 1 << 25  # of samples, their relevance and outputs, that are held at once
_TOGETHER = 16  # samples that fill the vectors of a slab: fewer are repeated, for some steps each
_WORK = 4e10  # floating-point operations, about a second, before progress is told
_LEAST_WAYS = 4
_MOST_WAYS = 64  # back after a forward pass, which is then few percent of the work


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
    many = each.own.shape[1]
    ways = _ways_back(run, each.own.size, many)
    groups = -(-many // ways)
    floats = (1 + ways) * math.prod(run.shape) + run.classes  # of a row
    rows = max(1, _BYTES // (4 * floats))
    rows = min(rows, max(_together(), int(_WORK / (run.flops * ways))))
    for first in range(0, len(each.own) * groups, rows):
        numbers = np.arange(first, min(first + rows, len(each.own) * groups))
        sequence, group = np.divmod(numbers, groups)
        some = each.samples[sequence]
        values = arrays.taken(x, some, each.steps)
        # The last group begins earlier, and some of its steps are explained twice, alike.
        begin = np.minimum(group * ways, many - ways)
        step = begin[:, None] + np.arange(ways)
        targets = each.own[sequence[:, None], step]
        relevance = np.empty((targets.size, *values.shape[1:]), np.float32)
        part = Results.places(relevance, targets.size, run.classes)
        if ways > 1:
            run.explain_targets(values, targets, part, some)
            run.advance(_new(group, ways, many))
        else:
            run.explain(values, targets.reshape(-1), part, 0, some)
        place = np.repeat(some, ways), step.reshape(-1)
        arrays.put(x, results.relevance, place, relevance, each.steps)
        results.absorbed[place] = part.absorbed
        results.conservation[place] = part.conservation
        results.amplification[place] = part.amplification


def _ways_back(run: Run, pairs: int, many: int) -> int:
    """Choose for how many steps a sample goes back after one forward pass."""
    if not run.ways_back:
        return 1
    together = _together()
    fit = _BYTES // (4 * together * math.prod(run.shape))
    soon = max(_LEAST_WAYS, int(_WORK / (run.flops * together)))
    most = max(1, min(many, _MOST_WAYS, fit, soon, -(-pairs // together)))
    return -(-many // -(-many // most))


def _together() -> int:
    """Return how many samples fill the slabs of all threads."""
    return _TOGETHER * runtime.num_threads()


def _new(group: Int64s, ways: int, many: int) -> int:
    """Count steps of groups, those once that two groups of a sample have."""
    return int((np.minimum((group + 1) * ways, many) - group * ways).sum())


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
