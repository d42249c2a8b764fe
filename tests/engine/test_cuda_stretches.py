# SPDX-License-Identifier: Apache-2.0
"""Stretches that few groups of samples walk part by part: the same bits, and no race."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine import cuda_emulated as cuda
from engine.building_programs import Building, Share, Space, Start, epilogue
from engine.on_cuda import CUDA, emulated
from engine.test_cuda_ways_back import explained
from torch import nn

import pyrel
from pyrel import _core, methods
from pyrel.engine.compile import compile_graph
from pyrel.engine.cuda.engine import CudaEngine
from pyrel.engine.loaded import bind, checked

__all__ = ["emulated"]

WHOLE, IN_PARTS = 1, 2  # of PyrelCudaBatch::in_parts
METHODS = ("gradient", "deep_taylor", "lrp_epsilon")


class Front(nn.Module):
    """A convolution and a pool for each of two images, whose scores are added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(1, 6, 3, padding=1), nn.MaxPool2d(2)
        self.out = nn.Linear(6 * 6 * 6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = [self.out(self.pool(self.conv(x[:, t]).relu()).flatten(1)) for t in range(2)]
        result: torch.Tensor = scores[0] + scores[1]
        return result


def conv_deep() -> nn.Module:
    return pyrel.nn.ConvDeep(4, (12, 12), 5, sizes=(6, 8, 12, 10), recurrent=11)


MODELS = {"front": (Front, (2, 1, 12, 12)), "ConvDeep": (conv_deep, (4, 12, 12))}


def model_and_samples(name: str, count: int) -> tuple[nn.Module, Any]:
    make, shape = MODELS[name]
    torch.manual_seed(0)
    return make().eval(), np.random.default_rng(0).random((count, *shape), np.float32)


def program_of(name: str, count: int, method: str) -> tuple[_core.Program, Any]:
    model, x = model_and_samples(name, count)
    box = {"low": 0.0, "high": 1.0} if method == "deep_taylor" else {}
    return cuda.program_of(model, x, method, **box), x


@pytest.mark.parametrize(
    ("name", "method"),
    [*(("front", method) for method in METHODS), ("ConvDeep", "deep_taylor")],
)
def test_parts_have_the_bits_of_the_cpu(name: str, method: str) -> None:
    """In every division, of which some have more groups than walk through a stretch together."""
    program, x = program_of(name, 27, method)
    whole, in_parts = cuda.steps(program)
    assert in_parts > whole
    wanted = cuda.explain_on_cpu(program, x).bits()
    divisions = ({"groups": 1}, {"groups": 2, "teams": 2}, {"groups": 4, "team": 2})
    with cuda.OnDevice(program) as made:
        for seed, division in enumerate(divisions):
            counts = []
            for order in (WHOLE, IN_PARTS):
                found = made.explain(x, **division, in_parts=order, seed=seed)
                assert found.bits() == wanted, (division, order)
                counts.append(cuda.barriers())
            assert counts[1] > counts[0]


@pytest.mark.parametrize("precision", [1, 2])
def test_precisions_have_the_same_bits_in_parts(precision: int) -> None:
    program, x = program_of("front", 27, "lrp_epsilon")
    with cuda.OnDevice(program) as made:
        found = [
            made.explain(x, groups=4, in_parts=order, precision=precision).bits()
            for order in (WHOLE, IN_PARTS)
        ]
    assert found[0] == found[1]


@pytest.mark.parametrize(("method", "superfluous"), [("gradient", 0), ("lrp_epsilon", 1)])
def test_barriers_of_a_stretch_are_needed(method: str, superfluous: int) -> None:
    """Without any one of them a race is found, but for those before a stretch, which all have."""
    program, x = program_of("front", 32, method)
    with cuda.OnDevice(program) as made:
        wanted = made.explain(x, groups=4, in_parts=IN_PARTS).bits()
        count, unseen = cuda.barriers(), 0
        assert count > 15
        for number in range(count):
            options = {"groups": 4, "in_parts": IN_PARTS, "dropped_barrier": number}
            try:
                assert made.explain(x, **options).bits() == wanted
            except cuda.EmulationError as error:
                assert "since their last common barrier" in str(error)
            else:
                unseen += 1
    assert unseen == superfluous


def test_the_library_chooses_parts_where_the_cache_is_too_small() -> None:
    """The emulated one has a cache of 1 MiB, of which a group of eight needs 0.26."""
    program, x = program_of("ConvDeep", 40, "lrp_epsilon")
    with cuda.OnDevice(program) as made:
        for count, order in ((24, WHOLE), (40, IN_PARTS)):
            made.explain(x[:count], in_parts=order, teams=0)
            wanted = cuda.barriers()
            made.explain(x[:count], teams=0)
            assert cuda.barriers() == wanted, count


def test_launches_of_steps_walk_whole_rows() -> None:
    program, x = program_of("front", 20, "gradient")
    with cuda.OnDevice(program) as made:
        wanted = made.explain(x, groups=4, by_steps=True)
        count = cuda.launches()
        found = made.explain(x, groups=4, by_steps=True, in_parts=IN_PARTS)
        assert cuda.launches() == count
    assert found.bits() == wanted.bits() == cuda.explain_on_cpu(program, x).bits()


def test_several_ways_back_in_parts(emulated: None) -> None:
    """Each but the first begins at the seed, which is another step where there are stretches."""
    model, x = model_and_samples("ConvDeep", 40)
    graph = pyrel.capture(model, x[:2])
    box = np.zeros(x[0].size), np.ones(x[0].size)
    given = graph, methods.get("lrp_epsilon"), box, "float32"
    program = compile_graph(*given, moves_ids=False, keep_forward=True).program
    assert cuda.steps(checked(program))[1] > 0
    targets = np.random.default_rng(5).integers(0, 5, (len(x), 3))
    wanted = explained(bind(program, cuda.ISA), x, targets, 5)
    found = explained(CudaEngine(program, CUDA), x, targets, 5)
    for name, array in found._asdict().items():
        assert array.tobytes() == getattr(wanted, name).tobytes(), name


WIDE = 600  # columns, so that what stretches of a few rows touch is more than a part may


def building(arena: int) -> Building:
    made = Building(input_size=4 * WIDE, arena_size=arena * WIDE + 2, classes=1, conserves=False)
    made.vector = made.add_vector(np.ones(WIDE, np.float32))
    return made


def rows_at(space: int, block: int) -> Any:
    """Return four rows of `WIDE` floats, behind so many blocks of them."""
    return space, [(4 * block + row) * WIDE for row in range(4)]


def move(made: Building, source: Any, to: Any) -> None:
    made.map(source, WIDE, to, epilogue())


def normalised(made: Building, source: Any, to: Any) -> None:
    made.normalise(source, WIDE, to, 1e-5)


def absorb(made: Building, source: Any) -> None:
    made.absorb(source, WIDE, Share.weighted, None, made.vector, 0.0)


def elements_of_others(made: Building, kind: Any) -> None:
    """Within the stretch an element is another thread's than in the loop behind it."""
    move(made, rows_at(Space.input, 0), rows_at(Space.arena, 0))
    kind(made, rows_at(Space.arena, 0), rows_at(Space.arena, 1))
    made.begin_repeat(4)
    kind(made, rows_at(Space.arena, 1), rows_at(Space.arena, 2))
    made.end_repeat()


def absorbed_behind(made: Building) -> None:
    """What is absorbed belongs to other threads in the stretch than in the loop behind it."""
    move(made, rows_at(Space.input, 0), rows_at(Space.arena, 0))
    absorb(made, rows_at(Space.arena, 0))
    made.begin_repeat(4)
    absorb(made, rows_at(Space.input, 0))
    made.end_repeat()


def absorbed_before(made: Building) -> None:
    """The same, with the loop before the stretch."""
    move(made, rows_at(Space.input, 0), rows_at(Space.arena, 0))
    made.begin_repeat(4)
    absorb(made, rows_at(Space.input, 0))
    made.end_repeat()
    move(made, rows_at(Space.input, 0), rows_at(Space.arena, 1))
    absorb(made, rows_at(Space.input, 0))


def absorbed_first(made: Building) -> None:
    """All threads of a slab set to 0 what the program's first stretch adds to."""
    absorb(made, rows_at(Space.input, 0))
    move(made, rows_at(Space.input, 0), rows_at(Space.arena, 0))


BORDERS = {
    "elements": lambda made: elements_of_others(made, move),
    "rows": lambda made: elements_of_others(made, normalised),
    "absorbed behind": absorbed_behind,
    "absorbed before": absorbed_before,
    "absorbed first": absorbed_first,
}


# Of the last groups in the stretch eight threads have the same samples as outside where these are
# samples 32 to 39, and others where these are 16 to 29.
@pytest.mark.parametrize(("count", "groups"), [(40, 8), (30, 4)])
@pytest.mark.parametrize("border", BORDERS)
def test_threads_meet_at_the_borders_of_a_stretch(border: str, count: int, groups: int) -> None:
    """Where groups walk a stretch one after the other, threads have other elements than outside."""
    made = building(12)
    BORDERS[border](made)
    made.map(None, 1, (Space.arena, [12 * WIDE]), epilogue())
    made.seed(12 * WIDE, 12 * WIDE + 1, Start.one)
    made.finish()
    x = np.random.default_rng(0).random((count, 4 * WIDE), np.float32)
    assert cuda.steps(made.core)[1] > 0
    wanted = cuda.explain_on_cpu(made.core, x, relevance=False).bits()
    with cuda.OnDevice(made.core) as there:
        for seed in range(3):
            options: dict[str, Any] = {"groups": groups, "in_parts": IN_PARTS, "seed": seed}
            assert there.explain(x, relevance=False, **options).bits() == wanted


@pytest.mark.parametrize("count", [3, 19])
def test_missing_samples_read_what_their_groups_have(count: int) -> None:
    """A product reads relevance, which the groups before them still write."""
    made = building(12)
    matrix = made.add_matrix(np.ones((WIDE, 1), np.float32))
    move(made, None, rows_at(Space.arena, 0))
    made.map(None, 1, (Space.arena, [12 * WIDE]), epilogue())
    made.seed(12 * WIDE, 12 * WIDE + 1, Start.one)
    made.begin_repeat(1)
    made.map(None, 4 * WIDE, (Space.relevance, [0]), epilogue())
    made.end_repeat()
    made.gemm([((Space.relevance, [0]), WIDE)], matrix, (Space.arena, [0]), epilogue())
    move(made, rows_at(Space.input, 0), rows_at(Space.relevance, 0))
    made.finish()
    x = np.random.default_rng(0).random((count, 4 * WIDE), np.float32)
    assert cuda.steps(made.core)[1] > 0
    wanted = cuda.explain_on_cpu(made.core, x).bits()
    with cuda.OnDevice(made.core) as there:
        for seed in range(4):
            found = there.explain(x, groups=8, in_parts=IN_PARTS, seed=seed)
            assert found.bits() == wanted


@pytest.mark.parametrize(("width", "found"), [(120, True), (130, False)])
def test_products_of_many_weights_are_in_no_stretch(width: int, found: bool) -> None:
    """Whatever their rows: a part reads the weights again. One instruction alone saves nothing."""
    count = 100
    size = count * width
    made = Building(input_size=size, arena_size=3 * size + 1, classes=1, conserves=False)
    matrix = made.add_matrix(np.eye(width, dtype=np.float32))
    rows = [[(block * count + row) * width for row in range(count)] for block in range(3)]
    made.map((Space.input, rows[0]), width, (Space.arena, rows[0]), epilogue())
    made.gemm([((Space.arena, rows[0]), width)], matrix, (Space.arena, rows[1]), epilogue())
    made.map((Space.arena, rows[1]), width, (Space.arena, rows[2]), epilogue())
    made.seed(2 * size, 3 * size, Start.one)
    made.finish()
    assert (cuda.steps(made.core)[1] > 0) == found


def test_refuses_another_order() -> None:
    program, x = program_of("front", 3, "gradient")
    with pytest.raises(cuda.EmulationError, match="no such order"):
        cuda.explain(program, x, in_parts=3)
