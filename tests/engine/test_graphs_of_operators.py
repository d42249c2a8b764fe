# SPDX-License-Identifier: Apache-2.0
"""Each operator's graph computes what torch does, in float64, at shapes of every kind.

The operators are applied to traced values without torch.export, which takes most of a capture's
time; `test_graphs_of_models.py` has that in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from graph_values import graph_outputs
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pyrel.compiler.capture import operators
from pyrel.compiler.capture.parameters import Weights
from pyrel.compiler.capture.samples import MixedSamplesError
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.graph.nodes import Copy, Graph, Linear, Node

ATEN = torch.ops.aten

# Sums of at most a few hundred terms of order 1, each rounded by less than 2.3e-16 of the sum.
ALLOWED = 1e-12


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def graph_of(operator: Any, x: Tensor, *args: Any, **kwargs: Any) -> Graph:
    """Graph of ``operator(x, ...)``, or of the first of its results."""
    tracer = Tracer(tuple(x.shape[1:]), len(x), x.dtype, Weights())
    name = operator.__name__.split(".")[0]
    given = [tracer.input() if isinstance(a, str) and a == "x" else a for a in args]
    result = operators.apply(tracer, operator, name, tuple(given), kwargs)
    assert result is not NotImplemented
    first = result[0] if isinstance(result, tuple | list) else result
    return tracer.graph(Traced(first.ids.reshape(len(x), -1)))


def check(operator: Any, x: Tensor, *args: Any, **kwargs: Any) -> Graph:
    """Compare with torch; ``"x"`` among the arguments stands for the traced input."""
    args = args or ("x",)
    graph = graph_of(operator, x, *args, **kwargs)
    wanted = operator(*(x if isinstance(a, str) and a == "x" else a for a in args), **kwargs)
    first = wanted[0] if isinstance(wanted, tuple | list) else wanted
    np.testing.assert_allclose(
        graph_outputs(graph, x), first.reshape(len(x), -1), rtol=ALLOWED, atol=ALLOWED
    )
    return graph


def nodes(graph: Graph, kind: type[Node]) -> list[Any]:
    return [node for node in graph.nodes if isinstance(node, kind)]


# Windows


@st.composite
def sliding(draw: st.DrawFn, size: int) -> tuple[int, int, int, int]:
    """Kernel, stride, padding and dilation that fit an axis."""
    kernel, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    padding = draw(st.integers(0, 2))
    reach = dilation * (kernel - 1) + 1
    return kernel, draw(st.integers(1, 3)), max(padding, (reach - size + 1) // 2), dilation


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Any, Tensor, tuple[Any, ...]]:
    axes = draw(st.integers(1, 2))
    sizes = [draw(st.integers(1, 6)) for _ in range(axes)]
    kernels, strides, paddings, dilations = zip(*(draw(sliding(s)) for s in sizes), strict=True)
    groups = draw(st.integers(1, 3))
    channels, out = groups * draw(st.integers(1, 2)), groups * draw(st.integers(1, 2))
    x, weight = values(2, channels, *sizes), values(out, channels // groups, *kernels, seed=1)
    bias = values(out, seed=2) if draw(st.booleans()) else None
    operator = [ATEN.conv1d.default, ATEN.conv2d.default][axes - 1]
    return operator, x, ("x", weight, bias, strides, paddings, dilations, groups)


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_convolution(drawn: tuple[Any, Tensor, tuple[Any, ...]]) -> None:
    operator, x, args = drawn
    graph = check(operator, x, *args)
    padded, groups = sum(args[4]) > 0, args[6]
    assert len(nodes(graph, Copy)) == padded
    # One node for each group, one row of it for each position of the kernel.
    linear = nodes(graph, Linear)
    assert len(linear) == groups
    positions = np.prod(operator(x, *args[1:]).shape[2:])
    assert all(len(node.inputs) == positions for node in linear)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (2, 1), (3, 2), (4, 1)])
def test_padding_by_name(padding: str, kernel: int, dilation: int) -> None:
    weight = values(3, 2, kernel, seed=1)
    check(ATEN.conv1d.padding, values(2, 2, 7), "x", weight, None, [1], padding, [dilation])


def test_channels_of_a_convolution_lie_side_by_side() -> None:
    x, weight = values(2, 3, 5, 5), values(4, 3, 3, 3, seed=1)
    (copy,), (linear,) = (
        nodes(check(ATEN.conv2d.default, x, "x", weight, None, [1, 1], [1, 1]), kind)
        for kind in (Copy, Linear)
    )
    row = linear.inputs[0].reshape(3, 3 * 3)  # kernel rows, each of three columns of channels
    assert (np.diff(row, axis=1) == 1).all()
    assert row[0, 0] == copy.start


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[int], list[int], list[int], list[int], list[int], bool]:
    axes = draw(st.integers(1, 2))
    sizes = [draw(st.integers(3, 8)) for _ in range(axes)]
    kernels = [draw(st.integers(1, 3)) for _ in sizes]
    paddings = [draw(st.integers(0, kernel // 2)) for kernel in kernels]
    strides = [draw(st.integers(1, 3)) for _ in sizes] if draw(st.booleans()) else []
    dilations = [draw(st.integers(1, 2)) if kernel < 3 else 1 for kernel in kernels]
    return sizes, kernels, strides, paddings, dilations, draw(st.booleans())


@settings(max_examples=60, deadline=None)
@given(pools())
def test_max_pool(
    drawn: tuple[list[int], list[int], list[int], list[int], list[int], bool],
) -> None:
    sizes, kernels, strides, paddings, dilations, ceil = drawn
    operator = [ATEN.max_pool1d.default, ATEN.max_pool2d.default][len(sizes) - 1]
    check(operator, values(2, 2, *sizes), "x", kernels, strides, paddings, dilations, ceil)


@settings(max_examples=60, deadline=None)
@given(pools(), st.booleans(), st.sampled_from([None, 5]))
def test_average_pool(
    drawn: tuple[list[int], list[int], list[int], list[int], list[int], bool],
    count_padding: bool,
    divisor: int | None,
) -> None:
    sizes, kernels, strides, paddings, _, ceil = drawn
    args = ["x", kernels, strides, paddings, ceil, count_padding]
    if len(sizes) == 1:
        check(ATEN.avg_pool1d.default, values(2, 2, *sizes), *args)
    else:
        check(ATEN.avg_pool2d.default, values(2, 2, *sizes), *args, divisor)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 7), st.integers(1, 5)), min_size=1, max_size=2))
def test_adaptive_pools(axes: list[tuple[int, int]]) -> None:
    sizes, wanted = [list(part) for part in zip(*axes, strict=True)]
    operators_ = [
        (ATEN.adaptive_avg_pool1d.default, ATEN.adaptive_max_pool1d.default),
        (ATEN.adaptive_avg_pool2d.default, ATEN.adaptive_max_pool2d.default),
    ]
    for operator in operators_[len(axes) - 1]:
        check(operator, values(2, 3, *sizes), "x", wanted)


def test_a_pool_without_a_dimension_for_channels() -> None:
    """torch takes (steps, features) for channels and an axis; the samples are its channels."""
    check(ATEN.max_pool1d.default, values(2, 6), "x", [2])
    check(ATEN.avg_pool2d.default, values(2, 6, 4), "x", [2])


# Elements


@pytest.mark.parametrize(
    ("operator", "args"),
    [
        (ATEN.sigmoid.default, ()),
        (ATEN.tanh.default, ()),
        (ATEN.silu.default, ()),
        (ATEN.softplus.default, ()),
        (ATEN.softplus.default, (2.5,)),
        (ATEN.leaky_relu.default, ()),
        (ATEN.leaky_relu.default, (0.2,)),
        (ATEN.elu.default, ()),
        (ATEN.elu.default, (0.7, 1.5, 2.0)),
        (ATEN.selu.default, ()),
        (ATEN.celu.default, (0.6,)),
        (ATEN.gelu.default, ()),
        (ATEN.relu.default, ()),
        (ATEN.clamp.default, (0,)),
        (ATEN.clamp_min.default, (0,)),
        (ATEN.neg.default, ()),
        (ATEN.add.Tensor, (2.0,)),
        (ATEN.sub.Tensor, (2.0,)),
        (ATEN.rsub.Scalar, (1.0,)),
        (ATEN.mul.Tensor, (values(3, 1, seed=5),)),
        (ATEN.mul.Tensor, ("x",)),
        (ATEN.div.Tensor, (values(4, seed=5),)),
        (ATEN.add.Tensor, ("x",)),
        (ATEN.sub.Tensor, ("x",)),
        (ATEN.maximum.default, (torch.zeros(3, 4),)),
        (ATEN.max.dim, (1,)),
        (ATEN.max.dim, (2, True)),
        (ATEN.amax.default, ([1],)),
        (ATEN.amax.default, ([2, 1], True)),
        (ATEN.sum.dim_IntList, ([1],)),
        (ATEN.mean.dim, ([-1], True)),
        (ATEN.mean.dim, ([1, 2],)),
        (ATEN.masked_fill.Scalar, (torch.tensor([True, False, True, False]), 0.5)),
        (ATEN.pad.default, ([1, 2], "constant", 1.5)),
        (ATEN.pad.default, ([1, 2], "constant")),
        (ATEN.pad.default, ([1, 2], "reflect")),
        (ATEN.pad.default, ([2, 0], "replicate")),
        (ATEN.pad.default, ([1, 1], "circular")),
        (ATEN.constant_pad_nd.default, ([1, 1, 0, 2], 3.0)),
        (ATEN.flip.default, ([1],)),
        (ATEN.roll.default, ([2], [1])),
        (ATEN.rot90.default, (1, [1, 2])),
        (ATEN.repeat_interleave.self_int, (2, 1)),
        (ATEN.tensor_split.sections, (2, 1)),
        (ATEN.gather.default, (1, torch.tensor([[[0, 2, 1, 1]], [[0, 2, 1, 1]]]))),
        (ATEN.index.Tensor, ([None, torch.tensor([2, 0])],)),
        (ATEN.index_select.default, (2, torch.tensor([3, 0, 0]))),
        (ATEN.layer_norm.default, ([4],)),
        (ATEN.layer_norm.default, ([4], values(4, seed=1), values(4, seed=2), 1e-3)),
        (ATEN.layer_norm.default, ([3, 4], values(3, 4, seed=1), None)),
        (ATEN.native_layer_norm.default, ([4], values(4, seed=1), values(4, seed=2), 1e-3)),
        (ATEN.matmul.default, (values(4, 5),)),
        (ATEN.matmul.default, (values(4),)),
        (ATEN.matmul.default, (values(1, 4, 2),)),
        (ATEN.matmul.default, (values(1, 4, 2).expand(2, 4, 2),)),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_elements(operator: Any, args: Sequence[Any]) -> None:
    check(operator, values(2, 3, 4), "x", *args)


def test_other_forms() -> None:
    x = values(2, 3, 4)
    check(ATEN.gelu.default, x, "x", approximate="tanh")
    check(ATEN.add.Tensor, x, "x", "x", alpha=-0.3)
    check(ATEN.matmul.default, x, values(5, 3), "x")
    check(ATEN.matmul.default, x, values(3), "x")
    mask = torch.tensor([True, False, True, False])
    check(ATEN.where.self, x, mask, "x", values(2, 1, 1).fill_(0.3))
    check(ATEN.where.ScalarSelf, x, mask, 2.0, "x")
    heads = values(3, 4, 2).unsqueeze(0)  # a matrix for each of the second dimension
    check(ATEN.matmul.default, x.unsqueeze(2), "x", heads.expand(2, 3, 4, 2))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm(shape: tuple[int, ...], affine: bool) -> None:
    weight, bias = (values(3, seed=1), values(3, seed=2)) if affine else (None, None)
    statistics = values(3, seed=3), values(3, seed=4) ** 2
    rest = (False, 0.1, 1e-3, False)
    check(ATEN.batch_norm.default, values(*shape), "x", weight, bias, *statistics, *rest)


@pytest.mark.parametrize("make", [ATEN.zeros_like, ATEN.ones_like])
def test_constant_operands_are_computed_at_once(make: Any) -> None:
    """Nothing is left of operations on constants that only the walk knows to be constant."""
    x = values(2, 3, 4)
    tracer = Tracer((3, 4), 2, x.dtype, Weights())
    one = Traced(tracer.ids(make(x)))
    for name in ("sigmoid", "tanh", "softplus", "elu", "gelu", "silu", "leaky_relu", "relu"):
        result = operators.apply(tracer, getattr(ATEN, name).default, name, (one,), {})
        wanted = getattr(ATEN, name)(make(x))
        np.testing.assert_allclose(tracer.constant(result), wanted, atol=ALLOWED)
    normal = operators.apply(tracer, None, "layer_norm", (one, [4]), {})
    np.testing.assert_allclose(tracer.constant(normal), 0.0, atol=ALLOWED)
    weight = values(2, 3, 2, seed=1)
    convolved = operators.apply(tracer, None, "conv1d", (one, weight, None, 1, 1), {})
    wanted = ATEN.conv1d(make(x), weight, None, [1], [1])
    if make is ATEN.zeros_like:
        np.testing.assert_allclose(tracer.constant(convolved), wanted, atol=ALLOWED)


@pytest.mark.parametrize("dims", [0, 1])
def test_the_order_of_a_map_survives_its_shape(dims: int) -> None:
    """Elementwise nodes go by addresses: channels side by side, whatever shape they are read in."""
    x, weight = values(2, 2, 5), values(3, 2, 2, seed=1)
    tracer = Tracer((2, 5), 2, x.dtype, Weights())
    maps = operators.apply(tracer, None, "conv1d", (tracer.input(), weight), {})
    turned = Traced(maps.ids.transpose(1, 2)) if dims else maps
    out = operators.apply(tracer, None, "sigmoid", (turned,), {})
    graph = tracer.graph(Traced(out.ids.flatten(1)))
    (linear,) = nodes(graph, Linear)
    np.testing.assert_array_equal(graph.nodes[-1].inputs, linear.addresses)


# Refusals


@pytest.mark.parametrize(
    ("operator", "args", "words"),
    [
        (ATEN.div.Tensor_mode, ("x", 2.0), "rounded"),
        (ATEN.softplus.default, ("x", 1, 3), "threshold 3"),
        (ATEN.clamp.Tensor, ("x", torch.zeros(4)), "an end is a tensor"),
        (ATEN.clamp.default, ("x", 1.0, 0.5), "above the upper end"),
        (ATEN.hardtanh.default, ("x", 1.0, 0.5), "above the upper end"),
        (ATEN.pow.Tensor_Scalar, ("x", 101.0), "exponent 101"),
        (ATEN.pow.Tensor_Tensor, ("x", torch.arange(4.0)), "differs from element to element"),
        (ATEN.pow.Scalar, (-2.0, "x"), "a base of 0 or below"),
        (ATEN.linalg_vector_norm.default, ("x", 3.0), "order 3.0"),
        (
            ATEN.var.correction,
            (
                "x",
                [2],
            ),
            "less 4",
        ),
        (ATEN.scaled_dot_product_attention.default, ("x", "x", "x", None, 0.5), "dropout"),
        (ATEN.conv1d.default, ("x", "x"), "weight depends on the input"),
        (ATEN.conv2d.default, ("x", values(3, 3, 1, 1)), "no batch dimension"),
        (ATEN.batch_norm.default, ("x", None, None, None, None, True, 0.1, 1e-5, True), "batch"),
        (ATEN.embedding.default, (values(5, 2), "x"), "token ids"),
        (ATEN.where.self, ("x", values(4), torch.tensor(torch.inf)), "chooses NaN or infinity"),
        (ATEN.lstm.data, ("x", values(2), [], [], True, 1, 0.0, False, False), "packed"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_refused_operands(operator: Any, args: Sequence[Any], words: str) -> None:
    kwargs = {
        ATEN.div.Tensor_mode: {"rounding_mode": "floor"},
        ATEN.var.correction: {"correction": 4},
    }
    with pytest.raises(operators.UnsupportedOperandsError, match=words):
        graph_of(operator, values(2, 3, 4), *args, **kwargs.get(operator, {}))


def test_positions_of_the_largest_are_not_worked_out() -> None:
    tracer = Tracer((3, 4), 2, torch.float64, Weights())
    _, positions = operators.apply(tracer, ATEN.max.dim, "max", (tracer.input(), 1), {})
    with pytest.raises(operators.UnsupportedOperandsError, match="position of the largest"):
        operators.apply(tracer, ATEN.neg.default, "neg", (positions,), {})


@pytest.mark.parametrize(
    ("operator", "args"),
    [
        (ATEN.amax.default, ([0],)),
        (ATEN.max.default, ()),
        (ATEN.mul.Tensor, (values(3, 3, 4)[:2] * values(2, 1, 1, seed=1),)),
    ],
)
def test_samples_are_not_mixed(operator: Any, args: Sequence[Any]) -> None:
    with pytest.raises(MixedSamplesError):
        graph_of(operator, values(2, 3, 4), "x", *args)


def test_families_are_of_supported_operators() -> None:
    families = operators.families()
    names = [name for members in families.values() for name in members]
    assert sorted(names) == operators.supported()
    assert "conv2d" in families["convolution"]
    assert "reshape" in families["move"]
