# SPDX-License-Identifier: Apache-2.0
"""What the cells compute, against a float64 rewrite of the thesis's equations."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pyrel.nn import Cell, Deep, DeepV2, Shallow

Array = npt.NDArray[np.float64]

CELLS = [Shallow, Deep, DeepV2]
SIZES = {Shallow: (9,), Deep: (8, 9, 5), DeepV2: (8, 6, 9, 5)}
STEP = (5, 3)


def make(cell: type[Cell], steps: int = 4, **options: Any) -> Cell:
    torch.manual_seed(7)
    model = cell(steps, step_shape=STEP, classes=3, sizes=SIZES[cell], recurrent=7, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def layer(model: Cell, name: str, a: Array) -> Array:
    weight = model.state_dict()[f"{name}.weight"].double().numpy()
    bias = model.state_dict()[f"{name}.bias"].double().numpy()
    h: Array = a @ weight.T - np.log1p(np.exp(bias))
    return h


def relu(h: Array) -> Array:
    a: Array = np.maximum(h, 0)
    return a


def reference(model: Cell, x: Array) -> Array:
    """Thesis, sections 4.2 and 4.3, step by step."""
    encoders = {Shallow: [], Deep: ["encoder"], DeepV2: ["encoder", "encoder_2"]}[type(model)]
    r = np.zeros((len(x), 7))
    for t in range(x.shape[1]):
        a = x[:, t].reshape(len(x), -1)
        for name in encoders:
            a = relu(layer(model, name, a))
        joined = a if x.shape[1] == 1 else np.concatenate([a, r], 1)
        state = relu(layer(model, "cell", joined))
        if x.shape[1] > 1:
            r = relu(layer(model, "feedback", state))
    if not isinstance(model, Shallow):
        state = relu(layer(model, "decision", state))
    return layer(model, "output", state)


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("cell", CELLS)
def test_scores_follow_the_equations(cell: type[Cell], steps: int) -> None:
    model = make(cell, steps).eval().double()
    x = torch.rand(6, steps, *STEP, generator=torch.Generator().manual_seed(1)).double()
    expected = reference(model, x.numpy())
    # At most 4 steps of 4 layers with sums of at most 23 terms: 16 * 24 roundings of 2^-53 on terms
    # that cancel by less than 1e3 make 4e-11. A wrong equation is off by more than 1e-3.
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=4e-11, atol=4e-11)


@pytest.mark.parametrize("cell", CELLS)
def test_an_empty_batch_gives_no_scores(cell: type[Cell]) -> None:
    assert make(cell).eval()(torch.zeros(0, 4, *STEP)).shape == (0, 3)


@pytest.mark.parametrize("cell", CELLS)
def test_every_parameter_gets_a_gradient(cell: type[Cell]) -> None:
    model = make(cell)
    model(torch.rand(32, 4, *STEP)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def masks_of(model: Cell, calls: list[torch.Tensor]) -> None:
    model.dropout.register_forward_hook(lambda module, args, out: calls.append(out != args[0]))


@pytest.mark.parametrize(
    ("cell", "places"),
    [(Shallow, [9]), (Deep, [8] * 4 + [9]), (DeepV2, [8] * 4 + [9])],
)
def test_dropout_falls_where_the_thesis_puts_it(cell: type[Cell], places: list[int]) -> None:
    model = make(cell, dropout=0.5).train()
    calls: list[torch.Tensor] = []
    masks_of(model, calls)
    model(torch.rand(50, 4, *STEP) + 0.5)
    assert [mask.shape[1] for mask in calls] == places


def test_dropout_draws_a_new_mask_at_each_step() -> None:
    model = make(Deep).train()
    zeros: list[torch.Tensor] = []
    model.dropout.register_forward_hook(lambda module, args, out: zeros.append(out == 0))
    step = torch.rand(40, 1, *STEP)
    model(step.expand(40, 4, *STEP))
    assert not torch.equal(zeros[0], zeros[1])


def test_shallow_has_no_dropout_unless_asked() -> None:
    model = make(Shallow).train()
    x = torch.rand(3, 4, *STEP)
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("steps", [1, 3])
def test_export_with_a_dynamic_batch_gives_the_same_scores(cell: type[Cell], steps: int) -> None:
    model = make(cell, steps).eval()
    exported = torch.export.export(
        model,
        (torch.zeros(2, steps, *STEP),),
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        strict=False,
    )
    for count in (1, 2, 9):
        x = torch.rand(count, steps, *STEP)
        assert torch.equal(exported.module()(x), model(x))
