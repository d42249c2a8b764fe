# SPDX-License-Identifier: Apache-2.0
"""A whole evaluation: cells, methods, baselines, the samples to show and the configuration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyrel.metrics.degradation import DegradationCurves
from pyrel.metrics.evaluation import Evaluation
from pyrel.metrics.maps import BoolArray
from pyrel.metrics.summary import Summary

DIGIT_NAMES = tuple("0123456789")


@dataclass(frozen=True, eq=False)
class ShownSamples:
    """The few samples whose maps are shown.

    Attributes
    ----------
    x
        (k, steps, height, width) inputs.
    y
        (k,) true classes.
    relevant
        (k, steps) boolean.
    index
        (k,) position of each in the evaluated set.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]
    relevant: BoolArray
    index: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check that the arrays fit together."""
        if self.x.ndim != 4:
            raise ValueError(f"x: wanted shape (k, steps, height, width), given {self.x.shape}")
        count, steps = self.x.shape[:2]
        wanted = {"y": (count,), "relevant": (count, steps), "index": (count,)}
        for name, shape in wanted.items():
            given = getattr(self, name).shape
            if given != shape:
                raise ValueError(f"{name}: wanted shape {shape}, given {given}")


@dataclass(frozen=True, eq=False)
class CellResult:
    """The results of one trained cell.

    Attributes
    ----------
    accuracy
        Over the evaluated samples: `Summary.of(predicted == y)`.
    evaluations
        By method name.
    heatmaps
        By method name: relevance of the shown samples for each class,
        (k, classes, steps, height, width).
    outputs
        (k, classes) output of the cell for each shown sample.
    facts
        Further numbers to print with the cell, such as parameters, epochs, training seconds.
    degradation
        Degradation curves of the methods, where they were measured; of some of the samples, or all.
    """

    accuracy: Summary
    evaluations: dict[str, Evaluation]
    heatmaps: dict[str, NDArray[np.float32]]
    outputs: NDArray[np.floating[Any]]
    facts: dict[str, str | int | float] = field(default_factory=dict)
    degradation: DegradationCurves | None = None

    @property
    def predicted(self) -> NDArray[np.int64]:
        """(k,) class that the cell gives to each shown sample: that of the largest output."""
        found: NDArray[np.int64] = self.outputs.argmax(axis=1)
        return found


@dataclass(frozen=True, eq=False)
class Study:
    """An evaluation of several cells and methods on one set of samples.

    Attributes
    ----------
    title
        Heading of the report.
    problem
        What the cells were trained to do, in a sentence or two.
    relevant
        (n, steps) boolean, for all evaluated samples.
    cells
        Results by cell name.
    baselines
        From `evaluate_baselines`, both of them; further ones may be added.
    shown
        The samples whose heatmaps each cell has.
    config
        JSON-able settings (seed, sizes, versions, machine); a nested dict becomes a section.
    class_names
        Name of every class.

    Raises
    ------
    ValueError
        If the parts do not fit together: another number of samples, heatmaps of another shape,
        a method without heatmaps. If there is no sample, or a baseline is missing.
    """

    title: str
    problem: str
    relevant: BoolArray
    cells: dict[str, CellResult]
    baselines: dict[str, Evaluation]
    shown: ShownSamples
    config: dict[str, Any]
    class_names: tuple[str, ...] = DIGIT_NAMES

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        if not len(self.relevant):
            raise ValueError("relevant: wanted at least one evaluated sample, given none")
        if missing := {"uniform", "pixel_mass"} - set(self.baselines):
            raise ValueError(
                f"baselines: {', '.join(sorted(missing))} missing; every table has them"
            )
        for cell, method, evaluation in self.evaluations():
            given = evaluation.step_shares.shape
            if given != self.relevant.shape:
                raise ValueError(
                    f"{cell or 'baselines'}, {method}: wanted (n, steps) = {self.relevant.shape}, "
                    f"evaluated {given}"
                )
        for name, result in self.cells.items():
            self._check_cell(name, result)

        outside = (self.shown.index < 0) | (self.shown.index >= len(self.relevant))
        if outside.any():
            raise ValueError(
                f"shown, index: wanted positions below {len(self.relevant)}, "
                f"given {self.shown.index[outside][0]}"
            )

        y = self.shown.y
        outside = (y < 0) | (y >= len(self.class_names))
        if outside.any():
            raise ValueError(
                f"shown, y: wanted classes below {len(self.class_names)}, the number of "
                f"class_names, given {y[outside][0]}"
            )

    def _check_cell(self, name: str, result: CellResult) -> None:
        if len(result.accuracy.values) != len(self.relevant):
            raise ValueError(
                f"{name}, accuracy: wanted {len(self.relevant)} samples, "
                f"given {len(result.accuracy.values)}"
            )
        count, classes = len(self.shown.y), len(self.class_names)
        if result.outputs.shape != (count, classes):
            raise ValueError(
                f"{name}, outputs: wanted shape {(count, classes)}, given {result.outputs.shape}"
            )
        if set(result.heatmaps) != set(result.evaluations):
            raise ValueError(
                f"{name}, heatmaps: wanted the evaluated methods {sorted(result.evaluations)}, "
                f"given {sorted(result.heatmaps)}"
            )
        wanted = (count, classes, *self.shown.x.shape[1:])
        for method, heatmap in result.heatmaps.items():
            if heatmap.shape != wanted:
                raise ValueError(
                    f"{name}, {method}: wanted heatmaps of shape {wanted}, given {heatmap.shape}"
                )

    def evaluations(self) -> Iterator[tuple[str | None, str, Evaluation]]:
        """Yield (cell, method, evaluation) in table order; the baselines come last, cell None."""
        for cell, result in self.cells.items():
            for method, evaluation in result.evaluations.items():
                yield cell, method, evaluation
        for method, evaluation in self.baselines.items():
            yield None, method, evaluation

    def methods(self) -> list[str]:
        """Return the names of all methods, in order of first appearance."""
        names = (m for result in self.cells.values() for m in result.evaluations)
        return list(dict.fromkeys(names))
