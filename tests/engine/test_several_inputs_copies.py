# SPDX-License-Identifier: Apache-2.0
"""Models of several inputs, explained by changed copies of a sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine.several_models import (
    CASES,
    GIVEN,
    MODEL,
    STATIC,
    Dense,
    N,
    WithStatic,
    in_double,
    random,
    same,
)
from torch import nn

import pyrel


class Bilinear(Dense):
    """The product of what is made of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.one(a) * self.other(b)


def test_integrated_gradients_go_from_a_baseline_of_each_input() -> None:
    torch.manual_seed(0)
    model = Bilinear()
    a, b = random(N, 4), random(N, 2)
    start = {"a": torch.full((4,), 0.2), "b": -0.1}
    e = pyrel.explain(model, (a, b), "integrated_gradients", target=1, baseline=start, n_steps=4)
    from_a, from_b = torch.full_like(a, 0.2), torch.full_like(b, -0.1)
    rise = (model(a, b) - model(from_a, from_b))[:, 1]
    total = sum(r.sum(dim=1) for r in e.relevance)
    assert torch.allclose(total, rise, rtol=0, atol=1e-5)
    assert (e.conservation.abs() < 1e-5).all()
    # f = u · v with u, v linear: each input gets its change times the mean of the other.
    u, v = (model.one(x)[:, 1] for x in (a, from_a)), (model.other(x)[:, 1] for x in (b, from_b))
    (u1, u0), (v1, v0) = u, v
    assert torch.allclose(e.relevance[0].sum(dim=1), (u1 - u0) * (v1 + v0) / 2, atol=1e-5)
    held = pyrel.explain(
        model, (a, b), "integrated_gradients", target=1, baseline=start, constant=["b"]
    )
    assert torch.allclose(held.relevance[0].sum(dim=1), (u1 - u0) * v1, atol=1e-5)
    assert not held.relevance[1].any() and (held.conservation.abs() < 1e-5).all()


def test_noise_is_as_large_as_the_range_of_its_input() -> None:
    model, a, b = Bilinear(), random(N, 4) * 100, random(N, 2)
    found = pyrel.explain(model, (a, b), "smoothgrad", target=0, std={"a": 0.5}).relevance
    plain = pyrel.explain(model, (a, b), "gradient", target=0).relevance
    assert torch.allclose(found[0], plain[0], rtol=1e-5)  # which depends on b alone
    assert not torch.allclose(found[1], plain[1], rtol=1e-5)
    none = pyrel.explain(model, (a, b), "smoothgrad", target=0, constant=["a"]).relevance
    assert not none[0].any() and torch.allclose(none[1], plain[1], rtol=1e-4)
    # By default the range of each input, of which one has a hundred times the other's.
    bounds: dict[str, Any] = {"low": {"b": -1}, "high": {"b": 1}}
    default = pyrel.explain(model, (a, b), "smoothgrad", target=0, n_samples=300, **bounds)
    spread = (default.relevance[0] - plain[0]).abs().max()
    assert 0 < spread < 0.3 * plain[0].abs().max().clamp(min=1.0)


def test_token_ids_get_no_noise() -> None:
    model, given = CASES["tokens"]
    found = pyrel.explain(model, given, "smoothgrad", target=0, std=0.0).relevance
    plain = pyrel.explain(model, given, "gradient", target=0).relevance
    for one, other in zip(found, plain, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-6)


def test_occlusion_takes_out_parts_of_one_input_at_a_time() -> None:
    model, given = CASES["tokens"]
    tokens, x = given
    e = pyrel.explain(model, given, "occlusion", target=0, baseline={"tokens": 8, "x": 0.1})
    with torch.no_grad():
        score = model(tokens, x)[:, 0]
        less = tokens.clone()
        less[:, 2] = 8
        assert torch.allclose(e.relevance[0][:, 2], score - model(less, x)[:, 0], atol=1e-6)
        gone = x.clone()
        gone[:, 3] = 0.1
        wanted = (score - model(tokens, gone)[:, 0])[:, None].expand(-1, 3)
        assert torch.allclose(e.relevance[1][:, 3], wanted, atol=1e-6)
    held = pyrel.explain(model, given, "occlusion", target=0, constant=["tokens"]).relevance
    assert not held[0].any()


@pytest.mark.parametrize(
    ("baseline", "constant"),
    [({"x": 0.1}, []), ({"x": 0.1, "tokens": 8}, []), ({"x": 0.1}, ["x"])],
)
def test_the_path_of_token_ids_is_that_of_their_embeddings(
    baseline: dict[str, Any], constant: list[str], tmp_path: Path
) -> None:
    model, (tokens, x) = CASES["tokens"]
    options: dict[str, Any] = {"baseline": baseline, "n_steps": 20, "constant": constant}
    explainer = pyrel.Explainer(model, (tokens, x), "integrated_gradients", **options)
    e = explainer((tokens, x), 1)
    double, _ = in_double(model, (tokens, x))
    words, steps = double.words(tokens).detach(), x.double()
    from_words, from_steps = torch.zeros_like(words), torch.full_like(steps, 0.1)
    if "tokens" in baseline:
        from_words = double.words(torch.full_like(tokens, 8)).detach()
    if constant:
        from_steps = steps
    of_words, of_steps = torch.zeros_like(words), torch.zeros_like(steps)
    for point, weight in zip(*explainer.method.quadrature(), strict=True):
        at_words = (from_words + point * (words - from_words)).requires_grad_()
        at_steps = (from_steps + point * (steps - from_steps)).requires_grad_()
        score = WithStatic.forward(double, at_steps, at_words.mean(dim=1))[:, 1].sum()
        found = torch.autograd.grad(score, [at_words, at_steps])
        of_words, of_steps = of_words + weight * found[0], of_steps + weight * found[1]
    wanted = ((words - from_words) * of_words).sum(dim=2), (steps - from_steps) * of_steps
    for relevance, exact in zip(e.relevance, wanted, strict=True):
        assert torch.allclose(relevance.double(), exact, rtol=0, atol=1e-6)
    with torch.no_grad():
        start = WithStatic.forward(double, from_steps, from_words.mean(dim=1))[:, 1]
    total = sum(r.flatten(1).sum(dim=1) for r in e.relevance)
    assert torch.allclose(e.conservation.double(), total - (e.output[:, 1] - start), atol=1e-6)
    explainer.save(tmp_path / "a.program")
    assert same(pyrel.Explainer.load(tmp_path / "a.program")((tokens, x), 1).relevance, e.relevance)


def test_what_methods_cannot_do_with_token_ids_is_refused() -> None:
    model, given = CASES["tokens"]
    with pytest.raises(ValueError, match="stands for an occluded one of tokens"):
        pyrel.explain(model, given, "occlusion", target=0)
    held = pyrel.explain(model, given, "integrated_gradients", target=0, constant=["tokens"])
    assert not held.relevance[0].any() and (held.conservation.abs() < 1e-4).all()


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (
            "integrated_gradients",
            {"baseline": [0.1, 0.2]},
            "baseline: wanted one number, or a dict",
        ),
        ("integrated_gradients", {"baseline": {"y": 0.1}}, "baseline: 'y' is no input"),
        ("integrated_gradients", {"baseline": {"x": [1, 2]}}, "baseline: x: wanted a shape"),
        ("smoothgrad", {"std": {"static": [1.0, 2.0]}}, "std: static: wanted a shape"),
        ("occlusion", {"patch": (1, 2)}, "patch: wanted a size for each axis"),
    ],
)
def test_options_that_do_not_fit_an_input_are_refused(
    method: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pyrel.Explainer(MODEL, GIVEN, method, **options)


def test_a_dictionary_is_no_option_of_one_input() -> None:
    with pytest.raises(ValueError, match="baseline: wanted a number or an array"):
        pyrel.Explainer(
            nn.Linear(5, 2), STATIC, "integrated_gradients", baseline={"x": torch.zeros(5)}
        )


def test_attribute_takes_a_tuple_of_inputs_as_captum_does() -> None:
    model, a, b = Bilinear(), random(N, 4), random(N, 2)
    explainer = pyrel.Explainer(model, (a, b), "integrated_gradients")
    maps = explainer.attribute((a, b), target=1)
    assert same(maps, explainer((a, b), 1).relevance)
    start = torch.full((1, 4), 0.1), torch.zeros(N, 2)
    maps, delta = explainer.attribute((a, b), start, 1, return_convergence_delta=True)
    other = {"a": start[0][0], "b": 0.0}
    wanted = pyrel.explain(model, (a, b), "integrated_gradients", target=1, baseline=other)
    assert same(maps, wanted.relevance) and (delta.abs() < 1e-5).all()
    alone = pyrel.Explainer(nn.Linear(4, 2), a, "gradient")
    with pytest.raises(TypeError, match="wanted one array or a tuple of one"):
        alone.attribute((a, b), target=1)
