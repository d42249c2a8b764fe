# SPDX-License-Identifier: Apache-2.0
"""What rounding explains is no fault, and what cannot be compared is said."""

from __future__ import annotations

import copy
import functools
import pickle
import queue
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import captured_once
from engine.compiler_faults import FAULTS, FEATURES, STEPS, Gated, seeded
from torch import Tensor, nn

import pyrel
from pyrel import _core
from pyrel.compiler.capture.capture import capture_at
from pyrel.engine.check_inputs import check_inputs
from pyrel.engine.inputs import Inputs
from pyrel.files.tensors import read_tensors, write_tensors

# Of what models are run with, but not of what is traced. In a list, pyrel would put back what was
# there.
DTYPES: queue.SimpleQueue[torch.dtype] = queue.SimpleQueue()


def noted(x: Tensor) -> Tensor:
    if type(x) is Tensor:
        DTYPES.put(x.dtype)
    return x


def dtypes() -> list[torch.dtype]:
    """Return what was noted since this was last asked for."""
    return [DTYPES.get() for _ in range(DTYPES.qsize())]


@pytest.fixture(autouse=True)
def nothing_run() -> None:
    """Forget what was run before."""
    dtypes()


def batch(n: int = 3, steps: int = STEPS, features: int = FEATURES) -> Any:
    return np.random.default_rng(0).normal(size=(n, steps, features)).astype(np.float32)


class Cancelling(nn.Module):
    """ReLUs of sums that are 0 but for rounding, so that chance decides on which side each is.

    torch adds up several parts at once, which the engine does not.
    """

    def __init__(self, units: int = 64, terms: int = 400) -> None:
        super().__init__()
        rows = torch.randn(units, terms)
        rows[:, -1] -= rows.double().sum(1).float()
        self.weight, self.out = nn.Parameter(rows), nn.Linear(units, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu((noted(x)[:, None] * self.weight).sum(2)))


class Chaotic(nn.Module):
    """A recurrence that doubles small differences, or more, at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.again = nn.Linear(FEATURES, 16), nn.Linear(16, 16)
        self.out = nn.Linear(16, 3)
        self.again.weight.data *= 12

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 16)
        for step in noted(x).unbind(1):
            h = torch.tanh(self.inward(step) + self.again(h))
        return self.out(h)


def test_a_relu_within_rounding_of_zero_is_no_fault() -> None:
    model, x = seeded(Cancelling), np.ones((2, 400), np.float32)
    source = captured_once(model, x)
    unchecked = pyrel.Explainer(source, x, "gradient", check=None)(x, target=0)
    leaf = torch.from_numpy(x).requires_grad_()
    model(leaf)[:, 0].sum().backward()
    assert np.abs(unchecked.relevance - leaf.grad.numpy()).max() > 0.1  # they do differ
    dtypes()
    explainer = pyrel.Explainer(source, x, "gradient")
    assert explainer.checked == "outputs and gradients on 2 inputs × 2 samples"
    assert torch.float64 in dtypes()


def test_a_model_that_amplifies_rounding_is_no_fault() -> None:
    model, x = seeded(Chaotic), batch(steps=30)
    source = captured_once(model, x)
    unchecked = pyrel.Explainer(source, x, "gradient", check=None)(x)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(torch.from_numpy(x).double()).numpy()
    assert np.abs(unchecked.output - exact).max() > 1e-3
    pyrel.Explainer(source, x, "gradient")
    assert torch.float64 in dtypes()


class Plain(nn.Module):
    """A model without anything of note, that holds to float32 in its second half if told to."""

    def __init__(self, holds: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.holds = nn.Linear(FEATURES, 6), nn.Linear(6, 3), holds
        self.state = [torch.ones(6)]

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(noted(x)[:, -1])) * self.state[0]
        return self.second(h.float() if self.holds else h)


def test_float64_is_for_differences_only() -> None:
    source = captured_once(seeded(Plain), batch())
    dtypes()
    pyrel.Explainer(source, batch(), "gradient")
    assert dtypes() == [torch.float32] * 2


@pytest.mark.parametrize("holds", [False, True])
def test_what_is_off_is_named(holds: bool, monkeypatch: Any) -> None:
    torch.manual_seed(0)
    model, x = Plain(holds).eval(), batch()
    source = captured_once(model, x)
    right = pyrel.Explainer(source, x, "gradient")(x[:2])
    FAULTS["wrong slope"].put_in(monkeypatch)
    wrong = pyrel.Explainer(source, x, "gradient", check=None)(x[:2])
    dtypes()
    with pytest.raises(pyrel.SelfCheckError) as raised:
        pyrel.Explainer(source, x, "gradient")
    assert dtypes()[:2] == [torch.float32, torch.float64]
    error = np.abs(wrong.relevance - right.relevance)
    index = np.unravel_index(error.argmax(), error.shape)
    number = r"([-+.e\d]+)"
    found = matched(
        rf"self-check in the model itself: gradient\[{', '.join(map(str, index))}\] for the example"
        rf" \(T = 6\), target {right.target[index[0]]}, is {number} in what was compiled and "
        rf"{number} by torch's autograd; they differ by {number}, and rounding explains {number}\. "
        r"16 of 96 numbers are off\. So explanations .*check=None",
        str(raised.value),
    )
    value, wanted, off, allowed = map(float, found)
    np.testing.assert_allclose(value, wrong.relevance[index], rtol=1e-6)
    np.testing.assert_allclose(wanted, right.relevance[index], rtol=1e-5)
    np.testing.assert_allclose(off, error[index], rtol=0.01)
    assert 0 < allowed < 1e-3 * off
    assert isinstance(raised.value, pyrel.UnsupportedModelError)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)


def matched(pattern: str, text: str) -> tuple[Any, ...]:
    found = re.match(pattern, text)
    assert found is not None, text
    return found.groups()


class Once(nn.Module):
    """A model that runs as often as there is something in a queue."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, 3)

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor:
            if not LEFT.qsize():
                raise KeyError("no such\nthing")
            LEFT.get()
        return self.layer(x[:, -1])


LEFT: queue.SimpleQueue[None] = queue.SimpleQueue()


@pytest.mark.parametrize("runs", [0, 1])
def test_a_model_that_does_not_take_an_input(runs: int) -> None:
    source = captured_once(seeded(Once), batch())
    for _ in range(runs):
        LEFT.put(None)
    explainer = pyrel.Explainer(source, batch(), "gradient")
    fails = [
        f"the model does not take {name} (T = {steps}): KeyError: 'no such\\nthing'"
        for name, steps in (
            ("the example", 6),
            ("the example's elements in another order", 2),
            ("the example's elements in another order", 6),
        )
    ][runs:]
    done = ["outputs and gradients on 1 input × 2 samples, T = 6"] if runs else ["nothing"]
    assert explainer.checked == "; ".join([*done, *fails])
    assert explainer.checked in repr(explainer)


class Late(nn.Module):
    """Reads its fifth step, so that fewer do not do."""

    def __init__(self) -> None:
        super().__init__()
        self.core, self.out = nn.GRU(FEATURES, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.core(x)[0][:, torch.tensor([4, 0])].mean(1))


def test_too_few_steps_are_replaced() -> None:
    explainer = pyrel.Explainer(seeded(Late), batch(), "gradient")
    assert explainer.checked == "outputs and gradients on 2 inputs × 2 samples, T = 6"


class Reversal(torch.autograd.Function):
    """Its gradient is not that of what it computes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Reversing(Plain):
    """A model with such a function."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(Reversal.apply(x))


def test_ignored_functions_are_not_compared() -> None:
    explainer = pyrel.Explainer(seeded(Reversing), batch(), "gradient", autograd="ignore")
    assert explainer.checked == (
        'outputs on 2 inputs × 2 samples, T = 6 and 2; no gradients: autograd="ignore"'
    )


class Packed(nn.Module):
    """Takes sequences with their lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.core, self.out = nn.LSTM(FEATURES, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, True, enforce_sorted=False)
        return self.out(self.core(packed)[1][0][-1])


def test_models_that_take_lengths() -> None:
    explainer = pyrel.Explainer(seeded(Packed), batch(), "gradient", lengths=True)
    assert explainer.checked == "outputs and gradients on 2 inputs × 2 samples, T = 6 and 2"


class Tokens(nn.Module):
    """Looks two tables up, one for a part of the ids, and hides id 0 if told to."""

    def __init__(self, hides: bool = False) -> None:
        super().__init__()
        self.first, self.second, self.hides = nn.Embedding(11, 6), nn.Embedding(11, 6), hides
        self.core, self.out = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.first(x)
        if self.hides:
            rows = rows * self.second(x)
        return self.out(self.core(rows)[0][:, -1] + self.core(self.second(x[:, :2]))[0][:, -1])


def ids(n: int = 3) -> Any:
    return np.random.default_rng(0).integers(0, 11, (n, STEPS))


@functools.cache
def tokens(hides: bool) -> Tokens:
    torch.manual_seed(0)
    return Tokens(hides).eval()


@pytest.mark.parametrize("method", ["gradient", "gradient_x_input"])
@pytest.mark.parametrize("hides", [False, True])
def test_token_ids(method: str, hides: bool, monkeypatch: Any) -> None:
    model = tokens(hides)
    explainer = pyrel.Explainer(model, ids(), method)
    assert explainer.checked.startswith("outputs and gradients on 2 inputs × 2 samples")
    FAULTS["wrong slope"].put_in(monkeypatch)
    with pytest.raises(pyrel.SelfCheckError, match=rf"{method}\[\d, \d\] for the example"):
        pyrel.Explainer(model, ids(), method)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_models_of_other_types(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Gated().to(dtype).eval()
    explainer = pyrel.Explainer(model, batch(), "gradient")
    assert explainer.checked.startswith("outputs and gradients on 2 inputs × 2 samples")


@pytest.mark.skipif(not _core.has_bf16(_core.instruction_sets()[-1]), reason="no bfloat16")
@pytest.mark.parametrize("precision", ["bf16", "bf16_all"])
@pytest.mark.parametrize("method", ["gradient", "lrp_epsilon"])
def test_coarser_precisions(precision: str, method: str, monkeypatch: Any) -> None:
    options: dict[str, Any] = {"precision": precision, "check": "all"}
    if method == "lrp_epsilon":
        options["gates"] = "half"
    pyrel.Explainer(seeded(Gated), batch(), method, **options)
    FAULTS["swapped gates"].put_in(monkeypatch)
    with pytest.raises(pyrel.SelfCheckError, match=r"^self-check .* output\["):
        pyrel.Explainer(seeded(Gated), batch(), method, **options)


def test_conservation_is_compared_too(monkeypatch: Any) -> None:
    x, options = batch(), {"method": "lrp_epsilon", "gates": "half"}
    explainer = pyrel.Explainer(seeded(Gated), x, check="all", **options)
    assert explainer.checked.startswith("outputs and conservation on 2 inputs")
    FAULTS["dropped accumulate"].put_in(monkeypatch)
    pyrel.Explainer(seeded(Gated), x, **options)
    with pytest.raises(pyrel.SelfCheckError, match=r"ΣR \+ absorbed is .* started with"):
        pyrel.Explainer(seeded(Gated), x, check="all", **options)


def test_saved_programs_say_what_was_compared(tmp_path: Path) -> None:
    explainer = pyrel.Explainer(seeded(Gated), batch(), "gradient")
    explainer.save(tmp_path / "program")
    loaded = pyrel.Explainer.load(tmp_path / "program")
    for other in (loaded, pickle.loads(pickle.dumps(explainer)), copy.deepcopy(explainer)):
        assert other.checked == explainer.checked
        assert repr(other) == repr(explainer)
    tensors, content = read_tensors(tmp_path / "program", "program")
    for text in ("\x1b[2J", "x" * 100_000, 5):
        content["explainer"]["checked"] = text
        write_tensors(tmp_path / "other", "program", tensors, content)
        with pytest.raises(ValueError, match="other does not hold a program"):
            pyrel.Explainer.load(tmp_path / "other")


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch.export, on the weights of an LSTM
@pytest.mark.parametrize("n", [None, 5])
def test_exported_programs(n: int | None, monkeypatch: Any) -> None:
    sizes = ({0: torch.export.Dim.DYNAMIC if n is None else torch.export.Dim.STATIC},)
    x = torch.from_numpy(batch(n or 2))
    program = torch.export.export(seeded(Gated), (x,), dynamic_shapes=sizes)
    explainer = pyrel.Explainer(program, method="gradient")
    assert explainer.checked == f"outputs and gradients on 2 inputs × {n or 2} samples"
    FAULTS["wrong offset"].put_in(monkeypatch)
    with pytest.raises(pyrel.SelfCheckError):
        pyrel.Explainer(program, method="gradient")


@functools.cache
def gated_graph() -> Any:
    return pyrel.capture(seeded(Gated), batch())


def test_graphs_are_evaluated() -> None:
    explainer = pyrel.Explainer(gated_graph(), method="gradient")
    assert explainer.checked == (
        "outputs and gradients on 2 inputs × 2 samples, with the captured graph"
    )
    source = capture_at(seeded(Gated), batch())
    explainer = pyrel.Explainer(source, batch(), "gradient")
    assert explainer.checked == (
        "outputs and gradients on 2 inputs × 2 samples, T = 6 and 2, with the captured graph"
    )


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.gradients])
def test_faults_are_found_by_graphs(name: str, monkeypatch: Any) -> None:
    graph = gated_graph()
    FAULTS[name].put_in(monkeypatch)
    with pytest.raises(pyrel.SelfCheckError, match="by the gradient of the captured graph"):
        pyrel.Explainer(graph, method="gradient_x_input")


# Inputs


def test_the_second_input_has_the_elements_of_the_first() -> None:
    x = batch(5)
    first, second = check_inputs(x, Inputs(x.shape[1:], any_steps=True), 3)
    np.testing.assert_array_equal(first, x[:2])
    assert second.shape == (2, 3, FEATURES)
    assert np.isin(second, x).all()
    assert np.unique(second).size == second.size
    assert not np.isin(second, x[:1]).all()


@pytest.mark.parametrize(
    "example",
    [None, np.zeros((0, 2, 3)), np.full((1, 2, 3), np.nan), np.full((4, 2, 3), 9.0), batch()],
)
def test_all_inputs_lie_in_the_bounds(example: Any) -> None:
    low = np.array([[-1, -2, 0], [0, -np.inf, -1e-3]], np.float32)
    high = np.array([[1, 0, 0], [0.5, 0, np.inf]], np.float32)
    example = None if example is None else torch.from_numpy(example[:, :2, :3])
    for each in check_inputs(example, Inputs((2, 3), low, high), 2):
        assert each.shape == (2, 2, 3)
        assert np.isfinite(each).all()
        assert ((low <= each) & (each <= high)).all()


@pytest.mark.parametrize("example", [np.zeros((3, 4), int), np.full((1, 4), 99), ids()[:, :4]])
def test_all_ids_have_rows(example: Any) -> None:
    inputs = Inputs((4,), vocabulary=7, any_steps=True)
    for each in check_inputs(example, inputs, 6):
        assert np.isin(each, np.arange(7)).all()
    assert np.unique(each).size > 1


class Steep(nn.Module):
    """A recurrent model with large parameters: relevance grows over steps until it overflows."""

    def __init__(self) -> None:
        super().__init__()
        self.core, self.out = nn.RNN(8, 16, batch_first=True), nn.Linear(16, 4)
        with torch.no_grad():
            for each in self.parameters():
                each.mul_(30)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.core(x)[0][:, -1])


def test_relevance_that_overflows_is_noted_and_refused_by_a_call() -> None:
    torch.manual_seed(3)
    model, x = Steep(), torch.randn(4, 200, 8)
    explainer = pyrel.Explainer(model, x, "lrp_epsilon", check="all")
    assert "relevance for the example overflows in float32" in explainer.checked
    with pytest.raises(ValueError, match="overflows in float32"):
        explainer(x)


class Saturated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.core, self.out = nn.GRU(5, 8, batch_first=True), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.core(x)[0][:, -1])


@pytest.mark.parametrize("method", ["gradient", "gradient_x_input", "sensitivity"])
@pytest.mark.parametrize("size", [1000.0, 3000.0])
def test_slopes_of_saturated_gates_are_no_fault(size: float, method: str) -> None:
    """Even in float64 torch's slope of a gate is 0 from 37 on, where that of a program is not."""
    model = seeded(Saturated)
    torch.manual_seed(0)
    explainer = pyrel.Explainer(model, torch.randn(6, 11, 5) * size, method)
    assert "gradients" in explainer.checked
