# SPDX-License-Identifier: Apache-2.0
"""Only documented errors come out, which say where in the model, and what to do."""

from __future__ import annotations

import inspect
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import unchecked_at
from engine.odd_models import REFUSED, Base, X, model
from torch import Tensor, nn

import pyrel
from pyrel.compiler.graph.rewrites import same_graph

DOCUMENTED = (pyrel.UnsupportedModelError, ValueError, TypeError, OSError)

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*torch.jit:DeprecationWarning",
    "ignore:Initializing zero-element tensors",
)


def _refused(made: Any, example: Any = X) -> Exception:
    with pytest.raises(Exception) as raised:
        unchecked_at(made, example, method="gradient")
    return raised.value


@pytest.mark.parametrize("what", REFUSED)
def test_odd_models_are_refused_by_documented_errors(what: str) -> None:
    error = _refused(REFUSED[what]())
    assert isinstance(error, DOCUMENTED)
    assert not isinstance(error, UnicodeError)
    text = str(error)
    assert len(text.splitlines()[0]) > 30  # says something
    if isinstance(error, pyrel.UnsupportedModelError):
        assert "in the model itself" in text or "in module '" in text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupts_pass(error: type[BaseException]) -> None:
    def forward(self: Any, x: Tensor) -> Tensor:
        raise error

    made = model(forward).train()
    with pytest.raises(error):
        pyrel.Explainer(made, X, "gradient")
    assert made.training


def _program(forward: Any, *args: Any) -> Any:
    return torch.export.export(model(forward), args, strict=False)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (lambda: _program(lambda s, x: s.out.weight * x, torch.tensor(2.0)), "takes a number"),
        (lambda: _program(lambda s, x, n: s.last(x) * n, X, 3), "takes 2 inputs"),
        (lambda: _program(lambda s: s.out.weight), "takes 0 inputs"),
        (lambda: _program(lambda s, x: s.last(x[0]), (X, X)), "takes 2 inputs"),
        (lambda: _program(lambda s, x: {"a": s.last(x)}, X), "a tuple or dictionary"),
        (lambda: _program(lambda s, x: s.last(x), X[:1]), "batch of one"),
    ],
)
def test_odd_programs_are_refused(program: Any, words: str) -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match=words):
        pyrel.Explainer(program(), method="gradient")


def test_programs_with_sparse_weights_are_refused() -> None:
    made = model(lambda s, x: s.last(x) @ s.w.to_dense(), w=nn.Buffer(torch.eye(2).to_sparse()))
    program = torch.export.export(made, (X,), strict=False)
    with pytest.raises(TypeError, match=r"model: w: .* sparse tensor"):
        pyrel.Explainer(program, method="gradient")


def test_flags_and_numbers_of_other_types_are_refused() -> None:
    made = nn.Linear(4, 2)
    with pytest.raises(TypeError, match="lengths: wanted True or False"):
        pyrel.capture(made, X[:, 0], lengths=torch.zeros(2, dtype=torch.bool))  # type: ignore[arg-type]
    explainer = pyrel.Explainer(Branchless().eval(), X, "gradient")
    with pytest.raises(TypeError, match="steps: wanted a whole number"):
        explainer.classes_at(torch.zeros(0))  # type: ignore[arg-type]
    assert explainer.classes_at(np.int64(3)) == 2


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile])
def test_hooks_of_wrappers_are_not_left_out(wrap: Any) -> None:
    wrapped = wrap(nn.Linear(4, 2))
    pyrel.explain(wrapped, X[:, 0], "gradient")
    wrapped.register_forward_hook(lambda *a: a[-1] * 2)
    for call in (pyrel.explain, pyrel.Explainer):
        with pytest.raises(pyrel.UnsupportedModelError, match="hooks of a wrapper"):
            call(wrapped, X[:, 0], "gradient")


class Branchless(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(x)


class WrongPart(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.parts["inner"](self.out(x[:, -1]))  # here


class Branching(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(x) if x.sum() > 0 else self.out(x[:, 0])  # here


class FromNumpy(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.from_numpy(np.tanh(x.detach().numpy())))  # here


def _line(kind: type) -> str:
    lines, first = inspect.getsourcelines(kind)
    number = next(n for n, line in enumerate(lines) if "# here" in line)
    return f"test_refusals.py, line {first + number}: {lines[number].strip()[:40]}"


def test_a_model_that_fails_by_itself_says_so() -> None:
    error = _refused(WrongPart())
    assert isinstance(error, pyrel.UnsupportedModelError)
    assert error.module == "parts.inner.1"
    assert "WrongPart itself raises RuntimeError for an input of shape (n, 5, 4)" in str(error)
    assert "Give an example of the shape that the model takes" in str(error)
    assert _line(WrongPart) in str(error)
    assert isinstance(error.__cause__, RuntimeError)


@pytest.mark.parametrize(
    ("kind", "words"), [(Branching, "branches on the values"), (FromNumpy, "could not be exported")]
)
def test_where_export_fails_is_told(kind: type[Base], words: str) -> None:
    error = _refused(kind())
    assert isinstance(error, pyrel.UnsupportedModelError)
    assert words in str(error)
    assert _line(kind) in str(error)
    assert error.__cause__ is not None


def test_an_operator_that_fails_while_the_graph_is_walked_is_named() -> None:
    made = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(20, 0), nn.Linear(0, 2)))
    error = _refused(made)
    assert isinstance(error, pyrel.UnsupportedModelError)
    assert (error.operator, error.module) == ("aten.linear", "1.1")
    assert "it fails for samples of shape (5, 4)" in str(error)
    assert isinstance(error.__cause__, RuntimeError)


class Mean(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(x - x.mean(0))  # here


class Forgotten(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0][:, -1])  # here


class Viewed(Base):
    def forward(self, x: Tensor) -> Tensor:
        by_step = x.reshape(x.size(1), x.size(0), 4)  # here
        return self.out(self.lstm(by_step)[0][-1])


class Flipped(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(x.flip(0))  # here


class Softened(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(x).amax(0, keepdim=True) - self.last(x)  # here


class Folded(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.flat(self.front(x).view(5, -1, 4).transpose(0, 1).flatten(1))


class Scaled(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(x) / len(x)  # here


class Sized(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(x if x.size(0) > 7 else -x)  # here


class OneRow(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(x)[0]


@pytest.mark.parametrize(
    ("kind", "operator", "module", "words"),
    [
        (Mean, "aten.mean", "", "left out of sums, means and maxima"),
        (Forgotten, "aten.lstm", "lstm", "batch_first=True"),
        (Viewed, "aten.lstm", "lstm", "aten.reshape in the model itself"),
        (Flipped, "output", "", "aten.flip in the model itself"),
        (Softened, "aten.amax", "", "left out of sums, means and maxima"),
        (Folded, "aten.linear", "flat", "exchange dimensions by transpose or permute"),
        (Scaled, "torch.export", "", "depends on the size of the batch"),
        (Sized, "torch.export", "", "depends on the size of the batch"),
        (OneRow, "output", "", "its first dimension is not the batch"),
    ],
)
def test_a_mixed_batch_is_called_what_it_is(
    kind: type[Base], operator: str, module: str, words: str
) -> None:
    error = _refused(kind())
    assert isinstance(error, pyrel.UnsupportedModelError)
    assert (error.operator, error.module) == (operator, module)
    assert "probably a bug of the model" in str(error)
    assert words in str(error)
    if "# here" in inspect.getsource(kind):
        assert _line(kind) in str(error)


@pytest.mark.parametrize("order", [(1, 0, 2), (1, 2, 0)])
def test_where_the_batch_of_the_output_is_is_told(order: tuple[int, ...]) -> None:
    class TimeFirst(Base):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.lstm(x.transpose(0, 1))[0].transpose(0, 1)).permute(order)

    error = _refused(TimeFirst())
    assert f"not the batch, but dimension {order.index(0)} is" in str(error)
    assert "bug" not in str(error)
    told = re.search(r"output=(lambda .*) puts it first", str(error))
    assert told is not None
    x = torch.randn(3, 5, 4)
    explainer = pyrel.Explainer(TimeFirst().eval(), x, "gradient", output=eval(told[1]))
    assert explainer.forward(x).shape[0] == 3


def test_what_folds_the_batch_into_rows_and_back_is_no_mix() -> None:
    class Rows(Base):
        def forward(self, x: Tensor) -> Tensor:
            rows = self.front(x.reshape(-1, 4)).view(x.size(0), -1, 4)
            by_step = rows.transpose(0, 1)
            return self.out(self.lstm(by_step)[0][-1])

    made, x = Rows().eval(), torch.randn(3, 5, 4)
    e = unchecked_at(made, x, method="gradient")(x)
    torch.testing.assert_close(e.output, made(x).detach(), rtol=1e-4, atol=1e-5)


class Squared(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.front(x[:, 0]) * x[:, 1])  # here


class SquaredBelow(Base):
    def forward(self, x: Tensor) -> Tensor:
        left, right = self.front(x[:, 0]), x[:, 1]
        return self.out(left * right)  # here


@pytest.mark.parametrize("kind", [Squared, SquaredBelow])
def test_a_method_says_at_which_line_it_has_no_rule(kind: type[Base]) -> None:
    x = torch.randn(3, 5, 4)
    graph = pyrel.capture(kind().eval(), x)
    for given in (kind().eval(), graph, pickle.loads(pickle.dumps(graph))):
        with pytest.raises(
            pyrel.UnsupportedModelError, match=r"^mul .* neither is a gate"
        ) as raised:
            pyrel.Explainer(given, x, "lrp_epsilon")
        assert f"mul in the model itself ({_line(kind)}" in str(raised.value)
        assert (raised.value.module, type(raised.value.module)) == ("", str)


def test_lines_make_no_other_graph() -> None:
    x = torch.randn(3, 5, 4)
    torch.manual_seed(0)
    one = Squared().eval()
    other = SquaredBelow().eval()
    other.load_state_dict(one.state_dict())
    graphs = [pyrel.capture(model, x) for model in (one, other)]
    assert same_graph(*graphs)
    lines = [{getattr(node.module, "at", "") for node in graph.nodes} for graph in graphs]
    assert lines[0] != lines[1]
    texts = [{node.module for node in graph.nodes} for graph in graphs]
    assert texts[0] == texts[1] == {"", "front", "out"}
