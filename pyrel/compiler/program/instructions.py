# SPDX-License-Identifier: Apache-2.0
"""Instructions as data: templates, which say what to do in which memory, and where operands lie.

For every operand there is one offset per step: the same product at twelve steps of a recurrence is
one instruction with twelve offsets an operand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.functions import Function
from pyrel.compiler.program.enums import Post, Scale, Share, Space
from pyrel.methods.enums import Start

Float32s = npt.NDArray[np.float32]
Offsets = npt.NDArray[np.int64]

# A number that says how large operands are, which engines know from a matrix, an index or a table.
Planned: TypeAlias = Annotated[int, "planned"]


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


def _once(listed: Callable[[Any], tuple[Operand, ...]]) -> Callable[[Any], tuple[Operand, ...]]:
    """Keep with a template what is listed of it: every pass over a program asks again."""
    name = "_operands"
    return lambda t: vars(t).get(name) or vars(t).setdefault(name, listed(t))


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
    columns: Planned
    out: Space
    epilogue: Epilogue = Epilogue()
    bf16: bool = False

    @_once
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

    @_once
    def operands(self) -> tuple[Operand, ...]:
        """List the source if any, output, epilogue operands."""
        source = () if self.source is None else (Operand(self.source, self.columns),)
        out = Operand(self.out, self.columns, self.epilogue.accumulate, True)
        return (*source, out, *self.epilogue.operands(self.columns))


@dataclass(frozen=True)
class Gather:
    """``out[i] = source[index[i]]``; the index is from ``Program.indices``."""

    source: Space
    span: Planned
    index: int
    columns: Planned
    out: Space

    def operands(self) -> tuple[Operand, ...]:
        """List source and output."""
        source = Operand(self.source, self.span, whole=False)
        return (source, Operand(self.out, self.columns, False, True))


@dataclass(frozen=True)
class Scatter:
    """``out[index[i]] += source[i]``."""

    source: Space
    span: Planned
    index: int
    columns: Planned
    out: Space

    def operands(self) -> tuple[Operand, ...]:
        """List source and output."""
        return (Operand(self.source, self.columns), Operand(self.out, self.span, True, True))


@dataclass(frozen=True)
class Seed:
    """Choose the target from the outputs and write the relevance it starts with."""

    classes: Planned
    start: Start
    source: Space = Space.arena
    out: Space = Space.arena

    def operands(self) -> tuple[Operand, ...]:
        """List outputs and initial relevance."""
        return (Operand(self.source, self.classes), Operand(self.out, self.classes, False, True))


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
class Reduce:
    """``out[n] = sum(source[i * stride + n] for i in range(count))``.

    The terms are added in the order of i, to what is stored already if ``accumulate``.
    """

    source: Space
    count: int
    stride: int
    columns: int
    out: Space
    accumulate: bool = False

    def operands(self) -> tuple[Operand, ...]:
        """List source and output."""
        span = (self.count - 1) * self.stride + self.columns
        return (
            Operand(self.source, span, whole=self.stride <= self.columns),
            Operand(self.out, self.columns, self.accumulate, True),
        )


@dataclass(frozen=True)
class Matmul:
    """``out = left @ right``, (rows, depth) by (depth, columns), row by row in one run each.

    What is transposed lies column by column. The products are added in the order of the depth, to
    what is stored already if ``accumulate``.
    """

    left: Space
    right: Space
    rows: int
    depth: int
    columns: int
    out: Space
    left_transposed: bool = False
    right_transposed: bool = False
    accumulate: bool = False

    def operands(self) -> tuple[Operand, ...]:
        """List both matrices and the product."""
        return (
            Operand(self.left, self.rows * self.depth),
            Operand(self.right, self.depth * self.columns),
            Operand(self.out, self.rows * self.columns, self.accumulate, True),
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
    columns: Planned
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
    | Reduce
    | Matmul
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
