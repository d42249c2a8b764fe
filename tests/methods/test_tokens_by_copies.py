# SPDX-License-Identifier: Apache-2.0
"""Integrated gradients of token ids: the path is that of their embeddings."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import RELATIVE, norms, rows, unchecked
from engine.sequences import VOCABULARY, Tokens, batch, made
from torch import Tensor, nn

import pyrel

STEPS = 12


class Masked(nn.Module):
    """The mean over the tokens that are no padding, which the model counts by their ids."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(VOCABULARY, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        there = (x != 0).float()
        units = torch.tanh(self.table(x)) * there[..., None]
        return self.out(units.sum(1) / there.sum(1, keepdim=True).clamp(min=1))


class TwoTables(nn.Module):
    """Words and their kinds of tables apart, and each of its own step of a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(VOCABULARY, 4), nn.Embedding(VOCABULARY, 2)
        self.step, self.out = nn.Linear(6 + 5, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros((x.shape[0], 5), dtype=self.out.weight.dtype)
        for t in range(4):
            token = torch.cat([self.words(x[:, t]), self.kinds(x[:, t]), state], 1)
            state = torch.tanh(self.step(token))
        return self.out(state)


def seeded(make: Any) -> nn.Module:
    """Return a model of random weights that are alike at each call."""
    torch.manual_seed(0)
    return make().eval()


def reference(
    model: nn.Module, x: np.ndarray, target: np.ndarray, baseline: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return relevance and the difference of the outputs, by autograd in float64."""
    double = copy.deepcopy(model).double()
    tables = [m for m in double.modules() if isinstance(m, nn.Embedding)]
    ids = torch.from_numpy(x)
    alpha = torch.zeros((), dtype=torch.float64)
    met: list[Tensor] = []

    def along(module: nn.Embedding, given: Any, found: Tensor) -> Tensor:
        start = torch.zeros_like(found)
        if baseline is not None:
            start = module.weight[torch.from_numpy(baseline).broadcast_to(given[0].shape)]
        point = (start + alpha * (found - start)).detach().requires_grad_()
        met.append(point)
        point.way = (found - start).detach()  # type: ignore[attr-defined]
        return point

    for table in tables:
        table.register_forward_hook(along)
    total = np.zeros(x.shape)

    def at(value: float) -> Tensor:
        alpha.fill_(value)
        met.clear()
        return double(ids)[torch.arange(len(x)), torch.from_numpy(target)]

    points, weights = np.polynomial.legendre.leggauss(STEPS)
    for point, weight in zip(points, weights, strict=True):
        at((point + 1) / 2).sum().backward()
        columns = [(p.grad * p.way).sum(-1) for p in met]  # type: ignore[attr-defined,operator]
        each = columns[0] if len(columns) == 1 else None
        if each is None:  # a loop meets one token after another, in as many tables
            by_step = torch.stack(columns, 1).reshape(len(x), x.shape[1], -1)
            each = by_step.sum(-1)
        total += weight / 2 * each.numpy()
    rise = (at(1.0) - at(0.0)).detach().numpy()
    return total, rise


@pytest.mark.parametrize("baseline", [None, 3])
@pytest.mark.parametrize("make", [Tokens, Masked, TwoTables])
def test_agrees_with_float64(make: Any, baseline: int | None, tmp_path: Path) -> None:
    model = seeded(make)
    x = batch(Tokens, 6, 4)
    x[0, 2:] = 0
    options = {} if baseline is None else {"baseline": baseline}
    method = {"method": "integrated_gradients", "n_steps": STEPS, **options}
    explainer = pyrel.Explainer(model, x, **method)
    assert explainer.checked.startswith("outputs and gradients" if make is Tokens else "outputs")
    e = explainer(x)
    wanted, rise = reference(model, x, e.target, None if baseline is None else np.array(baseline))
    assert (norms(e.relevance - wanted) <= RELATIVE * norms(wanted)).all()
    error = e.conservation - (rows(e.relevance).sum(axis=1) - rise)
    assert np.abs(error).max() < 1e-6
    np.testing.assert_array_equal(explainer.forward(x), e.output)
    np.testing.assert_array_equal(explainer(x[2:3]).relevance, e.relevance[2:3])
    explainer.save(tmp_path / "tokens.program")
    loaded = pyrel.Explainer.load(tmp_path / "tokens.program")
    np.testing.assert_array_equal(loaded(x).relevance, e.relevance)


def test_any_number_of_steps_and_lengths(tmp_path: Path) -> None:
    model, x = made(Tokens), batch(Tokens, 4, 9)
    explainer = unchecked(model, x, "integrated_gradients", lengths=True, baseline=1)
    explainer.save(tmp_path / "tokens.program")
    loaded = pyrel.Explainer.load(tmp_path / "tokens.program")
    e = loaded(x, lengths=[9, 2, 5, 9])
    np.testing.assert_array_equal(explainer(x, lengths=[9, 2, 5, 9]).relevance, e.relevance)
    for row, length in enumerate([9, 2, 5, 9]):
        alone = loaded(x[row : row + 1, :length])
        np.testing.assert_array_equal(e.relevance[row, :length], alone.relevance[0])
        assert (e.relevance[row, length:] == 0).all()


def test_what_is_refused() -> None:
    model, x = made(Tokens), batch(Tokens, 4, 6)
    with pytest.raises(ValueError, match=f"ids from 0 to {VOCABULARY - 1}, got {VOCABULARY}"):
        unchecked(model, x, "integrated_gradients", baseline=VOCABULARY)
    with pytest.raises(ValueError, match="baseline: wanted token ids, .* got floats"):
        unchecked(model, x, "integrated_gradients", baseline=0.5)
    with pytest.raises(pyrel.UnsupportedModelError, match="smoothgrad changes values by small"):
        unchecked(model, x, "smoothgrad")
    explainer = unchecked(model, x, "integrated_gradients")
    x[2, 3] = VOCABULARY
    with pytest.raises(ValueError, match=rf"got x\[2, 3\] = {VOCABULARY}"):
        explainer(x)
