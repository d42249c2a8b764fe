# SPDX-License-Identifier: Apache-2.0
"""Cases of the benchmark: a cell at the thesis's sizes, a batch size, a method, and samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pyrel.benchmark.contestants import CONVOLUTIONAL, GATED, LRP, METHODS, methods_of
from pyrel.benchmark.gated import gated_cell
from pyrel.experiment import Problem
from pyrel.nn import Cell, ConvDeep, cell_type
from pyrel.training import load_model

STEPS = (7, 12, 28)
BATCHES = (1, 8, 64, 1024, 10000)


@dataclass(frozen=True)
class Model:
    """A cell, and where its weights and its samples come from.

    Attributes
    ----------
    cell : Cell
    weights, inputs : str
        For the reader of results.
    problem : Problem, optional
        Where samples are drawn from; without it they are uniform random numbers in [0, 1).
    name : str
        Of the cell in tables; by default that of its type.
    """

    cell: Cell
    weights: str
    inputs: str
    problem: Problem | None = None
    name: str = ""

    @property
    def title(self) -> str:
        """The name of the cell in tables."""
        return self.name or type(self.cell).__name__

    def candidates(self, count: int, seed: int) -> npt.NDArray[np.float32]:
        """Return at most `count` samples (n, steps, pixels)."""
        steps, pixels = self.cell.steps, self.cell.step_features
        if self.problem is None:
            rng = np.random.default_rng(seed)
            return rng.random((count, steps, pixels), np.float32)
        x = self.problem.samples(self.problem.images("test"), count=count)[0]
        return x.reshape(-1, steps, pixels)


@dataclass(frozen=True)
class Case:
    """One row of the results."""

    cell: str
    steps: int
    method: str
    batch: int

    def __str__(self) -> str:
        """Return it as tables show it."""
        return f"{self.cell}-{self.steps}, {self.method}, batch {self.batch:,}"


def thesis_cell(name: str, steps: int) -> Cell:
    """Return a new cell at the sizes that the thesis has for a number of steps, or its own.

    One image of 28 columns is cut into `steps`, or three side by side where that number divides
    84 only. ConvDeepWide is ConvDeep at its default sizes, over steps of 28 x 7 pixels; LSTM and
    GRU have sizes of their own. These three take any number of steps.

    Raises
    ------
    ValueError
        If there is no such cell, or `steps` divides neither.
    """
    if name == CONVOLUTIONAL[1]:
        return ConvDeep(steps)
    if name in GATED:
        return gated_cell(name, steps)
    kind = cell_type(name)
    return kind(steps, (28, 28 // steps)) if 28 % steps == 0 else kind.for_majority(steps)


def thesis_model(name: str, steps: int, seed: int) -> Model:
    """Return a `thesis_cell` with random weights, in eval mode; errors are the same."""
    # The draw must not depend on what the caller drew before, nor change what he draws next.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        cell = thesis_cell(name, steps)
    return Model(
        cell.eval(), f"random, seed {seed}", f"uniform random numbers, seed {seed}", name=name
    )


def saved_model(path: Path) -> Model:
    """Return a trained cell of a file, and the data set that it was trained on.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read, or does not say which problem it was trained on.
    """
    cell, metadata = load_model(path)
    problem = Problem.from_metadata(metadata)
    if problem is None or metadata["low"] != 0 or metadata["high"] != 1:
        raise ValueError(f"{path} was not trained by pyrel train on inputs in [0, 1]")
    inputs = f"{problem.dataset}, {problem.kind}, test samples"
    return Model(cell, f"trained ({path.name})", inputs, problem)


def cases_of(
    models: Sequence[Model], methods: Sequence[str], batches: Sequence[int]
) -> list[tuple[Model, Case]]:
    """Return the combinations, those of a model and a method together, small batches first.

    Left out are those of a cell and a method that nobody wrote by hand: `methods_of`.

    Raises
    ------
    ValueError
        If there is no such method, none for any of the cells, or a batch is not positive.
    """
    known = (*METHODS, *LRP)
    if unknown := [m for m in methods if m not in known]:
        raise ValueError(f"methods: no {', '.join(unknown)}; there are {', '.join(known)}")
    if any(batch < 1 for batch in batches):
        raise ValueError(f"batches: wanted numbers from 1 on, got {min(batches)}")
    cases = [
        (model, Case(model.title, model.cell.steps, method, batch))
        for model in models
        for method in methods
        if method in methods_of(model.title)
        for batch in sorted(set(batches))
    ]
    if not cases:
        can = ", ".join(f"{m.title}: {'/'.join(methods_of(m.title)) or 'none'}" for m in models)
        raise ValueError(f"methods: none of {', '.join(methods)} for these cells ({can})")
    return cases
