# SPDX-License-Identifier: Apache-2.0
"""Which sums deep Taylor takes for those of an L^q norm, and what it does there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from engine.checks import unchecked
from torch import Tensor, nn

import pyrel
from pyrel import methods

EPS = 2.0**-24


class Pooled(nn.Module):
    """Six units, pooled by two in some way, and one output that reads the pools."""

    def __init__(self, pool: Callable[[Tensor], Tensor], signed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.first, self.last = nn.Linear(5, 6), nn.Linear(3, 1, bias=False)
        self.pool, self.signed = pool, signed
        with torch.no_grad():
            self.first.weight.mul_(3)
            self.first.bias.sub_(1)
            self.last.weight.abs_()

    def units(self, x: Tensor) -> Tensor:
        z = self.first(x)
        return (z if self.signed else torch.relu(z)).reshape(-1, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.pool(self.units(x)))


def rule_of_sum(model: nn.Module, method: str = "deep_taylor") -> str:
    text = str(unchecked(model, torch.rand(2, 5), method=method, low=0.0, high=1.0))
    return next(line.split()[-1] for line in text.splitlines() if line.strip().startswith("sum"))


@pytest.mark.parametrize(
    "pool",
    [
        lambda u: u.norm(dim=2),
        lambda u: u.square().mean(2).sqrt(),
        lambda u: (u * u.detach().new_tensor(2.0)).pow(3).sum(2).pow(1 / 3),
        lambda u: (u.pow(2).sum(2) + 1e-6).sqrt(),
        lambda u: u.pow(4).sum(2).clamp_min(1e-9).pow(0.25),
        lambda u: u.abs().pow(1.5).sum(2).pow(2 / 3),
    ],
)
def test_norms_are_found(pool: Callable[[Tensor], Tensor]) -> None:
    assert rule_of_sum(Pooled(pool)) == "ByValues()"
    assert rule_of_sum(Pooled(pool), "lrp_epsilon").startswith("Proportional")


@pytest.mark.parametrize(
    ("pool", "signed"),
    [
        (lambda u: u.square().sum(2), False),  # no root
        (lambda u: u.pow(3).sum(2).sqrt(), False),  # of another order
        (lambda u: torch.stack([u[..., 0].pow(3), u[..., 1].pow(2)]).sum(0).sqrt(), False),
        (lambda u: (lambda s: s.sqrt() + s)(u.square().sum(2)), False),  # also read itself
        (lambda u: u.norm(dim=2), True),
        (lambda u: u.sum(2).sqrt(), False),  # no powers
    ],
)
def test_other_sums_share_by_addends(pool: Callable[[Tensor], Tensor], signed: bool) -> None:
    text = str(unchecked(Pooled(pool, signed), torch.rand(2, 5), low=0.0, high=1.0))
    assert "ByValues" not in text
    assert "Proportional(epsilon=1e-06)" in text


def test_a_constant_beside_the_powers_absorbs_its_share_of_the_sum() -> None:
    """Of √(Σ x² + c) the constant keeps c / (Σ x² + c); the rest goes by values, x / Σ x."""
    c = 0.25
    model = Pooled(lambda u: (u.square().sum(2) + c).sqrt())
    x = torch.rand(20, 5)
    e = pyrel.explain(model, x, low=0.0, high=1.0)
    with torch.no_grad():
        model.double()
        units = model.units(x.double())
        powers, relevance = units.square().sum(2), model.pool(units) * model.last.weight[0]
        absorbed = (relevance * c / (powers + c)).sum(1)
        # Where all units of a pool are zero, so are the powers, and nothing is handed on.
        shares = relevance * powers / (powers + c) / units.sum(2).clamp(min=1e-300)
        of_units = (units * shares[..., None]).flatten(1)
        weight, bias = model.first.weight, model.first.bias.clamp(min=0)
        terms = x.double()[:, None] * weight - weight.clamp(max=0)  # z^β for [0, 1]
        down = of_units / (terms.sum(2) + bias)
        wanted = (terms * down[..., None]).sum(1)
        absorbed += (bias * down).sum(1)
    # Functions, divisions and sums of at most 5 terms, in three layers each way, round by 2⁻²⁴ of
    # terms that are all of one sign.
    bound = 6 * (5 + 3) * EPS * e.output[:, 0].double()
    assert (absorbed > 0.01 * e.output[:, 0]).all()
    assert ((e.absorbed - absorbed).abs() <= bound).all()
    assert ((e.relevance - wanted).abs() <= bound[:, None]).all()


def test_the_rule_is_refused_at_other_sums() -> None:
    class Mine(methods.DeepTaylor):
        name = "mine"

        def rule(self, site: methods.Site) -> methods.Rule:
            return methods.ByValues() if site.kind == "sum" else super().rule(site)

    x = torch.rand(2, 5)
    unchecked(Pooled(lambda u: u.norm(dim=2)), x, method=Mine(), low=0.0, high=1.0)
    with pytest.raises(TypeError, match=r"mine: ByValues\(\) is for the sum of an L\^q norm"):
        unchecked(Pooled(lambda u: u.mean(2)), x, method=Mine(), low=0.0, high=1.0)


def test_norms_over_steps_of_a_recurrence() -> None:
    """Some addends are values of one node, others of others; each pool holds two steps' units."""

    class Steps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.cell, self.out = nn.Linear(3 + 4, 4, bias=False), nn.Linear(4, 1, bias=False)
            with torch.no_grad():
                self.out.weight.abs_()

        def forward(self, x: Tensor) -> Tensor:
            h, seen = x.new_zeros(len(x), 4), []
            for t in range(3):
                h = torch.relu(self.cell(torch.cat([x[:, t], h], 1)))
                seen.append(h)
            return self.out(torch.stack(seen, 1).norm(dim=1))

    model, x = Steps(), torch.rand(6, 3, 3)
    explainer = pyrel.Explainer(model, x, low=0.0, high=1.0)
    assert "ByValues()" in str(explainer)
    e = explainer(x)
    np.testing.assert_allclose(
        e.relevance.sum((1, 2)) + e.absorbed, e.output[:, 0].clamp(min=0), rtol=0, atol=1e-5
    )
    assert e.relevance.min() >= 0
