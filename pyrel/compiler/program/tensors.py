# SPDX-License-Identifier: Apache-2.0
"""Programs, and patterns of programs, as entries of a description and tensors.

The tensors are ``matrix.0`` …, ``vector.0`` …, ``index.0`` …, ``table.0`` …, and ``offsets``, those
of all instructions one after the other; of a pattern ``matrix_share.0`` and ``vector_share.0`` …
too. All have a prefix. What programs have in common with a pattern is kept with the pattern only.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any, TypeAlias, get_type_hints

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyrel.compiler.program.file_limits import NO_LIMITS, Limits
from pyrel.compiler.program.instructions import Instruction, Offsets, Repeat, Template
from pyrel.compiler.program.program import Program
from pyrel.compiler.program.rows import Growth, Rows
from pyrel.compiler.program.step_pattern import (
    STORED,
    Item,
    Part,
    Pattern,
    Share,
    number_at,
    stores_of,
)
from pyrel.files.records import decode, encode

Arrays: TypeAlias = dict[str, npt.NDArray[Any]]

_APART = ("instructions", "matrices", "vectors", "indices", "tables", "limits", "_interned")
_PATTERN_APART = (
    *("items", "matrices", "vectors", "indices", "tables"),
    *("matrix_shares", "vector_shares", "growing", "limits", "packed"),
)
_NAMES = ("matrix", "vector", "index", "table")  # by the numbers in `STORED`
_VECTOR = 1
_MOST_LEAST = 64  # steps from which a pattern holds
_KINDS = {
    "matrix": (torch.float32, 2),
    "vector": (torch.float32, 1),
    "index": (torch.int64, 1),
    "table": (torch.float32, 2),
}


@dataclass(frozen=True)
class _Step:
    """An instruction, its offsets apart."""

    template: Template
    steps: int


@dataclass(frozen=True)
class _Part:
    """A part of a pattern, its rows apart."""

    template: Template
    runs: int
    grows: tuple[tuple[str, int], ...] = ()


def describe(
    prefix: str, program: Program, named: Arrays, shared: Pattern | None = None
) -> dict[str, Any]:
    """Return what a description says of a program, and put its arrays among those named.

    Parameters
    ----------
    prefix : str
    program : Program
    named : dict
    shared : Pattern, optional
        What `Pattern.sharing` gave the program to share.
    """
    offsets = [i.offsets.reshape(-1) for i in program.every_instruction()]
    named[f"{prefix}offsets"] = np.concatenate(offsets)
    _name_stores(prefix, program, named, shared)
    return {
        f"{prefix}program": encode(program, leave_out=_APART),
        f"{prefix}instructions": [_entry(item) for item in program.instructions],
    }


def _name_stores(
    prefix: str, owner: Program | Pattern, named: Arrays, shared: Pattern | None = None
) -> None:
    common = [0] * len(_KINDS) if shared is None else [len(store) for store in stores_of(shared)]
    for kind, store, first in zip(_KINDS, stores_of(owner), common, strict=True):
        arrays = enumerate(map(np.ascontiguousarray, store[first:]))
        named |= {f"{prefix}{kind}.{i}": array for i, array in arrays}


def _entry(item: Instruction | Repeat) -> dict[str, Any]:
    if isinstance(item, Repeat):
        return {"repeat": item.count, "body": [_entry(instruction) for instruction in item.body]}
    return encode(_Step(item.template, item.offsets.shape[1]))


def describe_pattern(prefix: str, pattern: Pattern, named: Arrays) -> dict[str, Any]:
    """Return what a description says of a pattern, and put its arrays among those named."""
    rows = [part.rows for item in pattern.items for part in item.body] + pattern.growing
    named[f"{prefix}offsets"] = np.concatenate(
        [n.reshape(-1) for r in rows for n in (r.lengths, r.starts, r.strides)]
    )
    _name_stores(prefix, pattern, named)
    for kind, shares in (("matrix", pattern.matrix_shares), ("vector", pattern.vector_shares)):
        named |= {f"{prefix}{kind}_share.{i}": share.one for i, share in enumerate(shares)}
    return {
        f"{prefix}matrix_shares": [share.divided for share in pattern.matrix_shares],
        f"{prefix}vector_shares": [share.divided for share in pattern.vector_shares],
        f"{prefix}pattern": encode(pattern, leave_out=_PATTERN_APART),
        f"{prefix}items": [_item_entry(item) for item in pattern.items],
        f"{prefix}growing": [len(rows.lengths) for rows in pattern.growing],
    }


def _item_entry(item: Item) -> dict[str, Any]:
    body = [encode(_Part(part.template, len(part.rows.lengths), part.grows)) for part in item.body]
    return body[0] if item.count is None else {"repeat": list(item.count), "body": body}


def make(
    prefix: str,
    left: dict[str, Tensor],
    content: Mapping[str, Any],
    shared: Pattern | None = None,
    limits: Limits = NO_LIMITS,
) -> Program:
    """Make a program of what `describe` returned, and take its tensors from those that are left.

    Raises
    ------
    ValueError
        If something is missing, or makes no sense.
    """
    stores = _stores(prefix, left, shared)
    numbers = _Numbers(take(left, f"{prefix}offsets", torch.int64, 1))
    entries = content.get(f"{prefix}instructions")
    instructions: list[Instruction | Repeat] = []
    for entry, body in _bodies(entries):
        inner = tuple(_instruction(part, numbers, len(stores["indices"])) for part in body)
        if body[0] is entry:
            instructions += inner
        else:
            count = entry["repeat"]
            if type(count) is not int:
                raise ValueError("instructions: a repeat wants a number and a list")
            instructions.append(Repeat(inner, count))
    numbers.assert_none_left()
    found = content.get(f"{prefix}program")
    return decode(Program, found, _APART, instructions=tuple(instructions), limits=limits, **stores)


def _stores(prefix: str, left: dict[str, Tensor], shared: Pattern | None) -> dict[str, list[Any]]:
    names = ("matrices", "vectors", "indices", "tables")
    common = [[] for _ in names] if shared is None else stores_of(shared)
    return {
        name: [*store, *_take_all(left, f"{prefix}{kind}", *_KINDS[kind])]
        for name, kind, store in zip(names, _KINDS, common, strict=True)
    }


def _bodies(entries: Any) -> list[tuple[dict[str, Any], list[Any]]]:
    """Return entries and the instructions in each: of a repeat its body, else itself."""
    if not isinstance(entries, list):
        raise ValueError("instructions: wanted a list")
    found = []
    for entry in entries:
        body = [entry]
        if isinstance(entry, dict) and "body" in entry:
            body = entry["body"]
            if not isinstance(body, list) or not body or entry.keys() != {"repeat", "body"}:
                raise ValueError("instructions: a repeat wants a number and a list")
        found.append((entry, body))
    return found


class _Numbers:
    """Numbers of a tensor, taken from the front."""

    def __init__(self, numbers: Offsets) -> None:
        self._left = numbers

    def take(self, *shape: int) -> Offsets:
        """Return as many as the shape asks for."""
        size = math.prod(shape)
        if min(shape) < 1 or size > self._left.size:
            raise ValueError("its offsets are fewer than instructions ask for")
        taken, self._left = self._left[:size], self._left[size:]
        return taken.reshape(shape)

    def assert_none_left(self) -> None:
        """Raise ValueError if there are more than were taken."""
        if self._left.size:
            raise ValueError("its offsets are more than instructions ask for")


def _instruction(entry: Any, numbers: _Numbers, indices: int) -> Instruction:
    step = decode(_Step, entry)
    _check_index(step.template, indices)
    return Instruction(step.template, numbers.take(len(step.template.operands()), step.steps))


def _check_index(template: Template, indices: int) -> None:
    """Refuse an index that is not there, for it decides how many operands there are."""
    if getattr(template, "index", 0) not in range(max(1, indices)):
        raise ValueError("an instruction names an index that is not there")


def _check_stored(record: Any, counts: Sequence[int]) -> None:
    """Refuse a template that names a matrix, vector, … that is not there.

    There are as many as ``counts`` says, in the order of the numbers in `STORED`; -1 stands for no
    vector.
    """
    numbers, records = _fields(record.__class__)
    for name, kind in numbers:
        value = getattr(record, name)
        if not (-1 if kind == _VECTOR else 0) <= value < counts[kind]:
            raise ValueError(f"an instruction names no such {_NAMES[kind]}: {value}")
    for name in records:
        _check_stored(getattr(record, name), counts)


@functools.cache
def _fields(template: type[Any]) -> tuple[tuple[tuple[str, int], ...], tuple[str, ...]]:
    """Return the fields with numbers in `STORED`, and what each is of, and those with records."""
    hints = get_type_hints(template)
    numbers = tuple((name, STORED[name]) for name in hints if name in STORED)
    return numbers, tuple(name for name, hint in hints.items() if is_dataclass(hint))


def make_pattern(
    prefix: str, left: dict[str, Tensor], content: Mapping[str, Any], limits: Limits
) -> Pattern:
    """Make a pattern of what `describe_pattern` returned; see `make`.

    It has been written out for the second number of steps that it is for.
    """
    stores = _stores(prefix, left, None)
    numbers = _Numbers(take(left, f"{prefix}offsets", torch.int64, 1))
    runs_of_growing = content.get(f"{prefix}growing")
    if not isinstance(runs_of_growing, list) or any(type(n) is not int for n in runs_of_growing):
        raise ValueError("growing: wanted a list of numbers")
    shares = [_shares(prefix, kind, left, content) for kind in ("matrix", "vector")]
    grown = [*map(len, shares), len(runs_of_growing), 0]
    counts = [len(store) + n for store, n in zip(stores.values(), grown, strict=True)]
    items = []
    for entry, body in _bodies(content.get(f"{prefix}items")):
        count = None if body[0] is entry else _growth(entry["repeat"])
        items.append(Item(tuple(_part(p, numbers, counts) for p in body), count))
    growing = [_rows(1, runs, numbers) for runs in runs_of_growing]
    numbers.assert_none_left()
    pattern = decode(
        Pattern,
        content.get(f"{prefix}pattern"),
        _PATTERN_APART,
        items=tuple(items),
        growing=growing,
        matrix_shares=shares[0],
        vector_shares=shares[1],
        limits=limits,
        **stores,
    )
    if not 0 < pattern.least <= _MOST_LEAST:
        raise ValueError(f"it is for {pattern.least} steps or more; wanted 1 to {_MOST_LEAST}")
    pattern.check_rows(pattern.least)  # which are fewer than those of a call may be
    pattern.at(pattern.least + 1)
    return pattern


def _shares(
    prefix: str, kind: str, left: dict[str, Tensor], content: Mapping[str, Any]
) -> list[Share]:
    arrays = _take_all(left, f"{prefix}{kind}_share", *_KINDS[kind])
    divided = content.get(f"{prefix}{kind}_shares")
    if not isinstance(divided, list) or [type(flag) for flag in divided] != [bool] * len(arrays):
        raise ValueError(f"{kind}_shares: wanted a flag for each")
    return [Share(one, flag) for one, flag in zip(arrays, divided, strict=True)]


def _part(entry: Any, numbers: _Numbers, counts: Sequence[int]) -> Part:
    part = decode(_Part, entry)
    _check_stored(part.template, counts)
    for path, _ in part.grows:
        if path.rpartition(".")[2] in STORED:
            raise ValueError(f"{path} cannot depend on the number of steps")
        number_at(part.template, path)
    return Part(part.template, part.grows, _rows(len(part.template.operands()), part.runs, numbers))


def _rows(columns: int, runs: int, numbers: _Numbers) -> Rows:
    lengths = numbers.take(runs, 2)
    return Rows(lengths, numbers.take(columns, runs, 2), numbers.take(columns, runs, 2))


def _growth(value: Any) -> Growth:
    if not isinstance(value, list) or [type(number) for number in value] != [int, int]:
        raise ValueError("instructions: a repeat of a pattern wants two numbers")
    return value[0], value[1]


def _take_all(
    left: dict[str, Tensor], name: str, dtype: torch.dtype, dimensions: int
) -> list[npt.NDArray[Any]]:
    names = itertools.takewhile(left.__contains__, (f"{name}.{i}" for i in itertools.count()))
    return [take(left, each, dtype, dimensions) for each in list(names)]


def take(
    left: dict[str, Tensor], name: str, dtype: torch.dtype, dimensions: int
) -> npt.NDArray[Any]:
    """Take a tensor from those that are left, and check its type."""
    if name not in left:
        raise ValueError(f"the tensor {name!r} is missing")
    tensor = left.pop(name)
    if tensor.dtype != dtype or tensor.dim() != dimensions:
        raise ValueError(
            f"{name}: wanted {dtype} of {dimensions} dimensions, got {tensor.dtype} "
            f"{tuple(tensor.shape)}"
        )
    return tensor.numpy()
