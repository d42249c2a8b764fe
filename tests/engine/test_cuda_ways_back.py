# SPDX-License-Identifier: Apache-2.0
"""Several ways back after one forward pass on the emulated device: the bits of the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine.cases import ALL_CASES, Case, CellCase, captured, inputs
from engine.on_cuda import CUDA, emulated, on_both
from engine.test_cuda_device import Tagger

from pyrel import _core, methods
from pyrel.engine import each_step
from pyrel.engine.compile import compile_graph
from pyrel.engine.cuda.engine import CudaEngine
from pyrel.engine.loaded import bind
from pyrel.engine.results import Results

__all__ = ["emulated"]
pytestmark = pytest.mark.usefixtures("emulated")

SAMPLES, WAYS = 19, 3


def program_and_samples(case: Case | CellCase, keep_forward: bool = True) -> tuple[Any, Any]:
    _, graph = captured(case)
    shape = graph.input_shape
    low, high = (np.broadcast_to(each, shape).reshape(-1) for each in (case.low, case.high))
    given = graph, methods.get("gradient"), (low, high), "float32"
    made = compile_graph(*given, moves_ids=False, keep_forward=keep_forward)
    return made.program, np.ascontiguousarray(inputs(case, SAMPLES), np.float32)


def explained(engine: Any, x: Any, targets: Any, classes: int) -> Results:
    """Explain targets, (n, ways), with NaN where nothing is written."""
    relevance = np.full((targets.size, *x.shape[1:]), np.nan, np.float32)
    results = Results.places(relevance, targets.size, classes)
    results.output[:] = np.nan
    given = x, targets.reshape(-1), None, None, True, 1, *results, 0, targets.shape[1]
    assert engine.run(*given).outcome == _core.Outcome.done
    return results


def random_targets(classes: int) -> Any:
    return np.random.default_rng(5).integers(0, classes, (SAMPLES, WAYS))


@pytest.mark.parametrize("case", ALL_CASES[::2], ids=lambda case: case.name)
def test_cases_have_the_bits_of_the_cpu(case: Case | CellCase) -> None:
    program, x = program_and_samples(case)
    targets = random_targets(program.classes)
    there = CudaEngine(program, CUDA)
    assert there.keeps_forward
    wanted = explained(bind(program, "avx2"), x, targets, program.classes)
    for name, array in explained(there, x, targets, program.classes)._asdict().items():
        assert array.tobytes() == getattr(wanted, name).tobytes(), name


@pytest.mark.parametrize("chunk", [1, 8, 11])
def test_bits_do_not_depend_on_chunks_or_launches(
    chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, x = program_and_samples(ALL_CASES[-1])
    targets = random_targets(program.classes)
    there = CudaEngine(program, CUDA)
    wanted = explained(there, x, targets, program.classes)
    monkeypatch.setattr(CudaEngine, "chunk", chunk)
    for blocking in ("0", "1"):
        monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", blocking)
        for name, array in explained(there, x, targets, program.classes)._asdict().items():
            assert array.tobytes() == getattr(wanted, name).tobytes(), name


def test_each_step_goes_back_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One forward pass for all steps, as on the CPU."""
    x = np.random.default_rng(0).normal(size=(3, 6, 4)).astype(np.float32)
    asked: list[int] = []
    whole = CudaEngine.run

    def noted(self: CudaEngine, *given: Any) -> Any:
        asked.append(given[13] if len(given) > 13 else 1)
        return whole(self, *given)

    monkeypatch.setattr(CudaEngine, "run", noted)
    monkeypatch.setattr(each_step, "_TOGETHER", 1)  # so few sequences are enough
    there, here = on_both(Tagger().eval(), x[:2], "lrp_epsilon", check=None)
    found, wanted = there(x, "each step"), here(x, "each step")
    # Where no relevance arrives the CPU leaves out products, and has 0 for −0.
    for name, array in vars(found).items():
        np.testing.assert_array_equal(array, getattr(wanted, name), err_msg=name)
    assert max(asked) > 1


def test_a_program_that_overwrites_its_forward_pass_is_refused() -> None:
    for case in ALL_CASES:
        program, x = program_and_samples(case, keep_forward=False)
        there = CudaEngine(program, CUDA)
        if not there.keeps_forward:
            with pytest.raises(ValueError, match="the way back writes over"):
                explained(there, x, random_targets(program.classes), program.classes)
            return
    raise AssertionError("all programs keep it")
