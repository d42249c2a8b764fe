# SPDX-License-Identifier: Apache-2.0
"""What capture leaves behind, and models that torch.export does not take as they are."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import unchecked
from torch import nn

import pyrel
from pyrel.compiler.capture import capture as capturing

RNG = np.random.default_rng(7)


class Loop(nn.Module):
    """A recurrence whose first state is made by a method that the tests replace."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.again, self.out = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.cached: torch.Tensor | None = None

    def first(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(len(x), 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = self.first(x)
        for t in range(x.shape[1]):
            state = torch.relu(self.into(x[:, t]) + self.again(state))
        return self.out(state)


class Caching(Loop):
    def first(self, x: torch.Tensor) -> torch.Tensor:
        if self.cached is None:
            self.cached = x.new_zeros(x.shape[0], 8)
        return self.cached


class Averaging(Loop):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) / len(x)


def test_the_batch_size_as_a_number() -> None:
    model, x = Loop(), RNG.random((7, 4, 5), dtype=np.float32)
    e = pyrel.explain(model, x, "gradient", target=1)
    inputs = torch.from_numpy(x).requires_grad_()
    model(inputs)[:, 1].sum().backward()
    assert inputs.grad is not None
    # Sums of at most 8 · 4 + 8 terms below 1 in size: float32 rounds each by less than 1e-7.
    np.testing.assert_allclose(e.relevance, inputs.grad.numpy(), atol=5e-6)


def test_a_forgotten_batch_dimension() -> None:
    one = RNG.random((4, 5), dtype=np.float32)
    wanted = r"^example: wanted floats of shape \(n, 4, 5\), got .* \(4, 5\); .* x\[None\]$"
    for model in (Loop(), nn.Sequential(nn.Flatten(), nn.Linear(20, 3))):
        for give in (pyrel.explain, pyrel.Explainer):
            with pytest.raises(ValueError, match=wanted):
                give(model, one, "gradient")
        assert pyrel.explain(model, one[None], "gradient").relevance.shape == (1, 4, 5)
    words = nn.Sequential(nn.Embedding(9, 5), Loop())
    with pytest.raises(
        ValueError, match=r"integers .* \(n, 4\), got dtype float32 and shape \(4,\)"
    ):
        unchecked(words, one[:, 0], "gradient")


def test_one_sequence_that_torch_takes_for_a_batch() -> None:
    class Final(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core, self.out = nn.GRU(5, 6, batch_first=True), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.core(x)[1][-1])

    with pytest.raises(pyrel.UnsupportedModelError, match=r"batch_first=True; .* x\[None\]"):
        unchecked(Final(), RNG.random((4, 5), dtype=np.float32), "gradient")


def test_a_function_of_the_batch_size_is_refused() -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match="depends on the size of the batch"):
        pyrel.capture(Averaging(), np.zeros((2, 4, 5), np.float32))


@pytest.mark.parametrize(
    "is_other",
    [lambda n: n == 4, lambda n: n == 900, lambda n: n == 10**9, lambda n: n % 3 == 0],
)
def test_a_branch_on_one_size_of_the_batch_is_refused(is_other: Callable[[Any], bool]) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(5, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(-x if is_other(x.shape[0]) else x).sum(1)

    with pytest.raises(pyrel.UnsupportedModelError, match="depends on the size of the batch"):
        pyrel.capture(Branching(), np.zeros((2, 4, 5), np.float32))


def test_what_forward_assigns_is_taken_back() -> None:
    model = Caching().train()
    pyrel.capture(model, np.zeros((2, 4, 5), np.float32))
    assert model.cached is None
    assert model.training
    assert model(torch.zeros(6, 4, 5)).shape == (6, 3)


def test_wrappers_are_looked_through() -> None:
    model, x = Loop(), RNG.random((2, 4, 5), dtype=np.float32)
    wanted = pyrel.explain(model, x, "gradient").relevance
    wrapped = nn.DataParallel(model)
    np.testing.assert_array_equal(pyrel.explain(wrapped, x, "gradient").relevance, wanted)


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    class Branching(Loop):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if x.sum() > 0 else self.out(x[:, 0, :1].expand(-1, 8))

    with pytest.raises(pyrel.UnsupportedModelError, match="branches on the values"):
        pyrel.capture(Branching(), np.zeros((2, 4, 5), np.float32))
    with pytest.raises(pyrel.UnsupportedModelError, match=r"input of shape \(n, 4, 9\)"):
        pyrel.capture(Loop(), np.zeros((2, 4, 9), np.float32))
    assert capfd.readouterr() == ("", "")


def test_more_than_one_input() -> None:
    class Two(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    with pytest.raises(pyrel.UnsupportedModelError, match="more than one input"):
        pyrel.capture(Two(), np.zeros((2, 3), np.float32))


class Around(nn.Module):
    """One expression of the input, between nothing and a linear layer or two."""

    def __init__(self, expression: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.expression = expression
        self.whole, self.step, self.wide = nn.Linear(24, 3), nn.Linear(6, 3), nn.Linear(48, 3)
        self.inner = nn.Linear(24, 24)
        self.register_buffer("number", torch.zeros(1, dtype=torch.int64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.expression(self, x)


def _into_integers(m: Around, x: torch.Tensor) -> torch.Tensor:
    kept = torch.zeros(x.shape[0], 6, dtype=torch.int64)
    return m.step(kept.copy_(x[:, 0] * 10).float())


REFUSED = {
    "divided-by-batch": lambda m, x: m.whole(x.flatten(1)) / x.shape[0],
    "alone-or-not": lambda m, x: m.whole(x.flatten(1)) * (1 if x.shape[0] > 1 else 2),
    "even-batches": lambda m, x: m.whole(x.flatten(1)) * (1 if x.shape[0] % 2 == 0 else 2),
    "small-batches": lambda m, x: m.whole(x.flatten(1)) * (1 if x.shape[0] < 100 else 2),
    "batch-as-slice": lambda m, x: m.step(x[:, : x.shape[0]].sum(1)),
    "into-integers": _into_integers,
    "type-of-integers": lambda m, x: m.step((x[:, 0] * 10).type_as(m.number).float()),
    "integer-sum": lambda m, x: m.step((x * 10).sum(1, dtype=torch.int64).float()),
    "floor-division": lambda m, x: m.step(torch.div(x[:, 0], 0.3, rounding_mode="floor")),
}

EXPLAINED = {
    "one-minus": lambda m, x: m.step(1 - x[:, 0]),
    "index": lambda m, x: m.whole(x[:, [3, 1, 0, 2]].flatten(1)),
    "index-select": lambda m, x: m.step(x.index_select(1, torch.tensor([2, 0])).sum(1)),
    "constant-factor": lambda m, x: m.step(torch.full((1, 6), 0.5).expand_as(x[:, 0]) * x[:, 0]),
    "in-place-input": lambda m, x: m.whole(torch.relu_(x).flatten(1)),
    "squeezed": lambda m, x: m.step(x[:, 0].unsqueeze(1).squeeze()),
    "outputs-of-two-kinds": lambda m, x: torch.stack(
        [torch.relu(m.whole(x.flatten(1))), x[:, 0, :3]], -1
    ).flatten(1),
    "domains-alternate": lambda m, x: m.wide(
        torch.stack([2 * x.flatten(1), torch.relu(m.inner(x.flatten(1)))], -1).flatten(1)
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_functions_for_other_batches_or_types_are_refused(name: str) -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match="size of the batch|rounded"):
        pyrel.capture(Around(REFUSED[name]), np.zeros((2, 4, 6), np.float32))


@pytest.mark.parametrize("name", EXPLAINED)
def test_unusual_expressions(name: str) -> None:
    model, x = Around(EXPLAINED[name]).eval(), RNG.random((5, 4, 6), dtype=np.float32)
    e = pyrel.explain(model, x, low=0.0, high=1.0)
    with torch.no_grad():
        output = model(torch.from_numpy(x.copy())).numpy()
    # Products of at most 48 terms below 1 in size, in two layers.
    np.testing.assert_allclose(e.output, output, atol=1e-5)
    put_in = np.maximum(output.max(axis=1), 0)
    np.testing.assert_allclose(
        e.relevance.sum(axis=(1, 2)) + e.absorbed, put_in, rtol=1e-5, atol=1e-6
    )
    assert (e.relevance >= 0).all()


def test_float64_weights_are_copied() -> None:
    model, x = Loop().double(), RNG.random((2, 4, 5))
    graph = pyrel.capture(model, x)
    wanted = unchecked(graph, method="gradient")(x).relevance
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(unchecked(graph, method="gradient")(x).relevance, wanted)


def test_relevance_that_overflows_is_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1e25)
    with pytest.raises(ValueError, match=r"relevance of x\[0\]"):
        pyrel.explain(model, np.full((2, 3), 1e-9, np.float32), "sensitivity")


def test_bounds_beyond_float32_are_refused() -> None:
    with pytest.raises(ValueError, match="low: wanted values up to"):
        unchecked(Loop(), np.zeros((2, 4, 5), np.float32), low=-3e38, high=3e38)


class Last(nn.Module):
    """A recurrent layer, which takes any number of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.GRU(5, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.layer(x)[0][:, -1])


def counted(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Any]:
    """Note the arguments of each call of a function."""
    calls: list[Any] = []
    function = getattr(owner, name)

    def noting(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return function(*args, **options)

    monkeypatch.setattr(owner, name, noting)
    return calls


def test_a_capture_takes_few_exports_and_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    exports = counted(monkeypatch, torch.export, "export")
    graphs = counted(monkeypatch, capturing, "interpret")
    model, x = Last().eval(), RNG.random((2, 20, 5), dtype=np.float32)
    pyrel.Explainer(model, x, "gradient")
    # For any steps and samples; it does the same for one.
    assert [tuple(inputs[0].shape[:2]) for _, inputs, *_ in exports] == [(2, 20)]
    # Of the smallest number of steps for two sizes of the batch.
    assert [(batch, steps) for *_, batch, steps, _lengths, _output, _layout in graphs] == [
        (2, 10), (3, 10), (2, 11), (2, 16)
    ]  # fmt: skip
    pyrel.Explainer(model, x, "lrp_epsilon")
    assert (len(exports), len(graphs)) == (1, 4)


def test_weights_are_not_copied_where_the_graph_is_made_at_once() -> None:
    model, x = nn.Linear(3, 2).eval(), torch.rand(2, 3)
    exported = torch.export.export(model, (x,))
    explainer = pyrel.Explainer(exported, method="gradient")
    kept = capturing.capture_at(exported)
    wanted = model(x).detach().numpy()
    with torch.no_grad():
        model.weight.zero_()
    np.testing.assert_allclose(explainer(x).output, wanted, rtol=1e-5)
    np.testing.assert_array_equal(kept.graph().nodes[0].weight != 0, True)
    assert not capturing.capture_at(exported, at_once=True).graph().nodes[0].weight.any()
