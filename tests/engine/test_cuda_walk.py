# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernel, emulated: the CPU's bits, whatever divides the samples, and no race.

Instructions on their own are compared wherever tests run them by hand (`engine.running.measured`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine import cuda_emulated as cuda
from engine.cases import ALL_CASES, Case, compiled, expected, inputs
from engine.cells import CellCase
from engine.checks import RELATIVE, norms, rows
from engine.running import ARENA, INPUT, instruction
from engine.zoo import ZOO, Exhibit
from torch import nn

import pyrel
from pyrel.compiler.program.instructions import Epilogue, Gemm, Map, Seed
from pyrel.compiler.program.program import Program
from pyrel.engine.loaded import checked
from pyrel.methods.enums import Start

FEW = 11  # a group of eight, and a part of one
METHODS = ("deep_taylor", "lrp_epsilon")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
def test_cases_have_the_bits_of_the_cpu(case: Case | CellCase, method: str) -> None:
    program = checked(cuda.compiled_program(compiled(case, method)))
    x = inputs(case, FEW)
    assert cuda.explain(program, x).bits() == cuda.explain_on_cpu(program, x).bits()


@pytest.mark.parametrize("exhibit", ZOO, ids=lambda exhibit: exhibit.name)
def test_the_zoo_has_the_bits_of_the_cpu(exhibit: Exhibit) -> None:
    graph = pyrel.capture(exhibit.module, exhibit.inputs[:2])
    x = np.asarray(exhibit.inputs[:FEW], np.float32)
    ran = 0
    for method in ("gradient", *METHODS):
        try:
            program = cuda.program_of(graph, exhibit.inputs, method, **exhibit.domain)
        except pyrel.UnsupportedModelError:
            continue  # a rule is missing, whatever the engine
        found = cuda.explain(program, x, check_finite=False)
        assert found.bits() == cuda.explain_on_cpu(program, x, check_finite=False).bits(), method
        ran += 1
    assert ran > 0


class Normalised(nn.Module):
    """An LSTM, normalised: loops, activations, rows that eight threads share out."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = nn.LSTM(5, 6, batch_first=True)
        self.norm = nn.LayerNorm(6)
        self.out = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out(self.norm(self.recurrent(x)[0][:, -1]))
        return result


class Attentive(nn.Module):
    """Products of values, exponentials, sums of columns."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(4, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = (self.query(x) @ x.transpose(1, 2)).softmax(2)
        result: torch.Tensor = self.out((scores @ x).sum(1))
        return result


def pooled() -> nn.Module:
    """Overlapping windows: several rows add to one place."""
    layers = (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(36, 4))


MODELS = {
    "cell": (lambda: pyrel.nn.Deep(2, (8, 4), 5, sizes=(12, 10, 9), recurrent=11), (2, 8, 4)),
    "recurrent": (Normalised, (3, 5)),
    "attention": (Attentive, (5, 4)),
    "pools": (pooled, (1, 7, 7)),
}


def program_and_samples(name: str, count: int, method: str) -> tuple[Any, Any]:
    make, shape = MODELS[name]
    torch.manual_seed(0)
    x = np.random.default_rng(0).random((count, *shape), np.float32)
    return cuda.program_of(make().eval(), x, method), x


@pytest.mark.parametrize("name", MODELS)
def test_every_barrier_is_needed(name: str) -> None:
    """Without any one of them a race is found, in whatever order threads run."""
    method = "gradient" if name == "attention" else "lrp_epsilon"
    program, x = program_and_samples(name, 16, method)
    with cuda.OnDevice(program) as made:
        made.explain(x, groups=2)
        count = cuda.barriers()
        assert count > 10
        for number in range(count):
            for seed in range(3):
                with pytest.raises(cuda.EmulationError, match="since their last common barrier"):
                    made.explain(x, groups=2, seed=seed, dropped_barrier=number)


def test_blocks_of_a_team_wait_for_each_other() -> None:
    """Without a barrier there is a race, or what was to be ordered happens to be one thread's."""
    program, x = program_and_samples("recurrent", 16, "lrp_epsilon")
    with cuda.OnDevice(program) as made:
        wanted = made.explain(x, groups=2, team=4).bits()
        count, found = cuda.barriers(), 0
        for number in range(count):
            try:
                assert made.explain(x, groups=2, team=4, dropped_barrier=number).bits() == wanted
            except cuda.EmulationError as error:
                assert "since their last common barrier" in str(error)
                found += 1
    assert found > 0.9 * count


DIVISIONS = (
    {"groups": 1, "teams": 2},
    {"groups": 2, "team": 2},
    {"groups": 4, "team": 4, "by_steps": True},
    {"groups": 8, "by_steps": True},
    {"groups": 16},
    {"groups": 1, "team": 8},
    {"groups": 1, "team": 2, "teams": 2, "by_steps": True},
    {"groups": 1, "teams": 3},
)


@pytest.mark.parametrize("precision", [0, 1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_bits_do_not_depend_on_the_division(name: str, precision: int) -> None:
    """Nor on the order in which threads run, nor on the other samples."""
    program, x = program_and_samples(name, 21, "gradient")
    with cuda.OnDevice(program) as made:
        wanted = made.explain(x, precision=precision)
        for seed, division in enumerate(DIVISIONS):
            found = made.explain(x, **division, seed=seed, precision=precision)
            assert found.bits() == wanted.bits(), division
        for first, count in [(0, 1), (3, 7), (13, 8)]:
            some = made.explain(x[first : first + count], precision=precision)
            for part, whole in zip(some, wanted, strict=True):
                np.testing.assert_array_equal(part, whole[first : first + count])


@pytest.mark.parametrize("sizes", [(1, 1), (7, 15), (8, 16), (9, 17), (300, 33)], ids=str)
def test_three_products_of_tf32_are_as_good_as_float32(sizes: tuple[int, int]) -> None:
    """Within 1e-6 of Σ|terms|: of a product about 2⁻²² is lost, of a sum 300 roundings at most."""
    depth, columns = sizes
    torch.manual_seed(0)
    model = nn.Linear(depth, columns, bias=False)
    x = np.random.default_rng(1).standard_normal((19, depth)).astype(np.float32)
    found = cuda.explain(cuda.program_of(model, x, "gradient"), x, precision=1)
    weights = model.weight.detach().double().numpy()
    terms = np.abs(x.astype(np.float64)) @ np.abs(weights).T
    assert (np.abs(found.output - x.astype(np.float64) @ weights.T) <= 1e-6 * terms).all()


@pytest.mark.parametrize(
    "case", [case for case in ALL_CASES if isinstance(case, CellCase)], ids=lambda case: case.name
)
def test_deep_taylor_by_tf32(case: CellCase) -> None:
    """Within four times the CPU's bound of the float64 reference."""
    program = checked(cuda.compiled_program(compiled(case, "deep_taylor")))
    wanted = expected(case, "deep_taylor")
    found = cuda.explain(program, inputs(case), wanted.target, precision=1)
    unknown = wanted.uncertainty[np.arange(len(wanted.target)), wanted.target]
    known = wanted.start > unknown
    bound = RELATIVE + np.divide(unknown, wanted.start, out=np.zeros(len(known)), where=known)
    error = norms(found.relevance - rows(wanted.relevance).reshape(found.relevance.shape))
    assert (error[known] <= (4 * bound * norms(wanted.relevance))[known]).all()


@pytest.mark.parametrize("target", [-1, 3, 1 << 40])
def test_a_target_that_is_no_class_is_refused(target: int) -> None:
    program, x = program_and_samples("recurrent", 9, "gradient")
    targets = np.zeros(9, np.int64)
    targets[4] = target
    with pytest.raises(cuda.EmulationError, match="the target of sample 4 is no class"):
        cuda.explain(program, x, targets)


def without_denormals(values: Any) -> Any:
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, 0.0, values)


def test_numbers_at_the_ends_have_the_bits_of_the_cpu() -> None:
    """NaN within bounds that nobody checks, and infinity; denormals count as 0, kept or not."""
    values = [np.nan, np.inf, -np.inf, 1e-40, -1e-40, 3e-39, 0.0, -0.0, 1.0, 3.4e38]
    x = np.array([values, values[::-1]], np.float32)
    for layer in (nn.ReLU(), nn.Hardtanh(), nn.LeakyReLU(0.5), nn.ReLU6(), nn.Identity()):
        program = cuda.program_of(layer, np.ones_like(x), "gradient")
        for bounds in ({}, {"low": -3.4e38, "high": 3.4e38}):
            options: dict[str, Any] = {"check_finite": False, **bounds}
            samples = np.where(np.isinf(x), np.nan, x) if bounds else x
            found = cuda.explain(program, samples, **options)
            wanted = cuda.explain_on_cpu(program, samples, **options)
            for here, there in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(without_denormals(here), without_denormals(there))


@pytest.mark.parametrize(
    ("sources", "outs", "barriers"),
    [((0, 0), (4, 4), 3), ((0, 2), (4, 4), 4), ((0, 4), (4, 8), 4), ((0, 0), (4, 5), 4)],
    ids=("the same", "other rows", "its result", "half of its result"),
)
def test_products_of_the_same_rows_need_no_barrier(
    sources: tuple[int, int], outs: tuple[int, int], barriers: int
) -> None:
    """Each of their numbers is one thread's; but where one reads what the other one writes.

    The other barriers are before the first product, before the seed and before the end.
    """
    program = Program(input_size=4, classes=2, conserves=False, arena_size=14)
    matrices = [program.matrix(np.array(rows, np.float32)) for rows in ([[1, 2], [3, 4]],) * 2]
    epilogues = (Epilogue(), Epilogue(accumulate=True))
    program.instructions = (
        instruction(Map(INPUT, 4, ARENA), [0], [0]),
        instruction(Map(None, 4, ARENA), [4, 8]),
        *(
            instruction(Gemm(((ARENA, 2),), matrix, 2, ARENA, epilogue), [source], [out])
            for matrix, epilogue, source, out in zip(
                matrices, epilogues, sources, outs, strict=True
            )
        ),
        instruction(Seed(2, Start.one), [outs[1]], [12]),
    )
    made, x = checked(program), np.arange(8, dtype=np.float32).reshape(2, 4)
    found = cuda.explain(made, x, relevance=False)
    assert found.bits() == cuda.explain_on_cpu(made, x, relevance=False).bits()
    assert cuda.barriers() == barriers


def test_rows_of_a_product_that_read_what_others_write_are_refused() -> None:
    program = Program(input_size=4, classes=2, conserves=False, arena_size=8)
    matrix = program.matrix(np.eye(2, dtype=np.float32))
    program.instructions = (
        instruction(Map(INPUT, 4, ARENA), [0], [0]),
        instruction(Gemm(((ARENA, 2),), matrix, 2, ARENA), [0, 2], [2, 0]),
        instruction(Seed(2, Start.one), [0], [4]),
    )
    with pytest.raises(ValueError, match="rows read what others of it write"):
        cuda.explain(checked(program), np.ones((2, 4), np.float32), relevance=False)
