# SPDX-License-Identifier: Apache-2.0
"""Models of several inputs with any number of steps, lengths and outputs of each step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine.several_models import (
    CASES,
    GIVEN,
    STATIC,
    TARGET,
    N,
    T,
    Two,
    WithStatic,
    X,
    leaves,
    mapped,
    random,
    same,
    wanted_gradient,
)
from torch import nn

import pyrel
from pyrel.compiler.capture.calls import is_called_lengths


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
