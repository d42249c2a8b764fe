# SPDX-License-Identifier: Apache-2.0
"""What an explainer's model returns for a sample, and which score of it calls ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.compiler.program.file_limits import Limits
from pyrel.engine import arrays
from pyrel.engine.arrays import Int64s
from pyrel.engine.results import Results
from pyrel.files.foreign import shown

CLASSIFICATION, REGRESSION = "classification", "regression"
EACH_STEP = "each step"  # a target
FOLLOWS = -1  # in a shape: as many as follow from the number of steps

_NEGATIVE = "; negative ones do not count from the end"


@dataclass(frozen=True)
class Outputs:
    """The raw outputs of a model for one sample.

    Attributes
    ----------
    task : str
        "classification", where the largest output is that of the predicted class, or "regression",
        where outputs are numbers of their own.
    shape : tuple of int
        Theirs; -1 is a size that follows the number of steps. Empty for a vector of as many outputs
        as the program has.
    """

    task: str = CLASSIFICATION
    shape: tuple[int, ...] = ()

    @property
    def follow_steps(self) -> bool:
        """Whether there are as many as follow from the number of steps."""
        return FOLLOWS in self.shape

    @property
    def dimensions(self) -> int:
        """How many indices name one output."""
        return max(1, len(self.shape))

    def of(self, count: int) -> tuple[int, ...]:
        """Shape of ``count`` outputs.

        Raises
        ------
        ValueError
            If they do not fit; so files are refused that say something else than their programs.
        """
        known = math.prod(size for size in self.shape if size != FOLLOWS)
        shape = tuple(count // known if size == FOLLOWS else size for size in self.shape)
        if self.shape and math.prod(shape) != count:
            raise ValueError(f"outputs of shape {self.shape} do not fit {count} outputs")
        return shape or (count,)

    def text(self, count: int) -> str:
        """Say how many there are, or their shape."""
        named = [("T" if size == FOLLOWS else str(size)) for size in self.shape]
        shown = f"outputs (n, {', '.join(named)})" if self.dimensions > 1 else f"{count} outputs"
        return f"{shown}, {self.task}" if self.task != CLASSIFICATION else shown

    def check_asked(self, target: Any, count: int) -> None:
        """Refuse a call that leaves the target to the prediction, where there is none.

        Raises
        ------
        ValueError
        """
        if target is not None or (count == 1 and not self.follow_steps):
            return
        if self.dimensions > 1:
            shape = self.of(count)
            raise ValueError(
                f"target: the model has outputs of shape {_of_batch(shape)}, and no single one is "
                f"the predicted class; {_wanted(shape)}"
            )
        if self.task == REGRESSION:
            raise ValueError(
                f"target: with task='regression' the model's {count} outputs are numbers of their "
                f"own, and the largest is no predicted class; wanted the index of one, 0 to "
                f"{count - 1}, or one for each sample"
            )

    def axis_of_steps(self, shape: tuple[int, ...], only: int | None) -> int:
        """Return which dimension of outputs is that of the steps.

        ``only`` is the one number of steps that the model takes, if there is one.

        Raises
        ------
        ValueError
            If there is none, or one cannot tell which; or the others are no classes.
        """
        axes = self._axes_of_steps(shape, only)
        if len(axes) != 1 or len(shape) > 2:
            raise ValueError(
                f"target: {EACH_STEP!r} is for outputs (n, T, classes) or (n, T), of which one "
                f"dimension is known to be the steps; the model's are {_of_batch(shape)}"
            )
        if self.task == REGRESSION and math.prod(shape) > shape[axes[0]]:
            raise ValueError(
                f"target: with task='regression' the {math.prod(shape) // shape[axes[0]]} outputs "
                f"of a step are numbers of their own, and the largest is no predicted class; "
                f"{_wanted(shape)}"
            )
        return axes[0]

    def have_steps(self, shape: tuple[int, ...], only: int | None) -> bool:
        """Whether a dimension may be that of the steps; as `axis_of_steps` takes them."""
        return bool(self._axes_of_steps(shape, only))

    def _axes_of_steps(self, shape: tuple[int, ...], only: int | None) -> list[int]:
        if self.follow_steps:
            return [self.shape.index(FOLLOWS)]
        return [axis for axis, size in enumerate(shape) if size == only and len(shape) > 1]

    def index(self, target: Any, n: int, count: int) -> Int64s | None:
        """Return the index of the output that is asked for of each of ``n`` samples.

        Parameters
        ----------
        target : Any
            As `pyrel.Explainer` takes it.
        n : int
        count : int
            How many outputs there are.

        Returns
        -------
        ndarray of int64, shape (n,) or (n, dimensions), or None
            None where none is asked for.

        Raises
        ------
        ValueError, TypeError
            If the target is no such index.
        """
        if isinstance(target, str):
            raise TypeError(self._refused_text(target, n, count))
        if target is None or len(self.shape) < 2:
            return arrays.targets(target, n, count)
        shape = self.of(count)
        found = _in_columns(target, n, shape)
        wrong = np.argwhere((found < 0) | (found >= shape))
        if wrong.size:
            sample, dimension = (int(number) for number in wrong[0])
            got = found[sample, dimension]
            raise ValueError(
                f"target: wanted 0 to {shape[dimension] - 1} for dimension {dimension} of outputs "
                f"{_of_batch(shape)}, got {got} for x[{sample}]{_NEGATIVE if got < 0 else ''}"
            )
        return found

    def _refused_text(self, target: str, n: int, count: int) -> str:
        """Say what is wanted in place of a text, which is "each step" where it is allowed."""
        wanted = _wanted(self.of(count)) if self.dimensions > 1 else arrays.wanted_targets(n)
        got = shown(repr(target), 60)
        return f"target: {wanted}; {EACH_STEP!r} for scores of each step; got {got}"

    def numbers(self, target: Any, n: int, count: int) -> Int64s | None:
        """Return what `index` does, as numbers of outputs in their order, (n,)."""
        found = self.index(target, n, count)
        if found is None or found.ndim == 1:
            return found
        return np.ascontiguousarray(np.ravel_multi_index(tuple(found.T), self.of(count)))

    def shaped(self, results: Results) -> Results:
        """Give outputs the model's shape, and targets an index for each dimension."""
        if len(self.shape) < 2:
            return results
        n, count = results.output.shape
        shape = self.of(count)
        index = np.stack(np.unravel_index(results.target, shape), axis=-1)
        return results._replace(output=results.output.reshape(n, *shape), target=index)


def check_stored(outputs: Outputs, any_steps: bool, limits: Limits) -> None:
    """Refuse with a ValueError what a file must not say of the outputs."""
    if outputs.task not in (CLASSIFICATION, REGRESSION):
        raise ValueError(f"it has a task {shown(outputs.task, 60)}")
    sizes = [size for size in outputs.shape if size != FOLLOWS]
    if min(sizes, default=1) < 1 or len(outputs.shape) - len(sizes) > any_steps:
        raise ValueError(f"it has outputs of shape {shown(outputs.shape, 60)}")
    limits.check_shape("outputs", sizes, "outputs")


class Places:
    """Where the outputs of shorter sequences are among those of a batch.

    Parameters
    ----------
    whole : tuple of int
        Shape of a sample's outputs in the batch.
    own : tuple of int
        Of one of the sequences.

    Attributes
    ----------
    whole : int
        How many outputs a sample has in the batch.
    numbers : ndarray of int64, shape (outputs of a sequence,)
        Of these among all.
    """

    def __init__(self, whole: tuple[int, ...], own: tuple[int, ...]) -> None:
        if any(size > most for size, most in zip(own, whole, strict=True)):
            raise ValueError(
                f"lengths: the model has outputs of shape {_of_batch(own)} for a shorter sequence, "
                f"and of {_of_batch(whole)} for the batch"
            )
        self.whole = math.prod(whole)
        self._shape, self._own = whole, own
        every = np.arange(self.whole).reshape(whole)
        self.numbers: Int64s = every[tuple(slice(size) for size in own)].reshape(-1)

    def within(self, targets: Int64s, samples: Int64s, steps: int) -> Int64s:
        """Return numbers of outputs in the batch as those of the sequences.

        Raises
        ------
        ValueError
            If a sequence, of ``steps`` steps, ends before.
        """
        index = np.stack(np.unravel_index(targets, self._shape), axis=1)
        wrong = np.argwhere(index >= self._own)
        if wrong.size:
            number, dimension = (int(each) for each in wrong[0])
            raise ValueError(
                f"target: wanted 0 to {self._own[dimension] - 1} for x[{samples[number]}], whose "
                f"length is {steps}, got {index[number, dimension]}"
            )
        return np.ascontiguousarray(np.ravel_multi_index(tuple(index.T), self._own))

    def moved(self, part: Results) -> Results:
        """Return results of sequences with outputs and targets as in the batch."""
        if self._own == self._shape:
            return part
        output = np.zeros((len(part.output), self.whole), np.float32)
        output[:, self.numbers] = part.output
        return part._replace(output=output, target=self.numbers[part.target])


def _in_columns(target: Any, n: int, shape: tuple[int, ...]) -> Int64s:
    """Return a target of several dimensions as (n, dimensions)."""
    wanted = _wanted(shape)
    if isinstance(target, tuple):
        if len(target) != len(shape):
            raise ValueError(f"target: {wanted}; got a tuple of {len(target)}")
        parts = [_integers(part, wanted) for part in target]
        if any(part.shape not in {(), (n,)} for part in parts):
            raise ValueError(
                f"target: {wanted}; got a tuple of shapes {', '.join(str(p.shape) for p in parts)}"
            )
        return np.stack([np.broadcast_to(part, (n,)) for part in parts], axis=1).astype(np.int64)
    _refuse_arrays_in_list(target, len(shape))
    values = _integers(target, wanted)
    if values.shape == (len(shape),) and values.size:  # which n samples may be, too
        index = tuple(values.tolist())
        raise ValueError(
            f"target: {wanted}; got shape {values.shape}: target={index}, a tuple, is one index "
            "for all samples"
        )
    if values.shape != (n, len(shape)):
        raise ValueError(f"target: {wanted}; got shape {values.shape}")
    return np.array(values, np.int64)


def _refuse_arrays_in_list(target: Any, dimensions: int) -> None:
    """Refuse what would be read as rows, one for each sample, but may be meant as columns."""
    if isinstance(target, list) and any(getattr(each, "ndim", 0) > 0 for each in target):
        form = "(t, c)" if dimensions == 2 else f"of {dimensions}"
        raise TypeError(
            f"target: got a list of arrays, which may be columns or rows; wanted a tuple {form} of "
            f"numbers or of one for each sample, or one array of shape (n, {dimensions})"
        )


def _integers(given: Any, wanted: str) -> npt.NDArray[Any]:
    values = arrays.as_array("target", given, wanted)
    if values.size and values.dtype.kind not in "iu":
        raise TypeError(f"target: {wanted}; got {arrays.kind_of_given(given, values)}")
    return values


def _wanted(shape: tuple[int, ...]) -> str:
    indices = ", ".join(["0"] * len(shape))
    return (
        f"wanted one index for each dimension, as target=({indices}), numbers or one for each "
        f"sample, or integers of shape (n, {len(shape)})"
    )


def _of_batch(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, ['n', *shape]))})"
