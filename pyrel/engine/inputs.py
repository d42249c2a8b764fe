# SPDX-License-Identifier: Apache-2.0
"""What an explainer takes: shape, type and range of a sample, and how many steps it may have."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from pyrel.compiler.capture.array_kinds import refuse_unreadable
from pyrel.compiler.graph.nodes import Floats, Graph
from pyrel.compiler.limits import LARGEST_EXACT
from pyrel.engine.arrays import Array, Float32s, Int64s, Rows

RAISE, CLIP = "raise", "clip"  # of values out of range


@dataclass(frozen=True, eq=False)
class Inputs:
    """The samples that an explainer takes.

    Attributes
    ----------
    shape : tuple of int
        Of one sample; where ``any_steps``, of one with as many steps as the example had.
    low, high : ndarray of float32 of that shape, or None
        Smallest and largest value of every element.
    vocabulary : int
        The elements are token ids, integers from 0 on below this; 0 where they are floats.
    out_of_range : str
        What is done with finite values below ``low`` or above ``high``: "raise" refuses them, and
        "clip" explains the nearest ones inside.
    vocabularies : ndarray of int64 of that shape, or None
        Where token ids have bounds of their own: that of each element, 0 where the model does not
        read it, so that it may be any number. ``vocabulary`` is the largest. The same at all steps
        where ``any_steps``.
    any_steps : bool
        Whether a sample may have any number of steps, which is the first axis of its shape.
    lengths : bool
        Whether a call may say how long each sequence is.
    check_finite : bool
        Refuse NaN and infinity.
    fixed_because : str
        What in the model takes this number of steps only, and where; empty where it is not known.
    """

    shape: tuple[int, ...]
    low: Float32s | None = None
    high: Float32s | None = None
    vocabulary: int = 0
    any_steps: bool = False
    lengths: bool = False
    check_finite: bool = True
    fixed_because: str = ""
    vocabularies: Int64s | None = None
    out_of_range: str = RAISE

    def __str__(self) -> str:
        """Shape of a batch, such as "(n, T, 28) for any T"."""
        named = ["T", *self.shape[1:]] if self.any_steps else [*self.shape]
        shape = f"({', '.join(map(str, ['n', *named]))})"
        return f"{shape} for any T" if self.any_steps else shape

    @property
    def only(self) -> str:
        """That a sequence has one number of steps, and why; empty where it may have any."""
        if not self.fixed_because or (len(self.shape) < 2 and not self.vocabulary):
            return ""  # (n, features) is no sequence
        return f"{self.steps} steps only: {self.fixed_because}"

    @cached_property
    def what(self) -> str:
        """The elements and their shape, for messages."""
        kind = f"token ids below {self.vocabulary}" if self.vocabulary else "floats"
        if self.vocabularies is not None:
            least = self.vocabularies[self.vocabularies > 0].min(initial=self.vocabulary)
            if least < self.vocabulary:
                kind = f"token ids below {least} to {self.vocabulary}, by element,"
        return f"{kind} of shape {self}"

    @property
    def steps(self) -> int:
        """How many steps the example had: the first number of the shape, 0 if there is none."""
        return self.shape[0] if self.shape else 0

    def of_steps(self, steps: int) -> tuple[int, ...]:
        """Shape of a sample with a number of steps."""
        return (steps, *self.shape[1:]) if self.any_steps else self.shape

    def bounds(self, steps: int) -> tuple[Float32s, Float32s] | None:
        """Smallest and largest value of every element, flat; None where they are not known.

        Raises
        ------
        ValueError
            The bounds are given step by step, for another number of steps.
        """
        shape = self.of_steps(steps)
        if self.vocabulary:
            return self._bounds_of_ids(shape)
        if self.low is None or self.high is None:
            return None
        if shape == self.shape:
            return self.low.reshape(-1), self.high.reshape(-1)
        if not self.same_at_all_steps:
            raise ValueError(
                f"low, high: they are given for each of {self.shape[0]} steps, which says nothing "
                f"of {steps} steps; give values that are the same for all steps"
            )
        return tuple(  # type: ignore[return-value]
            np.ascontiguousarray(np.broadcast_to(bound[:1], shape)).reshape(-1)
            for bound in (self.low, self.high)
        )

    @property
    def shapes(self) -> Any:
        """Shape of one sample, as `pyrel.Explainer` shows it."""
        return self.shape

    @property
    def is_bounded(self) -> bool:
        """Whether there is a range of floats."""
        return self.low is not None

    @property
    def are_ids(self) -> bool:
        """Whether the elements are token ids, and there is one input."""
        return bool(self.vocabulary)

    @property
    def moves_ids(self) -> bool:
        """Whether there are token ids that are not constant."""
        return bool(self.vocabulary)

    def held(self, graph: Graph) -> Graph:
        """Return a graph in which constant inputs get nothing."""
        return graph

    @property
    def clips(self) -> bool:
        """Whether finite values out of range are explained as the nearest ones inside."""
        return self.out_of_range == CLIP

    def check_out_of_range(self) -> None:
        """Refuse what is no way to deal with values out of range, or none with these inputs.

        Raises
        ------
        ValueError
            It is no such word, or there is no range to clip to.
        """
        if self.out_of_range not in (RAISE, CLIP):
            raise ValueError(f"out_of_range: wanted 'raise' or 'clip', got {self.out_of_range!r}")
        if self.clips and not self.is_bounded:
            why = "token ids have no nearest" if self.are_ids else "it needs low and high"
            raise ValueError(f"out_of_range: there is nothing to clip to; {why}")

    def inside(self, values: Float32s, low: Float32s | None, high: Float32s | None) -> Float32s:
        """Return samples with finite values clipped to flat bounds, where that was asked for."""
        if not self.clips or low is None or high is None:
            return values
        flat = values.reshape(len(values), -1)
        clipped = np.clip(flat, low, high)
        np.copyto(clipped, flat, where=~np.isfinite(flat))  # which is refused, or passed on
        return clipped.reshape(values.shape)

    def _bounds_of_ids(self, shape: tuple[int, ...]) -> tuple[Float32s, Float32s]:
        if self.vocabularies is None:
            highest = np.full(shape, self.vocabulary - 1, np.float32).reshape(-1)
            return np.zeros_like(highest), highest
        own = self.vocabularies if shape == self.shape else self.vocabularies[:1]
        rows = np.broadcast_to(own, shape).reshape(-1)
        low = np.where(rows > 0, 0, -LARGEST_EXACT).astype(np.float32)
        return low, np.where(rows > 0, rows - 1, LARGEST_EXACT).astype(np.float32)

    @property
    def same_at_all_steps(self) -> bool:
        """Whether the bounds, if there are any, do not change from step to step."""
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        return all(bool((bound == bound[:1]).all()) for bound in bounds)

    def domain(self, steps: int) -> tuple[Floats, Floats]:
        """Range of every element for lowering; infinite where nothing is known."""
        bounds = self.bounds(steps)
        if bounds is None:
            size = int(np.prod(self.of_steps(steps), dtype=np.int64))
            return np.full(size, -np.inf), np.full(size, np.inf)
        return bounds[0].astype(np.float64), bounds[1].astype(np.float64)

    def check(self, x: Array, name: str = "x") -> None:
        """Refuse what is no batch of such samples; ``name`` is what a message calls it.

        Raises
        ------
        TypeError
            No array or tensor, or not of floats (of integers, for token ids).
        ValueError
            Another shape.
        """
        refuse_unreadable(name, x, f"an array or a tensor of {self.what}")
        self.check_type(x, name)
        if x.shape[1:] != self.shape:
            self._check_shape(tuple(x.shape), name)

    def batch(self, x: Any) -> Array | Rows:
        """Return what the engine reads of a batch; raises as `check` does."""
        self.check(x)
        given: Array = x
        return given

    def place(self, element: int, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...], bool]:
        """Return the name of the input of an element, its index there, and whether it is an id.

        ``shape`` is that of a sample.
        """
        within = np.unravel_index(element, shape)
        return "x", tuple(int(each) for each in within), bool(self.vocabulary)

    def check_type(self, x: Array, name: str) -> None:
        """Refuse elements of another type."""
        if isinstance(x, np.ndarray):
            is_float, is_integer = x.dtype.kind == "f", x.dtype.kind in "iu"
        else:
            is_float = x.is_floating_point()
            is_integer = not is_float and x.dtype != torch.bool
        if not (is_integer if self.vocabulary else is_float):
            advice = self._other_type(x, is_float, is_integer)
            raise TypeError(f"{name}: wanted {self.what}, got dtype {x.dtype}{advice}")

    def _other_type(self, x: Array, is_float: bool, is_integer: bool) -> str:
        if self.vocabulary and is_float:
            return "; the model looks its input up in a table: give integers"
        if not self.vocabulary and is_integer:
            way = "x.astype('float32')" if isinstance(x, np.ndarray) else "x.float()"
            return f"; convert it with {way}, scaled as the model was trained"
        return ""

    def _check_shape(self, shape: tuple[int, ...], name: str) -> None:
        rest = self.shape[1:]
        alike = len(shape) == len(self.shape) + 1 and shape[2:] == rest
        if self.any_steps and alike and shape[1] > 0:
            return
        message = f"{name}: wanted {self.what}, got shape {shape}"
        single = len(shape) == len(self.shape) and shape[1:] == rest
        if single:
            message += "; that is one sample: give a batch of one, x[None]"
        if alike and shape[0] == self.shape[0]:
            message += "; is the batch the first dimension?"
        elif (single or alike) and not self.any_steps and shape != self.shape:
            message += (
                f"; the model was captured for {self.shape[0]} steps only: make an Explainer with "
                f"an example of {shape[0 if single else 1]}"
            )
            if self.fixed_because:
                message += f". What fixes their number: {self.fixed_because}"
        raise ValueError(message)
