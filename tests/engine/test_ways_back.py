# SPDX-License-Identifier: Apache-2.0
"""Several outputs of a sample are explained after one forward pass, as each of them alone is."""

from __future__ import annotations

import functools
import signal
from typing import Any

import numpy as np
import pytest
import torch
from engine.building_programs import Building, Space, Start, epilogue
from engine.cases import ALL_CASES, Case, CellCase, captured, inputs
from torch import Tensor, nn

import pyrel
from pyrel import _core, methods
from pyrel.engine import each_step
from pyrel.engine.compile import compile_graph
from pyrel.engine.loaded import bind
from pyrel.engine.results import Results

FEATURES, CLASSES = 3, 4


def run(core: Any, x: Any, targets: Any, classes: int, in_lanes: bool | None = None) -> Results:
    """Explain ``targets``, (n, ways), of each sample; results but the outputs are (n · ways)."""
    n, ways = targets.shape
    relevance = np.full((n * ways, *x.shape[1:]), np.nan, np.float32)
    results = Results.places(relevance, n * ways, classes)
    status = core.run(x, targets.reshape(-1), None, None, True, 2, *results, 0, ways, in_lanes)
    assert status.outcome == _core.Outcome.done
    return results


def assert_ways_are_alone(core: Any, x: Any, targets: Any, classes: int) -> None:
    """Each way back gives what a call for its target alone gives, in both layouts."""
    for in_lanes in (False, True):
        together = run(core, x, targets, classes, in_lanes)
        for way in range(targets.shape[1]):
            target = np.ascontiguousarray(targets[:, way : way + 1])
            alone = run(core, x, target, classes, in_lanes)
            for name in ("relevance", "target", "absorbed", "conservation", "amplification"):
                found = getattr(together, name)[way :: targets.shape[1]]
                np.testing.assert_array_equal(found, getattr(alone, name), err_msg=name)
            np.testing.assert_array_equal(together.output[: len(x)], alone.output)


@pytest.mark.parametrize(
    ("case", "method"),
    [
        *(pytest.param(case, "gradient", id=f"{case.name}-gradient") for case in ALL_CASES),
        *(pytest.param(case, "deep_taylor", id=f"{case.name}-taylor") for case in ALL_CASES[::3]),
    ],
)
def test_all_outputs_of_a_model(case: Case | CellCase, method: str) -> None:
    _, graph = captured(case)
    shape = graph.input_shape
    low, high = (np.broadcast_to(each, shape).reshape(-1) for each in (case.low, case.high))
    given = graph, methods.get(method), (low, high), "float32"
    made = compile_graph(*given, moves_ids=False, keep_forward=True)
    core = bind(made.program, _core.instruction_sets()[-1])
    assert core.keeps_forward
    x = np.ascontiguousarray(inputs(case, 5), np.float32)
    targets = (np.arange(5)[:, None] + np.arange(4)) % made.program.classes
    assert_ways_are_alone(core, x, targets, made.program.classes)


class Scores(nn.Module):
    """Scores (n, T, classes) of a recurrent layer."""

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        self.layer, self.out = layer, nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(self.layer(x)[0])
        return scores


@functools.cache  # a module that lives is captured once for all methods
def recurrent(kind: str) -> nn.Module:
    torch.manual_seed(0)
    options: dict[str, Any] = {"batch_first": True}
    match kind:
        case "LSTM":
            return Scores(nn.LSTM(FEATURES, 5, **options), 5)
        case "two LSTMs":
            return Scores(nn.LSTM(FEATURES, 5, num_layers=2, **options), 5)
        case "both directions":
            return Scores(nn.LSTM(FEATURES, 4, bidirectional=True, **options), 8)
        case "GRU":
            return Scores(nn.GRU(FEATURES, 5, **options), 5)
        case "GRU behind a layer":  # whose sums begin with zeros, as those of relevance do
            encoder = nn.Sequential(nn.Linear(FEATURES, 6), nn.ReLU())
            return nn.Sequential(encoder, Scores(nn.GRU(6, 5, bidirectional=True, **options), 10))
        case "ReLU":
            return Scores(nn.RNN(FEATURES, 5, nonlinearity="relu", **options), 5)
    raise ValueError(kind)


class Progress:
    """What was told last."""

    told = (0, 0)

    def __call__(self, done: int, of: int) -> None:
        self.told = done, of


# Every model and both methods, but not each with each: a case lowers a model for three lengths.
KINDS = [
    *(("LSTM", "gradient"), ("LSTM", "lrp_epsilon"), ("two LSTMs", "gradient")),
    *(("both directions", "lrp_epsilon"), ("GRU", "gradient"), ("GRU", "lrp_epsilon")),
    *(("GRU behind a layer", "lrp_epsilon"), ("ReLU", "gradient")),
]


@pytest.mark.parametrize(("kind", "method"), KINDS)
def test_each_step_after_one_forward_pass(
    kind: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of few steps, of steps in a loop, and of a program that a pattern writes."""
    model = recurrent(kind)
    example = torch.zeros(1, 12, FEATURES)
    explainer = pyrel.Explainer(model, example, method, lengths=True, check=None)
    for steps, lengths in ((4, None), (13, None), (21, [21, 20, 3])):
        x = torch.randn(3, steps, FEATURES, generator=torch.Generator().manual_seed(steps))
        monkeypatch.setattr(each_step, "_MOST_WAYS", 1)
        wanted = explainer(x, "each step", lengths=lengths)
        monkeypatch.undo()
        monkeypatch.setattr(each_step, "_TOGETHER", 1)
        for most in (64, 5):
            monkeypatch.setattr(each_step, "_MOST_WAYS", most)
            progress = Progress()
            e = explainer(x, "each step", lengths=lengths, progress=progress)
            for name in ("relevance", "output", "target", "absorbed", "amplification"):
                assert torch.equal(getattr(e, name), getattr(wanted, name))
            np.testing.assert_array_equal(e.conservation, wanted.conservation)
            everything = sum(lengths or [steps] * 3)
            assert progress.told == (everything, everything)


def test_each_step_of_a_model_of_two_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    class WithStatic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.scores = recurrent("LSTM")

        def forward(self, x: Tensor, static: Tensor) -> Tensor:
            scores: Tensor = self.scores(x * static[:, None])
            return scores

    x = torch.randn(2, 7, FEATURES), torch.rand(2, FEATURES) + 0.5
    explainer = pyrel.Explainer(WithStatic(), x, "gradient")
    wanted = explainer(x, "each step")
    monkeypatch.setattr(each_step, "_TOGETHER", 1)
    e = explainer(x, "each step")
    for one, other in zip(e.relevance, wanted.relevance, strict=True):
        assert torch.equal(one, other)
    assert e.relevance[1].shape == (2, 7, FEATURES)


def test_a_loaded_explainer_explains_each_step_alike(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(each_step, "_TOGETHER", 1)
    x = torch.randn(2, 18, FEATURES)
    model = recurrent("LSTM")
    for source in (model, pyrel.capture(model, x)):
        explainer = pyrel.Explainer(source, x, "lrp_epsilon")
        explainer.save(tmp_path / "program")
        loaded = pyrel.Explainer.load(tmp_path / "program")
        assert loaded._programs.at(18).core.keeps_forward
        one, other = (each(x, "each step") for each in (explainer, loaded))
        assert torch.equal(one.relevance, other.relevance)


def test_a_refused_step_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(each_step, "_TOGETHER", 1)
    x = torch.zeros(2, 4, 1)
    x[1, 2] = 3e38

    class Sums(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 10 * x

    explainer = pyrel.Explainer(pyrel.capture(Sums(), x[:1]), method="gradient")
    with pytest.raises(ValueError, match=r"output 2 for x\[1\] is NaN or infinite"):
        explainer(x, "each step")


# Programs of one's own


def looped(bias: int = -1, back: int = 4) -> _core.Engine:
    """Outputs are the two inputs; a loop of the way back copies what starts at one after the other.

    The second iteration alone is reached from output 1. With a ``bias`` it writes more than zeros
    where it reads them; the way back writes to the arena from ``back`` on.
    """
    program = Building(input_size=2, arena_size=8, classes=2, conserves=False)
    program.add_vector(np.full(1, 0.5, np.float32))

    def at(*offsets: int) -> tuple[int, list[int]]:
        return Space.arena, list(offsets)

    program.map((Space.input, [0]), 2, at(0), epilogue())
    program.seed(0, 2, Start.one)
    program.begin_repeat(2)
    program.map(at(2, 3), 1, at(back, back + 1), epilogue(bias=bias))
    program.end_repeat()
    rows = (Space.relevance, [0, 1])
    program.map(at(back, back + 1), 1, rows, epilogue(scale=0))
    program.map(at(0, 1), 1, rows, epilogue(accumulate=True))
    program.finish()
    return _core.Engine(program.core, "baseline")


@pytest.mark.parametrize("bias", [-1, 0])
def test_a_loop_begins_where_relevance_reaches_it(bias: int) -> None:
    core, x = looped(bias), np.array([[0.25, 2.0], [1.0, -3.0]], np.float32)
    found = run(core, x, np.array([[0, 1, 0], [1, 0, 1]]), 2).relevance
    add = 0.0 if bias < 0 else 0.5
    started = np.eye(2)[[0, 1, 0, 1, 0, 1]]
    np.testing.assert_array_equal(found, started + add + np.repeat(x, 3, axis=0))


def test_what_the_way_back_writes_over_is_not_there_for_another() -> None:
    core, x = looped(back=0), np.ones((2, 2), np.float32)
    assert not core.keeps_forward
    run(core, x, np.array([[0], [1]]), 2)
    with pytest.raises(ValueError, match="writes over what the forward pass leaves it"):
        run(core, x, np.array([[0, 1], [1, 0]]), 2)


@pytest.mark.parametrize("ways", [0, -1, 2**40])
def test_ways_back_that_are_none(ways: int) -> None:
    core, x = looped(), np.ones((1, 2), np.float32)
    places = Results.places(np.empty((2, 2), np.float32), 2, 2)
    with pytest.raises(ValueError, match="several ways back need|sizes that the program asks for"):
        core.run(x, np.zeros(2, np.int64), None, None, True, 1, *places, 0, ways)


@pytest.mark.parametrize("missing", ["target", "relevance", "place"])
def test_several_ways_back_need_targets_and_places(missing: str) -> None:
    core, x = looped(), np.ones((1, 2), np.float32)
    target = None if missing == "target" else np.zeros(2, np.int64)
    relevance = None if missing == "relevance" else np.empty((2, 2), np.float32)
    places = Results.places(relevance, 1 if missing == "place" else 2, 2)
    with pytest.raises(ValueError, match="several ways back need|sizes that the program asks for"):
        core.run(x, target, None, None, True, 1, *places, 0, 2)


def test_each_step_hears_ctrl_c_between_ways_back() -> None:
    """One slab of many ways back: without a poll between them the signal waits for all."""
    x = torch.randn(16, 150, FEATURES)
    torch.manual_seed(0)
    model = Scores(nn.LSTM(FEATURES, 200, batch_first=True), 200)
    explainer = pyrel.Explainer(model, x[:1, :12], "gradient", check=None)
    core, ways = explainer._programs.at(150).core, 150
    targets = np.tile(np.arange(ways) * CLASSES, (16, 1))
    count = 16 * ways
    results = Results.places(np.full((count, 150, FEATURES), np.nan, np.float32), count, 600)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, 0.15)
    try:
        with pytest.raises(KeyboardInterrupt):
            core.run(x.numpy(), targets.reshape(-1), None, None, True, 1, *results, 0, ways)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert results.relevance is not None
    assert np.isnan(results.relevance.reshape(16, ways, -1)[:, -1]).any()
