# SPDX-License-Identifier: Apache-2.0
"""What people write in forward() is captured as torch computes it, or refused by name."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from engine import idiom_models as idioms
from engine.checks import RELATIVE, assert_within, norms, rows
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import pyrel


def batch(count: int = 7, steps: int = idioms.STEPS) -> Any:
    shape = count, steps, idioms.FEATURES
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


def autograd(model: nn.Module, x: Any, target: Any, *rest: Any) -> tuple[Any, Any]:
    """Outputs and gradients in float64; zeros where none arrives."""
    leaf = torch.from_numpy(x).double().requires_grad_()
    output = model.double()(leaf, *rest)
    score = output[torch.arange(len(x)), torch.as_tensor(target)].sum()
    (gradient,) = torch.autograd.grad(score, leaf, allow_unused=True, materialize_grads=True)
    return output.detach().numpy(), gradient.numpy()


def assert_autograd(e: Any, model: nn.Module, x: Any, *rest: Any) -> None:
    output, gradient = autograd(model, x, e.target, *rest)
    np.testing.assert_allclose(e.output, output, rtol=RELATIVE, atol=RELATIVE)
    error = norms(rows(e.relevance) - rows(gradient))
    assert_within(error, RELATIVE * norms(gradient), "gradient")


def every(*groups: tuple[idioms.Forward, ...]) -> list[Any]:
    """Each forward pass of groups; a group is captured together, which takes most of the time."""
    return [
        pytest.param(group, number, id=each.__name__)
        for group in groups
        for number, each in enumerate(group)
    ]


@functools.cache
def explainer(forwards: tuple[idioms.Forward, ...], lengths: bool = False) -> pyrel.Explainer:
    model = idioms.Model(*forwards).eval()
    return pyrel.Explainer(model, batch()[:1], method="gradient", lengths=lengths)


@pytest.mark.parametrize(
    ("group", "target"), every(idioms.BY_KEYWORD, idioms.VIEWED, idioms.WRITTEN)
)
def test_idioms(group: tuple[idioms.Forward, ...], target: int) -> None:
    x = batch()
    e = explainer(group)(x, target=target)
    assert_autograd(e, idioms.Model(*group).eval(), x)


@pytest.mark.parametrize(("group", "target"), every(idioms.PACKED))
def test_packing_by_keyword(group: tuple[idioms.Forward, ...], target: int) -> None:
    for steps in (idioms.STEPS, idioms.STEPS + 2):
        x = batch(steps=steps)
        lengths = np.full(len(x), steps)
        e = explainer(group, True)(x, target=target, lengths=lengths)
        assert_autograd(e, idioms.Model(*group).eval(), x, torch.from_numpy(lengths))


@pytest.mark.parametrize(
    ("forward", "operator"),
    [(each, operator) for operator, group in idioms.UNWRITTEN.items() for each in group],
)
def test_an_entry_that_was_never_written_is_refused(forward: idioms.Forward, operator: str) -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match="an entry is read that was never") as e:
        pyrel.capture(idioms.Model(forward), batch())
    assert e.value.operator == operator


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (lambda m, x: m.lstm(x)[0].view(-1, idioms.WIDTH)[: len(x)], "Cannot view"),
        (
            lambda m, x: m.by_step(x.transpose(0, 1))[0].transpose(0, 1).view(len(x), -1),
            "itself raises RuntimeError .* view size is not compatible",
        ),
        (lambda m, x: m.into(x[:, 0]).view(torch.int32).view(torch.float32), "bits of numbers"),
    ],
)
def test_views_that_torch_refuses_are_refused(forward: idioms.Forward, reason: str) -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match=reason):
        pyrel.capture(idioms.Model(forward), batch())


def test_a_place_that_is_written_twice_is_refused() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        out = x.new_zeros(len(x), idioms.WIDTH)
        out[:, [1, 3, 1]] = m.into(x[:, 0])[:, :3]
        return out

    with pytest.raises(pyrel.UnsupportedModelError, match=r"aten\.index_put .* written twice"):
        pyrel.capture(idioms.Model(forward), batch())


class Passing(nn.Module):
    """A wrapper that hands on what it is called with."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


class Options(Passing):
    def forward(self, x: Tensor, **kwargs: Any) -> Any:
        return self.inner(x, **kwargs)


@pytest.mark.parametrize("wrapper", [Passing, Options, AveragedModel, nn.DataParallel])
def test_wrappers(wrapper: Any) -> None:
    x = batch(steps=9)
    model = wrapper(idioms.Model(idioms.by_keyword, idioms.steps_viewed)).eval()
    made = pyrel.Explainer(model, batch()[:1], method="gradient")
    assert made.any_steps
    assert_autograd(made(x), model, x)


@pytest.mark.parametrize("wrapper", [Passing, AveragedModel, nn.DataParallel])
def test_wrappers_hand_on_lengths(wrapper: Any) -> None:
    x, lengths = batch(), torch.full((7,), idioms.STEPS)
    model = wrapper(idioms.Model(*idioms.PACKED)).eval()
    made = pyrel.Explainer(model, x, method="gradient", lengths=True)
    assert_autograd(made(x, lengths=lengths), model, x, lengths)
    model = wrapper(idioms.Model(idioms.by_keyword)).eval()
    made = pyrel.Explainer(model, x, method="gradient", lengths=True)
    assert_autograd(made(x, lengths=lengths), model, x)
