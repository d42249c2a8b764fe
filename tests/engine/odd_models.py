# SPDX-License-Identifier: Apache-2.0
"""Models that pyrel refuses, each for another reason; what it raises has to be documented."""

from __future__ import annotations

import functools
import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as f

X = torch.zeros(3, 5, 4)


class Base(nn.Module):
    """Layers that those models use."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.out, self.flat = nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(20, 2)
        self.parts = nn.ModuleDict({"inner": nn.Sequential(nn.ReLU(), nn.Linear(4, 6))})
        self.lstm, self.batch_first = nn.LSTM(4, 4), nn.LSTM(4, 4, batch_first=True)
        self.register_buffer("count", torch.zeros(4))
        self.late = [torch.zeros(4)]

    def last(self, x: Tensor) -> Tensor:
        return self.out(self.front(x)[:, -1])


def model(forward: Callable[..., Any], **parts: Any) -> nn.Module:
    """Make a model of a forward pass, which is a function of (self, x)."""
    made: nn.Module = type("Odd", (Base,), {"forward": forward})()
    for name, part in parts.items():
        setattr(made, name, part)
    return made.eval()


def _raising(error: BaseException) -> Callable[..., Any]:
    def forward(self: Any, x: Tensor) -> Tensor:
        raise error

    return forward


def _recursive(self: Any, x: Tensor) -> Tensor:
    return _recursive(self, x)


def _asserting(self: Any, x: Tensor) -> Tensor:
    assert x.size(1) == 7, "seven steps are wanted"
    return x


def _counting(self: Any, x: Tensor) -> Tensor:
    self.count.add_(1)
    return self.last(x) + self.count[:2]


def _decaying(self: Any, x: Tensor) -> Tensor:
    self.out.weight.data.mul_(0.9)
    return self.last(x)


def _decaying_without_gradient(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        self.out.weight.copy_(self.out.weight * 2)
    return self.last(x)


def _hidden_state(self: Any, x: Tensor) -> Tensor:
    self.late[0].add_(1)
    return self.out(x[:, -1] + self.late[0])


def _data_dependent_loop(self: Any, x: Tensor) -> Tensor:
    while x.sum() > 0:
        x = x - 1
    return self.last(x)


def _halting(self: Any, x: Tensor) -> Tensor:
    for t in range(5):
        if bool((x[:, t] > 0).all()):
            return self.out(x[:, t])
    return self.out(x[:, 0])


def _quantised() -> nn.Module:
    inner = nn.Sequential(nn.Flatten(), nn.Linear(20, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised: nn.Module = torch.ao.quantization.quantize_dynamic(inner, {nn.Linear})
    return quantised


class SilentError(Exception):
    """An error of a user's own, without a text."""


# What to call with, or a model; X unless another example is given.
REFUSED: dict[str, Callable[[], Any]] = {
    # branches on data
    "branch on a sum": lambda: model(lambda s, x: s.last(x) if x.sum() > 0 else -s.last(x)),
    "loop on data": lambda: model(_data_dependent_loop),
    "early halt": lambda: model(_halting),
    "item": lambda: model(lambda s, x: s.last(x) * x[0, 0, 0].item()),
    "float": lambda: model(lambda s, x: s.last(x) * float(x.mean())),
    "int": lambda: model(lambda s, x: s.last(x[:, : int(x.sum())])),
    "tolist": lambda: model(lambda s, x: torch.tensor(s.last(x).tolist())),
    "numpy": lambda: model(lambda s, x: torch.from_numpy(s.last(x).detach().numpy())),
    "nonzero": lambda: model(lambda s, x: s.last(x)[x.sum((1, 2)).nonzero()[:, 0]]),
    "mask": lambda: model(lambda s, x: s.last(x)[x[:, 0, 0] > 0]),
    "unique": lambda: model(lambda s, x: torch.unique(s.last(x))),
    "torch.cond": lambda: model(
        lambda s, x: torch.cond(x.sum() > 0, lambda y: y * 2, lambda y: y * 3, (s.last(x),))
    ),
    # what is returned
    "a tuple": lambda: model(lambda s, x: (s.last(x), x)),
    "a tuple of one": lambda: model(lambda s, x: (s.last(x),)),
    "a dictionary": lambda: model(lambda s, x: {"scores": s.last(x)}),
    "None": lambda: model(lambda s, x: None),
    "a number": lambda: model(lambda s, x: 3.0),
    "a text": lambda: model(lambda s, x: "three"),
    "an object": lambda: model(lambda s, x: SilentError()),
    "an array": lambda: model(lambda s, x: np.zeros((3, 2))),
    "a scalar": lambda: model(lambda s, x: s.last(x).sum()),
    "a constant": lambda: model(lambda s, x: torch.ones(x.shape[0], 2)),
    "a weight": lambda: model(lambda s, x: s.out.weight),
    "no classes": lambda: model(lambda s, x: s.last(x)[:, :0]),
    "classes": lambda: model(lambda s, x: s.last(x).argmax(1)),
    "truths": lambda: model(lambda s, x: s.last(x) > 0),
    "complex numbers": lambda: model(lambda s, x: torch.fft.fft(s.last(x))),
    "rounded numbers": lambda: model(lambda s, x: s.last(x).int().float()),
    # what raises by itself
    "ValueError": lambda: model(_raising(ValueError("one"))),
    "KeyError": lambda: model(_raising(KeyError("one"))),
    "IndexError": lambda: model(_raising(IndexError())),
    "AttributeError": lambda: model(lambda s, x: s.nothing(x)),
    "NotImplementedError": lambda: model(_raising(NotImplementedError())),
    "RuntimeError": lambda: model(_raising(RuntimeError("one\ntwo"))),
    "StopIteration": lambda: model(_raising(StopIteration())),
    "MemoryError": lambda: model(_raising(MemoryError())),
    "ZeroDivisionError": lambda: model(lambda s, x: s.last(x) / (1 // 0)),
    "OSError": lambda: model(_raising(OSError("one"))),
    "an error of its own": lambda: model(_raising(SilentError())),
    "AssertionError": lambda: model(_asserting),
    "RecursionError": lambda: model(_recursive),
    "UnicodeDecodeError": lambda: model(lambda s, x: b"\xff".decode()),
    # wrong shapes and arguments
    "wrong width": lambda: model(lambda s, x: s.parts["inner"](s.last(x))),
    "index beyond": lambda: model(lambda s, x: s.out(x[:, 9])),
    "bad view": lambda: model(lambda s, x: s.flat(x.transpose(1, 2).view(-1, 20))),
    "no forward": nn.Module,
    "no argument": lambda: model(lambda s: s.out),
    "three arguments": lambda: model(lambda s, x, a, b: s.last(x)),
    "a keyword": lambda: model(lambda s, x, *, k: s.last(x)),
    # what is no tensor of floats
    "lazy": lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(2)),
    "meta": lambda: model(lambda s, x: s.last(x)).to("meta"),
    "sparse": lambda: model(
        lambda s, x: s.last(x) @ s.w.to_dense(), w=nn.Parameter(torch.eye(2).to_sparse())
    ),
    "complex weights": lambda: nn.Linear(4, 2, dtype=torch.complex64),
    "quantised": _quantised,
    "quantised inside": lambda: model(
        lambda s, x: torch.quantize_per_tensor(s.last(x), 0.1, 0, torch.qint8).dequantize()
    ),
    "NaN": lambda: model(lambda s, x: s.last(x) * float("nan")),
    "no width": lambda: nn.Sequential(nn.Flatten(), nn.Linear(20, 0), nn.Linear(0, 2)),
    # random and outside
    "random": lambda: model(lambda s, x: s.last(x + torch.rand_like(x))),
    "Python's random": lambda: model(lambda s, x: s.last(x) * random.random()),  # noqa: S311
    "NumPy's random": lambda: model(lambda s, x: s.last(x) + float(np.random.rand())),  # noqa: NPY002
    "dropout": lambda: model(lambda s, x: f.dropout(s.last(x))),
    "multinomial": lambda: model(lambda s, x: s.last(x)[:, torch.multinomial(torch.ones(2), 1)]),
    # state
    "buffer changed": lambda: model(_counting),
    "weight changed": lambda: model(_decaying),
    "weight changed without gradient": lambda: model(_decaying_without_gradient),
    "hidden state": lambda: model(_hidden_state),
    # ways of torch
    "script": lambda: torch.jit.trace(nn.Linear(4, 2), torch.zeros(1, 4)),
    "vmap": lambda: model(lambda s, x: torch.vmap(s.out)(x[:, -1])),
    "gradient inside": lambda: model(
        lambda s, x: torch.autograd.grad(s.last(x.requires_grad_()).sum(), x)[0].flatten(1)
    ),
    "positions": lambda: model(lambda s, x: s.last(x).topk(1, 1)[1] * 1.0),
    # no model
    "a function": lambda: lambda x: x,
    "a partial": lambda: functools.partial(f.linear, weight=torch.ones(2, 4)),
    "a class": lambda: nn.Linear,
    "a state": lambda: nn.Linear(4, 2).state_dict(),
    "a path": lambda: "model.pt",
    "nothing": lambda: None,
}
