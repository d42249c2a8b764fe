# SPDX-License-Identifier: Apache-2.0
"""Programs written from a pattern are those that lowering makes, for any number of steps."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import captured_but_for_one_step
from engine.unplanned import written_out
from torch import Tensor, nn

from pyrel import _core, methods
from pyrel.compiler.capture.capture import Capture
from pyrel.compiler.lowering.lower import lower, lower_apart, lower_forward_apart
from pyrel.compiler.program.enums import Space
from pyrel.compiler.program.generalise import TRIED, NoPatternError, generalise
from pyrel.compiler.program.instructions import Repeat
from pyrel.compiler.program.memory import pack
from pyrel.compiler.program.program import Program
from pyrel.compiler.program.step_pattern import Pattern
from pyrel.engine.loaded import Weights, bind, bind_weights

ISA = _core.instruction_sets()[-1]
FEATURES, CLASSES = 4, 3


class Recurrent(nn.Module):
    """A recurrent layer over encoded steps, and a linear layer over what is read of its states."""

    def __init__(self, core: nn.Module, read: str, units: int, encode: bool = False) -> None:
        super().__init__()
        self.core, self.read = core, read
        self.encode = nn.Linear(FEATURES, 6) if encode else None
        self.out = nn.Linear(units, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        if self.encode is not None:
            x = torch.relu(self.encode(x))
        steps, hidden = self.core(x)
        match self.read:
            case "last":
                seen = steps[:, -1]
            case "mean":
                seen = steps.mean(1)
            case "max":
                seen = steps.amax(1)
            case "sum":
                seen = steps.sum(1)
            case "scores":
                return self.out(steps).mean(1)
            case "tags":
                return self.out(steps)
            case _:
                hidden = hidden[0] if isinstance(hidden, tuple) else hidden
                seen = hidden.transpose(0, 1).flatten(1)
        return self.out(seen)


def layer(kind: str, size: int, width: int, read: str, encode: bool = False, **options: Any) -> Any:
    """Return a function that makes a model."""
    core = functools.partial(getattr(nn, kind), size, width, batch_first=True, **options)
    rows = (options.get("num_layers", 1) if read == "hidden" else 1) * (
        2 if options.get("bidirectional") else 1
    )
    return lambda: Recurrent(core(), read, rows * width, encode)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "RNN-last": layer("RNN", FEATURES, 17, "last"),
    "RNN-relu-2-bi-mean": layer(
        "RNN", FEATURES, 5, "mean", num_layers=2, bidirectional=True, nonlinearity="relu"
    ),
    "LSTM-last-encoded": layer("LSTM", 6, 17, "last", True),
    "LSTM-2-mean": layer("LSTM", FEATURES, 16, "mean", num_layers=2),
    "LSTM-2-bi-hidden": layer(
        "LSTM", FEATURES, 5, "hidden", num_layers=2, bidirectional=True
    ),
    "LSTM-max": layer("LSTM", FEATURES, 17, "max"),
    "GRU-mean": layer("GRU", FEATURES, 20, "mean"),
    "GRU-bi-scores": layer("GRU", FEATURES, 16, "scores", bidirectional=True),
    "GRU-bi-last": layer("GRU", FEATURES, 6, "last", bidirectional=True),
    "LSTM-bi-tags": layer("LSTM", FEATURES, 5, "tags", bidirectional=True),
    "RNN-relu-2-sum-encoded": layer(
        "RNN", 6, 17, "sum", True, num_layers=2, nonlinearity="relu"
    ),
}  # fmt: skip


@functools.cache
def captured(name: str) -> Capture:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    return captured_but_for_one_step(model, np.zeros((2, TRIED[0], FEATURES), np.float32))


def lowering(name: str, steps: int, method: str) -> Any:
    size = steps * FEATURES
    return captured(name).graph(steps), methods.get(method), np.full(size, -1.0), np.full(size, 1.0)


@functools.cache
def apart(name: str, steps: int, method: str) -> Program:
    return lower_apart(*lowering(name, steps, method))[0]


@functools.cache
def pattern(name: str, method: str) -> Pattern:
    return generalise({steps: apart(name, steps, method) for steps in TRIED})


def results(program: Program, weights: Weights | None = None) -> list[Any]:
    """Explain samples that are 0 in some places."""
    core = bind(program, ISA, weights)
    rng = np.random.default_rng(0)
    x = np.maximum(rng.uniform(-0.5, 1, (5, program.input_size)), 0).astype(np.float32)
    found = [np.empty_like(x), np.empty((5, program.classes), np.float32)]
    found += [np.empty(5, np.int64), *(np.empty(5, np.float32) for _ in range(3))]
    status = core.run(x, None, None, None, True, 1, *found)
    assert status.outcome == _core.Outcome.done
    return found


METHODS = ["gradient_x_input", "lrp_epsilon", "deep_taylor"]


FURTHER = TRIED[-1] + 1

# Every model and every method, but not each with each: a case lowers a model five times.
BY_DEEP_TAYLOR = ("GRU-bi-last", "RNN-relu-2-sum-encoded")
CASES = [
    *((name, "lrp_epsilon") for name in MODELS if name not in BY_DEEP_TAYLOR),
    *((name, "deep_taylor") for name in ("LSTM-last-encoded", *BY_DEEP_TAYLOR)),
    *((name, "gradient_x_input") for name in ("RNN-relu-2-bi-mean", "LSTM-last-encoded")),
]


@pytest.mark.parametrize(("name", "method"), CASES)
def test_any_number_of_steps_is_that_which_lowering_makes(name: str, method: str) -> None:
    found = pattern(name, method)
    for steps in (TRIED[0], FURTHER):
        written = written_out(found.apart(steps).instructions)
        direct = pack(apart(name, steps, method).instructions)
        for one, other in zip(written, direct, strict=True):
            assert type(one.template) is type(other.template)
            # The pattern puts rows of both directions, which come in turn, one after the other.
            rows = [np.unique(each.offsets, axis=1, return_counts=True) for each in (one, other)]
            for found_rows, wanted in zip(*rows, strict=True):
                np.testing.assert_array_equal(found_rows, wanted)
            if "bi" not in name:
                np.testing.assert_array_equal(one.offsets, other.offsets)
    given = results(found.at(FURTHER), bind_weights(found, ISA))
    for one, other in zip(given, results(lower(*lowering(name, FURTHER, method))), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_forward_pass_has_a_pattern() -> None:
    def program(steps: int) -> Program:
        graph, method, low, high = lowering("GRU-mean", steps, "lrp_epsilon")
        return lower_forward_apart(graph, method, low, high)

    found = generalise({steps: program(steps) for steps in TRIED})
    assert written_out(found.apart(30).instructions)[-1].template.classes == CLASSES
    assert not bind(found.at(30), ISA).explains


def test_what_has_no_pattern_is_told() -> None:
    programs = {n: apart("GRU-mean", n, "lrp_epsilon") for n in (*TRIED, FURTHER)}
    with pytest.raises(ValueError, match="three numbers of steps or more, got"):
        generalise({n: programs[n] for n in TRIED[:2]})
    assert generalise({n: programs[n] for n in TRIED}).least == TRIED[0]
    wrong = {n: programs[n + (n == TRIED[-1])] for n in TRIED}
    with pytest.raises(NoPatternError, match="number of steps"):
        generalise(wrong)
    other = replace(programs[TRIED[-1]], matrices=[m + 1 for m in programs[TRIED[-1]].matrices])
    with pytest.raises(NoPatternError, match="weights depend on the number of steps"):
        generalise(programs | {TRIED[-1]: other})


def calls_in(work: Callable[[], Any]) -> tuple[Any, int]:
    """Run something, and count the calls of functions meanwhile."""
    count = 0

    def counted(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        result = work()
    finally:
        sys.setprofile(before)
    return result, count


def test_thousands_of_steps_are_written_at_once() -> None:
    """Above some number, values of several steps are placed together."""
    found = pattern("LSTM-2-bi-hidden", "lrp_epsilon")
    _, few = calls_in(lambda: found.apart(100))
    _, many = calls_in(lambda: found.apart(1000))
    assert many < 1.05 * few
    _, few = calls_in(lambda: found.at(500))
    program, many = calls_in(lambda: found.at(5000))
    assert many < 1.25 * few
    assert sum(len(i.body) if isinstance(i, Repeat) else 1 for i in program.instructions) < 600
    with pytest.raises(ValueError, match="begins at 10 steps, got 9"):
        found.at(9)


def floats_of(program: Program) -> int:
    """How many floats a program touches that has a place for every value."""
    return max(
        int(i.offsets[row].max()) + operand.size
        for i in program.every_instruction()
        for row, operand in enumerate(i.template.operands())
        if operand.space == Space.arena
    )


@pytest.mark.parametrize("method", METHODS)
def test_little_memory_is_taken(method: str) -> None:
    """Relevance takes turns: of a step's values, those are kept that the way back reads."""
    found = pattern("LSTM-last-encoded", method)
    assert found.at(200).arena_size < 0.62 * floats_of(found.apart(200))
