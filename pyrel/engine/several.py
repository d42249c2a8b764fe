# SPDX-License-Identifier: Apache-2.0
"""What an explainer of several inputs takes: each of them, and the row that they lie in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pyrel.compiler.capture.array_kinds import refuse_unreadable
from pyrel.compiler.graph.layout import Kind, Layout, Leaf, is_structure, parts_of
from pyrel.compiler.graph.nodes import Graph
from pyrel.compiler.passes.hold import hold
from pyrel.engine import arrays
from pyrel.engine.arrays import Array, Float32s, Int64s, Rows
from pyrel.engine.inputs import Inputs

Mask = npt.NDArray[np.bool_]


class TruthValues(Inputs):
    """An input of truth values, which programs read as 0 and 1."""

    @property
    def what(self) -> str:
        """The elements and their shape, for messages."""
        return f"truth values of shape {self}"

    def check_type(self, x: Array, name: str) -> None:
        """Refuse all but truth values."""
        if x.dtype not in (torch.bool, np.dtype(bool)):
            raise TypeError(f"{name}: wanted {self.what}, got dtype {x.dtype}")


@dataclass(frozen=True, eq=False, kw_only=True)
class SeveralInputs(Inputs):
    """Several inputs, as the samples of one: their elements lie side by side in a row.

    ``shape`` is that of a row, ``vocabulary`` the largest of all, ``low``, ``high`` and
    ``vocabularies`` are None: each input has its own.

    Attributes
    ----------
    layout : Layout
    parts : tuple of Inputs
        In the order of the layout.
    constant : tuple of str
        Names of inputs that get no relevance of their own.
    """

    layout: Layout
    parts: tuple[Inputs, ...]
    constant: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Shape of a batch, such as "x (n, T, 28), static (n, 5) for any T"."""
        shapes = [str(part).removesuffix(" for any T") for part in self.parts]
        named = (f"{name} {shape}" for name, shape in zip(self.layout.names, shapes, strict=True))
        text = ", ".join(named)
        text += f", constant: {', '.join(self.constant)}" if self.constant else ""
        return f"{text} for any T" if self.any_steps else text

    @property
    def what(self) -> str:
        """The inputs and their shapes, for messages."""
        return f"the inputs {self}"

    @property
    def only(self) -> str:
        """That sequences have one number of steps, and why; empty where they may have any."""
        return f"{self.steps} steps only: {self.fixed_because}" if self.fixed_because else ""

    @property
    def shapes(self) -> Any:
        """Shapes of the inputs of one sample, in their structure."""
        return self.layout.nested([leaf.shape for leaf in self.layout.leaves])

    @property
    def steps(self) -> int:
        """How many steps the example had; 0 where there is no sequence."""
        return self.layout.steps

    def of_steps(self, steps: int) -> tuple[int, ...]:
        """Shape of a row with a number of steps."""
        return (self.layout_at(steps).size,)

    def layout_at(self, steps: int) -> Layout:
        """Layout of a row with a number of steps."""
        return self.layout.at(steps) if self.any_steps else self.layout

    def bounds(self, steps: int) -> tuple[Float32s, Float32s] | None:
        """Smallest and largest value of every element of a row; None where none is known."""
        found = [part.bounds(steps) for part in self.parts]
        if not any(each is not None for each in found):
            return None
        shapes = [part.of_steps(steps) for part in self.parts]
        low, high = (
            np.concatenate(
                [
                    np.full(int(np.prod(shape)), beyond, np.float32) if each is None else each[end]
                    for each, shape in zip(found, shapes, strict=True)
                ]
            )
            for end, beyond in enumerate((-np.inf, np.inf))
        )
        return low, high

    @property
    def is_bounded(self) -> bool:
        """Whether there is a range of floats."""
        return any(part.is_bounded for part in self.parts)

    def inside(self, values: Float32s, low: Float32s | None, high: Float32s | None) -> Float32s:
        """Return rows whose finite floats are clipped to bounds, where that was asked for."""
        if not self.clips or low is None or high is None:
            return values
        floats = self.layout.of_size(values.shape[1]).is_float
        clipped = np.clip(values, low, high)
        np.copyto(clipped, values, where=~(np.isfinite(values) & floats))
        return clipped

    @property
    def same_at_all_steps(self) -> bool:
        """Whether the bounds, if there are any, do not change from step to step."""
        pairs = zip(self.layout.leaves, self.parts, strict=True)
        return all(part.same_at_all_steps for leaf, part in pairs if leaf.steps)

    def is_held(self, steps: int, kinds: Sequence[Kind] = ()) -> Mask:
        """Mark the elements of a row that are constant, or of some kinds."""
        layout = self.layout_at(steps)
        leaves = layout.leaves
        return layout.marked(
            [leaf.name in self.constant or leaf.elements in kinds for leaf in leaves]
        )

    @property
    def are_ids(self) -> bool:
        """Whether the elements are token ids, and there is one input."""
        return False

    @property
    def moves_ids(self) -> bool:
        """Whether there are token ids that are not constant."""
        leaves = self.layout.leaves
        return any(leaf.elements == Kind.ids and leaf.name not in self.constant for leaf in leaves)

    def held(self, graph: Graph) -> Graph:
        """Return a graph in which constant inputs get nothing."""
        if not self.constant:
            return graph
        assert graph.layout is not None
        leaves = graph.layout.leaves
        return hold(graph, graph.layout.marked([leaf.name in self.constant for leaf in leaves]))

    def check(self, x: Array, name: str = "x") -> None:
        """Refuse a single array, as a file holds it."""
        listed = ", ".join(self.layout.names)
        raise TypeError(f"{name}: wanted the inputs {listed}, got one array; call the explainer")

    def batch(self, x: Any) -> Rows:
        """Return what the engine reads of a batch.

        Raises
        ------
        TypeError, ValueError
            If ``x`` does not hold these inputs, all of as many samples and steps; the message names
            the one.
        """
        given = self.layout.taken(x)
        for leaf, part, each in zip(self.layout.leaves, self.parts, given, strict=True):
            part.check(each, leaf.name)
        first, name = given[0], self.layout.names[0]
        steps = first.shape[1] if self.any_steps else self.steps
        for leaf, each in zip(self.layout.leaves, given, strict=True):
            if len(each) != len(first):
                raise ValueError(
                    f"{leaf.name}: wanted {len(first)} samples, as {name} has, got {len(each)}"
                )
            if self.any_steps and leaf.steps and each.shape[1] != steps:
                raise ValueError(
                    f"{leaf.name}: wanted {steps} steps, as {name} has, got {each.shape[1]}"
                )
        return Rows(given, self.layout_at(steps), list(parts_of(x)))

    def place(self, element: int, shape: tuple[int, ...]) -> tuple[str, tuple[int, ...], bool]:
        """Return the name of the input of an element, its index there, and whether it is an id."""
        leaf, within = self.layout.of_size(shape[0]).place(element)
        return leaf.name, within, leaf.elements != Kind.floats


@dataclass(frozen=True, eq=False)
class Part:
    """What is known of one of several inputs: its range, or how many token ids there are."""

    leaf: Leaf
    vocabulary: int = 0
    vocabularies: Int64s | None = None


def part_of(leaf: Leaf, bounds: Int64s) -> Part:
    """Return what is known of an input; of token ids, that they are below ``bounds``.

    These are 0 where no table reads them, so that they may be any number.
    """
    if leaf.elements == Kind.floats:
        return Part(leaf)
    if leaf.elements == Kind.masks:
        return Part(leaf, 2)
    vocabulary = int(bounds.max())
    uniform = vocabulary > 0 and bool((bounds == vocabulary).all())
    return Part(leaf, max(1, vocabulary), None if uniform else np.array(bounds, np.int64))


def several(
    layout: Layout,
    parts: Sequence[Part],
    low: Any,
    high: Any,
    constant: Sequence[str],
    **settings: Any,
) -> SeveralInputs:
    """Describe several inputs, each with its own bounds.

    Parameters
    ----------
    layout : Layout
    parts : sequence of Part
    low, high : Any
        As `pyrel.Explainer` takes them.
    constant : sequence of str
    **settings
        Fields of `Inputs` that all have in common.

    Raises
    ------
    ValueError, TypeError
        If a range makes no sense; the message names the input.
    """
    ends = of_inputs("low", low, layout), of_inputs("high", high, layout)
    made = []
    for part, of_low, of_high in zip(parts, *ends, strict=True):
        leaf = part.leaf
        try:
            bounds = arrays.bounds(of_low, of_high, leaf.shape) or (None, None)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{leaf.name}: {error}") from None
        own = settings | {"any_steps": settings["any_steps"] and leaf.steps}
        kind = TruthValues if leaf.elements == Kind.masks else Inputs
        made.append(
            kind(
                leaf.shape,
                low=bounds[0],
                high=bounds[1],
                vocabulary=part.vocabulary,
                vocabularies=part.vocabularies,
                **own,
            )
        )
    most = [p.vocabulary if p.vocabularies is None else int(p.vocabularies.max()) for p in parts]
    return SeveralInputs(
        (layout.size,),
        vocabulary=max(most),
        layout=layout,
        parts=tuple(made),
        constant=tuple(constant),
        **settings,
    )


def of_inputs(option: str, given: Any, layout: Layout) -> list[Any]:
    """Return what an option says of each input; None where it says nothing.

    It may be one value for all inputs of floats, a tuple as the inputs are given, or a dictionary
    by their names, of which some may be left out.

    Raises
    ------
    ValueError, TypeError
        If it speaks of what is no input of floats.
    """
    floats = [leaf.elements == Kind.floats for leaf in layout.leaves]
    if given is None:
        return [None] * len(floats)
    if not is_structure(given):
        number = arrays.as_array(option, given, "a number, or one for each input")
        if number.size != 1:
            raise ValueError(
                f"{option}: wanted one number for all inputs of floats, or a dictionary by the "
                f"names of inputs, {', '.join(layout.names)}; got shape {number.shape}"
            )
        return [given if is_float else None for is_float in floats]
    if isinstance(given, Mapping) and set(given) <= set(layout.names):
        found = [given.get(name) for name in layout.names]
    elif isinstance(given, Mapping):
        found = _in_structure(option, given, layout)
    else:
        found = layout.taken(given, option)
    for leaf, each, is_float in zip(layout.leaves, found, floats, strict=True):
        if each is not None and not is_float:
            raise ValueError(f"{option}: {leaf.name} is of {leaf.elements.value}, which have none")
    return found


def _in_structure(option: str, given: Mapping[str, Any], layout: Layout) -> list[Any]:
    """Return what nested dictionaries say, of which parts may be left out."""
    found, known = parts_of(given), {leaf.path for leaf in layout.leaves}
    unknown = [path for path in found if path not in known]
    if unknown:
        check_names(option, [str(unknown[0][0])], layout)
    return [found.get(leaf.path) for leaf in layout.leaves]


def check_names(option: str, given: Sequence[str], layout: Layout) -> None:
    """Refuse names that are no inputs; the ValueError lists what there is."""
    unknown = [name for name in given if name not in layout.names]
    if unknown:
        raise ValueError(
            f"{option}: {unknown[0]!r} is no input; the inputs are {', '.join(layout.names)}"
        )


def checked_constant(given: Any) -> tuple[str, ...]:
    """Return the names of constant inputs; TypeError if they are none."""
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, Sequence | set | frozenset) or not all(
        isinstance(name, str) for name in names
    ):
        raise TypeError(f'constant: wanted names of inputs, as ["mask"], got {given!r}')
    return tuple(dict.fromkeys(names))


def refuse_arrays(name: str, x: Any) -> None:
    """Refuse what is neither an array or tensor nor a structure of such."""
    for path, each in parts_of(x).items() if is_structure(x) else ():
        refuse_unreadable(str(path[-1]), each)
    if not is_structure(x):
        refuse_unreadable(name, x)
