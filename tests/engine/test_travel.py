# SPDX-License-Identifier: Apache-2.0
"""Explainers go to other processes, and are copied, with the same results, bit for bit."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from engine.sequences import Last, Packed, Tokens, assert_same, batch, shared
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import pyrel
from pyrel import _core

STARTS = ("fork", "spawn")
COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda each: pickle.loads(pickle.dumps(each)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


class Halved(type(pyrel.methods.get("gradient"))):  # type: ignore[misc]
    """A method of a user, that pyrel has no name for."""

    name = "halved"

    def linear(self, node: Any) -> Any:
        return super().linear(node)


class Relevance(Dataset[Tensor]):
    """Samples beside what an explainer says of them."""

    def __init__(self, explainer: Any, x: Any) -> None:
        self.explainer, self.x = explainer, x

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Tensor:
        return torch.as_tensor(self.explainer(self.x[index : index + 1]).relevance[0])


class Counted(nn.Module):
    """Weighs steps by a number of their own, so that no pattern holds for all lengths."""

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.arange(1.0, x.shape[1] + 1.0) ** 0.5
        return (x * weights[:, None]).sum(1)


def explained(given: tuple[Any, Any]) -> Any:
    """Explain in a worker."""
    return given[0](given[1])


class HyperbolicSine(nn.Module):
    """What no rule is there for."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sinh()


def refused(_: int) -> None:
    """Raise in a worker what pyrel raises."""
    pyrel.capture(HyperbolicSine(), np.zeros((2, 3), np.float32))


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("make", [Last, Packed, Tokens])
def test_a_copy_explains_the_same(make: Any, way: str) -> None:
    ours = shared(make, "lrp_epsilon", epsilon=1e-3, lengths=True)
    theirs = COPIES[way](ours)
    assert theirs is not ours
    assert repr(theirs) == repr(ours)
    for steps in (6, 1, 9):
        x = batch(make, 4, steps)
        assert_same(theirs(x), ours(x))
    lengths = [2, 9, 9, 5]
    assert_same(theirs(x, lengths=lengths), ours(x, lengths=lengths))


@pytest.mark.parametrize("way", COPIES)
def test_what_else_is_copied(way: str) -> None:
    x = batch(Last, 3, 6)
    ours = shared(Last, "deep_taylor")
    assert_same(COPIES[way](ours(x)), ours(x))
    for name in pyrel.methods.names():
        assert repr(COPIES[way](pyrel.methods.get(name))) == repr(pyrel.methods.get(name))
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    graph, z = pyrel.capture(model, x[:, 0]), x[:, 0]
    assert_same(
        pyrel.explain(COPIES[way](graph), z, "gradient"), pyrel.explain(graph, z, "gradient")
    )


@pytest.mark.parametrize("way", ["pickle", "deepcopy"])
def test_a_method_of_a_user(way: str) -> None:
    x = batch(Last, 3, 6)
    ours = pyrel.Explainer(nn.Linear(4, 2), x[:, 0], Halved())
    theirs = COPIES[way](ours)
    assert type(theirs.method) is Halved
    assert_same(theirs(x[:, 0]), ours(x[:, 0]))


def test_a_pickle_holds_bytes_and_one_function() -> None:
    """Of what a pickle names, only pyrel's reader of program files is called."""
    text = pickle.dumps(shared(Last, "gradient"), protocol=2)
    names = [str(arg) for op, arg, _ in pickletools.genops(text) if op.name == "GLOBAL"]
    assert set(names) <= {
        "pyrel.explainer _unpickled",
        "pyrel.explainer Explainer",
        "_codecs encode",
    }


def test_a_changed_pickle_is_refused() -> None:
    text = pickle.dumps(shared(Last, "gradient"))
    place = text.index(b"format_version")
    with pytest.raises(ValueError, match="^a pickled explainer "):
        pickle.loads(text[:place] + b"f0rmat_version" + text[place + 14 :])


def test_what_no_pattern_holds_for_is_refused_with_the_reason() -> None:
    x = np.ones((2, 5, 3), np.float32)
    ours = pyrel.Explainer(Counted(), x, "gradient")
    with pytest.raises(ValueError, match="follows no pattern over the number of steps"):
        pickle.dumps(ours)
    assert_same(copy.deepcopy(ours)(x), ours(x))
    single = pyrel.Explainer(pyrel.capture(Counted(), x), method="gradient")
    assert_same(pickle.loads(pickle.dumps(single))(x), ours(x))


@pytest.mark.skipif(
    not _core.has_bf16(_core.instruction_sets()[-1]), reason="no products of bfloat16"
)
def test_a_precision_travels() -> None:
    ours, x = shared(Last, "deep_taylor", precision="bf16_all"), batch(Last, 80, 6)
    assert_same(pickle.loads(pickle.dumps(ours))(x), ours(x))


@pytest.mark.parametrize("start", STARTS)
def test_workers_explain(start: str) -> None:
    ours, x = shared(Last, "lrp_epsilon"), batch(Last, 4, 7)
    with multiprocessing.get_context(start).Pool(1) as pool:
        (theirs,) = pool.map(explained, [(ours, x)])
        assert_same(theirs, ours(x))
        # An error that cannot be read back would stop the pool.
        with pytest.raises(pyrel.UnsupportedModelError, match="sinh") as raised:
            pool.map(refused, [1])
    assert "sinh" in raised.value.operator
    assert "relu" in raised.value.supported


@pytest.mark.parametrize("start", STARTS)
def test_workers_of_a_loader_explain(start: str) -> None:
    ours, x = shared(Last, "gradient"), batch(Last, 4, 7)
    loader = DataLoader(
        Relevance(ours, x), batch_size=2, num_workers=1, multiprocessing_context=start
    )
    np.testing.assert_array_equal(torch.cat(list(loader)).numpy(), ours(x).relevance)
