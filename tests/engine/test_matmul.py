# SPDX-License-Identifier: Apache-2.0
"""Products of two matrices of a sample, against NumPy in float64."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from engine.building_programs import Building, Space
from engine.running import ARENA, INPUT, instruction, program, run

from pyrel import _core
from pyrel.compiler.program.instructions import Map, Matmul, Operand

EPS = float(np.finfo(np.float32).eps)  # twice the largest error of one rounding
ISAS = _core.instruction_sets()
SAMPLES = 19  # more than one group of lanes, and not a whole number of them
# Single numbers, sizes beside those of tiles and panels, and more depths than are turned at once.
SIZES = [(1, 1, 1), (2, 3, 5), (5, 300, 3), (13, 17, 33), (25, 129, 16), (12, 8, 70)]


def matrices(rows: int, columns: int, seed: int) -> Any:
    shape = (SAMPLES, rows, columns)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def laid_out(matrix: Any, transposed: bool) -> Any:
    """Return matrices as they lie in memory, (samples, floats)."""
    stored = matrix.swapaxes(1, 2) if transposed else matrix
    return np.ascontiguousarray(stored).reshape(SAMPLES, -1)


def multiplied(
    left: Any, right: Any, before: Any, isa: str, left_turned: bool, right_turned: bool, adds: bool
) -> Any:
    """Multiply by the instruction, twice: once as given, and once the matrices of other samples."""
    (rows, depth), columns = left.shape[1:], right.shape[2]
    x = [
        laid_out(left, left_turned),
        laid_out(right, right_turned),
        laid_out(left[::-1], left_turned),
        laid_out(right[::-1], right_turned),
        before.reshape(SAMPLES, -1),
    ]
    cut = np.cumsum([0, *(each.shape[1] for each in x)])
    size = rows * columns
    template = Matmul(INPUT, INPUT, rows, depth, columns, ARENA, left_turned, right_turned, adds)
    steps = [
        instruction(Map(INPUT, size, ARENA), [cut[4], cut[4]], [0, size]),
        instruction(template, [cut[0], cut[2]], [cut[1], cut[3]], [0, size]),
    ]
    found, _ = run(program(2 * size), steps, np.concatenate(x, axis=1), 0, 2 * size, isa)
    first, second = found.reshape(SAMPLES, 2, rows, columns).swapaxes(0, 1)
    if not adds:
        np.testing.assert_array_equal(first, second[::-1])
    return first


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_products(isa: str, sizes: tuple[int, int, int]) -> None:
    """Against float64: K products and additions round 2 K times, each by ε/2 of Σ|terms|."""
    rows, depth, columns = sizes
    left, right = matrices(rows, depth, 1), matrices(depth, columns, 2)
    before = matrices(rows, columns, 3)
    for left_turned, right_turned, adds in product((False, True), repeat=3):
        found = multiplied(left, right, before, isa, left_turned, right_turned, adds)
        wide = left.astype(np.float64), right.astype(np.float64)
        wanted = wide[0] @ wide[1] + adds * before
        sizes_of_terms = np.abs(wide[0]) @ np.abs(wide[1]) + adds * np.abs(before)
        assert (np.abs(found - wanted) <= depth * EPS * sizes_of_terms).all()


@pytest.mark.parametrize("isa", ISAS)
def test_bits_do_not_depend_on_how_matrices_lie(isa: str) -> None:
    """Depths that are turned part by part give the sums of whole ones."""
    for rows, depth, columns in SIZES:
        left, right = matrices(rows, depth, 1), matrices(depth, columns, 2)
        before = matrices(rows, columns, 3)
        for adds in (False, True):
            every = {
                multiplied(left, right, before, isa, *turned, adds).tobytes()
                for turned in product((False, True), repeat=2)
            }
            assert len(every) == 1


def test_operands() -> None:
    assert Matmul(INPUT, ARENA, 2, 3, 5, ARENA, accumulate=True).operands() == (
        Operand(INPUT, 6),
        Operand(ARENA, 15),
        Operand(ARENA, 10, True, True),
    )


def building(**more: Any) -> Building:
    return Building(input_size=30, arena_size=20, classes=1, conserves=False, **more)


def test_matrices_that_do_not_fit_are_refused() -> None:
    left, right, out = (Space.input, [0]), (Space.input, [6]), (Space.arena, [0])
    for sizes in ((0, 3, 5), (2, 0, 5), (2, 3, -1)):
        with pytest.raises(ValueError, match="rows, a depth and columns above 0"):
            building().matmul(left, right, sizes, out)
    for sizes in ((2, 3, 9), (11, 3, 1), (1 << 32, 1, 1), (1 << 31, 1 << 31, 1)):
        with pytest.raises(ValueError, match="beyond its space"):
            building().matmul(left, right, sizes, out)
    with pytest.raises(ValueError, match="read before it is written"):
        building().matmul((Space.arena, [10]), right, (2, 3, 2), out)
    with pytest.raises(ValueError, match="read before it is written"):
        building().matmul(left, right, (2, 3, 2), out, True)


def test_what_a_product_takes_counts_as_work() -> None:
    left, right, out = (Space.input, [0]), (Space.input, [6]), (Space.arena, [0])
    own = building(most_work=70.0)
    own.matmul(left, right, (2, 3, 5), out)
    with pytest.raises(ValueError, match="more work"):
        own.matmul(left, right, (2, 3, 5), out)
