# SPDX-License-Identifier: Apache-2.0
"""Architectures that are in use: gradients equal autograd's, LRP-ε conserves or is refused."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import RELATIVE, assert_within, norms, rows, unchecked
from torch import Tensor, nn
from zoo_of_architectures.table import ARCHITECTURES, Architecture
from zoo_of_architectures.table_of_recurrences import RECURRENCES

import pyrel
from pyrel.engine.model_copies import doubled

every = pytest.mark.parametrize("given", [*ARCHITECTURES, *RECURRENCES], ids=lambda each: each.name)


def joined(values: Any) -> np.ndarray:
    """Return (n, everything else) of one tensor, or of several by name."""
    if not isinstance(values, dict):
        return rows(values)
    return np.concatenate([rows(value) for value in values.values()], axis=1)


def in_float64(given: Architecture, index: Any) -> tuple[Tensor, np.ndarray]:
    """Outputs, and gradients of one of each sample; of token ids summed over embeddings."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, looked_up: Tensor) -> Tensor:
        found.append(looked_up.detach().requires_grad_())
        return found[-1]

    model, x = doubled(given.module), given.inputs
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    for table in tables:
        table.register_forward_hook(keep)
    if tables:
        x = torch.from_numpy(x)
    elif isinstance(x, dict):
        x = {name: torch.from_numpy(v).double().requires_grad_() for name, v in x.items()}
        found += x.values()
    else:
        x = torch.from_numpy(x).double().requires_grad_()
        found.append(x)
    output = given.scores(model, x)
    flat = output if output.dim() > 1 else output[:, None]
    places = tuple(torch.as_tensor(index).T) if flat.dim() > 2 else (torch.as_tensor(index),)
    score = flat[(torch.arange(len(flat)), *places)].sum()
    gradients = torch.autograd.grad(score, found)
    return output.detach(), joined(
        {str(i): g.sum(-1) if tables else g for i, g in enumerate(gradients)}
    )


@every
def test_gradients_are_autograds(given: Architecture) -> None:
    e = unchecked(given.captured, given.example, method="gradient")(given.inputs, given.target)
    output, gradient = in_float64(given, e.target)
    scale = np.abs(rows(output)).max(axis=1, keepdims=True)
    assert_within(np.abs(rows(e.output) - rows(output)), RELATIVE * scale, "output")
    error = norms(joined(e.relevance) - gradient)
    assert_within(error, RELATIVE * norms(gradient), "gradient")
    assert (norms(gradient) > 0).all()


@every
def test_lrp_conserves_or_is_refused(given: Architecture) -> None:
    options: dict[str, Any] = {"constant": [*given.constant]} if given.constant else {}
    compiled = partial(unchecked, given.captured, given.example, "lrp_epsilon", **options)
    if given.refused:
        with pytest.raises(pyrel.UnsupportedModelError, match=given.refused):
            compiled()
        return
    assert_conserves(given, compiled(epsilon=1e-3))


@pytest.mark.parametrize("name", ["RETAIN", "mLSTM"])
def test_products_of_signals_are_halved_on_request(name: str) -> None:
    (given,) = (each for each in (*ARCHITECTURES, *RECURRENCES) if each.name == name)
    options: dict[str, Any] = {"gates": "half", "epsilon": 1e-3}
    assert_conserves(given, unchecked(given.captured, given.example, "lrp_epsilon", **options))


def assert_conserves(given: Architecture, explainer: pyrel.Explainer) -> None:
    e = explainer(given.inputs, given.target)
    start = rows(e.output)
    index = np.asarray(e.target)
    if index.ndim > 1:
        index = np.ravel_multi_index(tuple(index.T), e.output.shape[1:])
    start = start[np.arange(len(start)), index]
    total = joined(e.relevance).sum(axis=1) + np.asarray(e.absorbed, np.float64)
    size = np.maximum(1.0, np.asarray(e.amplification)) * np.abs(start)
    assert_within(np.abs(total - start)[:, None], RELATIVE * size[:, None], "conservation")
    assert (norms(joined(e.relevance)) > 0).all()
