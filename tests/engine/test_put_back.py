# SPDX-License-Identifier: Apache-2.0
"""Capture leaves a model, and all that it reaches, as they were."""

from __future__ import annotations

import copy
import io
import random
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import unchecked_at
from engine.keeping_models import FEATURES, PLACES, STEPS, WIDTH, Keeping
from torch import Tensor, nn
from torch._subclasses import FakeTensor

import pyrel
from pyrel.compiler.capture.model_state import put_back


def batch(count: int = 6) -> Any:
    return np.random.default_rng(2).normal(size=(count, STEPS, FEATURES)).astype(np.float32)


def described(value: Any) -> Any:
    """Identities of what is in nested containers; numbers and texts as they are."""
    if isinstance(value, dict):
        return [("dict", id(value)), *((k, described(v)) for k, v in value.items())]
    if isinstance(value, list | tuple | deque):
        return [(type(value).__name__, len(value)), *(described(v) for v in value)]
    if isinstance(value, set):
        return sorted(map(id, value))
    return value if isinstance(value, int | float | str | None) else id(value)


class Broken(Keeping):
    def forward(self, x: Tensor) -> Tensor:
        super().forward(x)
        raise RuntimeError("on its way")


class Refused(Keeping):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).round()


class Registering(Keeping):
    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        self.register_buffer("fresh", out.detach())
        self.number = out.sum()
        return out


def captured(model: Keeping) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """What a model holds before and after, and what was alive so that no id comes twice."""
    alive = [place(model) for place in PLACES.values()]
    before = {name: described(place(model)) for name, place in PLACES.items()}
    if type(model) is Keeping:
        pyrel.explain(model, batch(), method="gradient")
    else:
        with pytest.raises(pyrel.UnsupportedModelError):
            pyrel.capture(model, batch())
    return before, {name: described(place(model)) for name, place in PLACES.items()}, alive


@pytest.fixture(scope="module", params=[Keeping, Broken, Refused, Registering])
def states(request: pytest.FixtureRequest) -> Iterator[Any]:
    model = request.param().train()
    model.core.eval()
    yield *captured(model), model


@pytest.mark.parametrize("place", PLACES)
def test_nothing_is_left_behind(states: Any, place: str) -> None:
    before, after, *_ = states
    assert after[place] == before[place]


def test_models_can_be_copied_and_saved_afterwards(states: Any) -> None:
    *_, model = states
    assert model.training
    assert not model.core.training
    assert not any(isinstance(v, FakeTensor) for v in (*model.state_dict().values(), model.number))
    for name in ("local", "weak", "held"):  # which nobody can copy
        delattr(model, name)
    torch.save(model.state_dict(), io.BytesIO())
    model.into._forward_hooks.clear()
    model.core._forward_hooks.clear()
    model.out._forward_pre_hooks.clear()
    torch.save(model, io.BytesIO())
    copied = copy.deepcopy(model)
    assert copied.items == [1, "two"]


def autograd(model: nn.Module, x: Any, target: Any) -> Any:
    leaf = torch.from_numpy(x).requires_grad_()
    output = model(leaf)
    (gradient,) = torch.autograd.grad(output[torch.arange(len(x)), target].sum(), leaf)
    return gradient.numpy()


class Caching(nn.Module):
    """Computes something at the first call only; the second would not follow the input."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.core = nn.Linear(FEATURES, WIDTH), nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.cache: dict[str, Tensor] = {}
        self.state: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if "first" not in self.cache:
            self.cache["first"] = torch.tanh(self.into(x))
        out, self.state = self.core(self.cache["first"], self.state)
        return out[:, -1]


def test_caches_are_empty_for_every_export() -> None:
    torch.manual_seed(0)
    model, x = Caching().eval(), batch()
    e = unchecked_at(model, x, method="gradient")(x)
    assert model.cache == {}
    assert model.state is None
    np.testing.assert_allclose(
        e.relevance, autograd(model, x, torch.as_tensor(e.target)), rtol=1e-4, atol=1e-6
    )


def test_what_cannot_be_copied_is_left_alone() -> None:
    class Holding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into = nn.Linear(FEATURES, 2)
            self.lock = threading.Lock()
            self.computed = [self.into(torch.ones(FEATURES))]  # no leaf
            self.steps = iter([1, 2, 3])

        def forward(self, x: Tensor) -> Tensor:
            with self.lock:
                self.computed.append(self.into(x[:, 0]))
            return self.computed[-1]

    model = Holding()
    before = model.lock, model.computed[0], model.steps
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(model.computed)
    pyrel.capture(model, batch())
    assert (model.lock, *model.computed, model.steps) == before
    assert next(model.steps) == 1


class Unreadable(Tensor):
    """A tensor of the user's that does nothing."""

    @staticmethod
    def __new__(cls) -> Any:
        return Tensor._make_wrapper_subclass(cls, (3,))  # type: ignore[attr-defined]

    @classmethod
    def __torch_dispatch__(cls, function: Any, *_: Any) -> Any:
        raise RuntimeError(f"no {function}")


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged, torch.sparse_coo, None])
def test_tensors_that_cannot_be_copied_are_left_alone(layout: torch.layout | None) -> None:
    parts = [torch.zeros(2, 4), torch.zeros(3, 4)]
    model = nn.Linear(FEATURES, 2)
    if layout is None:
        model.held = Unreadable()
    elif layout is torch.sparse_coo:
        model.held = torch.eye(3).to_sparse()
    else:
        model.held = torch.nested.nested_tensor(parts, layout=layout)
    held = model.held
    pyrel.capture(model, batch()[:, 0])
    assert model.held is held


def test_parameters_keep_gradients_and_whether_they_need_one() -> None:
    class Freezing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.free = nn.Linear(FEATURES, 2), nn.Linear(FEATURES, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.zero_grad()
            for parameter in self.free.parameters():
                parameter.requires_grad_(False)
            return self.into(x[:, 0]) + self.free(x[:, 1])

    model = Freezing()
    model.into(torch.ones(2, FEATURES)).sum().backward()
    before = [(p.grad, p.requires_grad) for p in model.parameters()]
    pyrel.capture(model, batch())
    with pytest.raises(ValueError, match="wanted floats of shape"):
        pyrel.capture(model, batch()[0])  # the model runs, to say so
    for (gradient, needed), parameter in zip(before, model.parameters(), strict=True):
        assert parameter.grad is gradient
        assert parameter.requires_grad == needed


def test_a_model_that_runs_gets_its_values_back() -> None:
    """To tell what is wrong with an example, and whether lengths are taken, the model runs."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(5, 3, max_norm=0.5)
            self.plain, self.calls = torch.zeros(2), np.zeros(2)
            self.data = {"sum": torch.full((3,), float("nan"))}

        def forward(self, *args: Any) -> Tensor:
            self.plain += 1
            self.calls += 1
            self.data["sum"].data.add_(1)
            return self.table(args[0]).sum(1)

    model = Counting()
    held = model.plain, model.calls, model.data["sum"], model.table.weight
    before = [
        value.detach().clone() if isinstance(value, Tensor) else value.copy() for value in held
    ]
    with pytest.raises(pyrel.UnsupportedModelError, match="tensor of the model itself|max_norm"):
        pyrel.Explainer(model, np.ones((2, 4), np.int64), method="gradient", lengths=True)
    after = model.plain, model.calls, model.data["sum"], model.table.weight
    for was, value, now in zip(before, held, after, strict=True):
        assert now is value
        np.testing.assert_array_equal(np.asarray(now.data), np.asarray(was))


def test_draws_of_python_and_numpy_come_again() -> None:
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into = nn.Linear(FEATURES, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.into(x[:, 0]) + 0.0 * random.random() * np.random.rand()

    random.seed(4)
    np.random.seed(4)
    wanted = random.random(), np.random.rand()
    random.seed(4)
    np.random.seed(4)
    with pytest.raises(pyrel.UnsupportedModelError, match="draws random numbers"):
        pyrel.capture(Drawing(), batch())
    assert (random.random(), np.random.rand()) == wanted


def test_one_failure_does_not_keep_the_rest() -> None:
    class Unhashable(str):
        hashes = 0

        def __hash__(self) -> int:
            Unhashable.hashes += 1
            if Unhashable.hashes > 1:
                raise TypeError("hashed once only")
            return 1

    model = nn.Linear(2, 2)
    model.first, model.names, model.last = [1], {Unhashable("a"): 1}, [1]  # type: ignore[assignment]
    with pytest.raises(pyrel.UnsupportedModelError, match="put back: hashed once"), put_back(model):
        for items in (model.first, model.last):
            items.append(2)  # type: ignore[operator, union-attr]
        model.names["b"] = 2  # type: ignore[index]
    assert model.first == model.last == [1]
