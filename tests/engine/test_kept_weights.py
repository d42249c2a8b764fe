# SPDX-License-Identifier: Apache-2.0
"""How often a compiled explainer holds the weights, and that they are its own."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.building_programs import Building, Space, Start, epilogue
from torch import nn

import pyrel
from pyrel import _core
from pyrel.engine import captures
from pyrel.engine import config as runtime
from pyrel.engine.kept_packed import PackedMatrices
from pyrel.engine.model_run import ModelRun
from pyrel.engine.programs import load

METHODS = ("lrp_epsilon", "gradient")
WIDE = 300


class Wide(nn.Module):
    """A layer whose weights are most of the model, behind a small recurrent one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.lstm = nn.LSTM(6, 8, batch_first=True, bidirectional=True)
        self.out = nn.Linear(5 * 16, WIDE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.lstm(torch.relu(self.first(x)))[0]
        return self.out(hidden.flatten(1))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model that counts as large: nothing of it is kept, nor copied to be captured."""
    monkeypatch.setattr(captures, "LARGEST", 0)
    monkeypatch.setattr("pyrel.engine.model_reference.LARGEST", 0)
    torch.manual_seed(0)
    return Wide().eval()


def example() -> torch.Tensor:
    return torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(1))


def program_of(explainer: Any) -> Any:
    return explainer._programs.source.program


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_held_packed_alone(large: Any, method: str) -> None:
    explainer = pyrel.Explainer(large, example(), method=method)
    matrices = program_of(explainer).matrices
    assert isinstance(matrices, PackedMatrices)
    assert matrices.own_bytes == 0
    assert sorted(m.shape for m in matrices if WIDE in m.shape) == [(80, WIDE), (WIDE, 80)]


def test_a_layer_is_packed_from_the_memory_of_the_model(
    large: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared: list[bool] = []
    weight = large.out.weight.detach().numpy()

    def loading(compiled: Any, *rest: Any) -> Any:
        matrices = compiled.program.matrices
        shared.extend(np.shares_memory(m, weight) for m in matrices if WIDE in m.shape)
        return load(compiled, *rest)

    monkeypatch.setattr("pyrel.engine.programs.load", loading)
    pyrel.Explainer(large, example(), method="lrp_epsilon")
    assert shared == [True, True]


@pytest.mark.parametrize("method", METHODS)
def test_the_model_has_run_before_its_weights_are_packed(
    large: Any, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    events: list[str] = []
    called = ModelRun.__call__

    def running(self: Any, *args: Any) -> Any:
        events.append("run")
        return called(self, *args)

    def loading(*args: Any) -> Any:
        events.append("pack")
        return load(*args)

    monkeypatch.setattr(ModelRun, "__call__", running)
    monkeypatch.setattr("pyrel.engine.programs.load", loading)
    monkeypatch.setattr(ModelRun, "let_go", lambda self: events.append("let go"))
    explainer = pyrel.Explainer(large, example(), method=method)
    assert events[-2:] == ["let go", "pack"]
    assert explainer.checked.endswith("on 2 inputs × 2 samples")


@pytest.mark.parametrize("check", ["outputs", None])
def test_later_changes_of_the_model_do_not_show(large: Any, tmp_path: Path, check: Any) -> None:
    x = example()
    explainer = pyrel.Explainer(large, x, method="lrp_epsilon", check=check)
    before = explainer(x).relevance.clone()
    with torch.no_grad():
        for parameter in large.parameters():
            parameter.fill_(np.nan)
    explainer.save(tmp_path / "saved")
    others = [explainer, copy.copy(explainer), pickle.loads(pickle.dumps(explainer))]
    for each in (*others, pyrel.Explainer.load(tmp_path / "saved")):
        assert torch.equal(each(x).relevance, before)
        assert torch.equal(each.forward(x), each(x).output)


def test_the_same_file_comes_of_a_large_model(large: Any, tmp_path: Path) -> None:
    """What is packed from the model's memory and unpacked is what was copied."""
    pyrel.Explainer(large, example(), method="lrp_epsilon").save(tmp_path / "model")
    graph = pyrel.capture(large, example())
    pyrel.Explainer(graph, example(), method="lrp_epsilon", check=None).save(tmp_path / "graph")
    model, captured = (pyrel.Explainer.load(tmp_path / name) for name in ("model", "graph"))
    for one, two in zip(program_of(model).matrices, program_of(captured).matrices, strict=True):
        np.testing.assert_array_equal(one, two)
    assert torch.equal(model(example()).relevance, captured(example()).relevance)


def test_a_graph_holds_weights_of_its_own(large: Any) -> None:
    graph, x = pyrel.capture(large, example()), example()
    before = pyrel.Explainer(graph, method="lrp_epsilon")(x).relevance
    with torch.no_grad():
        large.out.weight.zero_()
    assert torch.equal(pyrel.Explainer(graph, method="lrp_epsilon")(x).relevance, before)


@pytest.mark.skipif(not _core.has_bf16(runtime.isa()), reason="no products of bfloat16 here")
def test_what_is_packed_as_bfloat16_is_kept_as_it_was(large: Any) -> None:
    rounded = pyrel.Explainer(large, example(), method="lrp_epsilon", precision="bf16")
    exact = pyrel.Explainer(large, example(), method="lrp_epsilon")
    weight = large.out.weight.detach().clone()
    with torch.no_grad():
        large.out.weight.zero_()
    for explainer in (rounded, exact):
        wide = [m for m in program_of(explainer).matrices if m.shape == (WIDE, 80)]
        np.testing.assert_array_equal(wide, weight[None])


@pytest.mark.parametrize("isa", _core.instruction_sets())
def test_matrices_come_back_bit_for_bit(isa: str) -> None:
    """However they lie in memory, whatever they hold, and whatever the width of a panel."""
    random = np.random.default_rng(0)
    for depth, columns in ((1, 1), (3, 70), (130, 5), (65, 33)):
        values = random.standard_normal((depth, columns)).astype(np.float32)
        values.flat[0] = -0.0
        wide = np.zeros((2 * depth, 3 * columns), np.float32)
        wide[::2, 1::3] = values
        for stored in (values, np.ascontiguousarray(values.T).T, wide[::2, 1::3]):
            engine = bound(stored, isa)
            assert engine.matrix(0).tobytes() == values.tobytes()


def bound(matrix: np.ndarray, isa: str) -> Any:
    """Bind a program of one product and its seed."""
    depth, columns = matrix.shape
    program = Building(input_size=depth, arena_size=256, classes=columns, conserves=False)
    program.add_matrix(matrix)
    segments = [((Space.input, [0]), depth)]
    program.gemm(segments, 0, (Space.arena, [0]), epilogue())
    program.seed(0, 128, Start.output)
    program.finish()
    return _core.Engine(program.core, isa)
