# SPDX-License-Identifier: Apache-2.0
"""The engine's programs, built one instruction at a time and as wrong as a test wants them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from pyrel import _core

Space, Scale, Post, Share, Start, Function = (
    SimpleNamespace(**_core.enums[name])
    for name in ("Space", "Scale", "Post", "Share", "Start", "Function")
)
Rows = tuple[int, list[int]]


def epilogue(
    bias: int = -1,
    scale: int = Scale.none,
    scale_rows: Rows | None = None,
    scale_vector: int = -1,
    accumulate: bool = False,
    post: int = Post.none,
    post_rows: Rows | None = None,
    post_vector: int = -1,
    epsilon: float = 0.0,
) -> dict[str, Any]:
    """Return the fields of an epilogue."""
    return {
        "bias": bias,
        "scale": scale,
        "scale_space": scale_rows,
        "scale_vector": scale_vector,
        "accumulate": accumulate,
        "post": post,
        "post_space": post_rows,
        "post_vector": post_vector,
        "epsilon": epsilon,
    }


class Building:
    """A program of the engine, with a method for each kind of instruction."""

    def __init__(self, **sizes: Any) -> None:
        self.core = _core.Program(**sizes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.core, name)

    def _add(self, kind: str, **fields: Any) -> None:
        self.core.add(kind, fields)

    def gemm(self, segments: Any, matrix: int, out: Rows, end: Any, bf16: bool = False) -> None:
        self._add("Gemm", segments=segments, matrix=matrix, out=out, epilogue=end, bf16=bf16)

    def map(self, source: Rows | None, columns: int, out: Rows, end: Any) -> None:
        self._add("Map", source=source, columns=columns, out=out, epilogue=end)

    def gather(self, source: Rows, index: list[int], out: Rows) -> None:
        self._add("Gather", source=source, index=index, out=out)

    def scatter(self, source: Rows, index: list[int], out: Rows) -> None:
        self._add("Scatter", source=source, index=index, out=out)

    def seed(self, source: int, out: int, start: int) -> None:
        rows = (Space.arena, [source]), (Space.arena, [out])
        self._add("Seed", source=rows[0], out=rows[1], start=start)

    def absorb(self, source: Rows, columns: int, share: int, *rest: Any) -> None:
        names = ("operand", "vector", "epsilon")
        self._add("Absorb", source=source, columns=columns, share=share, **_named(names, rest))

    def activate(self, source: Rows, columns: int, out: Rows, *rest: Any) -> None:
        names = ("function", "parameter")
        self._add("Activate", source=source, columns=columns, out=out, **_named(names, rest))

    def slope(self, source: Rows, value: Rows, columns: int, out: Rows, *rest: Any) -> None:
        fields = {"source": source, "value": value, "columns": columns, "out": out}
        self._add("Slope", **fields, **_named(("function", "parameter", "accumulate"), rest))

    def reduce(self, source: Rows, count: int, stride: int, columns: int, *rest: Any) -> None:
        fields = {"source": source, "count": count, "stride": stride, "columns": columns}
        self._add("Reduce", **fields, **_named(("out", "accumulate"), rest))

    def matmul(self, left: Rows, right: Rows, sizes: Any, out: Rows, adds: bool = False) -> None:
        fields = dict(zip(("rows", "depth", "columns"), sizes, strict=True))
        turned = {"left_transposed": False, "right_transposed": False}
        self._add("Matmul", left=left, right=right, out=out, accumulate=adds, **fields, **turned)

    def max_pool(self, sources: list[Rows], columns: int, out: Rows) -> None:
        self._add("MaxPool", sources=sources, columns=columns, out=out)

    def pool_route(self, values: list[Rows], columns: int, *rest: Any) -> None:
        names = ("relevance", "outs", "shares", "accumulate")
        self._add("PoolRoute", values=values, columns=columns, **_named(names, rest))

    def normalise(self, source: Rows, columns: int, out: Rows, epsilon: float) -> None:
        self._add("Normalise", source=source, columns=columns, out=out, epsilon=epsilon)

    def normalise_back(
        self, source: Rows, value: Rows, columns: int, out: Rows, *rest: Any
    ) -> None:
        fields = {"source": source, "value": value, "columns": columns, "out": out}
        self._add("NormaliseBack", **fields, **_named(("epsilon", "detached", "accumulate"), rest))

    def embed(self, source: Rows, table: int, out: Rows) -> None:
        self._add("Embed", source=source, table=table, out=out)


def _named(names: tuple[str, ...], values: tuple[Any, ...]) -> dict[str, Any]:
    return dict(zip(names, values, strict=True))
