# SPDX-License-Identifier: Apache-2.0
"""Sizes, configuration and argument errors of the cells."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

import pyrel.nn
from pyrel.nn import (
    RLSTM,
    VGG,
    Cell,
    ConvDeep,
    ConvDeepPlus,
    Deep,
    DeepV2,
    LeNet,
    Shallow,
    SoftplusConv2d,
    SoftplusLinear,
)

CELLS = [Shallow, Deep, DeepV2, ConvDeep, ConvDeepPlus, RLSTM]
SMALL: dict[type[Cell], dict[str, Any]] = {
    Shallow: {"sizes": (6,), "recurrent": 5},
    Deep: {"sizes": (5, 6, 4), "recurrent": 5},
    DeepV2: {"sizes": (5, 7, 6, 4), "recurrent": 5},
    ConvDeep: {"sizes": (2, 3, 6, 4), "recurrent": 5},
    ConvDeepPlus: {"sizes": (2, 3, 6, 4), "recurrent": 5},
    RLSTM: {"sizes": (5, 6)},
}


def small(cell: type[Cell], steps: int = 3, **options: Any) -> Cell:
    return cell(steps, step_shape=(4, 2), classes=3, **(SMALL[cell] | options))


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# Table 4.2 of the thesis.
@pytest.mark.parametrize(
    ("cell", "counts"),
    [
        (Shallow, {1: 610570, 4: 355722, 7: 291210, 14: 248202}),
        (Deep, {1: 550346, 4: 314954, 7: 271946, 14: 243274}),
        (DeepV2, {1: 575050, 4: 306890, 7: 263882, 14: 235210}),
        (ConvDeep, {1: 647594, 4: 283178, 7: 197162, 14: 197162}),
    ],
)
def test_parameter_counts_of_the_thesis(cell: type[Cell], counts: dict[int, int]) -> None:
    for steps, wanted in counts.items():
        assert count(cell(steps, step_shape=(28, 28 // steps))) == wanted


# Table 4.6 of the thesis.
@pytest.mark.parametrize(
    ("cell", "wanted"), [(Shallow, 184330), (Deep, 153578), (DeepV2, 161386), (ConvDeep, 151802)]
)
def test_parameter_counts_of_the_majority_experiment(cell: type[Cell], wanted: int) -> None:
    model = cell.for_majority()
    assert count(model) == wanted
    assert (model.steps, model.step_shape, model.recurrent) == (12, (28, 7), 256)


def test_no_other_maps_give_convdeep_its_parameters() -> None:
    def parameters(first: int, second: int) -> int:
        convolutions = 26 * first + (9 * first + 1) * second
        above = (14 * second + 256 + 1) * 128 + 129 * 256 + 129 * 32 + 33 * 10
        return convolutions + above

    # Above 100 each, the second layer alone would have more.
    maps = [(a, b) for a in range(1, 101) for b in range(1, 101) if parameters(a, b) == 151802]
    assert maps == [ConvDeep.majority_sizes[:2]]


@pytest.mark.parametrize("steps", [2, 5])
def test_parameters_of_rlstm_follow_the_formula(steps: int) -> None:
    inputs, units, cells, classes = 12, 5, 6, 3
    formula = (inputs + 1) * units + 4 * (units + cells + 1) * cells + (cells + 1) * classes
    assert count(RLSTM(steps, (4, 3), classes, (units, cells))) == formula
    assert count(RLSTM.for_majority()) == 150792


def test_lenet_has_the_layers_of_1998() -> None:
    """Convolutions keep the size here, so that C5 reads 7 x 7 maps, not 5 x 5."""
    convolutions = (25 + 1) * 6 + (25 * 6 + 1) * 16
    assert count(LeNet()) == convolutions + (49 * 16 + 1) * 120 + 121 * 84 + 85 * 10 == 107786
    with pytest.raises(ValueError, match="steps of LeNet must be 1, the whole image, not 4"):
        LeNet(4, (28, 7))


@pytest.mark.parametrize("pooling", ["max", "sum"])
def test_lenet_computes_its_layers(pooling: str) -> None:
    """Against its layers in float64, one after the other, on a picture of odd sides."""
    torch.manual_seed(0)
    net = LeNet(step_shape=(9, 7), classes=3, sizes=(2, 3, 6, 4), pooling=pooling).eval()
    x = torch.rand(4, 1, 9, 7)
    twin = pyrel.nn.build(json.loads(json.dumps(net.config()))).eval()
    twin.load_state_dict(net.state_dict())
    assert torch.equal(twin(x), net(x))
    net.double()
    a = x.double()
    for conv in (net.conv_1, net.conv_2):
        bias = -torch.log1p(torch.exp(conv.bias))
        a = torch.nn.functional.conv2d(a, conv.weight, bias, padding=2).clamp(min=0)
        rows, columns = (-(-side // 2) for side in a.shape[2:])
        padded = torch.zeros(*a.shape[:2], 2 * rows, 2 * columns, dtype=torch.float64)
        padded[:, :, : a.shape[2], : a.shape[3]] = a
        windows = padded.reshape(*a.shape[:2], rows, 2, columns, 2)
        a = windows.amax((3, 5)) if pooling == "max" else windows.sum((3, 5))
    a = a.flatten(1)
    for layer in (net.dense_1, net.dense_2):
        a = (a @ layer.weight.T - torch.log1p(torch.exp(layer.bias))).clamp(min=0)
    scores = a @ net.output.weight.T - torch.log1p(torch.exp(net.output.bias))
    # At most 3·6·4 products a layer, of sizes below 1, in five layers of float32.
    torch.testing.assert_close(twin(x).double(), scores, rtol=0, atol=5 * 72 * 2**-24)


def test_vgg_has_its_layers_and_computes_them() -> None:
    """Against its layers in float64, one after the other."""
    convolutions = (9 + 1) * 16 + (9 * 16 + 1) * 16 + (9 * 16 + 1) * 32 + (9 * 32 + 1) * 32
    assert count(VGG()) == convolutions + (49 * 32 + 1) * 128 + 129 * 10 == 218490
    with pytest.raises(ValueError, match="steps of VGG must be 1, the whole image, not 4"):
        VGG(4, (28, 7))
    torch.manual_seed(0)
    net = VGG(step_shape=(8, 4), classes=3, sizes=(2, 3, 5)).eval()
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if key.endswith("weight"):
                parameter.add_(0.1)  # so that no layer of few units is silent
    x = torch.rand(4, 1, 8, 4)
    twin = pyrel.nn.build(json.loads(json.dumps(net.config()))).eval()
    twin.load_state_dict(net.state_dict())
    net.double()
    a = x.double()
    for conv in (net.conv_1, net.conv_2, net.conv_3, net.conv_4):
        bias = -torch.log1p(torch.exp(conv.bias))
        a = torch.nn.functional.conv2d(a, conv.weight, bias, padding=1).clamp(min=0)
        if conv in (net.conv_2, net.conv_4):
            rows, columns = a.shape[2] // 2, a.shape[3] // 2
            a = a.reshape(*a.shape[:2], rows, 2, columns, 2).amax((3, 5))
    a = (a.flatten(1) @ net.dense.weight.T - torch.log1p(torch.exp(net.dense.bias))).clamp(min=0)
    scores = a @ net.output.weight.T - torch.log1p(torch.exp(net.output.bias))
    assert scores.std() > 0.01
    # Six layers of float32, of sums of at most 27 products and a bias that hardly cancel.
    bound = 6 * 28 * 2**-24 * float(scores.detach().abs().max())
    torch.testing.assert_close(twin(x).double(), scores, rtol=0, atol=bound)


def test_literal_connections_read_the_maps_of_the_step_before() -> None:
    more = 25 * 24 * 24 + 9 * 48 * 48
    for steps in (4, 7):
        shape = (28, 28 // steps)
        assert count(ConvDeepPlus(steps, shape)) - count(ConvDeep(steps, shape)) == more
    assert count(ConvDeepPlus.for_majority()) == 170126


def test_convolutions_before_rlstm_replace_the_pixels() -> None:
    model = RLSTM(4, convolutions=(24, 48))
    maps = 25 * 24 + 24 + 9 * 24 * 48 + 48
    assert count(model) - count(RLSTM(4)) == maps + (7 * 2 * 48 - 28 * 7) * 256


def test_majority_options_win_and_steps_must_divide_the_columns() -> None:
    model = Deep.for_majority(4, dropout=0.25, recurrent=8)
    assert (model.step_shape, model.recurrent, model.dropout.p) == ((28, 21), 8, 0.25)
    with pytest.raises(ValueError, match="steps must divide the 84 columns .* not 5"):
        Deep.for_majority(5)


@pytest.mark.parametrize("cell", CELLS)
def test_one_step_has_no_recurrent_parameters(cell: type[Cell]) -> None:
    names = {name for name, _ in small(cell, steps=1).named_parameters()}
    assert not any("feedback" in name for name in names)
    x = torch.rand(2, 1, 4, 2)
    assert small(cell, steps=1).eval()(x).shape == (2, 3)


@pytest.mark.parametrize("cell", CELLS)
def test_config_rebuilds_the_cell(cell: type[Cell]) -> None:
    model = small(cell, dropout=0.25, stationary=True)
    config = model.config()
    assert set(config) - {"cell"} == pyrel.nn.arguments_of(cell)
    twin = pyrel.nn.build(json.loads(json.dumps(config)))
    assert type(twin) is cell
    assert twin.config() == config
    twin.load_state_dict(model.state_dict())
    x = torch.rand(4, 3, 4, 2)
    assert torch.equal(twin.eval()(x), model.eval()(x))


@pytest.mark.parametrize("pooling", ["max", "sum"])
@pytest.mark.parametrize(
    ("cell", "options"),
    [(ConvDeep, {}), (ConvDeepPlus, {}), (RLSTM, {"convolutions": [2, 3]})],
)
def test_config_rebuilds_convolutions(
    cell: type[Cell], options: dict[str, Any], pooling: str
) -> None:
    model = small(cell, pooling=pooling, **options)
    twin = pyrel.nn.build(json.loads(json.dumps(model.config())))
    assert twin.config() == model.config()
    twin.load_state_dict(model.state_dict())
    x = torch.rand(4, 3, 4, 2)
    assert torch.equal(twin.eval()(x), model.eval()(x))


def test_a_configuration_from_before_stationary_dropout_builds() -> None:
    config = small(Deep).config()
    del config["stationary"]
    assert pyrel.nn.build(config).dropout.stationary is False


def test_names_lists_every_cell() -> None:
    names = ["Shallow", "Deep", "DeepV2", "ConvDeep", "ConvDeepPlus", "RLSTM", "LeNet", "VGG"]
    assert pyrel.nn.names() == names
    assert [pyrel.nn.cell_type(name) for name in pyrel.nn.names()] == [*CELLS, LeNet, VGG]


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"cell": "Wide", "steps": 2}, ValueError, "'Wide'; the cells are Shallow, Deep, DeepV2"),
        ({"steps": 2}, ValueError, "no cell is named ''"),
        ({"cell": "Deep"}, ValueError, "must say its number of steps"),
        ({"cell": "Deep", "steps": 2, "depth": 3}, ValueError, "unknown entries: depth"),
        ({"cell": "RLSTM", "steps": 2, "recurrent": 3}, ValueError, "unknown entries: recurrent"),
        (["Deep"], TypeError, "config must be a mapping, not list"),
    ],
)
def test_build_refuses(config: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pyrel.nn.build(config)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"steps": 0}, ValueError, "steps must be at least 1, not 0"),
        ({"steps": 2.0}, TypeError, "steps must be a whole number, not 2.0"),
        ({"steps": True}, TypeError, "steps must be a whole number"),
        ({"step_shape": (28, 0)}, ValueError, r"step_shape\[1\] must be at least 1"),
        ({"step_shape": ()}, ValueError, "step_shape must name at least one"),
        ({"step_shape": 28}, TypeError, "step_shape must be a sequence"),
        ({"step_shape": "28"}, TypeError, "step_shape must be a sequence"),
        ({"classes": 0}, ValueError, "classes must be at least 1"),
        ({"sizes": (512, 256)}, ValueError, r"Deep must be 3 widths \(a\(1'\), a\(4\), a\(4'\)\)"),
        ({"sizes": (5, -1, 4)}, ValueError, r"sizes\[1\] must be at least 1, not -1"),
        ({"recurrent": 0}, ValueError, "recurrent must be at least 1"),
        ({"dropout": 1.0}, ValueError, r"dropout must be in \[0, 1\), not 1.0"),
        ({"dropout": math.nan}, ValueError, r"dropout must be in \[0, 1\)"),
        ({"dropout": "0.5"}, TypeError, r"dropout must be a number in \[0, 1\)"),
        ({"stationary": 1}, TypeError, "stationary must be True or False, not 1"),
    ],
)
def test_arguments_are_refused_by_name(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Deep(**({"steps": 2} | arguments))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cell", "arguments", "message"),
    [
        (ConvDeep, {"pooling": "mean"}, "pooling must be 'max' or 'sum', not 'mean'"),
        (ConvDeep, {"step_shape": (28,)}, r"must be a height and a width to convolve, not \(28,\)"),
        (RLSTM, {"convolutions": (4,)}, r"convolutions must be two numbers of maps, not \(4,\)"),
        (RLSTM, {"convolutions": (4, 0)}, r"convolutions\[1\] must be at least 1, not 0"),
        (RLSTM, {"pooling": "mean"}, "pooling must be 'max' or 'sum', not 'mean'"),
    ],
)
def test_arguments_of_convolutions_are_refused(
    cell: type[Cell], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cell(2, **arguments)


def test_numpy_integers_are_whole_numbers() -> None:
    model = Deep(np.int64(2), step_shape=np.array([3, 2]), sizes=(4, 4, 4))  # type: ignore[arg-type]
    assert json.dumps(model.config())


@pytest.mark.parametrize("shape", [(2, 3, 2, 4), (2, 4, 4, 2), (3, 4, 2), (24,)])
def test_input_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"x must have shape \(n, 3, 4, 2\), not \("):
        small(Deep)(torch.zeros(shape))


def test_input_that_is_no_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match=r"x must be a torch tensor .* not ndarray"):
        small(Deep)(np.zeros((2, 3, 4, 2), np.float32))


def test_repr_names_the_sizes() -> None:
    text = repr(small(Deep))
    assert "steps=3, step_shape=(4, 2), classes=3, sizes=(5, 6, 4), recurrent=5" in text
    assert "(cell): SoftplusLinear(10, 6)" in text


def test_initial_weights_are_cut_at_two_sigma() -> None:
    torch.manual_seed(3)
    layer = SoftplusLinear(400, 500)
    weight = layer.weight.detach().double()
    n = weight.numel()
    # A normal distribution cut at two sigma has standard deviation 0.8796 sigma. Five standard
    # errors (sigma/sqrt(n) for the mean, below sigma/sqrt(2n) for the deviation) never fail a
    # right implementation at a fixed seed, and an uncut one is off by 12 %.
    assert weight.abs().max() <= 0.2
    assert weight.abs().max() > 0.199
    assert abs(weight.mean()) < 5 * 0.1 / math.sqrt(n)
    assert abs(weight.std() - 0.08796) < 5 * 0.1 / math.sqrt(2 * n)


def test_initial_weights_of_convolutions_are_cut_at_two_sigma() -> None:
    torch.manual_seed(3)
    weight = SoftplusConv2d(40, 50, 5).weight.detach().double()
    assert 0.199 < weight.abs().max() <= 0.2
    # As above.
    assert abs(weight.std() - 0.08796) < 5 * 0.1 / math.sqrt(2 * weight.numel())


def test_gates_start_open_to_the_past() -> None:
    gates = small(RLSTM, sizes=(5, 6)).gates
    assert gates.bias.tolist() == [0.0] * 6 + [1.0] * 6 + [0.0] * 6
    assert gates.weight.abs().max() <= 0.2


@pytest.mark.parametrize("cell", CELLS)
def test_initial_biases_subtract_one_hundredth(cell: type[Cell]) -> None:
    for name, parameter in small(cell).named_parameters():
        if name.endswith("bias") and name != "gates.bias":
            expected = torch.full_like(parameter, math.log(math.exp(0.01) - 1))
            # One fp32 rounding of a number near 4.6, and one of the constant.
            torch.testing.assert_close(parameter.detach(), expected, rtol=2.4e-7, atol=0)
