# SPDX-License-Identifier: Apache-2.0
"""Several inputs of a model as one row of numbers for each sample, and back.

Programs and the engine know one input. The elements of several lie side by side in a row: those of
the first, in their order, then those of the second, ….
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

# Where an input is in a structure: an index of a tuple, a key of a dictionary, one below another.
Path = tuple[int | str, ...]


class Kind(Enum):
    """The elements of an input; masks are truth values."""

    floats = "floats"
    ids = "token ids"
    masks = "truth values"


@dataclass(frozen=True)
class Leaf:
    """One of several inputs.

    Attributes
    ----------
    name : str
        What messages call it, and what it is named by.
    path : tuple
        Where it is in the structure that a user gives.
    shape : tuple of int
        Of one sample.
    elements : Kind
    steps : bool
        Whether its first axis is that of the steps, of which there may be any number.
    """

    name: str
    path: Path
    shape: tuple[int, ...]
    elements: Kind
    steps: bool = False

    def of_steps(self, steps: int) -> tuple[int, ...]:
        """Shape of a sample with a number of steps."""
        return (steps, *self.shape[1:]) if self.steps else self.shape

    def part(self, depth: int) -> str:
        """Name the part of the structure that holds it, so deep in it; "" for all of it."""
        return self.name.removesuffix(_text(self.path[depth:])) if depth else ""


@dataclass(frozen=True)
class Layout:
    """The inputs of a model, in the order of their elements in a row.

    Attributes
    ----------
    leaves : tuple of Leaf
        If there is a sequence, the first is one; all that have steps have equally many.
    """

    leaves: tuple[Leaf, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(leaf.name for leaf in self.leaves)

    @property
    def steps(self) -> int:
        """How many steps there are; 0 if there is no sequence."""
        return self.leaves[0].shape[0] if self.leaves[0].steps else 0

    def at(self, steps: int) -> Layout:
        """Return the layout for a number of steps."""
        if steps == self.steps:
            return self
        return Layout(tuple(replace(leaf, shape=leaf.of_steps(steps)) for leaf in self.leaves))

    def of_size(self, size: int) -> Layout:
        """Return the layout for as many steps as rows of a size have."""
        if size == self.size:
            return self
        each = sum(math.prod(leaf.shape[1:]) for leaf in self.leaves if leaf.steps)
        return self.at(self.steps + (size - self.size) // each)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where the elements of each input lie in a row."""
        ends = np.cumsum([0, *(math.prod(leaf.shape) for leaf in self.leaves)]).tolist()
        return tuple(map(slice, ends[:-1], ends[1:]))

    @cached_property
    def size(self) -> int:
        """How many elements a row has."""
        return int(self.slices[-1].stop)

    @cached_property
    def is_float(self) -> npt.NDArray[np.bool_]:
        """Which elements of a row are floats, (size,)."""
        return self.marked([leaf.elements == Kind.floats for leaf in self.leaves])

    def marked(self, marks: Sequence[bool]) -> npt.NDArray[np.bool_]:
        """Mark the elements of some inputs, (size,)."""
        found = np.zeros(self.size, dtype=bool)
        for where, mark in zip(self.slices, marks, strict=True):
            found[where] = mark
        return found

    def columns(self, steps: int) -> npt.NDArray[np.int64]:
        """Where the elements of a sample with fewer steps lie in a row."""
        whole = np.arange(self.size)
        parts = []
        for leaf, where in zip(self.leaves, self.slices, strict=True):
            numbers = whole[where].reshape(leaf.shape)
            parts.append((numbers[:steps] if leaf.steps else numbers).reshape(-1))
        return np.concatenate(parts)

    def place(self, element: int) -> tuple[Leaf, tuple[int, ...]]:
        """Return the input that an element of a row belongs to, and its index there."""
        number = next(k for k, where in enumerate(self.slices) if element < where.stop)
        leaf = self.leaves[number]
        within = np.unravel_index(element - self.slices[number].start, leaf.shape)
        return leaf, tuple(int(each) for each in within)

    def split(self, rows: Any) -> list[Any]:
        """Return views of rows, (..., size), as the inputs are shaped."""
        return [
            rows[..., where].reshape((*rows.shape[:-1], *leaf.shape))
            for leaf, where in zip(self.leaves, self.slices, strict=True)
        ]

    def nested(self, values: Sequence[Any]) -> Any:
        """Return values of the inputs in the structure of the inputs."""
        return nested([leaf.path for leaf in self.leaves], values)

    def steps_of(self, given: Any) -> int:
        """Return the number of steps of inputs."""
        return int(self.taken(given)[0].shape[1]) if self.steps else 0

    def takes(self, given: Any) -> bool:
        """Whether inputs have these structure, kinds and shapes, but for the number of steps."""
        found = parts_of(given)
        if set(found) != {leaf.path for leaf in self.leaves}:
            return False
        steps = self.steps_of(given)
        return all(
            tuple(found[leaf.path].shape[1:]) == leaf.of_steps(steps)
            and kind_of(found[leaf.path]) == leaf.elements
            for leaf in self.leaves
        )

    def taken(self, given: Any, name: str = "x") -> list[Any]:
        """Return what a structure holds for each input.

        Raises
        ------
        TypeError
            If it is another structure; the message says where, and which is wanted.
        ValueError
            If an input is missing, or there is another; the message names it.
        """
        for leaf in self.leaves:
            self._check_structure(leaf, given, name)
        listed = ", ".join(self.names)
        found = parts_of(given)
        missing = [leaf.name for leaf in self.leaves if leaf.path not in found]
        if missing:
            raise ValueError(f"{name}: {missing[0]} is missing; the inputs are {listed}")
        known = {leaf.path for leaf in self.leaves}
        others = [path_text(path) for path in found if path not in known]
        if others:
            raise ValueError(f"{name}: {others[0]} is no input; the inputs are {listed}")
        return [found[leaf.path] for leaf in self.leaves]

    def _check_structure(self, leaf: Leaf, given: Any, name: str) -> None:
        """Refuse a tuple in place of a dictionary, and the like, on the way to an input."""
        for depth, key in enumerate(leaf.path):
            wanted = "tuple" if isinstance(key, int) else "dictionary"
            if _structure(given) != wanted:
                beside = [one for one in self.leaves if one.path[:depth] == leaf.path[:depth]]
                listed = ", ".join(one.name for one in beside)
                raise TypeError(
                    f"{leaf.part(depth) or name}: wanted a {wanted} of the inputs {listed}, as in "
                    f"the example; got {_described(given)}"
                )
            if key not in (range(len(given)) if wanted == "tuple" else given):
                return
            given = given[key]
        if is_structure(given):
            raise TypeError(f"{leaf.name}: wanted one input, got {_described(given)}")


def kind_of(value: Any) -> Kind:
    """Return what elements an array or a tensor has."""
    kind = str(value.dtype).removeprefix("torch.")
    if kind.startswith(("int", "uint")):
        return Kind.ids
    return Kind.masks if kind.startswith("bool") else Kind.floats


def input_name(number: int) -> str:
    """Name an input of an exported program by its place in a layout."""
    return f"input_{number}"


def is_structure(given: Any) -> bool:
    """Whether something is a tuple or a dictionary, as of several inputs."""
    return type(given) is tuple or isinstance(given, Mapping)


def _structure(given: Any) -> str:
    """Name the kind of a structure; "" for none."""
    if not is_structure(given):
        return ""
    return "tuple" if type(given) is tuple else "dictionary"


def _described(given: Any) -> str:
    kind = _structure(given)
    return f"a {kind}" if kind else type(given).__name__


def parts_of(given: Any, path: Path = ()) -> dict[Path, Any]:
    """Return what nested tuples and dictionaries hold, by where it is.

    Raises
    ------
    TypeError
        If a key of a dictionary is no text.
    """
    if not is_structure(given):
        return {path: given}
    found: dict[Path, Any] = {}
    items = given.items() if isinstance(given, Mapping) else enumerate(given)
    for key, value in items:
        if isinstance(given, Mapping) and not isinstance(key, str):
            raise TypeError(f"inputs: wanted names as keys of a dictionary, got {key!r}")
        found |= parts_of(value, (*path, key))
    return found


def nested(paths: Sequence[Path], values: Sequence[Any]) -> Any:
    """Put values into nested tuples and dictionaries, where their paths say."""
    if paths[0] == ():
        return values[0]
    groups: dict[int | str, list[tuple[Path, Any]]] = {}
    for path, value in zip(paths, values, strict=True):
        groups.setdefault(path[0], []).append((path[1:], value))
    made = {
        key: nested([path for path, _ in group], [value for _, value in group])
        for key, group in groups.items()
    }
    if all(isinstance(key, int) for key in made):
        return tuple(made[key] for key in sorted(made, key=int))
    return made


def path_text(path: Path) -> str:
    """Say where something is, such as "state[0]" or "batch.x"."""
    return _text(path).removeprefix(".")


def _text(path: Path) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
