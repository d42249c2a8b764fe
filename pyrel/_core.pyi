# SPDX-License-Identifier: Apache-2.0
import enum
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

_Rows: TypeAlias = tuple[int, npt.ArrayLike]

enums: dict[str, dict[str, int]]

def version() -> str: ...
def compiler() -> str: ...
def instruction_sets() -> list[str]: ...
def peak(isa: str, repetitions: int, bf16: bool = False) -> float: ...
def has_bf16(isa: str) -> bool: ...
def kernel_offsets(isa: str) -> dict[str, int]: ...

class Outcome(enum.Enum):
    done = 0
    input_not_finite = 1
    input_out_of_bounds = 2
    output_not_finite = 3
    relevance_not_finite = 4
    relevance_lost = 5
    interrupted = 6
    out_of_memory = 7

class Status:
    @property
    def outcome(self) -> Outcome: ...
    @property
    def sample(self) -> int: ...
    @property
    def element(self) -> int: ...

class Epilogue:
    def __init__(
        self,
        *,
        bias: int = -1,
        scale: int = 0,
        scale_rows: _Rows | None = None,
        scale_vector: int = -1,
        accumulate: bool = False,
        post: int = 0,
        post_rows: _Rows | None = None,
        post_vector: int = -1,
        epsilon: float = 0.0,
    ) -> None: ...

class Program:
    def __init__(
        self,
        *,
        input_size: int,
        arena_size: int,
        classes: int,
        conserves: bool,
        isa: str,
        weights: Program | None = None,
        most_packed: int | None = None,
        most_looked_up: int | None = None,
        most_work: float | None = None,
    ) -> None: ...
    @property
    def explains(self) -> bool: ...
    @property
    def vectors(self) -> int: ...
    @property
    def tables(self) -> int: ...
    @property
    def flops(self) -> float: ...
    @property
    def gain_in_lanes(self) -> float: ...
    @property
    def arena_size(self) -> int: ...
    @property
    def instructions(self) -> int: ...
    @property
    def isa(self) -> str: ...
    def add_matrix(
        self, matrix: npt.NDArray[np.float32], bf16: bool = False, key: int = -1
    ) -> int: ...
    def find_matrix(self, key: int, bf16: bool) -> int: ...
    def add_vector(self, vector: npt.NDArray[np.float32]) -> int: ...
    def add_table(self, table: npt.NDArray[np.float32]) -> int: ...
    def gemm(
        self,
        segments: Sequence[tuple[_Rows, int]],
        matrix: int,
        out: _Rows,
        epilogue: Epilogue,
    ) -> None: ...
    def map(self, source: _Rows | None, columns: int, out: _Rows, epilogue: Epilogue) -> None: ...
    def gather(self, source: _Rows, index: npt.ArrayLike, out: _Rows) -> None: ...
    def scatter(self, source: _Rows, index: npt.ArrayLike, out: _Rows) -> None: ...
    def seed(self, source: int, out: int, start: int) -> None: ...
    def absorb(
        self,
        source: _Rows,
        columns: int,
        share: int,
        operand: _Rows | None,
        vector: int,
        epsilon: float,
    ) -> None: ...
    def activate(
        self, source: _Rows, columns: int, out: _Rows, function: int, parameter: float
    ) -> None: ...
    def slope(
        self,
        source: _Rows,
        value: _Rows,
        columns: int,
        out: _Rows,
        function: int,
        parameter: float,
        accumulate: bool,
    ) -> None: ...
    def max_pool(self, sources: Sequence[_Rows], columns: int, out: _Rows) -> None: ...
    def pool_route(
        self,
        values: Sequence[_Rows],
        columns: int,
        relevance: _Rows,
        outs: Sequence[_Rows],
        shares: bool,
        accumulate: bool,
    ) -> None: ...
    def normalise(self, source: _Rows, columns: int, out: _Rows, epsilon: float) -> None: ...
    def normalise_back(
        self,
        source: _Rows,
        value: _Rows,
        columns: int,
        out: _Rows,
        epsilon: float,
        detached: bool,
        accumulate: bool,
    ) -> None: ...
    def embed(self, source: _Rows, table: int, out: _Rows) -> None: ...
    def begin_repeat(self, count: int) -> None: ...
    def end_repeat(self) -> None: ...
    def finish(self) -> None: ...
    def run(
        self,
        x: npt.NDArray[np.float32],
        target: npt.NDArray[np.int64] | None,
        low: npt.NDArray[np.float32] | None,
        high: npt.NDArray[np.float32] | None,
        check_finite: bool,
        threads: int,
        relevance: npt.NDArray[np.float32] | None,
        output: npt.NDArray[np.float32],
        explained: npt.NDArray[np.int64],
        absorbed: npt.NDArray[np.float32],
        conservation: npt.NDArray[np.float32],
        amplification: npt.NDArray[np.float32],
        first: int = 0,
        in_lanes: bool | None = None,
    ) -> Status: ...
