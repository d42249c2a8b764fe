# SPDX-License-Identifier: Apache-2.0
"""`pyrel.explain` never answers for another model than the one given."""

from __future__ import annotations

import collections
import copy
import enum
import functools
import gc
import itertools
import logging
import threading
import types
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from engine.logs import heard
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize, prune

import pyrel
from pyrel.compiler.capture.identity import IncomparableError, state_of
from pyrel.engine import captures as kept_captures

SCALE = 1.0
SETTINGS = types.ModuleType("settings_of_a_model")
SETTINGS.shift = 0.5  # type: ignore[attr-defined]


def helper(x: Tensor) -> Tensor:
    """What the model calls."""
    return x * 1.5


class Kind(enum.Enum):
    """A choice."""

    TANH, RELU = 1, 2


@dataclass
class Config:
    """Plain settings."""

    gain: float = 1.0
    names: tuple[str, ...] = ("a",)


class Slotted:
    """An object without a dictionary."""

    __slots__ = ("gain", "unset")

    def __init__(self) -> None:
        self.gain = 1.0


class Doubled(nn.Module):
    """A parametrization."""

    def forward(self, w: Tensor) -> Tensor:
        return 2 * w


class Model(nn.Module):
    """Holds something of every kind."""

    factor = 1.0
    table: Tensor

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.front = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Dropout())
        self.pool = nn.MaxPool1d(2)
        self.out, self.other = nn.Linear(4, 2), nn.Linear(4, 2)
        self.register_buffer("table", torch.ones(2))
        self.config, self.slotted, self.kind = Config(), Slotted(), Kind.TANH
        self.settings = {"gain": [1.0, {"deep": 1}], "steps": {1, 2}}
        self.array, self.number = np.ones(3), np.float32(1)
        self.hidden = [nn.Linear(2, 2)]  # no sub-module of it
        self.act: Callable[[Tensor], Tensor] = functional.relu
        self.partial = functools.partial(helper)
        self.queue = collections.deque([1, 2], maxlen=4)
        self.scale, self.zero = 1.0, 0.0
        gain = 1.0
        self.closure = lambda x: x * gain
        self.bound = self.helped

    def helped(self, x: Tensor) -> Tensor:
        return helper(x) * self.factor * SCALE + SETTINGS.shift

    def forward(self, x: Tensor) -> Tensor:
        h = self.lstm(self.front(x))[0][:, -1]
        return self.out(self.helped(h)) * self.table


def _set(path: str, value: Any) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        *outer, name = path.split(".")
        setattr(functools.reduce(getattr, outer, model), name, value)

    return change


def _hooked(register: str, path: str = "") -> Callable[[Model], None]:
    return lambda model: getattr(model.get_submodule(path), register)(lambda *_: None)


def _in_place(change: Callable[[Any], Any]) -> Callable[[Model], None]:
    def within(model: Model) -> None:
        with torch.no_grad():
            change(model)

    return within


def _forward(self: Any, x: Tensor) -> Tensor:
    return x


def _closed_over(model: Model) -> None:
    cell = model.closure.__closure__
    assert cell is not None
    cell[0].cell_contents = 2.0


def _tie(model: Model) -> None:
    with torch.no_grad():
        model.other.weight.copy_(model.out.weight)
    before = state_of(model)
    model.other.weight = model.out.weight
    assert not before.is_still(state_of(model))


CHANGES: dict[str, Callable[[Model], Any]] = {
    "activation": lambda m: m.front.__setitem__(1, nn.Tanh()),
    "equal sub-module of another type": lambda m: m.front.__setitem__(1, nn.ReLU6()),
    "sub-module replaced": _set("out", nn.Linear(4, 2)),
    "sub-modules swapped": lambda m: (
        setattr(m, "out", m.other),
        setattr(m, "other", m.out),
    ),
    "sub-module added": lambda m: m.front.append(nn.ReLU()),
    "sub-module removed": lambda m: m.front.__delitem__(1),
    "order of sub-modules": lambda m: m.front._modules.update(
        {"0": m.front[1], "1": m.front[0]}  # as some code that edits models does
    ),
    "forward hook": _hooked("register_forward_hook", "front.1"),
    "forward pre-hook": _hooked("register_forward_pre_hook", "out"),
    "full backward hook": _hooked("register_full_backward_hook", "front"),
    "full backward pre-hook": _hooked("register_full_backward_pre_hook"),
    "backward hook": _hooked("register_backward_hook", "front.0"),
    "tensor hook": lambda m: m.out.weight.register_hook(lambda g: g),
    "plain attribute": _set("scale", 2.0),
    "sign of zero": _set("zero", -0.0),
    "type of a number": _set("scale", 1),
    "attribute of torch's layer": _set("lstm.batch_first", False),
    "in-place flag": lambda m: setattr(m.front[1], "inplace", True),
    "kernel size": _set("pool.kernel_size", 3),
    "dropout in a list": lambda m: m.hidden.append(nn.Dropout()),
    "nested object": _set("config.gain", 2.0),
    "tuple of a nested object": _set("config.names", ("b",)),
    "slot": _set("slotted.gain", 2.0),
    "slot filled": _set("slotted.unset", 2.0),
    "enum": _set("kind", Kind.RELU),
    "list in a dictionary": lambda m: m.settings["gain"].__setitem__(0, 2.0),
    "dictionary in a list": lambda m: m.settings["gain"][1].update(deep=2),
    "set": lambda m: m.settings["steps"].add(3),
    "deque": lambda m: m.queue.append(3),
    "array": lambda m: m.array.__setitem__(1, 2.0),
    "type of an array": _set("array", np.ones(3, np.float32)),
    "NumPy number": _set("number", np.float32(2)),
    "hidden module's weight": _in_place(lambda m: m.hidden[0].weight.add_(1)),
    "mode of a hidden module": lambda m: m.hidden[0].eval(),
    "function attribute": _set("act", functional.gelu),
    "builtin attribute": _set("act", torch.tanh),
    "partial": _set("partial", functools.partial(helper, x=1)),
    "closure": _closed_over,
    "bound method of another": lambda m: setattr(m, "bound", Model().helped),
    "parameter replaced": lambda m: setattr(m.out, "weight", nn.Parameter(torch.ones(2, 4))),
    "parameter in place": _in_place(lambda m: m.out.weight.add_(1)),
    "parameter through .data": lambda m: m.out.weight.data.add_(1),
    "parameter through NumPy": lambda m: m.out.weight.detach().numpy().__iadd__(1),
    "one element of a parameter": _in_place(lambda m: m.lstm.weight_hh_l0[3, 1].add_(1e-6)),
    "weights tied": _tie,
    "type of parameters": lambda m: m.double(),
    "requires_grad": lambda m: m.out.weight.requires_grad_(False),
    "buffer": lambda m: m.table.add_(1),
    "buffer set to None": _set("table", None),
    "attribute of a tensor": _set("table.mark", 1),
    "parametrization": lambda m: parametrize.register_parametrization(m.out, "weight", Doubled()),
    "spectral norm": lambda m: nn.utils.parametrizations.spectral_norm(m.out),
    "weight norm": lambda m: nn.utils.parametrizations.weight_norm(m.out),
    "pruning": lambda m: prune.l1_unstructured(m.out, "weight", 0.5),
    "forward of the instance": lambda m: setattr(
        m.front[0], "forward", types.MethodType(_forward, m.front[0])
    ),
    "class of an instance": lambda m: setattr(m.front[1], "__class__", nn.Tanh),
    "attribute added": _set("late", None),
    "attribute removed": lambda m: delattr(m, "scale"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_model_is_another(what: str) -> None:
    model = Model()
    before = state_of(model)
    assert before.is_still(state_of(model))
    CHANGES[what](model)
    assert not before.is_still(state_of(model))


@pytest.mark.parametrize(
    ("owner", "name", "value"),
    [
        (Model, "factor", 2.0),
        (Model, "forward", _forward),
        (Model, "helped", _forward),
        (nn.LSTM, "forward", _forward),
        (nn.Module, "_call_impl", _forward),
        (functional, "relu", torch.tanh),
        (functional, "linear", lambda *_: None),
        (SETTINGS, "shift", 1.0),
        (Doubled, "forward", _forward),
    ],
)
def test_patched_classes_and_modules_are_noticed(
    owner: Any, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model()
    parametrize.register_parametrization(model.out, "weight", Doubled())
    model.act = lambda x: functional.linear(x, functional.relu(x))
    before = state_of(model)
    monkeypatch.setattr(owner, name, value)
    assert not before.is_still(state_of(model))
    monkeypatch.undo()
    assert before.is_still(state_of(model))


@pytest.mark.parametrize(("name", "value"), [("SCALE", 2.0), ("helper", _forward)])
def test_globals_that_the_model_names_are_noticed(
    name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Model()
    before = state_of(model)
    monkeypatch.setitem(globals(), "UNRELATED", object())
    assert before.is_still(state_of(model))
    monkeypatch.setitem(globals(), name, value)
    assert not before.is_still(state_of(model))


def test_what_torch_is_set_to_is_noticed() -> None:
    model = Model()
    before = state_of(model)
    for context in (
        lambda: torch.autocast("cpu"),
        lambda: torch.autocast("cpu", dtype=torch.float16),
        lambda: torch.device("cpu"),
    ):
        with context():
            assert not before.is_still(state_of(model))
        assert before.is_still(state_of(model))
    torch.set_default_dtype(torch.float64)
    try:
        assert not before.is_still(state_of(model))
    finally:
        torch.set_default_dtype(torch.float32)
    for register in (
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
        nn.modules.module.register_module_full_backward_hook,
    ):
        handle = register(lambda *_: None)
        assert not before.is_still(state_of(model))
        handle.remove()


def test_what_capture_does_not_read_is_not_compared() -> None:
    model = Model()
    before = state_of(model)
    model.train(not model.training)
    model.zero_grad()
    (model(torch.ones(1, 4, 3)).sum()).backward()
    assert before.is_still(state_of(model))
    assert not before.is_still(state_of(copy.deepcopy(model)))  # the method is of another model


def test_a_mode_that_eval_does_not_switch_counts() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop = nn.Dropout()

        def train(self, mode: bool = True) -> Any:
            return self  # stays as it is

    model = Frozen()
    before = state_of(model)
    model.drop.training = False
    assert not before.is_still(state_of(model))


@pytest.mark.parametrize(
    "value",
    [
        itertools.count(),
        np.random.default_rng(0),
        (i for i in range(3)),
        torch.ones(3).to_sparse(),
        torch.empty(3, device="meta"),
        nn.parameter.UninitializedParameter(),
        [0] * 300_000,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_may_change_unseen_is_never_the_same(value: Any) -> None:
    model = Model()
    model.settings["inner"] = {"odd": value}
    with pytest.raises(IncomparableError, match=r"settings\.(\d+)\.\d+ is of type"):
        state_of(model)


def test_objects_of_many_kinds_are_compared() -> None:
    """What models hold and name in practice keeps its state."""
    model = Model()
    model.held = [  # type: ignore[assignment]
        logging.getLogger("a"), threading.Lock(), weakref.ref(model), np.tanh, torch.tanh,
        np.dtype("f4"), torch.float32, slice(2), range(3), torch.Size([2]), Kind, Config, Config(),
        torch.ops.aten.relu.default, types.SimpleNamespace(a=1), types.MappingProxyType({1: 2}),
        collections.OrderedDict(a=1), collections.namedtuple("P", "a")(1), str.join, [].append,
        functools.lru_cache(helper), property(helper), float("nan"), 1 + 2j, torch, list[int],
        frozenset({1}), collections.Counter("a"), weakref.WeakKeyDictionary({model: 1}),
    ]  # fmt: skip
    before = state_of(model)
    assert before.is_still(state_of(model))
    model.held[14].a = 2
    assert not before.is_still(state_of(model))


def test_ids_that_are_used_again_are_not_the_same() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    states = []
    for _ in range(5):
        model.call = eval("lambda x: x")  # noqa: S307
        states.append(state_of(model))
        del model.call
        gc.collect()
    model.call = eval("lambda x: x")  # noqa: S307
    assert not any(state.is_still(state_of(model)) for state in states)


def _gradient(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    return found


def _double_gradient(module: nn.Module, given: Any, got: Any) -> Any:
    return got[0].detach() * 2 - got[0].detach() + 0 * got[0], *got[1:]


EXPLAINED: dict[str, Callable[[Any], Any]] = {
    "activation": lambda m: m.front.__setitem__(1, nn.Tanh()),
    "outputs alike, gradients not": lambda m: m.lstm.register_forward_hook(_double_gradient),
    "hook": lambda m: m.front.register_forward_hook(lambda *a: a[-1] * 2),
    "class attribute": lambda m: setattr(type(m), "factor", 3.0),
    "batch first": _set("lstm.batch_first", True),
    "settings": lambda m: m.settings.update(gain=3.0),
}


class Small(nn.Module):
    """A model whose output hangs on what is changed."""

    factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.front = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        self.lstm, self.out = nn.LSTM(4, 4), nn.Linear(4, 2)
        self.settings = {"gain": 1.0}

    def forward(self, x: Tensor) -> Tensor:
        y = self.front(x)
        y = self.lstm(y if self.lstm.batch_first else y.transpose(0, 1))[0]
        y = y[:, -1] if self.lstm.batch_first else y[-1]
        return self.out(y) * self.factor * self.settings["gain"]


@pytest.mark.parametrize("what", EXPLAINED)
def test_explain_answers_for_the_model_as_it_is(what: str) -> None:
    class Own(Small):
        pass

    model, x = Own().eval(), torch.randn(2, 5, 3)
    pyrel.explain(model, x, "gradient", target=0)
    EXPLAINED[what](model)
    e = pyrel.explain(model, x, "gradient", target=0)
    torch.testing.assert_close(e.output, model(x).detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(e.relevance, _gradient(model, x), rtol=1e-4, atol=1e-6)


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What explain captures, one entry each time."""
    found: list[Any] = []
    capture = kept_captures.capture_in_short

    def counted(model: Any, *args: Any, **options: Any) -> Any:
        found.append(model)
        return capture(model, *args, **options)

    monkeypatch.setattr(kept_captures, "capture_in_short", counted)
    return found


def test_a_model_that_stays_is_captured_once(captures: list[Any]) -> None:
    model, x = Small(), np.ones((2, 5, 3), np.float32)
    for method in ("gradient", pyrel.methods.LrpEpsilon(epsilon=0.1), "gradient"):
        for n in (2, 1, 0):
            pyrel.explain(model, x[:n], method)
    pyrel.explain(model.train(), x[:, :3].astype(np.float64), "gradient")
    with torch.no_grad(), torch.inference_mode():
        pyrel.explain(model, torch.from_numpy(x), "gradient")
    assert len(captures) == 1
    kept = kept_captures.of(model)
    assert kept is not None
    assert len(kept.explainers) == 2


def test_explainers_of_a_model_that_stays_share_its_capture(captures: list[Any]) -> None:
    model, x = Small(), np.ones((2, 5, 3), np.float32)
    for method in ("gradient", "lrp_epsilon"):
        pyrel.Explainer(model, x, method)
    pyrel.explain(model, x, "deep_taylor")
    assert len(captures) == 1
    with torch.no_grad():
        model.out.weight.mul_(2)
    changed = pyrel.Explainer(model, x, "gradient", check=None)(x)
    assert len(captures) == 2
    fresh = pyrel.Explainer(copy.deepcopy(model), x, "gradient", check=None)(x)
    assert changed.output.tobytes() == fresh.output.tobytes()


def test_what_runs_tests_is_no_part_of_a_model(captures: list[Any]) -> None:
    """Pytest writes names of its own modules, from which all tests are reached, into an assert."""

    class Asserting(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            assert x.dim() == 3
            return super().forward(x).sum(1)

    assert any("pytest" in name for name in Asserting.forward.__code__.co_names)
    model, x = Asserting(3, 2), np.ones((2, 5, 3), np.float32)
    for _ in range(2):
        pyrel.explain(model, x, "gradient")
    assert len(captures) == 1


def test_options_are_compared_by_what_they_are(captures: list[Any]) -> None:
    torch.manual_seed(0)  # whose ReLUs are not all off
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    x, method = np.ones((1, 2), np.float32), pyrel.methods.LrpEpsilon(epsilon=1e-3)
    one = pyrel.explain(model, x, method, target=0).relevance
    method.epsilon = 0.5
    other = pyrel.explain(model, x, method, target=0).relevance
    wanted = pyrel.explain(model, x, "lrp_epsilon", target=0, epsilon=0.5).relevance
    np.testing.assert_array_equal(other, wanted)
    assert not np.array_equal(one, other)
    high = np.ones(2, np.float32)
    pyrel.explain(model, x, "gradient", low=0.0, high=high)
    high[:] = 0.5
    with pytest.raises(ValueError, match="x"):
        pyrel.explain(model, x, "gradient", low=0.0, high=high)
    assert len(captures) == 1


def test_modules_with_an_equality_of_their_own_are_not_confused() -> None:
    class Equal(nn.Linear):
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 1

    x = np.ones((1, 2), np.float32)
    for value in (1.0, 2.0):
        model = Equal(2, 1, bias=False)
        nn.init.constant_(model.weight, value)
        np.testing.assert_array_equal(pyrel.explain(model, x, "gradient").relevance, [[value] * 2])


def test_what_cannot_be_compared_is_compiled_at_each_call(captures: list[Any]) -> None:
    model = nn.Linear(2, 2)
    model.noise = np.random.default_rng(0)
    with heard() as told:
        for _ in range(2):
            pyrel.explain(model, np.ones((1, 2), np.float32), "gradient")
    assert len(captures) == 2  # nothing is kept
    assert len(told) == 1
    assert "noise is of type Generator" in told[0]
    assert "Explainer compiles once" in told[0]


def _in_a_circle() -> nn.Module:
    model: Any = Model()
    model.loop = [model, weakref.ref(model), model.helped, lambda: model]
    model.front.register_forward_hook(lambda *_: model and None)
    return model


def test_models_are_not_kept_alive() -> None:
    model = _in_a_circle()
    pyrel.explain(model, np.ones((1, 4, 3), np.float32), "gradient")
    alive, number = weakref.ref(model), id(model)
    del model
    gc.collect()
    assert alive() is None
    assert number not in kept_captures._kept


def test_threads_share_what_is_kept(captures: list[Any]) -> None:
    model, x = Small().eval(), torch.randn(3, 5, 3)
    wanted = _gradient(model, x)
    found: list[Any] = []
    # The first export of a process exchanges functions of torch, which the model's code names.
    pyrel.explain(nn.Linear(3, 2), x[:, 0], "gradient")
    captures.clear()

    def explained() -> None:
        try:
            found.append(pyrel.explain(model, x, "gradient", target=0))
        except Exception as error:  # of whatever type: it is to be seen
            found.append(error)

    threads = [threading.Thread(target=explained) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each for each in found if isinstance(each, Exception)] == []
    assert len(captures) == 1
    assert len(found) == 4
    for e in found:
        torch.testing.assert_close(e.relevance, wanted, rtol=1e-4, atol=1e-6)
