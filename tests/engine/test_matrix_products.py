# SPDX-License-Identifier: Apache-2.0
"""Models in which matrices are multiplied that both depend on the input."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import unchecked
from torch import Tensor, nn

import pyrel
from pyrel.compiler.graph.evaluate import Evaluation
from pyrel.compiler.graph.matrices import Matmul
from pyrel.compiler.graph.verify import InvalidGraphError, verify
from pyrel.compiler.lowering.lower import lower
from pyrel.compiler.program.enums import Scale
from pyrel.compiler.program.instructions import Map, MaxPool, PoolRoute, Reduce
from pyrel.compiler.program.instructions import Matmul as MatmulRows

STEPS, WIDTH = 7, 6
EPS = float(np.finfo(np.float32).eps)


class Layers(nn.Module):
    """Some layers before, and one behind."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Any:
        return self.out(self.mixed(x).flatten(1))

    def mixed(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class Gram(Layers):
    def mixed(self, x: Tensor) -> Tensor:
        return x @ x.mT  # both are the input itself, and one lies turned


class InnerGram(Layers):
    def mixed(self, x: Tensor) -> Tensor:
        h = self.key(x)
        return h.mT @ h


class InputTimesLayer(Layers):
    def mixed(self, x: Tensor) -> Tensor:
        return x[:, 1:4] @ self.key(x)[:, :6].mT


class Mixture(Layers):
    def mixed(self, x: Tensor) -> Tensor:  # a matrix that is in part the input
        both = torch.cat([x[:, :2], torch.tanh(self.key(x[:, 2:]))], 1)
        return both @ both.mT


class Scattered(Layers):
    def mixed(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.key(x))
        return h[:, ::2] @ h.flip(2)[:, :4].mT


class Heads(Layers):
    def mixed(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(2, (2, 3)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        return (torch.softmax(q @ k.mT / math.sqrt(3), -1) @ v).transpose(1, 2)


class SoftmaxOfColumns(Layers):
    def mixed(self, x: Tensor) -> Tensor:
        scores = torch.einsum("btd,bsd->bts", self.query(x), self.key(x))
        return torch.einsum("bts,btd->bsd", torch.softmax(scores, 1), self.value(x))


class Causal(Layers):
    def mixed(self, x: Tensor) -> Tensor:
        h = self.query(x), self.key(x), self.value(x)
        return nn.functional.scaled_dot_product_attention(*h, is_causal=True)


class OneForAll(Layers):
    def mixed(self, x: Tensor) -> Tensor:  # one right matrix for several left ones
        h = self.key(x)
        left = torch.stack([h, h.flip(1), x], 1)
        return left @ torch.sigmoid(h.mT)[:, None]


class Chained(Layers):
    def mixed(self, x: Tensor) -> Tensor:
        a = self.query(x)
        return a @ (a.mT @ torch.tanh(a))


class Detached(Layers):
    def mixed(self, x: Tensor) -> Tensor:
        h = self.key(x)
        return h @ h.detach().mT


class Normed(Layers):
    def mixed(self, x: Tensor) -> Tensor:  # rows are added up, compared and subtracted from
        scores = self.query(x) @ self.key(x).mT
        largest = scores.amax(-1, keepdim=True)
        return (-largest + scores) * scores.sum(-1, keepdim=True)


class Weighted(Layers):
    def mixed(self, x: Tensor) -> Tensor:  # a sum over steps, of which another is made, too
        weights = torch.softmax(self.key(x)[..., :1], 1)
        parts = weights * torch.tanh(self.value(x))
        return torch.cat([parts.sum(1), (weights * x).sum(1), parts[:, 2]], 1)


class Scores(Layers):
    def mixed(self, x: Tensor) -> Tensor:
        query = torch.tanh(self.query(x[:, 0]))[:, None]
        return (query * self.key(x)).sum(2).softmax(1)


class OneByOne(Layers):
    """What `Heads` does, every product by itself."""

    def mixed(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(2, (2, 3)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = (q.unsqueeze(-1) * k.mT.unsqueeze(-3)).sum(-2) / math.sqrt(3)
        weights = torch.softmax(scores, -1)
        return (weights.unsqueeze(-1) * v.unsqueeze(-3)).sum(-2).transpose(1, 2)


class Uneven(Layers):
    """A factor that stays for some elements, and then for others."""

    lengths = 2, 4

    def mixed(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(self.key(x))
        parts = [h[..., n : n + 1].expand(-1, -1, size) for n, size in enumerate(self.lengths)]
        return (
            torch.cat(parts, 2) * torch.cat([x, self.value(x)], 2)[..., : sum(self.lengths)]
        ).sum(1)


class LongerAtLast(Uneven):
    lengths = 2, 3


class ShorterAtLast(Uneven):
    lengths = 4, 4, 3


class UnevenQueries(Layers):
    """One query for some keys, and two for others."""

    def mixed(self, x: Tensor) -> Tensor:
        q, keys = torch.sigmoid(self.query(x)), (self.key(x), self.value(x))
        parts = [q[..., n : n + 1] * keys[min(n, 1)] for n in range(3)]
        return torch.cat(parts, 2).sum(1)


MODELS = [
    Gram,
    InnerGram,
    InputTimesLayer,
    Mixture,
    Scattered,
    Heads,
    SoftmaxOfColumns,
    Causal,
    OneForAll,
    Chained,
    Detached,
    Normed,
    Weighted,
    Scores,
    OneByOne,
    Uneven,
    LongerAtLast,
    ShorterAtLast,
    UnevenQueries,
]


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(3)
    model = kind().eval()
    model(torch.zeros(1, STEPS, WIDTH))
    return model.double()


@functools.cache  # a module that lives is captured once for all methods
def single(kind: type[nn.Module]) -> nn.Module:
    return made(kind).float()


@functools.cache
def graph_of(kind: type[nn.Module]) -> pyrel.Graph:
    return pyrel.capture(single(kind), batch(2).float())


def batch(n: int = 5) -> Tensor:
    return torch.from_numpy(np.random.default_rng(5).uniform(-1, 1, (n, STEPS, WIDTH)))


def gradient(model: nn.Module, x: Tensor) -> tuple[Any, Any]:
    x = x.clone().requires_grad_()
    output = model(x)
    target = output.argmax(1)
    output[torch.arange(len(x)), target].sum().backward()
    assert x.grad is not None
    return x.grad.numpy(), target


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_are_those_of_autograd(kind: type[nn.Module]) -> None:
    """In float64 what is captured is exact; the engine rounds as often as sums are long."""
    model, x = made(kind), batch()
    wanted, target = gradient(model, x)
    graph = pyrel.capture(model, x)
    verify(graph)
    evaluation = Evaluation(graph, x)
    np.testing.assert_allclose(evaluation.output, model(x).detach().numpy(), atol=1e-12)
    found = evaluation.map(target.numpy(), lambda g, _: g)
    np.testing.assert_allclose(found, wanted, atol=1e-12)
    e = unchecked(graph_of(kind), method="gradient")(x.float(), target=target)
    size = np.abs(wanted).max(axis=(1, 2), keepdims=True)
    assert (np.abs(np.asarray(e.relevance) - wanted) <= 100 * STEPS * EPS * size).all()


@pytest.mark.parametrize("method", ["lrp_epsilon", "lrp_alpha_beta"])
def test_relevance_is_that_of_single_products(method: str) -> None:
    """The same bits: what shares relevance out at products has them written out."""
    x = batch().float()
    explained = [pyrel.explain(single(kind), x, method=method) for kind in (Heads, OneByOne)]
    np.testing.assert_array_equal(explained[0].relevance, explained[1].relevance)
    np.testing.assert_array_equal(explained[0].absorbed, explained[1].absorbed)


class FirstFactor(pyrel.methods.GradientMethod):
    """A gradient, but for products, of which the signal alone gets any."""

    name = "first factor"

    def rule(self, site: Any) -> Any:
        if site.kind == "product":
            return pyrel.methods.SignalTimesGate()
        return super().rule(site)


def test_a_method_with_other_rules_for_products_has_them_written_out() -> None:
    x = batch().float()
    one, other = (pyrel.Explainer(single(kind), x, FirstFactor())(x) for kind in (Heads, OneByOne))
    np.testing.assert_array_equal(one.relevance, other.relevance)


def lowered(kind: type[nn.Module], method: Any) -> list[Any]:
    graph = graph_of(kind)
    unbounded = np.full(graph.input_size, np.inf)
    return list(lower(graph, method, -unbounded, unbounded).every_instruction())


def test_one_instruction_for_all_heads() -> None:
    """Two products forward, and two ways back for each."""
    found = [i for i in lowered(Heads, pyrel.methods.Gradient()) if type(i.template) is MatmulRows]
    assert [i.offsets.shape[1] for i in found] == [2] * 6


def test_a_softmax_over_rows_reads_whole_runs() -> None:
    """The scores lie column by column, so sums and maxima are of so many vectors."""
    for kind in (Heads, SoftmaxOfColumns):
        found = lowered(kind, pyrel.methods.Gradient())
        columns = [
            i.template.columns
            for i in found
            if isinstance(i.template, Reduce | MaxPool) and i.template.columns in (1, STEPS)
        ]
        assert columns and set(columns) == {STEPS}, kind
        # No gradient reaches the maximum, so nobody asks which of the scores it is.
        assert not any(isinstance(i.template, PoolRoute) for i in found)


def test_products_too_many_to_be_written_out_are_refused_by_their_number() -> None:
    class Squared(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x @ x.mT).flatten(1)

    model, x = Squared(), torch.rand(2, 128, 36)
    graph = pyrel.capture(model, x)
    assert [type(node) for node in graph.nodes] == [Matmul]
    found = pyrel.explain(model, x, method="gradient")
    wanted, _ = gradient(model, x)
    np.testing.assert_allclose(found.relevance, wanted, rtol=100 * EPS, atol=1e-6)
    with pytest.raises(pyrel.UnsupportedModelError, match=r"589,824 products .* up to 524,288"):
        pyrel.explain(model, x, method="lrp_epsilon")


def test_graphs_show_and_check_them() -> None:
    graph = graph_of(Gram)
    (node,) = (each for each in graph.nodes if isinstance(each, Matmul))
    assert "matmul(0..41, 0 6 12 … 41) rows=7 depth=6" in str(graph)
    wrong = Matmul(node.start, node.inputs[:, :-1], node.rows, node.depth)
    with pytest.raises(InvalidGraphError, match="shapes do not fit"):
        verify(
            pyrel.compiler.graph.nodes.Graph((STEPS, WIDTH), (wrong,), wrong.addresses, np.empty(0))
        )


def templates(kind: type[nn.Module], template: Any) -> int:
    found = lowered(kind, pyrel.methods.Gradient())
    return sum(isinstance(each.template, template) for each in found)


def test_sums_of_products_by_hand_are_matrix_products() -> None:
    """Three forward or one, and two ways back each; but not where products are read twice."""
    assert templates(OneByOne, MatmulRows) == templates(Heads, MatmulRows) == 6
    assert templates(Scores, MatmulRows) == 3
    assert templates(Weighted, MatmulRows) == 3
    assert not any(templates(k, MatmulRows) for k in (Uneven, LongerAtLast, ShorterAtLast))
    assert templates(UnevenQueries, MatmulRows) == 3


class Pooled(nn.Module):
    """A softmax over tokens that weights them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.score, self.out = nn.Linear(4, 8), nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        h = torch.tanh(self.layer(x))
        return self.out((torch.softmax(self.score(h), 1) * h).sum(1))


def test_tokens_are_weighted_by_whole_runs() -> None:
    """No product is made number by number, however far from each other scores lie."""
    x = torch.from_numpy(np.random.default_rng(5).standard_normal((2, 120, 4)))
    torch.manual_seed(3)
    model = Pooled().double()
    graph = pyrel.capture(model, x)
    unbounded = np.full(graph.input_size, np.inf)
    found = lower(graph, pyrel.methods.Gradient(), -unbounded, unbounded).every_instruction()
    products = [
        i
        for i in found
        if isinstance(i.template, Map) and i.template.epilogue.scale == Scale.operand
    ]
    assert products and sum(i.offsets.shape[1] for i in products) < 10
    wanted, target = gradient(model, x)
    e = pyrel.explain(model.float(), x.float(), target=target, method="gradient")
    size = np.abs(wanted).max(axis=(1, 2), keepdims=True)
    assert (np.abs(np.asarray(e.relevance) - wanted) <= 120 * EPS * size).all()
