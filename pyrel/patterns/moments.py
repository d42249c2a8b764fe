# SPDX-License-Identifier: Apache-2.0
"""Means and co-moments of rows that come batch by batch, in float64.

A batch is centred by its own means, and what two batches say is merged by the formula of Chan,
Golub and LeVeque (1979), of which Welford's is that for one row. So nothing cancels, however far
from zero the values lie, and the result does not depend on how rows are divided into batches, but
for rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]


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
        """Take those of a batch.

        Parameters
        ----------
        x : ndarray, shape (rows, inputs)
        y : ndarray, shape (rows, units)
        rows : ndarray of bool, shape (rows, units), optional
            The rows of each unit; all by default.
        """
        # Less a number of their size, what is constant is 0, and sums of what is left are exact.
        near_x, near_y = x[0], y[0]
        x, y = x - near_x, y - near_y
        mean = x.mean(axis=0)
        x, near_x = x - mean, near_x + mean
        if rows is None:
            mean_y = y.mean(axis=0)
            y = y - mean_y
            count, mean_x = np.array([float(len(x))]), x.mean(axis=0)[None]
        else:
            count = rows.sum(axis=0).astype(np.float64)
            some = np.maximum(count, 1.0)
            mean_y = np.where(rows, y, 0.0).sum(axis=0) / some
            y = np.where(rows, y - mean_y, 0.0)
            mean_x = (rows.T.astype(np.float64) @ x) / some[:, None]
        square = (y**2).sum(axis=0)
        return cls(count, near_x + mean_x, near_y + mean_y, y.T @ x, square)

    def merged(self, other: Moments) -> Moments:
        """Return those of the rows of both."""
        count = self.count + other.count
        share = np.divide(other.count, count, out=np.zeros_like(count), where=count > 0)
        # What has no rows has means that count for nothing.
        x = np.where((self.count > 0)[:, None], self.mean_x, other.mean_x)
        y = np.where(self.count > 0, self.mean_y, other.mean_y)
        of_x, of_y = other.mean_x - x, other.mean_y - y
        between = self.count * share
        return Moments(
            count,
            x + share[:, None] * of_x,
            y + share * of_y,
            self.co + other.co + (between * of_y)[:, None] * of_x,
            self.square + other.square + between * of_y**2,
        )

    def arrays(self, prefix: str) -> dict[str, Floats]:
        """Return the arrays by name."""
        return {f"{prefix}{each.name}": getattr(self, each.name) for each in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Floats], prefix: str) -> Moments:
        """Return what `arrays` made; KeyError if one is missing."""
        return cls(**{each.name: arrays[f"{prefix}{each.name}"] for each in fields(cls)})


def rounding_of_outputs(weight: Floats, largest: Floats) -> Floats:
    """Return how far rounding may move outputs wᵀx; shape (units,).

    A sum of n products is off by at most n ε Σ |w| |x| (Higham 2002, section 3.1).

    Parameters
    ----------
    weight : ndarray, shape (units, inputs)
    largest : ndarray, shape (inputs,)
        Largest size of each input.
    """
    bound: Floats = weight.shape[1] * np.finfo(np.float64).eps * (np.abs(weight) @ largest)
    return bound
