# SPDX-License-Identifier: Apache-2.0
"""An explainer that takes one number of steps only says what in the model fixes it, and where."""

from __future__ import annotations

import inspect
import logging
import math
import queue
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from engine.logs import heard
from torch import Tensor, nn
from torch.nn import functional

import pyrel
from pyrel.compiler.capture.capture import Capture, capture_at
from pyrel.compiler.capture.export import export
from pyrel.compiler.capture.places import Place, paths_of, place_of_error
from pyrel.compiler.capture.step_causes import Causes

STEPS = 12
X = torch.zeros(2, STEPS, 8)


class Model(nn.Module):
    """An LSTM, and more layers for those who use them."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(8, 4, batch_first=True), nn.Linear(4, 2)
        self.cell, self.flat = nn.GRUCell(8, 4), nn.Linear(STEPS * 8, 2)
        self.places = nn.Parameter(torch.zeros(STEPS, 8))
        self.norm, self.narrow = nn.LayerNorm([STEPS, 8]), nn.Conv1d(8, 8, 3)
        self.front = nn.Sequential(nn.Identity(), nn.MaxPool1d(2))

    def last(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0][:, -1])


class Pooled(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(functional.max_pool1d(x.transpose(1, 2), 2).transpose(1, 2))  # here


class PooledByPart(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.front(x.transpose(1, 2)).transpose(1, 2))  # here


class Root(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(x) / math.sqrt(x.size(1))  # here


class Length(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(x) / len(x[0])  # here


class Numpy(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(x) * float(np.sqrt(x.shape[1]))  # here


class Loop(Model):
    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.size(0), 4)
        for t in range(x.size(1)):  # here
            h = self.cell(x[:, t], h)
        return self.out(h)


class Unbound(Model):
    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.size(0), 4)
        for step in x.unbind(1):  # here
            h = self.cell(step, h)
        return self.out(h)


class Iterated(Model):
    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.size(0), 4)
        for step in x.transpose(0, 1):  # here
            h = self.cell(step, h)
        return self.out(h)


class Viewed(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.flat(x.view(-1, 12 * 8))  # here


class Flattened(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.flat(x.flatten(1))  # here


class Table(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.places)  # here


class Normalised(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(x))  # here


class Helped(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.scaled(x))

    def scaled(self, x: Tensor) -> Tensor:
        return x * [1.0] * int(x.size(1)) if False else x / math.log(x.size(1))  # here


class Asserted(Model):
    def forward(self, x: Tensor) -> Tensor:
        assert x.size(1) == STEPS  # here
        return self.last(x)


PYTHON = "the number of steps, used as a number of Python's"
LOOP = "a Python loop over the steps"
FIXED: list[tuple[type[Model], str, str]] = [
    (Pooled, "max_pool1d", ""),
    (PooledByPart, "max_pool1d", "front.1"),
    (Root, PYTHON, ""),
    (Length, PYTHON, ""),
    (Numpy, PYTHON, ""),
    (Loop, LOOP, ""),
    (Unbound, LOOP, ""),
    (Iterated, LOOP, ""),
    (Viewed, "view", ""),
    (Flattened, "linear", "flat"),
    (Table, "add", ""),
    (Normalised, "layer_norm", "norm"),
    (Helped, PYTHON, ""),
    (Asserted, PYTHON, ""),
]


def _here(kind: type) -> str:
    """File, line and code of the line that is marked."""
    lines, first = inspect.getsourcelines(kind)
    number = next(n for n, line in enumerate(lines) if "# here" in line)
    return f"test_step_causes.py, line {first + number}: {lines[number].strip()[:60]}"


@pytest.mark.parametrize(("kind", "what", "module"), FIXED, ids=[c.__name__ for c, *_ in FIXED])
def test_what_fixes_the_number_of_steps_is_named(kind: type[Model], what: str, module: str) -> None:
    found = capture_at(kind().eval(), X)
    assert isinstance(found, Capture)
    assert not found.dynamic
    because = found.fixed_because
    assert because is not None
    assert because.startswith(what)
    assert (f"in module '{module}'" if module else "in the model itself") in because
    assert _here(kind) in because
    with pytest.raises(ValueError, match=r"captured with 12 steps") as raised:
        found.graph(13)
    assert because in str(raised.value)


def test_the_cause_is_told_wherever_the_number_matters() -> None:
    with heard(logging.INFO) as told:
        explainer = pyrel.Explainer(Root().eval(), X, "gradient")
    cause = explainer.inputs.fixed_because
    assert "math.sqrt(x.size(1))" in cause
    assert any(cause in text for text in told)
    assert f"12 steps only: {cause}" in repr(explainer)
    with pytest.raises(ValueError, match="12 steps only: .* an example of 7") as raised:
        explainer(X[:, :7])
    assert cause in str(raised.value)
    with pytest.raises(pyrel.UnsupportedModelError, match="lengths=True is for") as refused:
        pyrel.Explainer(Root().eval(), X, "gradient", lengths=True)
    assert cause in str(refused.value)


def test_a_model_of_parts_has_a_path_and_no_line() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(STEPS * 8, 3)))
    assert capture_at(model, X).fixed_because == "linear in module '1.0'"
    features = pyrel.Explainer(nn.Sequential(nn.Linear(8, 3)), X[:, 0], "gradient")
    assert "steps" not in repr(features)


def test_programs_are_fixed_as_they_were_exported() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(STEPS * 8, 3)).eval()
    program = torch.export.export(model, (X,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    explainer = pyrel.Explainer(program, method="gradient")
    assert "the program was exported for 12 steps" in repr(explainer)


def test_models_that_take_any_number_have_no_cause() -> None:
    model = Model().eval()
    model.forward = model.last  # type: ignore[method-assign]
    found = capture_at(model, X)
    assert found.dynamic
    assert found.fixed_because is None
    assert "only" not in repr(pyrel.Explainer(found, X, "gradient"))


class Cut(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(x + self.places[: x.size(1)])  # here


class Late(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0][:, 5])  # here


class Pairs(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.reshape(x.size(0), -1, 2, 8).sum(2))  # here


class Narrow(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.narrow(x.transpose(1, 2)).transpose(1, 2))  # here


class Branch(Model):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(x if x.size(1) > 7 else -x)  # here


@pytest.mark.parametrize(
    ("kind", "steps", "asked"),
    [
        (Cut, 13, "T <= 12"),
        (Late, 3, "T > 5"),
        (Pairs, 5, "Mod"),
        (Narrow, 2, "T >= 3"),
        (Branch, 6, "T > 7"),
    ],
)
def test_what_does_not_hold_for_a_number_of_steps_is_named(
    kind: type[Model], steps: int, asked: str
) -> None:
    explainer = pyrel.Explainer(kind().eval(), X, "gradient")
    assert explainer.any_steps
    with pytest.raises(ValueError, match=f"12 steps, and does not take {steps}, ") as raised:
        explainer(torch.zeros(1, steps, 8))
    assert _here(kind) in str(raised.value)
    assert asked in str(raised.value)


def test_the_line_of_what_grows_unevenly_is_named() -> None:
    class Shifted(Model):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.roll(x, 11, 1))  # here

    found = capture_at(Shifted().eval(), X)
    assert found.irregular_growth is not None
    assert found.irregular_growth.startswith("roll reads steps that are more than")
    assert _here(Shifted) in found.irregular_growth


def test_why_one_step_is_not_taken_is_told() -> None:
    explainer = pyrel.Explainer(Narrow().eval(), X, "gradient")
    with pytest.raises(ValueError, match=r"does not take 1, .*\(.*Kernel size.*\)"):
        explainer(torch.zeros(1, 1, 8))


def test_the_guards_of_torch_are_left_alone() -> None:
    from torch.fx.experimental import symbolic_shapes

    before = vars(symbolic_shapes)["ShapeGuard"]
    for kind in (Loop, Numpy):
        capture_at(kind().eval(), X)
        assert vars(symbolic_shapes)["ShapeGuard"] is before


def test_places_of_errors() -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Any:
            raise KeyError("a")  # here

    model = nn.Sequential(nn.ReLU(), nn.Sequential(Failing()))
    paths = paths_of(model)

    def raised(call: Callable[[], Any]) -> BaseException:
        try:
            call()
        except Exception as error:
            return error
        raise AssertionError

    place = place_of_error(raised(lambda: model(X)), paths)
    assert (place.module, place.code) == ("1.0", 'raise KeyError("a")  # here')
    wrapped = RuntimeError()
    wrapped.__cause__ = raised(lambda: model(X))
    assert place_of_error(wrapped, paths) == place
    assert place_of_error(raised(lambda: {}["b"]), paths) == Place()


class Counted(nn.Module):
    """Makes a number of the size of the batch; it may take what error comes of it."""

    def __init__(self, takes: bool) -> None:
        super().__init__()
        self.out, self.takes = nn.Linear(8, 2), takes
        self.reached: queue.SimpleQueue[int] = queue.SimpleQueue()  # a list would be put back

    def forward(self, x: Tensor) -> Tensor:
        try:
            factor = torch.ones(len(x), 1)
        except Exception:
            if not self.takes:
                raise
            factor = torch.zeros(1, 1)
        self.reached.put(1)
        return self.out(x.sum(1)) * factor


@pytest.mark.parametrize("takes", [False, True])
def test_an_export_ends_where_the_batch_becomes_a_number(takes: bool) -> None:
    model = Counted(takes).eval()
    causes = Causes()
    programs = export(model, X, causes=causes)
    # Only a model that takes the error goes on; then there are two exports, and three runs.
    assert model.reached.qsize() == takes + 2 + 3
    assert len(programs) == 2
    assert causes.batch is not None
    assert "len(x)" in causes.batch.code
    x = torch.rand(3, STEPS, 8)
    with torch.no_grad():
        torch.testing.assert_close(pyrel.Explainer(model, X, "gradient").forward(x), model(x))
