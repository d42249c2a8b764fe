# SPDX-License-Identifier: Apache-2.0
"""Each instruction of the engine against NumPy in float64, on every instruction set.

Bounds are relative to the sum of the magnitudes of the terms that a result is made of, in units of
``EPS``, twice the largest error of one rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine.running import ARENA, INPUT, instruction, measured, program, run

from pyrel import _core
from pyrel.compiler.program.enums import Post, Share
from pyrel.compiler.program.instructions import (
    Absorb,
    Embed,
    Epilogue,
    Gather,
    Map,
    MaxPool,
    Normalise,
    NormaliseBack,
    Operand,
    PoolRoute,
    Scatter,
)

EPS = float(np.finfo(np.float32).eps)
ISAS = _core.instruction_sets()
COLUMNS = (1, 3, 16, 37)
SAMPLES = 29


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_close(found: Any, wanted: Any, magnitude: Any, roundings: float) -> None:
    assert found.dtype == np.float32
    excess = np.abs(found - wanted) - roundings * EPS * magnitude
    assert (excess <= 0).all(), excess.max()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("with_vector", [False, True])
def test_division_by_a_stabilised_denominator(isa: str, columns: int, with_vector: bool) -> None:
    epsilon = np.float32(0.25)
    x = normal(SAMPLES, 2 * columns)
    x[::3, columns:] = 0.0
    x[1::3, columns:] = -0.0
    own = program(columns)
    vector = normal(columns, seed=1)
    epilogue = Epilogue(
        post=Post.divide_stabilised,
        post_space=INPUT,
        post_vector=own.vector(vector) if with_vector else -1,
        epsilon=float(epsilon),
    )
    step = instruction(Map(INPUT, columns, ARENA, epilogue), [0], [0], [columns])
    found, _ = run(own, [step], x, 0, columns, isa)
    d = x[:, columns:] + (vector if with_vector else np.float32(0))
    wanted = x[:, :columns] / (d + np.where(d < 0, -epsilon, epsilon))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("share", list(Share))
@pytest.mark.parametrize("with_vector", [False, True])
def test_absorbed_shares(isa: str, columns: int, share: Share, with_vector: bool) -> None:
    x = normal(SAMPLES, 4 * columns)
    x[::3, 2 * columns :] = -0.0
    vector = normal(columns, seed=1)
    vector[::2] = 0.0
    if share != Share.weighted:
        x[:, 2 * columns :] *= np.random.default_rng(2).integers(0, 2, (SAMPLES, 2 * columns))
    own = program(columns)
    index = own.vector(vector) if with_vector or share == Share.weighted else -1
    operand = None if share == Share.weighted else INPUT
    absorb = Absorb(INPUT, index, columns, share, operand, 0.5)
    rows = [[0, columns], [2 * columns, 3 * columns]][: len(absorb.operands())]
    steps = [instruction(Map(None, columns, ARENA), [0]), instruction(absorb, *rows)]
    _, found, amplification = measured(own, steps, x, 0, columns, isa)
    source = x[:, : 2 * columns].astype(np.float64)
    d = x[:, 2 * columns :] + (np.tile(vector, 2) if with_vector else np.float32(0))
    factor: Any = {
        Share.weighted: np.tile(vector, 2),
        Share.stabiliser: 0.5 * np.where(d < 0, -1.0, 1.0),
        Share.undivided: d == 0,
    }[share]
    # Summed in double precision, and rounded once.
    assert_close(found, (source * factor).sum(1), np.abs(source * factor).sum(1), 0.6)
    # The larger of the two rows, where something was divided; the seed puts in one.
    divided = np.abs(source) * (np.abs(d).astype(np.float64) + 0.5)
    size = divided.reshape(SAMPLES, 2, -1).sum(2).max(1) * (share == Share.stabiliser)
    wanted = np.maximum(size, 1.0)
    assert_close(amplification, wanted, wanted, 4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("window", [1, 2, 9])
def test_the_largest_of_a_window(isa: str, columns: int, window: int) -> None:
    """Two steps, over values that are often equal; the first of the largest gets relevance."""
    size = window * columns
    x = np.random.default_rng(0).integers(-2, 3, (SAMPLES, 2 * size)).astype(np.float32)
    x = np.concatenate([x, normal(SAMPLES, 2 * columns)], axis=1)
    firsts = [[i * columns, size + i * columns] for i in range(window)]
    relevance = [2 * size, 2 * size + columns]
    pool = MaxPool((INPUT,) * window, columns, ARENA)
    route = PoolRoute((INPUT,) * window, columns, INPUT, (ARENA,) * window, accumulate=True)
    outs = [[2 * columns + offset for offset in offsets] for offsets in firsts]
    steps = [
        instruction(pool, *firsts, [0, columns]),
        instruction(Map(None, 2 * size, ARENA), [2 * columns]),
        instruction(route, *firsts, relevance, *outs),
        instruction(route, *firsts, relevance, *outs),
    ]
    own = program(2 * columns + 2 * size)
    found, _ = run(own, steps, x, 0, 2 * columns + 2 * size, isa)
    values = x[:, : 2 * size].reshape(SAMPLES, 2, window, columns)
    np.testing.assert_array_equal(found[:, : 2 * columns], values.max(2).reshape(SAMPLES, -1))
    first = np.arange(window)[:, None] == values.argmax(2)[:, :, None]
    routed = first * 2 * x[:, 2 * size :].reshape(SAMPLES, 2, 1, columns)
    np.testing.assert_array_equal(found[:, 2 * columns :], routed.reshape(SAMPLES, -1))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("columns", [1, 7, 16, 33])
@pytest.mark.parametrize("window", [1, 2, 9])
def test_a_window_shares_in_proportion(isa: str, columns: int, window: int) -> None:
    """What is below zero and windows of zeros get nothing; a second time it is added."""
    size = window * columns
    x = normal(SAMPLES, size + columns)
    x[:, :size] = np.maximum(x[:, :size], 0)
    x[0, :size] = 0
    x[1, :columns] = -3
    firsts = [[i * columns] for i in range(window)]
    steps = [
        instruction(
            PoolRoute((INPUT,) * window, columns, INPUT, (ARENA,) * window, True, accumulate),
            *firsts,
            [size],
            *firsts,
        )
        for accumulate in (False, True)
    ]
    found, _ = run(program(size), steps, x, 0, size, isa)
    values = np.maximum(x[:, :size].reshape(SAMPLES, window, columns).astype(np.float64), 0)
    total = values.sum(1, keepdims=True)
    share = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
    wanted = (2 * share * x[:, None, size:]).reshape(SAMPLES, -1)
    # One rounding for each of the window's additions, the division, the product and the sum.
    np.testing.assert_allclose(found, wanted, rtol=(window + 3) * 2**-24, atol=1e-37)


@pytest.mark.parametrize("isa", ISAS)
def test_what_is_no_number_is_the_largest(isa: str) -> None:
    """NaN must show at the output, and -inf be no more than the padding that it is."""
    x = np.array([[1, np.nan, 2], [np.nan, 1, 2], [1, 2, np.nan], [-np.inf, -3, -4]], np.float32)
    pool = instruction(MaxPool((INPUT,) * 3, 1, ARENA), [0], [1], [2], [0])
    found, _ = run(program(1), [pool], x, 0, 1, isa, check_finite=False)
    np.testing.assert_array_equal(found[:, 0], [np.nan, np.nan, np.nan, -3])


def normalised(x: Any, epsilon: float) -> tuple[Any, Any]:
    x = x.astype(np.float64)
    sigma = np.sqrt(x.var(1, keepdims=True) + epsilon)
    return (x - x.mean(1, keepdims=True)) / sigma, sigma


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("columns", COLUMNS)
def test_normalising(isa: str, columns: int) -> None:
    epsilon = 1e-5
    x = normal(SAMPLES, columns) * 3 + 100
    step = instruction(Normalise(INPUT, columns, ARENA, epsilon), [0], [0])
    found, _ = run(program(columns), [step], x, 0, columns, isa)
    # In double precision: only the result and ε are rounded.
    wanted, _ = normalised(x, epsilon)
    assert_close(found, wanted, np.abs(wanted), 1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("accumulate", [False, True])
def test_the_way_back_through_normalising(
    isa: str, columns: int, detached: bool, accumulate: bool
) -> None:
    epsilon = 1e-5
    x = normal(SAMPLES, 3 * columns)
    g, value, before = (x[:, i * columns : (i + 1) * columns] for i in range(3))
    back = NormaliseBack(INPUT, INPUT, columns, ARENA, epsilon, detached, accumulate)
    steps = [
        instruction(Map(INPUT, columns, ARENA), [2 * columns], [0]),
        instruction(back, [0], [columns], [0]),
    ]
    found, _ = run(program(columns), steps, x, 0, columns, isa)
    y, sigma = normalised(value, epsilon)
    g = g.astype(np.float64)
    centred = g - g.mean(1, keepdims=True)
    along = y * (g * y).mean(1, keepdims=True)
    wanted = (value * centred if detached else centred - along) / sigma + before * accumulate
    # ε is a float32; all else is double precision, rounded once.
    magnitude = (np.abs(value * centred) if detached else np.abs(centred) + np.abs(along)) / sigma
    assert_close(found, wanted, np.abs(wanted) + magnitude, 1)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("columns", COLUMNS)
def test_embedding(isa: str, columns: int) -> None:
    """Numbers beyond the table take its last row, and what is no number gives none."""
    own = program(3 * columns)
    table = normal(7, columns)
    ids = np.array([[0, 6, 3], [1, 1, 5], [-1, 7, 2.0**31], [np.inf, -np.inf, 4]], np.float32)
    embed = Embed(INPUT, own.table(table), columns, ARENA)
    step = instruction(embed, [0, 1, 2], [0, columns, 2 * columns])
    found, _ = run(own, [step], ids, 0, 3 * columns, isa, check_finite=False)
    wanted = table[np.clip(ids, 0, 6).astype(int)].reshape(4, -1)
    np.testing.assert_array_equal(found, wanted)
    found, _ = run(own, [step], np.full((1, 3), np.nan), 0, 3 * columns, isa, check_finite=False)
    assert np.isnan(found).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("pieces", [[37], [9, 8, 20], [1] * 12, [30, 1, 1]])
def test_gathering_and_scattering(isa: str, pieces: list[int]) -> None:
    """By an index in pieces of consecutive numbers; the first piece comes twice."""
    size = sum(pieces)
    edges = np.cumsum([0, *pieces])
    spans = [np.arange(edges[i], edges[i + 1]) for i in range(len(pieces))][::-1]
    index = np.concatenate([spans[-1], *spans])
    own = program(2 * index.size + 2 * size)
    number, out = own.index(index), 2 * index.size
    x = normal(SAMPLES, 2 * size)
    gather = Gather(INPUT, size, number, index.size, ARENA)
    scatter = Scatter(ARENA, size, number, index.size, ARENA)
    steps = [
        instruction(gather, [0, size], [0, index.size]),
        instruction(Map(INPUT, 2 * size, ARENA), [0], [out]),
        instruction(scatter, [0, index.size], [out, out + size]),
    ]
    found, _ = run(own, steps, x, 0, out + 2 * size, isa)
    wanted, scattered = x.reshape(-1, size)[:, index], x.reshape(-1, size).copy()
    for place, i in enumerate(index):
        scattered[:, i] += wanted[:, place]
    np.testing.assert_array_equal(found[:, :out], wanted.reshape(SAMPLES, -1))
    np.testing.assert_array_equal(found[:, out:], scattered.reshape(SAMPLES, -1))


def test_operands_are_in_the_order_of_the_offsets() -> None:
    route = PoolRoute((INPUT, ARENA), 4, ARENA, (ARENA, ARENA), accumulate=True)
    assert route.operands() == (
        Operand(INPUT, 4),
        Operand(ARENA, 4),
        Operand(ARENA, 4),
        Operand(ARENA, 4, True, True),
        Operand(ARENA, 4, True, True),
    )
    back = NormaliseBack(INPUT, ARENA, 5, ARENA, 1e-5, accumulate=True)
    assert back.operands() == (Operand(INPUT, 5), Operand(ARENA, 5), Operand(ARENA, 5, True, True))
    assert Embed(INPUT, 0, 6, ARENA).operands()[0] == Operand(INPUT, 1)
