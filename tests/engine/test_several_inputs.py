# SPDX-License-Identifier: Apache-2.0
"""Models of several inputs: tuples, dictionaries, keywords; floats, truth values and token ids."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine.several_models import (
    CASES,
    GIVEN,
    MODEL,
    STATIC,
    TARGET,
    Dense,
    N,
    T,
    WithStatic,
    X,
    in_double,
    leaves,
    mapped,
    random,
    same,
    wanted_gradient,
)
from torch import nn

import pyrel


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_autograd(name: str) -> None:
    model, given = CASES[name]
    explainer = pyrel.Explainer(model, given, "gradient")
    e = explainer(given, TARGET)
    output, gradients = wanted_gradient(model, given, TARGET)
    assert torch.allclose(e.output.double(), output, rtol=0, atol=1e-6)
    found = [r for r, x in zip(leaves(e.relevance), leaves(given), strict=True)]
    assert [r.shape for r in found] == [x.shape for x in leaves(given)]
    floats = [r for r, x in zip(found, leaves(given), strict=True) if x.is_floating_point()]
    for relevance, gradient in zip(floats, gradients, strict=True):
        assert torch.allclose(relevance.double(), gradient, rtol=0, atol=1e-6)
    assert "gradients" in explainer.checked


def test_token_ids_beside_floats_get_a_sum_over_their_embedding() -> None:
    model, (tokens, x) = CASES["tokens"]
    double, _ = in_double(model, (tokens, x))
    rows = double.words(tokens).detach().requires_grad_()
    output = WithStatic.forward(double, x.double(), rows.mean(dim=1))
    (gradient,) = torch.autograd.grad(output[:, 1].sum(), [rows])
    for method, wanted in (("gradient", gradient), ("gradient_x_input", gradient * rows)):
        of_tokens, of_x = pyrel.explain(model, (tokens, x), method, target=1).relevance
        assert torch.allclose(of_tokens.double(), wanted.sum(dim=2), rtol=0, atol=1e-6)
        assert of_tokens.shape == tokens.shape and of_x.shape == x.shape


@pytest.mark.parametrize("name", [name for name in CASES if name != "mask of floats"])
@pytest.mark.parametrize("method", ["lrp_epsilon", "lrp_gamma"])
def test_relevance_is_conserved(name: str, method: str) -> None:
    model, given = CASES[name]
    e = pyrel.Explainer(model, given, method, check="all")(given, TARGET)
    score = e.output[torch.arange(N), TARGET]
    total = sum(r.flatten(1).sum(dim=1) for r in leaves(e.relevance))
    assert torch.allclose(total + e.absorbed, score, rtol=0, atol=1e-6)
    assert torch.allclose(e.conservation, total - score, rtol=0, atol=1e-6)


def test_lrp_epsilon_is_the_rule_over_all_inputs() -> None:
    torch.manual_seed(0)
    model, a, b = Dense(), random(N, 4), random(N, 2)
    e = pyrel.explain(model, (a, b), "lrp_epsilon", target=2)
    x = torch.cat([a, b], dim=1).double().detach()
    w = torch.cat([model.one.weight, model.other.weight], dim=1).double().detach()
    v = model.out.weight.double().detach()[2]
    z = x @ w.T
    hidden = torch.relu(z)
    score = hidden @ v

    def stable(value: torch.Tensor) -> torch.Tensor:
        return value + torch.where(value >= 0, 1e-6, -1e-6)

    of_hidden = hidden * v * (score / stable(score))[:, None]
    wanted = x * ((of_hidden / stable(z)) @ w)
    assert torch.allclose(torch.cat(e.relevance, dim=1).double(), wanted, rtol=0, atol=1e-5)


def test_deep_taylor_takes_a_box_for_each_input() -> None:
    torch.manual_seed(0)
    model, a, b = Dense(), torch.rand(N, 4), -torch.rand(N, 2)
    boxes: list[dict[str, Any]] = [
        {"low": {"a": 0, "b": -1}, "high": {"a": 1, "b": 0}},
        {"low": (0.0, torch.full((2,), -1.0)), "high": (np.ones(4), 0.0)},
    ]
    found = [pyrel.explain(model, (a, b), "deep_taylor", target=0, **box) for box in boxes]
    assert same(found[0].relevance, found[1].relevance)
    w = torch.cat([model.one.weight, model.other.weight], dim=1).double().detach()
    v = model.out.weight.double().detach()[0]
    x = torch.cat([a, b], dim=1).double()
    low, high = torch.tensor([[0.0] * 4 + [-1.0] * 2, [1.0] * 4 + [0.0] * 2]).double()
    hidden, positive = torch.relu(x @ w.T), torch.relu(v)
    score = torch.relu(hidden @ v)
    shares = hidden * positive / (hidden * positive).sum(dim=1, keepdim=True)
    part = x[:, None] * w - low * w.clamp(min=0) - high * w.clamp(max=0)
    wanted = ((shares * score[:, None])[..., None] * part / part.sum(dim=2, keepdim=True)).sum(
        dim=1
    )
    assert torch.allclose(torch.cat(found[0].relevance, dim=1).double(), wanted, rtol=0, atol=1e-5)
    assert all(bool((r >= 0).all()) for r in found[0].relevance)


def test_one_number_is_the_bound_of_all_floats() -> None:
    model, given = CASES["tokens"]
    explainer = pyrel.Explainer(model, given, "lrp_epsilon", low=-1.0, high=1.0)
    tokens, x = (
        explainer.inputs.parts[::-1]
        if explainer.inputs.layout.names[0] == "x"
        else (explainer.inputs.parts)
    )
    assert x.low is not None and x.low.shape == (T, 3)
    assert tokens.low is None and tokens.vocabulary == 9


def test_the_order_of_keywords_changes_nothing() -> None:
    explainer = pyrel.Explainer(MODEL, {"x": X, "static": STATIC}, "lrp_epsilon")
    e, other = explainer({"x": X, "static": STATIC}, 1), explainer({"static": STATIC, "x": X}, 1)
    assert list(e.relevance) == ["x", "static"] and list(other.relevance) == ["static", "x"]
    assert same(e.relevance, other.relevance)
    pair = pyrel.explain(MODEL, (X, STATIC), "lrp_epsilon", target=1)
    assert type(pair.relevance) is tuple
    assert same(pair.relevance, (e.relevance["x"], e.relevance["static"]))


@pytest.mark.parametrize("n", [0, 1, 4])
def test_any_number_of_samples(n: int) -> None:
    explainer = pyrel.Explainer(MODEL, GIVEN, "lrp_epsilon")
    whole, part = explainer(GIVEN, 1), explainer(mapped(GIVEN, lambda x: x[:n]), 1)
    assert same(part.relevance, mapped(whole.relevance, lambda r: r[:n]))
    assert part.output.shape == (n, 3)
    assert torch.equal(explainer.forward(mapped(GIVEN, lambda x: x[:n])), whole.output[:n])


def test_arrays_keep_their_types() -> None:
    explainer = pyrel.Explainer(MODEL, GIVEN, "gradient")
    e = explainer({"x": X.numpy().astype(np.float64), "static": STATIC}, 1)
    assert isinstance(e.relevance["x"], np.ndarray) and isinstance(e.output, np.ndarray)
    assert isinstance(e.relevance["static"], torch.Tensor)
    assert same(
        explainer(GIVEN, 1).relevance,
        mapped(e.relevance | {"x": torch.from_numpy(e.relevance["x"])}, lambda r: r),
    )


@pytest.mark.parametrize("method", ["lrp_epsilon", "lrp_alpha_beta", "gradient", "sensitivity"])
def test_what_a_constant_input_gets_is_absorbed(method: str) -> None:
    explainer = pyrel.Explainer(MODEL, GIVEN, method, constant=["static"])
    e = explainer(GIVEN, TARGET)
    plain = pyrel.Explainer(MODEL, GIVEN, method)(GIVEN, TARGET)
    assert not e.relevance["static"].any()
    assert torch.allclose(e.relevance["x"], plain.relevance["x"], rtol=0, atol=1e-7)
    assert plain.relevance["static"].any()
    if explainer.method.conserves:
        gone = plain.relevance["static"].sum(dim=1)
        assert torch.allclose(e.absorbed, plain.absorbed + gone, rtol=0, atol=1e-6)
        assert torch.allclose(e.conservation, plain.conservation - gone, rtol=0, atol=1e-6)
    assert "constant: static" in str(explainer.inputs)


def test_a_constant_mask_is_a_gate() -> None:
    model, given = CASES["mask of floats"]
    with pytest.raises(pyrel.UnsupportedModelError, match="both or neither is a gate"):
        pyrel.Explainer(model, given, "lrp_epsilon")
    e = pyrel.explain(model, given, "lrp_epsilon", target=1, constant=["mask"])
    bools = {**given, "mask": given["mask"] > 0}
    other = pyrel.explain(model, bools, "lrp_epsilon", target=1)
    assert torch.allclose(e.relevance["x"], other.relevance["x"], rtol=0, atol=1e-6)
    assert not e.relevance["x"][given["mask"] == 0].abs().sum() > e.relevance["x"].abs().sum()


def test_constant_token_ids_get_nothing() -> None:
    model, given = CASES["tokens"]
    tokens, x = pyrel.explain(model, given, "lrp_epsilon", target=0, constant="tokens").relevance
    assert not tokens.any() and x.any()


def test_a_graph_of_several_inputs_is_explained() -> None:
    graph = pyrel.capture(MODEL, GIVEN)
    e = pyrel.Explainer(graph, method="lrp_epsilon", check="all")(GIVEN, 1)
    assert same(e.relevance, pyrel.explain(MODEL, GIVEN, "lrp_epsilon", target=1).relevance)


def test_relevance_is_written_to_a_structure() -> None:
    explainer = pyrel.Explainer(MODEL, GIVEN, "gradient")
    out = mapped(GIVEN, torch.empty_like)
    e = explainer(GIVEN, 1, out=out)
    assert e.relevance is out and same(out, explainer(GIVEN, 1).relevance)
    with pytest.raises(ValueError, match="out: static is missing"):
        explainer(GIVEN, 1, out={"x": out["x"]})
    with pytest.raises(ValueError, match="out: wanted float32 of shape"):
        explainer(GIVEN, 1, out={**out, "static": torch.empty(N, 4)})


def test_the_self_check_finds_inputs_that_are_exchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    class Alike(Dense):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(4, 6, bias=False)

    from pyrel.compiler.capture.interpreter import _Interpreter

    given = _Interpreter._given
    monkeypatch.setattr(_Interpreter, "_given", lambda self: given(self)[::-1])
    with pytest.raises(pyrel.errors.SelfCheckError, match="differ by"):
        pyrel.Explainer(Alike(), (random(N, 4), random(N, 4)), "gradient")


def test_models_that_take_a_tuple_as_one_argument() -> None:
    class Pair(Dense):
        def forward(self, pair: Any) -> torch.Tensor:
            return super().forward(*pair)

    a, b = random(N, 4), random(N, 2)
    model = Pair()
    explainer = pyrel.Explainer(model, (a, b), "gradient")
    assert explainer.inputs.layout.names == ("pair[0]", "pair[1]")
    assert torch.allclose(explainer.forward((a, b)), model((a, b)), rtol=0, atol=1e-6)


def test_names_are_those_of_forward() -> None:
    class Takes(Dense):
        def forward(self, a: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
            return super().forward(a, rest[0] if rest else named["b"])

    a, b = random(N, 4), random(N, 2)
    by_name = pyrel.Explainer(Takes(), {"a": a, "b": b}, "gradient")
    assert by_name.inputs.layout.names == ("a", "b")
    by_position = pyrel.Explainer(Takes(), (a, b), "gradient")
    assert by_position.inputs.layout.names == ("a", "rest[0]")
    assert by_position.input_shape == ((4,), (2,))
    assert by_name.input_shape == {"a": (4,), "b": (2,)}


def test_an_integer_input_that_nothing_reads_may_be_any_number() -> None:
    class Unread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 2)

        def forward(self, x: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

    numbers = torch.arange(N) - 2
    explainer = pyrel.Explainer(Unread(), (STATIC, numbers), "gradient")
    assert "gradients" in explainer.checked
    relevance = explainer((STATIC, numbers), 1).relevance
    assert not relevance[1].any() and relevance[0].any()


def test_the_self_check_masks_no_whole_sequence() -> None:
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.score = nn.GRU(3, 4, batch_first=True), nn.Linear(4, 1)
            self.out = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
            states = self.cell(x)[0]
            scores = self.score(states)[..., 0].masked_fill(padding, float("-inf"))
            return self.out((scores.softmax(dim=1)[..., None] * states).sum(dim=1))

    model, padding = Pooled().eval(), torch.arange(T) >= torch.tensor([2, 6, 3, 1, 5])[:, None]
    explainer = pyrel.Explainer(model, (X, padding), "gradient")
    assert explainer.checked.startswith("outputs and gradients on ")
    assert "NaN" not in explainer.checked
    e = explainer((X, padding), 1)
    output, (gradient,) = wanted_gradient(model, (X, padding), 1)
    assert torch.allclose(e.output.double(), output, rtol=0, atol=1e-6)
    assert torch.allclose(e.relevance[0].double(), gradient, rtol=0, atol=1e-6)
    assert not e.relevance[0][padding].any()
