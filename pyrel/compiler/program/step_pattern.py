# SPDX-License-Identifier: Apache-2.0
"""Length-parametric programs: iteration counts and offsets as functions of the number of steps T.

`pyrel.compiler.program.generalise` finds the `Pattern` of a model. `Pattern.at` makes the program
of any T from the smallest on, in a time that hardly grows with T. The programs of all T share
matrices, tables and the vectors that do not depend on T, which an engine packs once::

    core = bind(pattern.at(1000), isa, weights=bind_weights(pattern, isa))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np

from pyrel.compiler.program.file_limits import NO_LIMITS, Limits
from pyrel.compiler.program.instructions import (
    Float32s,
    Instruction,
    Offsets,
    Repeat,
    Template,
)
from pyrel.compiler.program.memory import plan
from pyrel.compiler.program.program import Contents, Program
from pyrel.compiler.program.rows import Growth, Rows, count_rows, grown, write_rows

# Fields of templates that are numbers of matrices (0), vectors (1), indices (2) and tables (3).
STORED = {
    "matrix": 0, "bias": 1, "scale_vector": 1, "post_vector": 1, "vector": 1, "index": 2, "table": 3
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Part:
    """An instruction.

    Attributes
    ----------
    template : Template
        As it is at the least T.
    grows : tuple of (str, int)
        Numbers in the template that depend on T, and what each further step adds.
    rows : Rows
        Its offsets.
    """

    template: Template
    grows: tuple[tuple[str, int], ...]
    rows: Rows

    def at(self, more: int, offsets: Offsets) -> Instruction:
        """Return it for so many steps more than the least, where `rows` grow to these offsets."""
        template = self.template
        for name, slope in self.grows:
            template = _with(template, name, grown((number_at(template, name), slope), more))
        return Instruction(template, offsets)


@dataclass(frozen=True, eq=False)
class Item:
    """A loop of ``count`` iterations, or one instruction where there is no count."""

    body: tuple[Part, ...]
    count: Growth | None = None

    def at(self, more: int, offsets: Iterator[Offsets]) -> Instruction | Repeat:
        """Return it for so many steps more than the least; its offsets are the next."""
        body = tuple(part.at(more, next(offsets)) for part in self.body)
        count = self.count_at(more)
        return body[0] if count is None else Repeat(body, count)

    def count_at(self, more: int) -> int | None:
        """Return the iterations with so many steps more than the least."""
        return None if self.count is None else grown(self.count, more)


@dataclass(frozen=True, eq=False)
class Share:
    """A matrix or vector that is divided by the number of steps, or multiplied by it.

    So are weights for a mean over the steps, and the bounds of a sum over them.
    """

    one: Float32s  # at one step
    divided: bool

    def at(self, steps: int) -> Float32s:
        """Return it for a number of steps."""
        factor = 1.0 / steps if self.divided else float(steps)
        return (self.one.astype(np.float64) * factor).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Pattern:
    """A length-parametric program: the programs of all T from ``least`` on.

    Attributes
    ----------
    least : int
    input_size, classes : Growth
    conserves, keeps_forward : bool
    items : tuple of Item
    matrices, vectors, indices, tables : list of ndarray
        Those that do not depend on T.
    matrix_shares, vector_shares : list of Share
        Those that depend on T; templates name them behind ``matrices`` and ``vectors``.
    growing : list of Rows
        Indices that depend on T; templates name them behind ``indices``.
    limits : Limits
        Of what its programs may take.
    packed : dict
        What an engine made of the arrays, by instruction set; see `pyrel.engine.loaded`.
    """

    least: int
    input_size: Growth
    classes: Growth
    conserves: bool
    items: tuple[Item, ...]
    matrices: list[Float32s] = field(default_factory=list)
    vectors: list[Float32s] = field(default_factory=list)
    indices: list[Offsets] = field(default_factory=list)
    tables: list[Float32s] = field(default_factory=list)
    matrix_shares: list[Share] = field(default_factory=list)
    vector_shares: list[Share] = field(default_factory=list)
    growing: list[Rows] = field(default_factory=list)
    limits: Limits = NO_LIMITS
    packed: dict[str, Any] = field(default_factory=dict)
    keeps_forward: bool = False

    def apart(self, steps: int) -> Program:
        """Make the program of ``steps`` before the memory plan: each value has its own place."""
        more = steps - self.least
        if more < 0:
            raise ValueError(f"the pattern begins at {self.least} steps, got {steps}")
        self.check_rows(steps)
        offsets = iter(write_rows(*self._rows_at(more), more))
        return Program(
            *self.sizes(steps),
            self.conserves,
            instructions=tuple(item.at(more, offsets) for item in self.items),
            matrices=[*self.matrices, *(share.at(steps) for share in self.matrix_shares)],
            vectors=[*self.vectors, *(share.at(steps) for share in self.vector_shares)],
            indices=[*self.indices, *(numbers[0] for numbers in offsets)],
            tables=self.tables,
            limits=self.limits,
            keeps_forward=self.keeps_forward,
        )

    def sizes(self, steps: int) -> tuple[int, int]:
        """Return the floats of an input and the classes for a number of steps."""
        more = steps - self.least
        return grown(self.input_size, more), grown(self.classes, more)

    def check_rows(self, steps: int) -> None:
        """Refuse to write out more than the limits allow, or runs that make no sense."""
        if self.limits == NO_LIMITS:
            return
        more = steps - self.least
        written = count_rows(*self._rows_at(more), more)
        self.limits.check("rows", -(-written // steps), f"places for each of {steps} steps")
        if more == 0:
            self.limits.check("first_rows", written, f"places for {steps} steps")
        self.limits.check("all_rows", written, f"places for {steps} steps")

    def _rows_at(self, more: int) -> tuple[list[Rows], list[int | None]]:
        """List the rows of all instructions and those that grow, and how often their loops run."""
        rows, counts = [], []
        for item in self.items:
            rows += [part.rows for part in item.body]
            counts += [item.count_at(more)] * len(item.body)
        return rows + self.growing, counts + [None] * len(self.growing)

    def at(self, steps: int) -> Program:
        """Make the program of ``steps``; its values share memory.

        Raises
        ------
        ValueError
            If there are fewer steps than ``least``, or the pattern makes no sense.
        """
        program = self.apart(steps)
        program.instructions, program.arena_size = plan(
            program.instructions, self.limits, keep_forward=self.keeps_forward
        )
        return program

    def sharing(self, program: Program) -> Program:
        """Return a program that does the same with the matrices, vectors … of this pattern.

        What it has of its own comes behind them.
        """
        stores: list[list[Any]] = []
        renumbered: list[list[int]] = []
        for mine, its in zip(stores_of(self), stores_of(program), strict=True):
            known = {Contents(array): number for number, array in enumerate(mine)}
            store = list(mine)
            numbers = []
            for array in its:
                number = known.setdefault(Contents(array), len(store))
                if number == len(store):
                    store.append(array)
                numbers.append(number)
            stores.append(store)
            renumbered.append(numbers)

        def moved(instruction: Instruction) -> Instruction:
            return replace(instruction, template=_renumbered(instruction.template, renumbered))

        items = tuple(
            replace(item, body=tuple(map(moved, item.body)))
            if isinstance(item, Repeat)
            else moved(item)
            for item in program.instructions
        )
        return Program(
            program.input_size,
            program.classes,
            program.conserves,
            program.arena_size,
            items,
            stores[0],
            stores[1],
            stores[2],
            stores[3],
            self.limits,
            program.keeps_forward,
        )


def stores_of(owner: Program | Pattern) -> tuple[Sequence[Any], ...]:
    """List matrices, vectors, indices and tables, in the order of the numbers in `STORED`."""
    return (owner.matrices, owner.vectors, owner.indices, owner.tables)


def _renumbered(record: Any, numbers: Sequence[Sequence[int]]) -> Any:
    """Return a template in which the numbers of matrices, vectors … are replaced."""
    changed = {}
    for name in (f.name for f in fields(record)):
        value = getattr(record, name)
        if name in STORED and value >= 0:
            changed[name] = numbers[STORED[name]][value]
        elif is_dataclass(value):
            changed[name] = _renumbered(value, numbers)
    return replace(record, **changed)


def number_at(record: Any, path: str) -> int:
    """Return the integer field at a path through dataclasses, such as "epilogue.bias".

    Raises
    ------
    ValueError
        If there is none.
    """
    for name in path.split("."):
        record = getattr(record, name, None)
    if type(record) is not int:
        raise ValueError(f"a template has no number {path}")
    return record


def _with(record: Any, path: str, value: int) -> Any:
    """Return a dataclass in which the field at a path, through other dataclasses, is replaced."""
    name, _, rest = path.partition(".")
    return replace(record, **{name: _with(getattr(record, name), rest, value) if rest else value})
