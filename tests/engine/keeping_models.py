# SPDX-License-Identifier: Apache-2.0
"""Models that keep what passes through them, each in another place."""

from __future__ import annotations

import functools
import threading
import types
import weakref
from collections import Counter, OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

STEPS, FEATURES, WIDTH, CLASSES = 4, 3, 5, 2

SEEN: list[Any] = ["before"]
BY_NAME: dict[str, Any] = {"before": 1}
latest: Any = "before"


class Record:
    """A plain object that a model writes into."""

    seen_by_all: list[Any] = []  # noqa: RUF012
    last_of_all: Any = None

    def __init__(self) -> None:
        self.items: list[Any] = [1]
        self.last: Any = None


class Slotted:
    """An object without a dictionary."""

    __slots__ = ("last", "never")


class Ordered(OrderedDict[str, Any]):
    """A container with an insertion of its own."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key.lower(), value)


@functools.lru_cache(maxsize=4)
def scale_of(width: int) -> Tensor:
    return torch.full((width,), 1.0)


def remember(value: Any, seen: list[Any] = []) -> None:  # noqa: B006
    seen.append(value)
    remember.last = value  # type: ignore[attr-defined]


def keep_globally(value: Any) -> None:
    global latest
    latest = value
    SEEN.append(value)
    BY_NAME["last"] = value


def observers() -> tuple[Callable[..., None], Callable[[], Any]]:
    """A hook that keeps outputs in its closure, and what it holds."""
    seen: list[Any] = []
    last: Any = None

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal last
        last = output
        seen.append(output)

    return hook, lambda: [last, seen, list(seen)]


class Keeping(nn.Module):
    """Writes into everything that it holds."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.into, self.out = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.core = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.items: Any = [1, "two"]
        self.by_name: Any = {"one": 1}
        self.ordered: Any = Ordered(b=1, a=2)
        self.default: Any = defaultdict(list, here=[1])
        self.counted: Any = Counter("aab")
        self.queue: Any = deque([1, 2, 3], maxlen=3)
        self.kinds: Any = {"before"}
        self.nested: Any = ([], {"inner": [deque()]})
        self.user_dict, self.user_list = UserDict(one=1), UserList([1])
        self.weak: Any = weakref.WeakKeyDictionary()
        self.weak[self.into] = [1]
        self.record, self.slotted = Record(), Slotted()
        self.slotted.last = 1
        self.space = types.SimpleNamespace(last=None, items=[])
        self.local = threading.local()
        self.local.items = []
        self.counts = np.zeros(3)
        self.keep = functools.partial(self.note, [])
        self.replaced: Any = "before"
        self.deleted: Any = "before"
        self.aside = [nn.Linear(WIDTH, WIDTH)]  # not registered
        self.random = np.random.default_rng(5)
        self.into.items = []
        self.held = []
        for part in (self.into, self.core):
            hook, held = observers()
            part.register_forward_hook(hook)
            self.held.append(held)
        self.bound: list[Any] = []
        self.out.register_forward_pre_hook(lambda module, inputs: self.bound.append(inputs))
        self.register_buffer("number", torch.ones(()))

    @staticmethod
    def note(items: list[Any], value: Any) -> None:
        items.append(value)

    @functools.cached_property
    def factor(self) -> Tensor:
        return torch.full((WIDTH,), 1.0)

    def write(self, h: Tensor) -> None:
        self.items.append(h)
        self.items[0] = h
        self.by_name.update(two=h, one=h)
        self.ordered.pop("b")
        self.ordered["B"] = h
        self.default["there"].append(h)
        self.default["here"].append(h)
        self.counted.update("b")
        self.queue.append(h)
        self.kinds.add(h)
        self.nested[0].append(h)
        self.nested[1]["inner"][0].append(h)
        self.user_dict["two"], self.weak[self.into][0] = h, h
        self.user_list.append(h)

    def assign(self, h: Tensor) -> None:
        self.record.items.append(h)
        self.record.last = self.slotted.last = self.slotted.never = self.space.last = h
        self.record.new = h  # type: ignore[attr-defined]
        Record.seen_by_all.append(h)
        Record.last_of_all = Keeping.latest = h  # type: ignore[attr-defined]
        self.space.items.append(h)
        self.local.items.append(h)
        self.local.last = h
        self.counts[1] += 1
        self.keep(h)
        self.replaced = self.created = self.into.last = h  # type: ignore[assignment]
        self.into.items.append(h)  # type: ignore[operator, union-attr]
        del self.deleted
        self.aside[0].last = h  # type: ignore[assignment]
        self.aside.append(nn.Linear(2, 2))

    def register(self, h: Tensor) -> None:
        self.core.register_forward_hook(lambda module, inputs, output: None)
        self.another = nn.Linear(2, 2)
        self.random.random()
        remember(h)
        keep_globally(h)

    def forward(self, x: Tensor) -> Tensor:
        h = self.core(torch.tanh(self.into(x)))[0][:, -1] * self.factor * scale_of(WIDTH)
        self.write(h)
        self.assign(h)
        self.register(h)
        return self.out(h)


# What a model holds, by the place where it does; see `Keeping`.
PLACES: dict[str, Callable[[Keeping], Any]] = {
    "list": lambda m: m.items,
    "dict": lambda m: m.by_name,
    "dict with an insertion of its own": lambda m: m.ordered,
    "default dict": lambda m: [m.default, *m.default.values()],
    "counter": lambda m: m.counted,
    "deque": lambda m: [m.queue, m.queue.maxlen],
    "set": lambda m: m.kinds,
    "nested": lambda m: [m.nested[0], m.nested[1]["inner"], m.nested[1]["inner"][0]],
    "user's dict": lambda m: m.user_dict.data,
    "user's list": lambda m: m.user_list.data,
    "weak dict": lambda m: list(m.weak.values()),
    "object": lambda m: [vars(m.record), m.record.items],
    "slots": lambda m: [m.slotted.last, hasattr(m.slotted, "never")],
    "namespace": lambda m: [vars(m.space), m.space.items],
    "thread's own": lambda m: [vars(m.local), m.local.items],
    "array": lambda m: m.counts.tolist(),
    "partial": lambda m: m.keep.args[0],
    "attributes": vars,
    "attributes of a part": lambda m: [vars(m.into), m.into.items],
    "attributes of a part aside": lambda m: [m.aside, vars(m.aside[0])],
    "closures": lambda m: [held() for held in m.held],
    "closure over the model": lambda m: m.bound,
    "hooks": lambda m: [m.core._forward_hooks, m.into._forward_hooks],
    "buffers": lambda m: [m._buffers, m.number.item()],
    "modules": lambda m: m._modules,
    "class": lambda m: [Record.seen_by_all, Record.last_of_all, hasattr(Keeping, "latest")],
    "defaults": lambda m: [remember.__defaults__, vars(remember)],
    "globals": lambda m: [latest, SEEN, BY_NAME],
    "caches": lambda m: scale_of.cache_info().currsize,
    "generator": lambda m: str(m.random.bit_generator.state),
    "weights of a layer": lambda m: [m.core._flat_weights, m.core._flat_weight_refs],
}
