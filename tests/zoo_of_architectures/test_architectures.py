# SPDX-License-Identifier: Apache-2.0
"""Architectures that are in use: gradients equal autograd's, LRP-ε conserves or is refused."""

from __future__ import annotations

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


def in_float64(given: Architecture, index: Any) -> tuple[Tensor, Tensor]:
    """Outputs, and gradients of one of each sample; of token ids summed over embeddings."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, rows: Tensor) -> Tensor:
        found.append(rows.detach().requires_grad_())
        return found[-1]

    model, x = doubled(given.module), torch.from_numpy(given.inputs)
    tables = [m for m in model.modules() if isinstance(m, nn.Embedding)]
    for table in tables:
        table.register_forward_hook(keep)
    if not tables:
        x = x.double().requires_grad_()
        found.append(x)
    output = given.scores(model, x)
    flat = output if output.dim() > 1 else output[:, None]
    places = tuple(torch.as_tensor(index).T) if flat.dim() > 2 else (torch.as_tensor(index),)
    score = flat[(torch.arange(len(x)), *places)].sum()
    (gradient,) = torch.autograd.grad(score, found)
    return output.detach(), gradient.sum(-1) if tables else gradient


@every
def test_gradients_are_autograds(given: Architecture) -> None:
    e = unchecked(given.captured, given.inputs[:2], method="gradient")(given.inputs, given.target)
    output, gradient = in_float64(given, e.target)
    scale = np.abs(rows(output)).max(axis=1, keepdims=True)
    assert_within(np.abs(rows(e.output) - rows(output)), RELATIVE * scale, "output")
    error = norms(rows(e.relevance) - rows(gradient))
    assert_within(error, RELATIVE * norms(gradient), "gradient")
    assert (norms(gradient) > 0).all()


@every
def test_lrp_conserves_or_is_refused(given: Architecture) -> None:
    if given.refused:
        with pytest.raises(pyrel.UnsupportedModelError, match=given.refused):
            unchecked(given.captured, given.inputs[:2], method="lrp_epsilon")
        return
    explainer = unchecked(given.captured, given.inputs[:2], method="lrp_epsilon", epsilon=1e-3)
    e = explainer(given.inputs, given.target)
    start = rows(e.output)
    index = np.asarray(e.target)
    if index.ndim > 1:
        index = np.ravel_multi_index(tuple(index.T), e.output.shape[1:])
    start = start[np.arange(len(start)), index]
    total = rows(e.relevance).sum(axis=1) + np.asarray(e.absorbed, np.float64)
    size = np.maximum(1.0, np.asarray(e.amplification)) * np.abs(start)
    assert_within(np.abs(total - start)[:, None], RELATIVE * size[:, None], "conservation")
    assert (norms(e.relevance) > 0).all()
