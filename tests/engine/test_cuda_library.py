# SPDX-License-Identifier: Apache-2.0
"""The CUDA library's host side, on a device that is emulated: how it divides, and what it refuses.

The emulated device has eight multiprocessors.
"""

from __future__ import annotations

import ctypes
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from engine import cuda_emulated as cuda
from engine.building_programs import Building, Post, Space, Start, epilogue

from pyrel import _core

SIZE = 5
VERDICT_BYTES = 8  # of a sample


@pytest.fixture(scope="module")
def program() -> _core.Program:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(SIZE, 9), torch.nn.ReLU(), torch.nn.Linear(9, 3))
    return cuda.program_of(model.eval(), samples(2), "lrp_epsilon")


def samples(count: int) -> Any:
    return np.random.default_rng(count).standard_normal((count, SIZE)).astype(np.float32)


@pytest.mark.parametrize(
    ("count", "groups", "team", "teams"),
    # A slab for each multiprocessor, then larger ones; of the largest not so many that few
    # multiprocessors have one more than the others.
    [(1, 1, 1, 1), (33, 1, 1, 5), (64, 1, 1, 8), (90, 2, 1, 6), (400, 8, 1, 7), (900, 16, 1, 8)]
    + [(1100, 8, 1, 8)],
)
def test_divides_samples_by_itself(
    program: Any, count: int, groups: int, team: int, teams: int
) -> None:
    x = samples(count)
    found = explained_by_choice(program, x)
    assert cuda.division() == (groups, team, teams)
    assert found.bits() == cuda.explain_on_cpu(program, x).bits()


@pytest.mark.parametrize(
    ("count", "groups", "team", "teams"),
    # Of 300 columns each group of samples has nineteen tiles, and a block has eight warps.
    [(8, 1, 2, 1), (30, 1, 2, 4), (33, 1, 1, 5), (90, 2, 1, 6)],
)
def test_blocks_share_slabs_where_there_are_few(
    count: int, groups: int, team: int, teams: int
) -> None:
    x = samples(count)
    program = cuda.program_of(torch.nn.Linear(SIZE, 300), x, "gradient")
    found = explained_by_choice(program, x)
    assert cuda.division() == (groups, team, teams)
    assert found.bits() == cuda.explain_on_cpu(program, x).bits()


def explained_by_choice(program: Any, x: Any) -> cuda.Arrays:
    """Explain with all that divides the samples left to the library."""
    return cuda.explain(program, x, groups=0, team=0, teams=0)


@pytest.mark.parametrize("by_steps", [False, True])
@pytest.mark.parametrize(
    ("groups", "team", "teams"), [(1, 1, 1), (1, 2, 3), (2, 4, 2), (8, 8, 1), (16, 2, 1)]
)
def test_divides_samples_as_it_is_asked(
    program: Any, groups: int, team: int, teams: int, by_steps: bool
) -> None:
    x, target = samples(70), np.arange(70) % 3
    options = {"groups": groups, "team": team, "teams": teams, "by_steps": by_steps}
    found = cuda.explain(program, x, target, **options)
    slabs = -(-70 // (8 * groups))
    teams = min(teams, slabs)
    assert cuda.division() == (groups, team, teams)
    assert (cuda.launches() > slabs // teams) == by_steps
    assert found.bits() == cuda.explain_on_cpu(program, x, target).bits()


def test_outputs_alone(program: Any) -> None:
    x = samples(11)
    found = cuda.explain(program, x, relevance=False)
    assert found.bits() == cuda.explain_on_cpu(program, x, relevance=False).bits()
    x = samples(0)
    assert cuda.explain(program, x).bits() == cuda.Arrays.places(x, 3, True).bits()


def test_takes_half_of_what_is_unused(program: Any) -> None:
    x = samples(900)
    whole = explained_by_choice(program, x)
    with cuda.OnDevice(program) as made:
        loaded = cuda.used_memory()
        made.explain(x, groups=16)
        block = cuda.used_memory() - loaded - len(x) * VERDICT_BYTES
    with cuda.memory(loaded + 6 * block, 1 << 30):
        assert explained_by_choice(program, x).bits() == whole.bits()
    assert cuda.division() == (16, 1, 3)
    with cuda.memory(loaded + block // 2, 1 << 30):
        assert explained_by_choice(program, x).bits() == whole.bits()
    assert cuda.division() == (4, 1, 1)


def test_runs_fewer_slabs_where_the_device_is_full(program: Any) -> None:
    x = samples(300)
    whole, divisions = explained_by_choice(program, x), set()
    held, given = cuda.used_memory(), 1 << 20
    while True:
        with cuda.memory(1 << 30, held + given):
            try:
                found = explained_by_choice(program, x)
            except cuda.RefusedError as refused:
                assert refused.outcome == _core.Outcome.out_of_memory
                break
        assert found.bits() == whole.bits()
        divisions.add(cuda.division())
        given = given * 9 // 10
    wanted = {(8, 5), (8, 2), (8, 1), (4, 1), (2, 1), (1, 1)}
    assert {(each.groups, each.teams) for each in divisions} >= wanted
    with (
        cuda.memory(1 << 30, held + 64),
        pytest.raises(cuda.EmulationError, match="no memory left"),
    ):
        cuda.explain(program, x)
    assert cuda.used_memory() == held


def test_calls_share_a_loaded_program(program: Any) -> None:
    before = cuda.used_memory()
    with cuda.OnDevice(program) as made:
        made.explain(samples(40))
        held = cuda.used_memory()
        made.explain(samples(40))
        assert cuda.used_memory() == held  # what a run needs is kept
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda n: made.explain(samples(n)).bits(), range(1, 30)))
    assert found == [cuda.explain_on_cpu(program, samples(n)).bits() for n in range(1, 30)]
    assert cuda.used_memory() == before


@pytest.mark.parametrize("where", [0, 7, 8, 21])
def test_reports_the_first_sample_that_is_wrong(program: Any, where: int) -> None:
    x = samples(22)
    x[where, 3] = np.nan
    x[21, 4] = np.inf
    for teams in (1, 3):
        with pytest.raises(cuda.RefusedError) as refused:
            cuda.explain(program, x, teams=teams)
        found = refused.value
        wanted = (_core.Outcome.input_not_finite, where, 3)
        assert (found.outcome, found.sample, found.element) == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, "1, 2, 4, 8 or 16 groups"),
        ({"groups": 32}, "1, 2, 4, 8 or 16 groups"),
        ({"groups": -1}, "1, 2, 4, 8 or 16 groups"),
        ({"teams": -1}, "no negative number of teams"),
        ({"team": 3}, "1, 2, 4 or 8 blocks"),
        ({"team": 16}, "1, 2, 4 or 8 blocks"),
        ({"precision": 3}, "no such precision"),
        ({"low": 0.0}, "low and high come together"),
    ],
)
def test_refuses(program: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(cuda.EmulationError, match=message):
        cuda.explain(program, samples(3), **options)


@pytest.mark.parametrize(
    ("bytes_of", "device", "message"),
    [
        (lambda image: image[:-1], 0, "another size than its header says"),
        (lambda image: image[:150], 0, "another size"),
        (lambda image: image[:8], 0, "no header"),
        (lambda image: image, 1, "no device 1"),
    ],
)
def test_refuses_to_load(program: Any, bytes_of: Any, device: int, message: str) -> None:
    image, handle = bytes_of(_core.cuda_image(program)), ctypes.c_void_p()
    held = cuda.used_memory()
    with pytest.raises(cuda.EmulationError, match=message):
        cuda.call("pyrel_cuda_load", image, len(image), device, ctypes.byref(handle))
    assert cuda.used_memory() == held


def test_unfinished_programs_have_no_image() -> None:
    unfinished = _core.Program(input_size=1, arena_size=1, classes=1, conserves=False)
    with pytest.raises(ValueError, match="not finished"):
        _core.cuda_image(unfinished)


def test_a_program_without_a_way_back_writes_no_relevance() -> None:
    forward = Building(input_size=1, arena_size=2, classes=1, conserves=False)
    forward.map((Space.input, [0]), 1, (Space.arena, [0]), epilogue(post=Post.square))
    forward.seed(0, 1, Start.one)
    forward.finish()
    x = np.arange(12, dtype=np.float32)[:, None]
    with pytest.raises(cuda.EmulationError, match="writes no relevance"):
        cuda.explain(forward.core, x)
    np.testing.assert_array_equal(cuda.explain(forward.core, x, relevance=False).output, x**2)


def test_a_dropped_barrier_is_a_race(program: Any) -> None:
    x = samples(3)
    cuda.explain(program, x)
    for number in range(cuda.barriers()):
        with pytest.raises(cuda.EmulationError, match="since their last common barrier"):
            cuda.explain(program, x, dropped_barrier=number)


def test_an_error_of_the_device_names_the_launch(program: Any) -> None:
    cuda.library().pyrel_cuda_fail_launch(0)
    words = (
        "cudaErrorIllegalAddress, in a walk of 40 samples by 3 teams of 2 blocks; with "
        "CUDA_LAUNCH_BLOCKING=1 the error names the instruction"
    )
    with pytest.raises(cuda.EmulationError, match=words):
        cuda.explain(program, samples(40), team=2, teams=3)


def test_launches_that_block_name_the_instruction(
    program: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits stay: an instruction is a launch, and the results' end is one."""
    x = samples(40)
    wanted = cuda.explain(program, x).bits()
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    with cuda.OnDevice(program) as made:
        before = cuda.library().pyrel_cuda_runs()
        assert made.explain(x, teams=5, team=2).bits() == wanted
        count = cuda.library().pyrel_cuda_runs() - before
        named = []
        for number in range(count):
            cuda.library().pyrel_cuda_fail_launch(number)
            with pytest.raises(cuda.EmulationError, match=f", in step {number}, ") as error:
                made.explain(x, teams=5, team=2)
            named.append(str(error.value).rsplit(", ", 1)[1])
    kinds = {"Gemm", "Seed", "the end of the samples"}
    assert kinds <= set(named) and named[0] == "Gemm" and named[-1] == "the end of the samples"
