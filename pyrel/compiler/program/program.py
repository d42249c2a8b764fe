# SPDX-License-Identifier: Apache-2.0
"""Programs as data: instructions with the memory they touch, matrices and vectors.

A `Program` is what lowering makes and what the engine runs. An instruction is a template (what to
do, in which space of memory) and, for every operand, one offset per step: the same product at
twelve steps of a recurrence is one instruction with twelve offsets an operand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from pyrel import _core
from pyrel._core import Function, Post, Scale, Share, Space, Start
from pyrel.compiler.program.limits import NO_LIMITS, Limits
from pyrel.compiler.program.single import single

Float32s = npt.NDArray[np.float32]
Offsets = npt.NDArray[np.int64]
_Rows: TypeAlias = list[tuple[Space, Offsets]]
_Stored = TypeVar("_Stored", Float32s, Offsets)


@dataclass(frozen=True)
class Operand:
    """A run of ``size`` floats in one space that an instruction reads or writes.

    ``whole`` says that it touches each of them, and not only some.
    """

    space: Space
    size: int
    read: bool = True
    written: bool = False
    whole: bool = True


@dataclass(frozen=True)
class Epilogue:
    """What happens to a result before it is stored.

    In this order: add ``bias``, scale, add what is stored already if ``accumulate``, ``post``.
    Vectors are indices into ``Program.vectors``, -1 where there is none. ``epsilon`` is what
    ``Post.divide_stabilised`` adds to its denominator d: v / (d + epsilon * sign(d)), sign(0) = 1.
    """

    bias: int = -1
    scale: Scale = Scale.none
    scale_space: Space | None = None
    scale_vector: int = -1
    accumulate: bool = False
    post: Post = Post.none
    post_space: Space | None = None
    post_vector: int = -1
    epsilon: float = 0.0

    def operands(self, columns: int) -> tuple[Operand, ...]:
        """List the operands that are read beside the main ones."""
        spaces = (self.scale_space, self.post_space)
        return tuple(Operand(space, columns) for space in spaces if space is not None)


@dataclass(frozen=True)
class Gemm:
    """``out = epilogue(concatenated segments @ matrix)``.

    With ``bf16`` the segments and the matrix are rounded to bfloat16, and summed in float32.
    """

    segments: tuple[tuple[Space, int], ...]
    matrix: int
    columns: int
    out: Space
    epilogue: Epilogue = Epilogue()
    bf16: bool = False

    def operands(self) -> tuple[Operand, ...]:
        """List segments, output, epilogue operands."""
        reads = tuple(Operand(space, depth) for space, depth in self.segments)
        out = Operand(self.out, self.columns, self.epilogue.accumulate, True)
        return (*reads, out, *self.epilogue.operands(self.columns))


@dataclass(frozen=True)
class Map:
    """``out = epilogue(source)``, or of zero where there is no source."""

    source: Space | None
    columns: int
    out: Space
    epilogue: Epilogue = Epilogue()

    def operands(self) -> tuple[Operand, ...]:
        """List the source if any, output, epilogue operands."""
        source = () if self.source is None else (Operand(self.source, self.columns),)
        out = Operand(self.out, self.columns, self.epilogue.accumulate, True)
        return (*source, out, *self.epilogue.operands(self.columns))


@dataclass(frozen=True)
class Gather:
    """``out[i] = source[index[i]]``; the index is from ``Program.indices``."""

    source: Space
    span: int
    index: int
    columns: int
    out: Space

    def operands(self) -> tuple[Operand, ...]:
        """List source and output."""
        source = Operand(self.source, self.span, whole=False)
        return (source, Operand(self.out, self.columns, False, True))


@dataclass(frozen=True)
class Scatter:
    """``out[index[i]] += source[i]``."""

    source: Space
    span: int
    index: int
    columns: int
    out: Space

    def operands(self) -> tuple[Operand, ...]:
        """List source and output."""
        return (Operand(self.source, self.columns), Operand(self.out, self.span, True, True))


@dataclass(frozen=True)
class Seed:
    """Choose the target from the outputs and write the relevance it starts with."""

    classes: int
    start: Start

    def operands(self) -> tuple[Operand, ...]:
        """List outputs and initial relevance."""
        return (
            Operand(Space.arena, self.classes),
            Operand(Space.arena, self.classes, False, True),
        )


@dataclass(frozen=True)
class Absorb:
    """``absorbed += share``: what no input gets.

    With d the ``operand``, plus the vector if there is one: ``Share.weighted`` is
    ``source · vector``, ``Share.stabiliser`` ``epsilon * source · sign(d)`` (after the division by
    the stabilised d), and ``Share.undivided`` the sum of the source where d is 0 (before it).
    """

    source: Space
    vector: int
    columns: int
    share: Share = Share.weighted
    operand: Space | None = None
    epsilon: float = 0.0

    def operands(self) -> tuple[Operand, ...]:
        """List the source, and the operand if any.

        What counts before a division counts as writing, so that the division waits for it.
        """
        source = Operand(self.source, self.columns, True, self.share == Share.undivided)
        operand = () if self.operand is None else (Operand(self.operand, self.columns),)
        return (source, *operand)


@dataclass(frozen=True)
class Activate:
    """``out = function(source)``."""

    source: Space
    columns: int
    out: Space
    function: Function
    parameter: float = 0.0

    def operands(self) -> tuple[Operand, ...]:
        """List source and output."""
        return (Operand(self.source, self.columns), Operand(self.out, self.columns, False, True))


@dataclass(frozen=True)
class Slope:
    """``out = source * function'(value)``, added to what is stored already if ``accumulate``."""

    source: Space
    value: Space
    columns: int
    out: Space
    function: Function
    parameter: float = 0.0
    accumulate: bool = False

    def operands(self) -> tuple[Operand, ...]:
        """List source, value, output."""
        return (
            Operand(self.source, self.columns),
            Operand(self.value, self.columns),
            Operand(self.out, self.columns, self.accumulate, True),
        )


@dataclass(frozen=True)
class MaxPool:
    """``out[n] = max(source[n] for source in sources)``."""

    sources: tuple[Space, ...]
    columns: int
    out: Space

    def operands(self) -> tuple[Operand, ...]:
        """List sources and output."""
        sources = (Operand(space, self.columns) for space in self.sources)
        return (*sources, Operand(self.out, self.columns, False, True))


@dataclass(frozen=True)
class PoolRoute:
    """``outs[i][n] = relevance[n]`` for the first i with the largest ``values[i][n]``, else 0.

    With ``shares``, relevance is shared out in proportion to the values above 0 instead. Added to
    what is stored already if ``accumulate``; then no outputs may overlap.
    """

    values: tuple[Space, ...]
    columns: int
    relevance: Space
    outs: tuple[Space, ...]
    shares: bool = False
    accumulate: bool = False

    def operands(self) -> tuple[Operand, ...]:
        """List values, relevance, outputs."""
        return (
            *(Operand(space, self.columns) for space in self.values),
            Operand(self.relevance, self.columns),
            *(Operand(space, self.columns, self.accumulate, True) for space in self.outs),
        )


@dataclass(frozen=True)
class Normalise:
    """``out = (source - mean) / sqrt(variance + epsilon)`` over each row."""

    source: Space
    columns: int
    out: Space
    epsilon: float

    def operands(self) -> tuple[Operand, ...]:
        """List source and output."""
        return (Operand(self.source, self.columns), Operand(self.out, self.columns, False, True))


@dataclass(frozen=True)
class NormaliseBack:
    """The way back through `Normalise`, whose source ``value`` is; added if ``accumulate``.

    With y its result and sigma its divisor, gradients g = source become
    ``(g - mean(g) - y * mean(g * y)) / sigma``. Where sigma is ``detached``, a constant,
    s = source becomes ``value * (s - mean(s)) / sigma``.
    """

    source: Space
    value: Space
    columns: int
    out: Space
    epsilon: float
    detached: bool = False
    accumulate: bool = False

    def operands(self) -> tuple[Operand, ...]:
        """List source, value, output."""
        return (
            Operand(self.source, self.columns),
            Operand(self.value, self.columns),
            Operand(self.out, self.columns, self.accumulate, True),
        )


@dataclass(frozen=True)
class Embed:
    """``out = table[source]``, the source being one number; the table is of ``Program.tables``."""

    source: Space
    table: int
    columns: int
    out: Space

    def operands(self) -> tuple[Operand, ...]:
        """List source and output."""
        return (Operand(self.source, 1), Operand(self.out, self.columns, False, True))


Template: TypeAlias = (
    Gemm
    | Map
    | Gather
    | Scatter
    | Seed
    | Absorb
    | Activate
    | Slope
    | MaxPool
    | PoolRoute
    | Normalise
    | NormaliseBack
    | Embed
)


@dataclass(frozen=True, eq=False)
class Instruction:
    """A template and its offsets, shape (operands, steps)."""

    template: Template
    offsets: Offsets


@dataclass(frozen=True, eq=False)
class Repeat:
    """Instructions that run ``count`` times in turn.

    Each has offsets of shape (operands, count · k), with a k of its own: iteration i runs it on its
    steps from i · k to (i + 1) · k − 1.
    """

    body: tuple[Instruction, ...]
    count: int


@dataclass(eq=False)
class Program:
    """Everything the engine needs to explain a batch with one method.

    Attributes
    ----------
    input_size, arena_size, classes : int
        Floats per sample of the input, the working memory and the output.
    conserves : bool
        Whether relevance is propagated, so that its sum can be compared with what was put in.
    limits : Limits
        Of what loading it may take.
    """

    input_size: int
    classes: int
    conserves: bool
    arena_size: int = 0
    instructions: tuple[Instruction | Repeat, ...] = ()
    matrices: list[Float32s] = field(default_factory=list)
    vectors: list[Float32s] = field(default_factory=list)
    indices: list[Offsets] = field(default_factory=list)
    tables: list[Float32s] = field(default_factory=list)
    limits: Limits = NO_LIMITS
    _interned: dict[tuple[str, bytes, tuple[int, ...]], int] = field(default_factory=dict)

    def matrix(self, values: npt.ArrayLike) -> int:
        """Index of a (depth, columns) matrix, stored once for equal contents."""
        return self._intern("matrix", self.matrices, single(values))

    def vector(self, values: npt.ArrayLike) -> int:
        """Index of a vector, stored once for equal contents."""
        return self._intern("vector", self.vectors, single(values))

    def index(self, values: npt.ArrayLike) -> int:
        """Index of a gather or scatter index, stored once for equal contents."""
        return self._intern("index", self.indices, np.array(values, dtype=np.int64))

    def table(self, values: npt.ArrayLike) -> int:
        """Index of a (rows, columns) table to embed by, stored once for equal contents."""
        return self._intern("table", self.tables, single(values))

    def _intern(self, kind: str, store: list[_Stored], array: _Stored) -> int:
        key = kind, *content_of(array)
        if key not in self._interned:
            self._interned[key] = len(store)
            store.append(array)
        return self._interned[key]

    def every_instruction(self) -> Iterator[Instruction]:
        """Yield all instructions in order, those in the body of a `Repeat` once."""
        for item in self.instructions:
            if isinstance(item, Repeat):
                yield from item.body
            else:
                yield item

    def load(self, isa: str, weights: _core.Program | None = None) -> _core.Program:
        """Pack the program for an instruction set.

        Parameters
        ----------
        isa : str
        weights : _core.Program, optional
            What a program with equal matrices, vectors and tables was loaded to, for the same
            instruction set. What it has packed and copied is then used and not made again.
        """
        core = _core.Program(
            input_size=self.input_size,
            arena_size=self.arena_size,
            classes=self.classes,
            conserves=self.conserves,
            isa=isa,
            weights=weights,
            **self.limits.of_core(self.matrices),
        )
        self.limits.check("memory", self.arena_size, "floats of working memory")
        for vector in self.vectors[core.vectors :]:
            core.add_vector(vector)
        for table in self.tables[core.tables :]:
            core.add_table(table)
        for item in self.instructions:
            if isinstance(item, Repeat):
                core.begin_repeat(item.count)
                for instruction in item.body:
                    self._load(core, instruction)
                core.end_repeat()
            else:
                self._load(core, item)
        core.finish()
        return core

    def _load(self, core: _core.Program, instruction: Instruction) -> None:
        template = instruction.template
        spaces = [operand.space for operand in template.operands()]
        offsets = np.ascontiguousarray(instruction.offsets)
        rows: _Rows = list(zip(spaces, offsets, strict=True))
        match template:
            case Gemm():
                count = len(template.segments)
                depths = [depth for _, depth in template.segments]
                segments = list(zip(rows[:count], depths, strict=True))
                epilogue = _epilogue(template.epilogue, rows[count + 1 :])
                if template.matrix not in range(len(self.matrices)):
                    raise ValueError(f"no such matrix: {template.matrix}")
                key, bf16 = template.matrix, template.bf16
                matrix = core.find_matrix(key, bf16)
                if matrix < 0:
                    matrix = core.add_matrix(self.matrices[key], bf16, key)
                core.gemm(segments, matrix, rows[count], epilogue)
            case Map():
                source = None if template.source is None else rows[0]
                out = 0 if source is None else 1
                epilogue = _epilogue(template.epilogue, rows[out + 1 :])
                core.map(source, template.columns, rows[out], epilogue)
            case Gather():
                core.gather(rows[0], self.indices[template.index], rows[1])
            case Scatter():
                core.scatter(rows[0], self.indices[template.index], rows[1])
            case Seed():
                core.seed(int(offsets[0, 0]), int(offsets[1, 0]), template.start)
            case Absorb():
                operand = None if template.operand is None else rows[1]
                core.absorb(
                    rows[0],
                    template.columns,
                    template.share,
                    operand,
                    template.vector,
                    template.epsilon,
                )
            case Activate():
                function, parameter = template.function, template.parameter
                core.activate(rows[0], template.columns, rows[1], function, parameter)
            case Slope():
                core.slope(
                    rows[0],
                    rows[1],
                    template.columns,
                    rows[2],
                    template.function,
                    template.parameter,
                    template.accumulate,
                )
            case MaxPool():
                core.max_pool(rows[:-1], template.columns, rows[-1])
            case PoolRoute():
                count = len(template.values)
                core.pool_route(
                    rows[:count],
                    template.columns,
                    rows[count],
                    rows[count + 1 :],
                    template.shares,
                    template.accumulate,
                )
            case Normalise():
                core.normalise(rows[0], template.columns, rows[1], template.epsilon)
            case NormaliseBack():
                core.normalise_back(
                    rows[0],
                    rows[1],
                    template.columns,
                    rows[2],
                    template.epsilon,
                    template.detached,
                    template.accumulate,
                )
            case Embed():
                if template.table not in range(len(self.tables)):
                    raise ValueError(f"no such table: {template.table}")
                core.embed(rows[0], template.table, rows[1])


def content_of(array: npt.NDArray[Any]) -> tuple[bytes, tuple[int, ...]]:
    """Tell contiguous arrays apart by their contents and shape."""
    return hashlib.blake2b(array.data).digest(), array.shape


def _epilogue(epilogue: Epilogue, rows: _Rows) -> _core.Epilogue:
    left = iter(rows)
    scale_rows = next(left) if epilogue.scale_space is not None else None
    post_rows = next(left) if epilogue.post_space is not None else None
    return _core.Epilogue(
        bias=epilogue.bias,
        scale=epilogue.scale,
        scale_rows=scale_rows,
        scale_vector=epilogue.scale_vector,
        accumulate=epilogue.accumulate,
        post=epilogue.post,
        post_rows=post_rows,
        post_vector=epilogue.post_vector,
        epsilon=epilogue.epsilon,
    )
