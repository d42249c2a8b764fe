# SPDX-License-Identifier: Apache-2.0
"""Means and co-moments of rows that come batch by batch, in float64.

A batch is centred by its own means, and what two batches say is merged by the formula of Chan,
Golub and LeVeque (1979), of which Welford's is that for one row. So nothing cancels, however far
from zero the values lie, and the result does not depend on how rows are divided into batches, but
for rounding.

The arrays are as large as the weights of a layer. So they are changed in place, and what is
computed on the way is of one block of units (`pyrel.compiler.graph.unit_blocks`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.unit_blocks import blocks

Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Centred:
    """Rows of a batch, less a number near their mean.

    Attributes
    ----------
    x : ndarray, shape (rows, inputs)
        Less ``near_x``.
    y : ndarray, shape (rows, units)
        Less ``near_y``.
    near_x : ndarray, shape (inputs,)
    near_y : ndarray, shape (units,)
    """

    x: Floats
    y: Floats
    near_x: Floats
    near_y: Floats

    @classmethod
    def of(cls, x: Floats, y: Floats) -> Centred:
        """Take rows of inputs and outputs."""
        # Less a number of their size, what is constant is 0, and sums of what is left are exact.
        near_x, near_y = x[0].copy(), y[0].copy()
        x, y = x - near_x, y - near_y
        mean = x.mean(axis=0)
        x -= mean
        return cls(x, y, near_x + mean, near_y)


@dataclass(frozen=True, eq=False)
class Moments:
    """What is known of inputs x and outputs y of the units of a layer, over some rows.

    Each unit may have rows of its own, such as those where its output is above zero. Where all
    units have the same rows, ``count`` and ``mean_x`` have one line for all of them.

    Attributes
    ----------
    count : ndarray, shape (units,) or (1,)
        Number of rows.
    mean_x : ndarray, shape (units, inputs) or (1, inputs)
    mean_y : ndarray, shape (units,)
    co : ndarray, shape (units, inputs)
        Σ (x − mean x)(y − mean y).
    square : ndarray, shape (units,)
        Σ (y − mean y)².
    """

    count: Floats
    mean_x: Floats
    mean_y: Floats
    co: Floats
    square: Floats

    @classmethod
    def nothing(cls, units: int, inputs: int, *, apart: bool) -> Moments:
        """Make those of no rows; ``apart`` says that units have rows of their own."""
        lines = units if apart else 1
        return cls(
            np.zeros(lines),
            np.zeros((lines, inputs)),
            np.zeros(units),
            np.zeros((units, inputs)),
            np.zeros(units),
        )

    @classmethod
    def of(cls, x: Floats, y: Floats, rows: Mask | None = None) -> Moments:
        """Make those of some rows; see `add`."""
        made = cls.nothing(y.shape[1], x.shape[1], apart=rows is not None)
        made.add(Centred.of(x, y), rows)
        return made

    def add(self, batch: Centred, rows: Mask | None = None) -> None:
        """Take a batch.

        Parameters
        ----------
        batch : Centred
        rows : ndarray of bool, shape (rows, units), optional
            The rows of each unit; all by default, where units have no rows of their own.
        """
        self._take(lambda units: _of_block(batch, units, rows))

    def merge(self, other: Moments) -> None:
        """Take the rows of others, which stay as they are."""
        self._take(other.of_units)

    def of_units(self, units: slice) -> Moments:
        """Return those of some units: views, but for copies of what all units have in common."""
        lines = self.count, self.mean_x
        apart = len(self.count) == len(self.co)
        count, mean_x = (line[units] if apart else line.copy() for line in lines)
        return Moments(count, mean_x, self.mean_y[units], self.co[units], self.square[units])

    def copy(self) -> Moments:
        """Return a copy."""
        return Moments(*(array.copy() for array in self.arrays("").values()))

    def _take(self, found: Callable[[slice], Moments]) -> None:
        """Take what is found for each block of units."""
        mine = self
        for units in blocks(*self.co.shape):
            mine = self.of_units(units)
            mine._take_block(found(units))
        if len(self.count) == 1:  # what all units have in common: each block came to the same
            self.count[:], self.mean_x[:] = mine.count, mine.mean_x

    def _take_block(self, other: Moments) -> None:
        """Take the rows of others, all units at once."""
        # What has no rows has means that count for nothing.
        empty = self.count == 0
        self.mean_x[empty] = other.mean_x[empty]
        self.mean_y[...] = np.where(empty, other.mean_y, self.mean_y)
        count = self.count + other.count
        share = np.divide(other.count, count, out=np.zeros_like(count), where=count > 0)
        between = self.count * share
        of_x, of_y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        self.co[...] += other.co
        self.co[...] += (between * of_y)[:, None] * of_x
        self.square[...] += other.square
        self.square[...] += between * of_y**2
        of_x *= share[:, None]
        self.mean_x[...] += of_x
        self.mean_y[...] += share * of_y
        self.count[...] = count

    def arrays(self, prefix: str) -> dict[str, Floats]:
        """Return the arrays by name."""
        return {f"{prefix}{each.name}": getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Floats], prefix: str) -> Moments:
        """Return what `arrays` made; KeyError if one is missing."""
        return cls(**{each.name: arrays[f"{prefix}{each.name}"] for each in fields(cls)})


def _of_block(batch: Centred, units: slice, rows: Mask | None) -> Moments:
    """Return the moments of a batch for some units."""
    x, y, near_y = batch.x, batch.y[:, units], batch.near_y[units]
    if rows is None:
        mean_y = y.mean(axis=0)
        y = y - mean_y
        count, mean_x = np.array([float(len(x))]), x.mean(axis=0)[None]
    else:
        some = rows[:, units]
        count = some.sum(axis=0).astype(np.float64)
        at_least_one = np.maximum(count, 1.0)
        mean_y = np.where(some, y, 0.0).sum(axis=0) / at_least_one
        y = np.where(some, y - mean_y, 0.0)
        mean_x = some.T.astype(np.float64) @ x
        mean_x /= at_least_one[:, None]
    square = (y**2).sum(axis=0)
    mean_x += batch.near_x
    return Moments(count, mean_x, near_y + mean_y, y.T @ x, square)


def largest_sizes(x: Floats) -> Floats:
    """Return the largest size of each column, without an array of all sizes."""
    largest: Floats = np.maximum(x.max(axis=0), -x.min(axis=0))
    return largest


def rounding_of_outputs(weight: Floats, largest: Floats) -> Floats:
    """Return how far rounding may move outputs wᵀx; shape (units,).

    A sum of n products is off by at most n ε Σ |w| |x| (Higham 2002).

    Parameters
    ----------
    weight : ndarray, shape (units, inputs)
    largest : ndarray, shape (inputs,)
        Largest size of each input.
    """
    sizes = [np.abs(weight[units]) @ largest for units in blocks(*weight.shape)]
    bound: Floats = weight.shape[1] * np.finfo(np.float64).eps * np.concatenate(sizes)
    return bound
