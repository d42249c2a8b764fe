# SPDX-License-Identifier: Apache-2.0
"""The plan of occlusion: forward passes of samples without one patch after another."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.layout import Kind
from pyrel.engine.arrays import Float32s
from pyrel.engine.inputs import Inputs
from pyrel.engine.plans.base import Runner
from pyrel.engine.plans.copies import Float64s, OfCopies, of_targets
from pyrel.engine.plans.ids import checked_ids
from pyrel.engine.plans.of_inputs import option_of
from pyrel.engine.results import Samples
from pyrel.engine.several import SeveralInputs
from pyrel.methods import Occlusion

# Slices along the axes of a sample, or elements of a row.
Patch: TypeAlias = tuple[slice | npt.NDArray[Any], ...]


class Occluded(OfCopies):
    """What the output loses with each patch.

    Parameters
    ----------
    method : Occlusion
    inputs : Inputs
    steps : int

    Raises
    ------
    ValueError
        If an option does not fit the input.
    """

    backward = False

    def __init__(self, method: Occlusion, inputs: Inputs, steps: int) -> None:
        shape = inputs.of_steps(steps)
        if isinstance(inputs, SeveralInputs):
            self._patches = [*_patches_of_several(method, inputs, steps)]
        else:
            self._patches = _patches(method, shape)
        super().__init__(len(self._patches), shape)
        self._baseline = _baseline_of(method, inputs, steps)
        self._covered = np.zeros(shape)
        for each in self._patches:
            self._covered[each] += 1

    def fill(self, copies: Float32s, values: Float32s, first: int) -> None:
        """Write samples, each without a patch."""
        copies[:] = values
        for copy, patch in zip(copies, self._patches[first:], strict=False):
            copy[:, *patch] = self._baseline[patch]

    def add(self, total: Float64s, first: int, found: Float32s, values: Float32s) -> None:
        """Add up the outputs without the patches that an element is in."""
        for output, patch in zip(found, self._patches[first:], strict=False):
            total[:, *patch] += output.reshape(-1, *(1 for _ in patch))

    def finish(self, runner: Runner, total: Float64s, here: Samples, values: Float32s) -> None:
        """Take their mean from the output of the sample."""
        assert here.targets is not None
        assert here.results.relevance is not None
        score = of_targets(here.results.output, here.targets)
        mean = total / np.maximum(self._covered, 1)
        found = score.reshape(-1, *(1 for _ in self.shape)) - mean
        here.results.relevance[:] = np.where(self._covered > 0, found, 0.0)


def _patches(method: Occlusion, shape: tuple[int, ...]) -> list[Patch]:
    """Return the patches of a sample."""
    patch, stride = method.windows(shape)
    starts = [
        range(0, max(1, size - width + by), by)
        for size, width, by in zip(shape, patch, stride, strict=True)
    ]
    return [
        tuple(slice(start, start + width) for start, width in zip(corner, patch, strict=True))
        for corner in itertools.product(*starts)
    ]


def _patches_of_several(method: Occlusion, inputs: SeveralInputs, steps: int) -> Iterator[Patch]:
    """Yield the patches of each input, as elements of a row; of constant inputs none."""
    layout = inputs.layout_at(steps)
    numbers = layout.split(np.arange(layout.size))
    for leaf, own in zip(layout.leaves, numbers, strict=True):
        if leaf.name not in inputs.constant:
            yield from ((own[patch].reshape(-1),) for patch in _patches(method, leaf.shape))


def _baseline_of(method: Occlusion, inputs: Inputs, steps: int) -> Float32s:
    shape = inputs.of_steps(steps)
    if isinstance(inputs, SeveralInputs):
        _refuse_no_ids(method, inputs)
    if not inputs.are_ids:
        return np.array(option_of("baseline", method.baseline, inputs, steps), np.float32)
    if method.baseline is None:
        raise ValueError(
            "baseline: wanted the token id that stands for an occluded one, such as that of an "
            "unknown token"
        )
    return checked_ids(method.baseline, inputs, shape)


def _refuse_no_ids(method: Occlusion, inputs: SeveralInputs) -> None:
    """Refuse token ids for which nothing is given that stands for an occluded one."""
    given = method.baseline if isinstance(method.baseline, Mapping) else {}
    for leaf in inputs.layout.leaves:
        if leaf.elements == Kind.ids and leaf.name not in (*given, *inputs.constant):
            raise ValueError(
                f"baseline: wanted the token id that stands for an occluded one of {leaf.name}, as "
                f"baseline={{{leaf.name!r}: 0}}, or constant=[{leaf.name!r}]"
            )
