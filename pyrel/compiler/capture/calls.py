# SPDX-License-Identifier: Apache-2.0
"""How a model is called with several inputs, by the signature of its forward."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from inspect import Parameter
from typing import Any

import torch

from pyrel.compiler.capture.array_kinds import refuse_unreadable
from pyrel.compiler.graph.layout import (
    Kind,
    Layout,
    Leaf,
    Path,
    is_structure,
    kind_of,
    nested,
    parts_of,
    path_text,
)

# How arguments are called that take the lengths, and what says that one is a number of the model's.
_LENGTHS = ("len", "lens", "length", "lengths")
_LIMITS = ("max", "min", "total")

POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Call:
    """A call of a model with several inputs.

    Attributes
    ----------
    layout : Layout
        Of the example's inputs.
    spread : bool
        Whether the parts of the structure are arguments of their own: those of a tuple by position,
        those of a dictionary by name. If not, the structure is the only argument.
    lengths : str or None
        Name of the argument that takes the lengths of sequences.
    """

    layout: Layout
    spread: bool
    lengths: str | None = None

    def arguments(self, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return arguments by position and by name; lengths, if they are taken, come last."""
        count = len(self.layout.leaves)
        given = nested([leaf.path for leaf in self.layout.leaves], tensors[:count])
        named = {} if self.lengths is None else {self.lengths: tensors[count]}
        if not self.spread:
            return (given,), named
        return (given, named) if isinstance(given, tuple) else ((), given | named)


class _Parameters:
    """The parameters of a forward."""

    def __init__(self, model: torch.nn.Module) -> None:
        every = inspect.signature(model.forward).parameters.values()
        self.positional = [p for p in every if p.kind in POSITIONAL]
        self.named = {p.name: p for p in every if p.kind in _BY_NAME}
        self.any_position = next((p.name for p in every if p.kind == Parameter.VAR_POSITIONAL), "")
        self.any_name = any(p.kind == Parameter.VAR_KEYWORD for p in every)
        self.required = [
            p.name
            for p in every
            if p.kind in (*POSITIONAL, Parameter.KEYWORD_ONLY) and p.default is Parameter.empty
        ]
        self.listed = ", ".join(p.name for p in every)

    @property
    def only(self) -> str | None:
        """The parameter that a whole structure may be given as."""
        if len(self.required) == 1 and self.positional[:1]:
            first = self.positional[0].name
            return first if first == self.required[0] else None
        return self.positional[0].name if len(self.positional) == 1 else None


def read_call(model: torch.nn.Module, example: Any, lengths: bool) -> Call | None:
    """Read how a model is called with a structure of inputs; None where the example is none.

    Raises
    ------
    ValueError, TypeError
        If forward does not take these inputs; the message names the one.
    """
    if not is_structure(example):
        return None
    found = parts_of(example)
    parameters = _Parameters(model)
    if not found:
        raise ValueError(f"example: there is no input in it; forward takes {parameters.listed}")
    read = _positions if isinstance(example, tuple) else _names
    spread, names = read(parameters, list(found), example, lengths)
    leaves = [_leaf(name, path, found[path]) for name, path in zip(names, found, strict=True)]
    layout = with_steps(leaves)
    return Call(layout, spread, _takes_lengths(parameters, example, spread) if lengths else None)


def _positions(
    parameters: _Parameters, paths: list[Path], example: Any, lengths: bool
) -> tuple[bool, list[str]]:
    """Name what a tuple holds by forward's parameters."""
    count, known = len(example), [p.name for p in parameters.positional]
    if count > len(known) and not parameters.any_position:
        if parameters.only is None:
            raise ValueError(
                f"example: forward takes {parameters.listed}; got a tuple of {count} inputs"
            )
        return False, [path_text((parameters.only, *path)) for path in paths]
    _refuse_missing(parameters, set(known[:count]), lengths)
    names = known[:count]
    names += [f"{parameters.any_position}[{k}]" for k in range(count - len(names))]
    return True, [path_text((names[int(first)], *rest)) for first, *rest in paths]


def _names(
    parameters: _Parameters, paths: list[Path], example: Any, lengths: bool
) -> tuple[bool, list[str]]:
    """Name what a dictionary holds by its keys."""
    names = [path_text(path) for path in paths]
    unknown = [key for key in example if key not in parameters.named]
    only = parameters.only
    whole = only is not None and only not in example and len(unknown) == len(example)
    if whole:
        return False, names
    if unknown and not parameters.any_name:
        raise ValueError(
            f"example: {unknown[0]} is no argument of forward, which takes {parameters.listed}"
        )
    _refuse_missing(parameters, set(example), lengths)
    return True, names


def _refuse_missing(parameters: _Parameters, given: set[str], lengths: bool) -> None:
    missing = [name for name in parameters.required if name not in given]
    if lengths:  # which one of them may take
        missing = [name for name in missing if "len" not in name]
    if missing:
        raise ValueError(
            f"example: {missing[0]} is missing; forward takes {parameters.listed}. Give a tuple of "
            "inputs by position, or a dictionary by name"
        )


def _takes_lengths(parameters: _Parameters, example: Any, spread: bool) -> str | None:
    """Return the argument that is called lengths, if it is not among the inputs."""
    given: set[str] = set()
    if not spread:
        given = {str(parameters.only)}
    elif isinstance(example, tuple):
        given = {p.name for p in parameters.positional[: len(example)]}
    else:
        given = set(example)
    return next((n for n in parameters.named if is_called_lengths(n) and n not in given), None)


def is_called_lengths(name: str) -> bool:
    """Whether an argument's name says that it takes the lengths of sequences.

    So do ``lengths``, ``x_len`` and ``seqlens``, but neither ``silence`` nor ``max_len``.
    """
    words = name.lower().split("_")
    first, last = words[0], words[-1]
    for start in ("sequence", "seq", "input", "text", "x"):
        last = last.removeprefix(start)
    return last in _LENGTHS and (len(words) == 1 or first not in _LIMITS)


def _leaf(name: str, path: Path, value: Any) -> Leaf:
    """Describe an input like an array of the example."""
    refuse_unreadable(name, value)
    shape = tuple(value.shape)
    if not shape:
        raise ValueError(f"{name}: wanted shape (n, ...), batch first, got {shape}")
    if 0 in shape[1:]:
        raise ValueError(f"{name}: a sample has no elements, the shape is {shape}")
    return Leaf(name, path, shape[1:], kind_of(value))


def with_steps(leaves: Sequence[Leaf]) -> Layout:
    """Put the first sequence first, and mark those that are as long.

    A sequence has two axes or more, (T, ...), or one of token ids.
    """

    def is_sequence(leaf: Leaf) -> bool:
        return len(leaf.shape) > 1 or (len(leaf.shape) == 1 and leaf.elements == Kind.ids)

    first = next(filter(is_sequence, leaves), None)
    if first is None:
        return Layout(tuple(leaves))
    steps = first.shape[0]
    ordered = [first, *(leaf for leaf in leaves if leaf is not first)]
    return Layout(tuple(replace(leaf, steps=leaf.shape[:1] == (steps,)) for leaf in ordered))
