# SPDX-License-Identifier: Apache-2.0
"""Counts what a walk of the CUDA engine moves between a cache and the memory behind it.

    python tools/gpu/traffic.py --samples 64 128

No GPU is needed: the steps of a program are followed row by row through a cache that forgets what
was used longest ago. Its lines hold four floats of eight samples. Counted is what enters and leaves
it of the arena, the input and the relevance; weights, which all multiprocessors read, are counted
apart: a product reads its matrix once for each row and slab, as if the first-level cache served
all but one of the warps that share a row's groups.

By default the cache is a multiprocessor's part of the second level of an H200, 60 MB / 132; then
what is counted goes to the device's memory. It is a model. Threads of a step run at the same time,
and the real cache belongs to all multiprocessors, which do not walk in step.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from models import full_cell

import pyrel
from pyrel import _core
from pyrel.engine.loaded import checked

GROUP = 8  # samples side by side
LINE = 4  # floats of each of them in a line
LINE_BYTES = LINE * GROUP * 4
SHARE = 60e6 / 132

# As in csrc/cuda/image.h.
_STRETCH_GROUPS = 2
_OPERAND = np.dtype([("memory", "i4"), ("first", "i4")])
_ORDER = np.dtype([("at", "i8"), ("steps", "i4"), ("seed", "i4")])
_HEADER = np.dtype(
    [(name, "i8") for name in ("bytes", "operations", "listed", "offsets", "index", "floats")]
    + [("whole", _ORDER), ("in_parts", _ORDER)]
    + [(name, "i4") for name in ("input_size", "arena_size", "classes")]
)
_STEP = np.dtype(
    [(name, "i4") for name in ("operation", "first_row", "rows")]
    + [("barrier", "i2"), ("in_order", "i2"), ("products", "i4"), ("begins", "i2"), ("ends", "i2")]
)
_LISTED = np.dtype([("operand", _OPERAND), ("depth", "i4")])
_OPERATION = np.dtype(
    [("kind", "i4"), ("columns", "i4")]
    + [(name, _OPERAND) for name in ("source", "value", "out", "scale", "post")]
    + [("choices", "i4", 5), ("accumulate", "i4"), ("flags", "i4", 3), ("parameters", "f4", 2)]
    + [("vectors", "i4", 7)]
    + [(name, "i4") for name in ("first_listed", "listed", "first_listed_out", "first_index")]
    + [(name, "i4") for name in ("indices", "repeated", "count", "stride", "rows", "depth")]
    + [("transposed", "i4", 2)]
)
_ARENA, _NONE = 1, 3  # of Memory
_KINDS = (
    *("gemm", "map", "gather", "scatter", "absorb", "activate", "slope", "reduce", "matmul"),
    *("max_pool", "pool_route", "normalise", "normalise_back", "embed", "seed"),
)


class Touch(NamedTuple):
    """Floats of a sample that a row of an operation reads or writes."""

    memory: int
    first: int
    count: int
    writes: bool


class Image:
    """What the device reads of a program, see csrc/cuda/image.h.

    Parameters
    ----------
    program : _core.Program
        A finished one.
    """

    def __init__(self, program: _core.Program) -> None:
        image = _core.cuda_image(program)
        self.header = np.frombuffer(image, _HEADER, 1)[0]
        places = [int(self.header[name]) for name in ("operations", "listed", "offsets", "index")]

        def array(at: int, end: int, kind: Any) -> Any:
            return np.frombuffer(image, kind, (end - at) // np.dtype(kind).itemsize, at)

        self.operations = array(places[0], places[1], _OPERATION)
        self.listed = array(places[1], places[2], _LISTED)
        self.offsets = array(places[2], places[3], np.int32)
        self.index = array(places[3], int(self.header["floats"]), np.int32)
        self._image = image

    def steps(self, in_parts: bool) -> Any:
        """Return the steps of an order; none if there are no stretches."""
        order = self.header["in_parts" if in_parts else "whole"]
        return np.frombuffer(self._image, _STEP, int(order["steps"]), int(order["at"]))

    def touches(self, number: int, row: int) -> Iterator[Touch]:
        """List what a row of an operation reads, then what it writes."""
        op = self.operations[number]
        kind, columns = _KINDS[op["kind"]], int(op["columns"])
        listed, outs = (
            self.listed[int(op[name]) :][: int(op["listed"])]
            for name in ("first_listed", "first_listed_out")
        )
        index = self.index[int(op["first_index"]) :][: int(op["indices"])]

        def touch(operand: Any, count: int, writes: bool = False, at: int = 0) -> Iterator[Touch]:
            if operand["memory"] != _NONE:
                first = int(self.offsets[int(operand["first"]) + row]) + at
                yield Touch(int(operand["memory"]), first, count, writes)

        def through(operand: Any, writes: bool) -> Iterator[Touch]:
            for element in index:
                yield from touch(operand, 1, writes, int(element))

        width = columns
        if kind == "seed":
            width = int(self.header["classes"])
        if kind in ("gather", "scatter"):
            width = len(index)
        if kind == "matmul":
            width = int(op["rows"]) * columns
        if kind == "gather":
            yield from through(op["source"], False)
        elif kind == "matmul":
            yield from touch(op["source"], int(op["rows"] * op["depth"]))
            yield from touch(op["value"], int(op["depth"]) * columns)
        elif kind == "reduce":
            for part in range(int(op["count"])):
                yield from touch(op["source"], columns, False, part * int(op["stride"]))
        elif kind == "embed":
            yield from touch(op["source"], 1)
        else:
            yield from touch(op["source"], width)
            yield from touch(op["value"], width)
        for each in listed:
            yield from touch(each["operand"], int(each["depth"]) if kind == "gemm" else columns)
        yield from touch(op["scale"], width)
        yield from touch(op["post"], width)
        results = [each["operand"] for each in outs] if kind == "pool_route" else [op["out"]]
        for writes in (False, True) if op["accumulate"] or kind == "scatter" else (True,):
            for result in results:
                if kind == "scatter":
                    yield from through(result, writes)
                else:
                    yield from touch(result, width, writes)

    def weight_bytes(self, number: int) -> int:
        """Return how many bytes of weights a row of a product reads."""
        op = self.operations[number]
        if _KINDS[op["kind"]] != "gemm":
            return 0
        depths = self.listed["depth"][int(op["first_listed"]) :][: int(op["listed"])]
        return int((-(-depths // 8) * 8).sum()) * -(-int(op["columns"]) // 16) * 16 * 4


class Cache:
    """Lines, of which the one that was used longest ago is forgotten first."""

    def __init__(self, size: float) -> None:
        self._most = size / LINE_BYTES
        self._lines: dict[tuple[int, int, int], bool] = {}  # whether one was written
        self.read = self.written = 0

    def touch(self, line: tuple[int, int, int], writes: bool) -> None:
        """Read a line, or write it, which reads nothing."""
        written = self._lines.pop(line, None)
        if written is None:
            self.read += not writes
            if len(self._lines) >= self._most:
                self.written += self._lines.pop(next(iter(self._lines)))
        self._lines[line] = writes or bool(written)

    def empty(self) -> None:
        """Forget all; results leave, and what is in the arena nobody asks for again."""
        self.written += sum(w and line[0] != _ARENA for line, w in self._lines.items())
        self._lines.clear()


class Traffic(NamedTuple):
    """Bytes of a sample, and barriers of a slab."""

    touched: float
    read: float
    written: float
    weights: float
    barriers: int


def traffic(image: Image, in_parts: bool, groups: int, size: float = SHARE) -> Traffic:
    """Follow a slab of so many groups of eight samples through a cache of so many bytes."""
    held, touched, weights = Cache(size), 0, 0
    barriers = 1  # at the end

    @cache
    def lines(number: int, row: int) -> Sequence[tuple[int, int, bool]]:
        return [
            (each.memory, line, each.writes)
            for each in image.touches(number, row)
            for line in range(each.first // LINE, -(-(each.first + each.count) // LINE))
        ]

    for steps, some in _walk(image.steps(in_parts), groups):
        for step in steps:
            if step["begins"]:
                barriers += some.start == 0
            else:
                barriers += int(step["barrier"])
            operations = range(int(step["operation"]), int(step["operation"] + step["products"]))
            weights += int(step["rows"]) * sum(map(image.weight_bytes, operations))
            for row in range(int(step["first_row"]), int(step["first_row"] + step["rows"])):
                for number in operations:
                    for memory, line, writes in lines(number, row):
                        touched += len(some)
                        for group in some:
                            held.touch((memory, group, line), writes)
    held.empty()
    moved = (
        touched * LINE_BYTES,
        held.read * LINE_BYTES,
        held.written * LINE_BYTES,
        weights,
    )
    return Traffic(*(each / (groups * GROUP) for each in moved), barriers)


def _walk(steps: Any, groups: int) -> Iterator[tuple[Any, range]]:
    """Yield steps, and the groups of a slab that walk them together."""
    first = 0
    while first < len(steps):
        if not steps[first]["begins"]:
            yield steps[first : first + 1], range(groups)
            first += 1
            continue
        end = first + int(np.flatnonzero(steps["ends"][first:])[0]) + 1
        for begin in range(0, groups, _STRETCH_GROUPS):
            yield steps[first:end], range(begin, min(begin + _STRETCH_GROUPS, groups))
        first = end


def program_of(cell: str, steps: int, method: str) -> _core.Program:
    """Compile a cell of the benchmark."""
    model = full_cell(cell, steps)
    example = np.zeros((2, model.steps, *model.step_shape), np.float32)
    explainer = pyrel.Explainer(model, example, method, low=0.0, high=1.0, check=None)
    source = explainer._programs.source
    compiled = source if hasattr(source, "program") else source.at(steps)
    return checked(compiled.program)


def main() -> None:
    """Print a table of the cells of the benchmark."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[64], help="of a slab")
    parser.add_argument("--cache", type=float, default=SHARE, help="bytes (default: %(default)d)")
    options = parser.parse_args()
    print("KB of a sample: touched, read and written behind the cache, weights; barriers of a slab")
    for cell, steps, method in (
        *(("Deep", 12, "deep_taylor"), ("ConvDeep", 12, "deep_taylor")),
        *(("LSTM", 25, "lrp_epsilon"), ("GRU", 25, "lrp_epsilon")),
    ):
        image = Image(program_of(cell, steps, method))
        for in_parts in (False, True):
            if not len(image.steps(in_parts)):
                continue
            for samples in options.samples:
                found = traffic(image, in_parts, samples // GROUP, options.cache)
                numbers = " ".join(f"{each / 1000:7.0f}" for each in found[:4])
                order = "in parts" if in_parts else "whole"
                print(
                    f"{cell}-{steps} {method:12}{order:9}{samples:4} {numbers} {found.barriers:6}"
                )


if __name__ == "__main__":
    main()
