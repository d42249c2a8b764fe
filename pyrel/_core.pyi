# SPDX-License-Identifier: Apache-2.0
import enum
from typing import Any

import numpy as np
import numpy.typing as npt

enums: dict[str, dict[str, int]]
limits: dict[str, int]

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

class Program:
    def __init__(
        self,
        *,
        input_size: int,
        arena_size: int,
        classes: int,
        conserves: bool,
        weights: Program | None = None,
        most_looked_up: int | None = None,
        most_work: float | None = None,
    ) -> None: ...
    @property
    def matrices(self) -> int: ...
    @property
    def vectors(self) -> int: ...
    @property
    def tables(self) -> int: ...
    def add_matrix(self, matrix: npt.NDArray[np.float32]) -> int: ...
    def add_vector(self, vector: npt.NDArray[np.float32]) -> int: ...
    def add_table(self, table: npt.NDArray[np.float32]) -> int: ...
    def add(self, kind: str, fields: dict[str, Any]) -> None: ...
    def begin_repeat(self, count: int) -> None: ...
    def end_repeat(self) -> None: ...
    def finish(self) -> None: ...

def cuda_image(program: Program) -> bytes: ...

class PackedMatrices:
    def __init__(self, isa: str) -> None: ...

class Engine:
    def __init__(
        self,
        program: Program,
        isa: str,
        packed: PackedMatrices | None = None,
        most_packed: int | None = None,
    ) -> None: ...
    @property
    def explains(self) -> bool: ...
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
    @property
    def keeps_forward(self) -> bool: ...
    def matrix(self, index: int) -> npt.NDArray[np.float32]: ...
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
        ways_back: int = 1,
        in_lanes: bool | None = None,
    ) -> Status: ...
