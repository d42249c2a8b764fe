# SPDX-License-Identifier: Apache-2.0
"""What the cells compute, against a float64 rewrite of the thesis's equations."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pyrel.nn import RLSTM, Cell, ConvDeep, ConvDeepPlus, Deep, DeepV2, Shallow

Array = npt.NDArray[np.float64]

KINDS: dict[str, tuple[type[Cell], dict[str, Any]]] = {
    "Shallow": (Shallow, {"sizes": (9,), "recurrent": 7}),
    "Deep": (Deep, {"sizes": (8, 9, 5), "recurrent": 7}),
    "DeepV2": (DeepV2, {"sizes": (8, 6, 9, 5), "recurrent": 7}),
    "ConvDeep": (ConvDeep, {"sizes": (3, 4, 9, 5), "recurrent": 7}),
    "ConvDeep-sum": (ConvDeep, {"sizes": (3, 4, 9, 5), "recurrent": 7, "pooling": "sum"}),
    "ConvDeepPlus": (ConvDeepPlus, {"sizes": (3, 4, 9, 5), "recurrent": 7}),
    "RLSTM": (RLSTM, {"sizes": (8, 6)}),
    "RLSTM-conv": (RLSTM, {"sizes": (8, 6), "convolutions": (3, 4)}),
}
STEP = (5, 3)


def make(kind: str, steps: int = 4, **options: Any) -> Cell:
    torch.manual_seed(7)
    cell, sizes = KINDS[kind]
    model = cell(steps, step_shape=STEP, classes=3, **(sizes | options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


class Reference:
    """Thesis, sections 4.2, 4.3 and 4.6, step by step."""

    def __init__(self, model: Cell) -> None:
        self.model = model
        self.state = {name: p.double().numpy() for name, p in model.state_dict().items()}

    def scores(self, x: Array) -> Array:
        if isinstance(self.model, RLSTM):
            return self.layer("output", self.lstm(x))
        state = self.feedback(x)
        if not isinstance(self.model, Shallow):
            state = relu(self.layer("decision", state))
        return self.layer("output", state)

    def layer(self, name: str, a: Array) -> Array:
        bias = np.log1p(np.exp(self.state[f"{name}.bias"]))
        h: Array = a @ self.state[f"{name}.weight"].T - bias
        return h

    def feedback(self, x: Array) -> Array:
        r = np.zeros((len(x), 7))
        maps: list[Array] = []
        for t in range(x.shape[1]):
            a, maps = self.encoded(x[:, t], maps)
            joined = a if x.shape[1] == 1 else np.concatenate([a, r], 1)
            state = relu(self.layer("cell", joined))
            if x.shape[1] > 1:
                r = relu(self.layer("feedback", state))
        return state

    def encoded(self, image: Array, maps: list[Array]) -> tuple[Array, list[Array]]:
        if isinstance(self.model, ConvDeep):
            return self.convolved("encoder", image, maps)
        a = image.reshape(len(image), -1)
        for name in ("encoder", "encoder_2"):
            if f"{name}.weight" in self.state:
                a = relu(self.layer(name, a))
        return a, []

    def lstm(self, x: Array) -> Array:
        steps, cells = x.shape[1], self.model.sizes[1]
        h = c = np.zeros((len(x), cells))
        for t in range(steps):
            a = x[:, t].reshape(len(x), -1)
            if self.model.convolutions:
                a = self.convolved("images", x[:, t], [])[0]
            a = relu(self.layer("encoder", a))
            joined = a if steps == 1 else np.concatenate([a, h], 1)
            z = joined @ self.state["gates.weight"].T + self.state["gates.bias"]
            gates = np.split(1 / (1 + np.exp(-z)), 2 if steps == 1 else 3, 1)
            i, f, o = gates if steps > 1 else (gates[0], np.zeros(()), gates[1])
            c = f * c + i * relu(self.layer("candidate", joined))
            h = o * c
        return h

    def convolved(self, name: str, image: Array, before: list[Array]) -> tuple[Array, list[Array]]:
        """Convolve by one sum for each pixel; pool by one window for each pixel of the result."""
        literal = isinstance(self.model, ConvDeepPlus) and self.model.steps > 1
        a, maps = image[:, None], []
        for i, conv in enumerate((f"{name}.conv_1", f"{name}.conv_2")):
            weight = self.state[f"{conv}.weight"]
            if literal:
                height, width = a.shape[2:]
                held = before[i] if before else np.zeros((len(a), len(weight), height, width))
                a = np.concatenate([a, held], 1)
            maps.append(relu(self.convolution(a, weight, self.state[f"{conv}.bias"])))
            a = self.pooled(maps[-1])
        return a.reshape(len(a), -1), maps

    def convolution(self, a: Array, weight: Array, bias: Array) -> Array:
        halo = weight.shape[2] // 2
        padded = np.pad(a, ((0, 0), (0, 0), (halo, halo), (halo, halo)))
        h = np.empty((len(a), len(weight), *a.shape[2:]))
        for y, x in np.ndindex(a.shape[2:]):
            window = padded[:, :, y : y + 2 * halo + 1, x : x + 2 * halo + 1]
            h[:, :, y, x] = np.einsum("ncyx,kcyx->nk", window, weight)
        return h - np.log1p(np.exp(bias))[:, None, None]

    def pooled(self, a: Array) -> Array:
        rows, columns = (range(0, side, 2) for side in a.shape[2:])
        conv = self.model.config()["pooling"]
        pool = {"max": np.max, "sum": np.sum}[conv]
        lines = [
            np.stack([pool(a[:, :, y : y + 2, x : x + 2], axis=(2, 3)) for x in columns], -1)
            for y in rows
        ]
        return np.stack(lines, 2)


def relu(h: Array) -> Array:
    a: Array = np.maximum(h, 0)
    return a


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_follow_the_equations(kind: str, steps: int) -> None:
    model = make(kind, steps).eval().double()
    x = torch.rand(6, steps, *STEP, generator=torch.Generator().manual_seed(1)).double()
    expected = Reference(model).scores(x.numpy())
    # At most 4 steps of 5 layers with sums of at most 100 terms (5 x 5 x 4 of a convolution): 20 *
    # 101 roundings of 2^-53 on terms that cancel by less than 1e3 make 3e-10. A wrong equation is
    # off by more than 1e-3.
    np.testing.assert_allclose(model(x).detach().numpy(), expected, rtol=3e-10, atol=3e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_batch_gives_no_scores(kind: str) -> None:
    assert make(kind).eval()(torch.zeros(0, 4, *STEP)).shape == (0, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    model = make(kind)
    model(torch.rand(32, 4, *STEP)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


# Widths of the layers that dropout falls on, in the order of the steps.
PLACES = {
    "Shallow": [9],
    "Deep": [8] * 4 + [9],
    "DeepV2": [8] * 4 + [9],
    "ConvDeep": [2 * 1 * 4] * 4 + [9],
    "ConvDeepPlus": [2 * 1 * 4] * 4 + [9],
    "RLSTM": [8] * 4 + [6],
}


@pytest.mark.parametrize("kind", PLACES)
def test_dropout_falls_where_it_should(kind: str) -> None:
    model = make(kind, dropout=0.5).train()
    widths: list[int] = []
    model.dropout.register_forward_hook(lambda module, args, out: widths.append(out.shape[1]))
    model(torch.rand(3, 4, *STEP))
    assert widths == PLACES[kind]


def dropped(kind: str, stationary: bool) -> list[torch.Tensor]:
    """Return which units of a layer of every step are dropped, for like inputs at every step."""
    model = make(kind, dropout=0.5, stationary=stationary).train()
    reader = model.gates if kind == "RLSTM" else model.cell
    width = PLACES[kind][0]
    seen: list[torch.Tensor] = []
    reader.register_forward_pre_hook(lambda module, args: seen.append(args[0][:, :width] == 0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()  # no unit is zero by itself
        for name, bias in model.named_parameters():
            if name.endswith("bias"):
                bias.fill_(-9)
    model(torch.rand(40, 4, *STEP) + 0.5)
    return seen


@pytest.mark.parametrize("kind", ["Deep", "ConvDeep", "ConvDeepPlus", "RLSTM"])
def test_ordinary_dropout_draws_a_mask_at_each_step(kind: str) -> None:
    masks = dropped(kind, stationary=False)
    assert len(masks) == 4
    assert not torch.equal(masks[0], masks[1])


@pytest.mark.parametrize("kind", ["Deep", "ConvDeep", "ConvDeepPlus", "RLSTM"])
def test_stationary_dropout_shares_one_mask_of_a_sequence(kind: str) -> None:
    masks = dropped(kind, stationary=True)
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    share = masks[0].double().mean()
    # 40 sequences of 8 units: five standard errors of a share of one half.
    assert abs(share - 0.5) < 5 * 0.5 / (40 * 8) ** 0.5
    assert len(masks[0].unique(dim=0)) > 20  # each sequence of a batch has its own


def test_stationary_dropout_keeps_the_expected_value() -> None:
    model = make("Deep", dropout=0.25, stationary=True).train()
    drop = model.dropout.over_steps()
    kept = drop(torch.ones(5, 400))
    assert set(kept.unique().tolist()) == {0.0, torch.tensor(1 / 0.75).item()}


def test_stationary_dropout_draws_anew_for_each_batch() -> None:
    model = make("Deep", dropout=0.5, stationary=True).train()
    ones = torch.ones(5, 40)
    assert not torch.equal(model.dropout.over_steps()(ones), model.dropout.over_steps()(ones))


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_does_nothing_outside_training(kind: str) -> None:
    x = torch.rand(3, 4, *STEP)
    ordinary = make(kind, dropout=0.5).eval()(x)
    assert torch.equal(make(kind, dropout=0.5, stationary=True).eval()(x), ordinary)
    assert torch.equal(make(kind, dropout=0.0).eval()(x), ordinary)


def test_shallow_has_no_dropout_unless_asked() -> None:
    model = make("Shallow").train()
    x = torch.rand(3, 4, *STEP)
    assert torch.equal(model(x), model(x))


def test_rlstm_state_is_never_negative() -> None:
    model = make("RLSTM").eval()
    assert model.last_state(torch.randn(50, 4, *STEP)).min() >= 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 3])
def test_export_with_a_dynamic_batch_gives_the_same_scores(kind: str, steps: int) -> None:
    model = make(kind, steps).eval()
    exported = torch.export.export(
        model,
        (torch.zeros(2, steps, *STEP),),
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
        strict=False,
    )
    for count in (1, 2, 9):
        x = torch.rand(count, steps, *STEP)
        assert torch.equal(exported.module()(x), model(x))
