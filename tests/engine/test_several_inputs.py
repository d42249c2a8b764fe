# SPDX-License-Identifier: Apache-2.0
"""Models of several inputs: tuples, dictionaries, keywords; floats, truth values and token ids."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.several_models import (
    N,
    T,
    Two,
    WithStatic,
    called,
    cases,
    in_double,
    leaves,
    mapped,
    random,
)
from torch import nn

import pyrel
from pyrel.compiler.capture.calls import is_called_lengths
from pyrel.explain_file import explain_file
from pyrel.files.tensors import read_tensors, write_tensors

CASES = cases()
MODEL, GIVEN = CASES["dictionary"]
X, STATIC = GIVEN["x"], GIVEN["static"]
TARGET = torch.tensor([0, 2, 1, 1, 0])


def wanted_gradient(model: nn.Module, given: Any, target: Any) -> tuple[Any, list[torch.Tensor]]:
    """Outputs, and the gradients of those of floats, in float64."""
    double, inputs = in_double(model, given)
    output = called(double, inputs)
    score = output[torch.arange(len(output)), target].sum()
    floats = [x for x in leaves(inputs) if x.is_floating_point()]
    return output, list(torch.autograd.grad(score, floats))


def same(one: Any, other: Any) -> bool:
    pairs = zip(leaves(one), leaves(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


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


class Dense(nn.Module):
    """Two inputs, and two layers without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 6, bias=False), nn.Linear(2, 6, bias=False)
        self.out = nn.Linear(6, 3, bias=False)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.one(a) + self.other(b)))


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


# What a call refuses


def wrong_calls() -> dict[str, tuple[Any, type[Exception], str]]:
    return {
        "missing": ({"x": X}, ValueError, r"x: static is missing; the inputs are x, static"),
        "extra": ({**GIVEN, "y": X}, ValueError, r"x: y is no input; the inputs are x, static"),
        "array": (X, TypeError, r"wanted a dictionary of the inputs x, static; got Tensor"),
        "tuple": ((X, STATIC), ValueError, "x is missing"),
        "shape": ({**GIVEN, "static": X}, ValueError, r"static: wanted floats of shape \(n, 5\)"),
        "width": ({**GIVEN, "x": X[..., :2]}, ValueError, r"x: wanted floats of shape \(n, T, 3\)"),
        "sample": ({**GIVEN, "static": STATIC[0]}, ValueError, "static: .* give a batch of one"),
        "batch": (
            {**GIVEN, "static": STATIC[:2]},
            ValueError,
            "static: wanted 5 samples, as x has",
        ),
        "type": (
            {**GIVEN, "static": STATIC.int()},
            TypeError,
            "static: wanted floats .*, got dtype",
        ),
        "none": ({**GIVEN, "static": None}, TypeError, "static: wanted .* got None"),
        "nan": (
            {**GIVEN, "static": STATIC * np.nan},
            ValueError,
            r"static: .* static\[0, 0\] = nan",
        ),
        "key": ({**GIVEN, 3: X}, TypeError, "wanted names as keys"),
    }


@pytest.fixture(scope="module")
def taking_two() -> pyrel.Explainer:
    return pyrel.Explainer(MODEL, GIVEN, "gradient")


@pytest.mark.parametrize("case", wrong_calls())
def test_a_wrong_input_is_named(taking_two: pyrel.Explainer, case: str) -> None:
    given, kind, message = wrong_calls()[case]
    with pytest.raises(kind, match=message):
        taking_two(given, 1)
    with pytest.raises(kind, match=message):
        taking_two.forward(given)


def test_values_beyond_their_bounds_are_named_or_clipped() -> None:
    options: dict[str, Any] = {"low": {"static": -0.3}, "high": {"static": 0.7}}
    inside = pyrel.Explainer(MODEL, GIVEN, "lrp_epsilon", **options)
    beyond = {**GIVEN, "static": STATIC.clone()}
    beyond["static"][2, 4] = 0.75
    with pytest.raises(ValueError, match=r"static: wanted values in .* got static\[2, 4\] = 0.75"):
        inside(beyond, 1)
    clipping = pyrel.Explainer(MODEL, GIVEN, "lrp_epsilon", out_of_range="clip", **options)
    nearest = {"x": X, "static": beyond["static"].clamp(-0.3, 0.7)}
    far = {**beyond, "x": X * 50}  # which has no bounds
    assert same(clipping(beyond, 1).relevance, inside(nearest, 1).relevance)
    assert same(clipping(far, 1).relevance, inside({**nearest, "x": X * 50}, 1).relevance)


def test_token_ids_beyond_their_table_are_named() -> None:
    model, (tokens, x) = CASES["tokens"]
    explainer = pyrel.Explainer(model, (tokens, x), "gradient")
    tokens = tokens.clone()
    tokens[1, 3] = 9
    with pytest.raises(
        ValueError, match=r"tokens: wanted token ids from 0 to 8, got tokens\[1, 3\]"
    ):
        explainer((tokens, x), 1)
    with pytest.raises(TypeError, match="tokens: wanted token ids"):
        explainer((tokens.float(), x), 1)


def test_truth_values_are_no_numbers() -> None:
    model, given = CASES["truth values"]
    explainer = pyrel.Explainer(model, given, "gradient")
    with pytest.raises(TypeError, match="mask: wanted truth values of shape .* got dtype"):
        explainer({**given, "mask": given["mask"].float()}, 1)
    assert not explainer(given, 1).relevance["mask"].any()


def wrong_examples() -> dict[str, tuple[nn.Module, Any, type[Exception], str]]:
    pair = WithStatic().eval()
    return {
        "no argument": (
            pair,
            {"x": X, "stat": STATIC},
            ValueError,
            "stat is no argument of forward",
        ),
        "too few": (pair, (X,), ValueError, "static is missing; forward takes x, static"),
        "too few names": (pair, {"x": X}, ValueError, "static is missing; forward takes x, static"),
        "too many": (pair, (X, STATIC, X), ValueError, "forward takes x, static; got a tuple of 3"),
        "nothing": (pair, {}, ValueError, "no input in it; forward takes x, static"),
        "no array": (
            pair,
            (X, [1.0]),
            TypeError,
            "static: wanted an array or a tensor, got a list",
        ),
        "a number": (pair, (X, torch.tensor(1.0)), ValueError, r"static: wanted shape \(n, ...\)"),
        "one tensor": (
            pair,
            X,
            pyrel.UnsupportedModelError,
            "takes more than one input; give a tuple",
        ),
        "shapes": (
            pair,
            (STATIC, X),
            pyrel.UnsupportedModelError,
            r"inputs static \(n, 6, 3\)|raises",
        ),
    }


@pytest.mark.parametrize("case", wrong_examples())
def test_a_wrong_example_is_named(case: str) -> None:
    model, given, kind, message = wrong_examples()[case]
    with pytest.raises(kind, match=message):
        pyrel.Explainer(model, given, "gradient")


def test_bounds_of_what_is_no_input_are_refused() -> None:
    with pytest.raises(ValueError, match="low: 'y' is no input; the inputs are x, static"):
        pyrel.Explainer(MODEL, GIVEN, "lrp_epsilon", low={"y": 0.0}, high=1.0)
    with pytest.raises(ValueError, match="x: high: wanted both low and high|x: .*high=None"):
        pyrel.Explainer(MODEL, GIVEN, "lrp_epsilon", low={"x": 0.0})
    with pytest.raises(ValueError, match="low: wanted one number for all inputs of floats"):
        pyrel.Explainer(MODEL, GIVEN, "lrp_epsilon", low=np.zeros(5), high=np.ones(5))
    model, given = CASES["tokens"]
    with pytest.raises(ValueError, match="low: tokens is of token ids, which have none"):
        pyrel.Explainer(model, given, "lrp_epsilon", low={"tokens": 0.0}, high={"tokens": 1.0})


# Constant inputs


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


def test_names_of_constant_inputs_are_checked() -> None:
    with pytest.raises(ValueError, match="constant: 'mask' is no input; the inputs are x, static"):
        pyrel.Explainer(MODEL, GIVEN, "gradient", constant=["mask"])
    with pytest.raises(TypeError, match="constant: wanted names of inputs"):
        pyrel.Explainer(MODEL, GIVEN, "gradient", constant=[1])
    with pytest.raises(ValueError, match="constant: 'x' is no input; the model has one"):
        pyrel.Explainer(nn.Linear(5, 2), STATIC, "gradient", constant=["x"])


# Any number of steps


@pytest.mark.parametrize("name", ["dictionary", "truth values", "tokens", "one dictionary"])
def test_sequences_have_any_number_of_steps(name: str) -> None:
    model, given = CASES[name]
    explainer = pyrel.Explainer(model, given, "gradient")
    assert explainer.any_steps
    for steps in (3, 21):

        def other(x: torch.Tensor, steps: int = steps) -> torch.Tensor:
            if x.shape[1] != (7 if name == "tokens" else T):
                return x
            if not x.is_floating_point():
                top = 2 if x.dtype == torch.bool else 9
                return torch.randint(0, top, (N, steps)).to(x.dtype)
            return random(N, steps, x.shape[2])

        longer = mapped(given, other)
        e = explainer(longer, 1)
        output, gradients = wanted_gradient(model, longer, 1)
        assert torch.allclose(e.output.double(), output, rtol=0, atol=1e-6)
        found = zip(leaves(e.relevance), leaves(longer), strict=True)
        floats = [r for r, x in found if x.is_floating_point()]
        for relevance, gradient in zip(floats, gradients, strict=True):
            assert torch.allclose(relevance.double(), gradient, rtol=0, atol=1e-6)


def test_steps_that_differ_between_inputs_are_named() -> None:
    model, given = CASES["truth values"]
    explainer = pyrel.Explainer(model, given, "gradient")
    with pytest.raises(ValueError, match="mask: wanted 6 steps, as x has, got 4"):
        explainer({**given, "mask": given["mask"][:, :4]}, 1)
    model, given = CASES["one dictionary"]
    explainer = pyrel.Explainer(model, given, "gradient")
    with pytest.raises(ValueError, match=r"y: wanted floats of shape \(n, 4, 2\)"):
        explainer({**given, "y": random(N, 5, 2)}, 1)


def test_lengths_are_those_of_the_inputs_that_have_steps() -> None:
    model, given = CASES["truth values"]
    explainer = pyrel.Explainer(model, given, "lrp_epsilon", lengths=True)
    lengths = np.array([2, T, 4, 1, 4])
    padded = {**given, "x": X.clone()}
    for sample, length in enumerate(lengths):
        padded["x"][sample, length:] = np.nan
    e = explainer(padded, TARGET, lengths=lengths)
    for sample, length in enumerate(lengths):
        one = mapped(given, lambda x, s=sample: x[s : s + 1])
        one = {**one, "x": one["x"][:, :length], "mask": one["mask"][:, :length]}
        alone = explainer(one, TARGET[sample : sample + 1])
        assert torch.equal(e.relevance["x"][sample, :length], alone.relevance["x"][0])
        assert not e.relevance["x"][sample, length:].any()
        assert torch.equal(e.relevance["static"][sample], alone.relevance["static"][0])
        assert torch.equal(e.output[sample], alone.output[0])


class Packed(WithStatic):
    """Takes the lengths of the sequences behind two inputs."""

    def forward(self, x: torch.Tensor, static: Any, lengths: torch.Tensor) -> torch.Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        last = self.cell(packed)[1][0][-1]
        return self.out(torch.cat([last, torch.relu(self.side(static))], dim=1))


@pytest.mark.parametrize("given", [(X, STATIC), GIVEN])
def test_forward_may_take_lengths_beside_several_inputs(given: Any) -> None:
    torch.manual_seed(5)
    model = Packed().eval()
    explainer = pyrel.Explainer(model, given, "gradient", lengths=True)
    lengths = torch.tensor([2, T, 4, 1, 4])
    e = explainer(given, 1, lengths=lengths)
    assert torch.allclose(e.output, model(X, STATIC, lengths), rtol=0, atol=1e-6)


def test_each_step_of_the_outputs_is_explained() -> None:
    class Tagger(WithStatic):
        def forward(self, x: torch.Tensor, static: torch.Tensor) -> torch.Tensor:
            side = torch.relu(self.side(static))[:, None].expand(-1, x.shape[1], -1)
            return self.out(torch.cat([self.cell(x)[0], side], dim=2))

    explainer = pyrel.Explainer(Tagger().eval(), GIVEN, "gradient")
    e = explainer(GIVEN, "each step")
    assert e.relevance["x"].shape == (N, T, T, 3) and e.relevance["static"].shape == (N, T, 5)
    for step in (0, T - 1):
        alone = explainer(GIVEN, (step, e.target[:, step, 1]))
        assert same(alone.relevance, mapped(e.relevance, lambda r, t=step: r[:, t]))


# Methods of changed copies


def test_integrated_gradients_go_from_a_baseline_of_each_input() -> None:
    torch.manual_seed(0)
    model = nn.Sequential()
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


class Bilinear(Dense):
    """The product of what is made of two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 3), nn.Linear(2, 3)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.one(a) * self.other(b)


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


# Files, and what is kept


@pytest.mark.parametrize("name", ["truth values", "tokens", "nested"])
def test_a_saved_explainer_keeps_names_and_structure(name: str, tmp_path: Path) -> None:
    model, given = CASES[name]
    method = "gradient" if name == "nested" else "lrp_epsilon"
    options: dict[str, Any] = {"low": -1.0, "high": 1.0}
    explainer = pyrel.Explainer(model, given, method, **options)
    explainer.save(tmp_path / "a.program")
    e = explainer(given, 1)
    for other in (
        pyrel.Explainer.load(tmp_path / "a.program"),
        pickle.loads(pickle.dumps(explainer)),
    ):
        found = other(given, 1)
        assert same(found.relevance, e.relevance)
        assert type(found.relevance) is type(e.relevance)
        assert str(other.inputs) == str(explainer.inputs)
        assert other.input_shape == explainer.input_shape
        with pytest.raises(ValueError, match="is missing"):
            other(given[:1] if isinstance(given, tuple) else {}, 1)


def test_a_saved_explainer_keeps_bounds_and_constants(tmp_path: Path) -> None:
    options: dict[str, Any] = {"low": {"static": -0.5}, "high": {"static": 1}, "lengths": True}
    explainer = pyrel.Explainer(MODEL, GIVEN, "lrp_epsilon", constant=["static"], **options)
    explainer.save(tmp_path / "a.program")
    other = pyrel.Explainer.load(tmp_path / "a.program")
    assert str(other.inputs) == str(explainer.inputs)
    for one, two in zip(explainer.inputs.parts, other.inputs.parts, strict=True):
        assert (one.low is None) == (two.low is None)
        assert one.low is None or np.array_equal(one.low, two.low)
    lengths = [1, 2, 3, 4, 5]
    assert same(
        other(GIVEN, 1, lengths=lengths).relevance, explainer(GIVEN, 1, lengths=lengths).relevance
    )


def test_a_graph_of_several_inputs_is_explained() -> None:
    graph = pyrel.capture(MODEL, GIVEN)
    e = pyrel.Explainer(graph, method="lrp_epsilon", check="all")(GIVEN, 1)
    assert same(e.relevance, pyrel.explain(MODEL, GIVEN, "lrp_epsilon", target=1).relevance)


def test_explain_keeps_what_it_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    model = WithStatic().eval()
    exports: list[Any] = []
    export = torch.export.export
    monkeypatch.setattr(
        torch.export, "export", lambda *a, **k: exports.append(a) or export(*a, **k)
    )
    pyrel.explain(model, GIVEN, "gradient", target=1)
    first = len(exports)
    pyrel.explain(model, mapped(GIVEN, lambda x: x[:2]), "lrp_epsilon", target=1)
    pyrel.explain(model, {**GIVEN, "x": random(N, 9, 3)}, "gradient", target=1)
    assert first and len(exports) == first
    pyrel.explain(model, (X, STATIC), "gradient", target=1)
    assert len(exports) == 2 * first


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


def forged(path: Path, entries: dict[str, Any], first: dict[str, Any]) -> None:
    """Change what a file says of the inputs, and of the first of them."""
    tensors, content = read_tensors(path, "program")
    inputs = content["explainer"]["inputs"]
    content["explainer"] |= {"inputs": [inputs[0] | first, *inputs[1:]]} | entries
    write_tensors(path, "program", tensors, content)


@pytest.mark.parametrize(
    ("entries", "first", "message"),
    [
        ({}, {"shape": [4, 3]}, "do not fit its inputs"),
        ({}, {"shape": [0, 3]}, "it has inputs"),
        ({}, {"shape": [1 << 40, 3]}, "elements of an input"),
        ({}, {"path": []}, "it has an input"),
        ({}, {"path": ["static"]}, "it has inputs"),
        ({}, {"path": [0]}, "it has inputs"),
        ({}, {"name": "a\nb"}, "it has an input"),
        ({}, {"name": "static"}, "it has inputs"),
        ({}, {"elements": "masks"}, "do not fit its inputs"),
        ({}, {"steps": False}, "its inputs have no steps"),
        ({"constant": ["y"]}, {}, "'y' is no input"),
        ({"input_shape": [22]}, {}, "do not fit"),
    ],
)
def test_a_file_that_says_nonsense_of_its_inputs_is_refused(
    entries: dict[str, Any], first: dict[str, Any], message: str, saved: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "a.program"
    path.write_bytes(saved)
    forged(path, entries, first)
    with pytest.raises(ValueError, match=message):
        pyrel.Explainer.load(path)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "a.program"
    pyrel.Explainer(MODEL, GIVEN, "gradient").save(path)
    return path.read_bytes()


def test_a_file_of_samples_holds_one_input(saved: bytes, tmp_path: Path) -> None:
    path, source = tmp_path / "a.program", tmp_path / "x.npy"
    path.write_bytes(saved)
    np.save(source, X.numpy())
    with pytest.raises(TypeError, match=r"x\.npy: wanted the inputs x, static, got one array"):
        explain_file(pyrel.Explainer.load(path), source, tmp_path / "out.npz")


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


def test_sequences_that_are_as_long_keep_that() -> None:
    model, given = Two().eval(), {"x": random(N, T, 3), "y": random(N, T, 2)}
    explainer = pyrel.Explainer(model, given, "gradient")
    other = {"x": random(2, 3, 3), "y": random(2, 3, 2)}
    assert torch.allclose(explainer.forward(other), model(other), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="y: wanted 3 steps, as x has, got 4"):
        explainer.forward({**other, "y": random(2, 4, 2)})


def test_features_that_are_as_many_as_the_steps_are_no_steps() -> None:
    class Wide(WithStatic):
        def __init__(self) -> None:
            super().__init__()
            self.side = nn.Linear(T, 4)

    model = Wide().eval()
    explainer = pyrel.Explainer(model, (X, random(N, T)), "gradient")
    for steps in (1, 9):
        other = random(2, steps, 3), random(2, T)
        assert torch.allclose(explainer.forward(other), model(*other), rtol=0, atol=1e-6)


def test_patterns_are_of_one_input() -> None:
    with pytest.raises(ValueError, match="models of one input; this takes x, static"):
        pyrel.patterns.fit(pyrel.capture(MODEL, GIVEN), X)


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


@pytest.mark.parametrize("several", [False, True])
def test_lengths_go_to_no_argument_of_another_meaning(several: bool) -> None:
    class Quiet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.lstm, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(
            self, x: torch.Tensor, silence: Any = None, max_len: Any = None
        ) -> torch.Tensor:
            states = self.lstm(x)[0]
            if silence is not None or max_len is not None:
                states = states * 2
            scores: torch.Tensor = self.out(states[:, -1])
            return scores

    class Beside(Quiet):
        def forward(
            self, x: torch.Tensor, static: torch.Tensor, silence: Any = None, max_len: Any = None
        ) -> torch.Tensor:
            return super().forward(x * static[:, None], silence, max_len)

    model = (Beside() if several else Quiet()).eval()
    x: Any = torch.randn(2, 5, 3)
    given = (x, torch.rand(2, 3)) if several else x
    explainer = pyrel.Explainer(model, given, "gradient", lengths=True, check=None)
    with torch.no_grad():
        wanted = model(*given) if several else model(given)
    # 5 steps of sums of 7 products below 1: some tens of roundings of 2^-24.
    torch.testing.assert_close(explainer(given).output, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "takes"),
    [(n, True) for n in ("lengths", "len", "x_len", "seqlens", "seq_lengths", "input_lengths")]
    + [(n, False) for n in ("silence", "valence", "max_len", "length_scale", "lenses", "seq")],
)
def test_which_names_are_those_of_lengths(name: str, takes: bool) -> None:
    assert is_called_lengths(name) is takes
