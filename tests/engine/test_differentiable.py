# SPDX-License-Identifier: Apache-2.0
"""Operators of one input and of two: outputs and gradients are those of torch in float64."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import RELATIVE, assert_within, norms, rows, torch_gradient, unchecked_at
from torch import Tensor, nn
from torch.nn import functional

import pyrel

STEPS, WIDTH, CLASSES = 3, 6, 4
TOGETHER = 12  # operators in a model
Apply = Callable[[Tensor], Tensor]


def weights(like: Tensor, *shape: int) -> Tensor:
    return torch.linspace(-1, 1, math.prod(shape), dtype=like.dtype).reshape(shape)


def volume(v: Tensor) -> Tensor:
    return v.unflatten(2, (2, 3))[:, None]


# Of what lies in (0.1, 4), so that logarithms and roots are defined and well conditioned.
OF_POSITIVE: dict[str, Apply] = {
    "log": torch.log,
    "log1p": torch.log1p,
    "log2": torch.log2,
    "log10": torch.log10,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "reciprocal": torch.reciprocal,
    "pow-0.7": lambda v: v**0.7,
    "pow--2": lambda v: v**-2,
    "quotient": lambda v: v[..., :3] / v[..., 3:],
    "constant-over-value": lambda v: 2.0 / v,
    "shares": lambda v: v / v.sum(-1, keepdim=True),
}
OF_ANY: dict[str, Apply] = {
    "exp": torch.exp,
    "exp2": torch.exp2,
    "abs": torch.abs,
    "sin": torch.sin,
    "cos": torch.cos,
    "erf": torch.erf,
    "square": torch.square,
    "pow-2": lambda v: v**2,
    "pow-3": lambda v: v**3,
    "pow-1": lambda v: v**1,
    "pow-0": lambda v: v**0 + v,
    "base-of-power": lambda v: 1.7**v,
    "clamp": lambda v: v.clamp(-0.5, 0.7),
    "clamp-min": lambda v: v.clamp(min=-0.3),
    "clamp-max": lambda v: v.clamp(max=0.4),
    "clamp-zero": lambda v: v.clamp(0.0, 1.0),
    "hardtanh": functional.hardtanh,
    "hardtanh-ends": lambda v: functional.hardtanh(v, 0.2, 0.9),
    "relu6": functional.relu6,
    "hardsigmoid": functional.hardsigmoid,
    "hardswish": functional.hardswish,
    "prelu": lambda v: functional.prelu(v, torch.tensor([0.3], dtype=v.dtype)),
    "prelu-by-channel": lambda v: functional.prelu(
        v, torch.linspace(0.1, 0.5, STEPS, dtype=v.dtype)
    ),
    "glu": lambda v: functional.glu(v, -1),
    "log-sigmoid": functional.logsigmoid,
    "mish": functional.mish,
    "softsign": functional.softsign,
    "softshrink": functional.softshrink,
    "tanhshrink": functional.tanhshrink,
    "softmax": lambda v: v.softmax(-1),
    "softmax-over-steps": lambda v: v.softmax(1),
    "masked-softmax": lambda v: v.masked_fill(
        torch.ones(STEPS, WIDTH, dtype=torch.bool).triu(1), -torch.inf
    ).softmax(-1),
    "log-softmax": lambda v: v.log_softmax(-1),
    "logsumexp": lambda v: v.logsumexp(-1),
    "logsumexp-keepdim": lambda v: v.logsumexp(1, keepdim=True),
    "var": lambda v: v.var(-1),
    "var-of-all": lambda v: v.var((1, 2), correction=0, keepdim=True),
    "std": lambda v: v.std(-1),
    "var-mean": lambda v: torch.cat(torch.var_mean(v, -1), -1),
    "norm": lambda v: v.norm(dim=-1),
    "norm-1": lambda v: torch.linalg.vector_norm(v, 1, dim=-1),
    "norm-inf": lambda v: torch.linalg.vector_norm(v, torch.inf, dim=-1),
    "normalize": lambda v: functional.normalize(v, dim=-1),
    "cosine": lambda v: functional.cosine_similarity(v[..., :3], v[..., 3:], dim=-1),
    "group-norm": lambda v: functional.group_norm(
        v.mT, 2, torch.linspace(0.5, 2, WIDTH, dtype=v.dtype)
    ),
    "instance-norm": lambda v: functional.instance_norm(v),
    "rms-norm": lambda v: functional.rms_norm(
        v, (WIDTH,), torch.linspace(0.5, 2, WIDTH, dtype=v.dtype)
    ),
    "cumprod": lambda v: v.cumprod(1),
    "squared-error": lambda v: functional.mse_loss(v[..., :3], v[..., 3:], reduction="none"),
    "magnitude-of-error": lambda v: functional.l1_loss(v[..., :3], v[..., 3:], reduction="none"),
    "cumsum": lambda v: v.cumsum(1),
    "min": lambda v: v.min(-1).values,
    "min-of-all": lambda v: torch.stack([v[:, t].amin(-1) for t in range(STEPS)], 1),
    "amin": lambda v: v.amin(1),
    "minimum": lambda v: torch.minimum(v[..., :3], v[..., 3:]),
    "minimum-with-constant": lambda v: torch.minimum(v, torch.full_like(v[0], 0.2)),
    "maximum-with-constant": lambda v: torch.maximum(v, torch.full_like(v[0], 0.2)),
    "matmul": lambda v: v @ v.mT,
    "bmm": lambda v: torch.bmm(v[..., :3], v[..., 3:]),
    "attention": lambda v: functional.scaled_dot_product_attention(v, v.flip(1), v * 0.5),
    "causal-attention": lambda v: functional.scaled_dot_product_attention(v, v, v, is_causal=True),
    "attention-with-mask": lambda v: functional.scaled_dot_product_attention(
        v, v, v, attn_mask=torch.eye(STEPS, dtype=torch.bool).logical_not()
    ),
    "product": lambda v: v * v.flip(-1),
    "where": lambda v: torch.where(v > 0.1, v * v, torch.sin(v)),
    "where-of-two": lambda v: torch.where(v[..., :3] <= v[..., 3:], v[..., :3] ** 3, v[..., 3:]),
    "where-constant": lambda v: torch.where(v >= 0, v + 0.5, 0.25),
    "where-and": lambda v: torch.where((v > -0.5) & (v < 0.5), v.exp(), v),
    "where-or-not": lambda v: torch.where((v < -0.5) | ~(v < 0.5), v * 2, v * v),
    "mask-times-value": lambda v: (v > 0.2) * v + (v != 0).float(),
    "masked-fill-by-value": lambda v: (v + 0).masked_fill(v < 0, 0.3),
    "assigned-by-mask": lambda v: torch.index_put(v * 1, (v < 0,), torch.zeros((), dtype=v.dtype)),
    "sign": lambda v: v.sign() * v,
    "equal": lambda v: torch.where(v.relu() == 0, v * 0.1, v),
    "interpolate": lambda v: functional.interpolate(v.mT, size=7, mode="linear"),
    "interpolate-corners": lambda v: functional.interpolate(
        v, scale_factor=1.7, mode="linear", align_corners=True
    ),
    "interpolate-bilinear": lambda v: functional.interpolate(
        v[:, None], scale_factor=(2, 1.5), mode="bilinear"
    ),
    "interpolate-nearest": lambda v: functional.interpolate(v, size=4),
    "interpolate-nearest-2d": lambda v: functional.interpolate(v[:, None], scale_factor=2),
    "transposed-convolution": lambda v: functional.conv_transpose1d(
        v.mT, weights(v, WIDTH, 2, 3), weights(v, 2), stride=2, padding=1, output_padding=1
    ),
    "transposed-convolution-groups": lambda v: functional.conv_transpose1d(
        v.mT, weights(v, WIDTH, 2, 3), stride=3, groups=3, dilation=2
    ),
    "transposed-convolution-2d": lambda v: functional.conv_transpose2d(
        v[:, None], weights(v, 1, 2, 3, 2), stride=(2, 1), padding=(1, 0)
    ),
    "convolution-3d": lambda v: functional.conv3d(
        volume(v), weights(v, 4, 1, 2, 2, 3), weights(v, 4), stride=(1, 2, 1), padding=(1, 0, 1)
    ).relu(),
    "convolution-3d-groups": lambda v: functional.conv3d(
        volume(v).repeat(1, 2, 1, 1, 1), weights(v, 4, 1, 2, 1, 2), groups=2, dilation=(1, 1, 2)
    ),
    "transposed-convolution-3d": lambda v: functional.conv_transpose3d(
        volume(v), weights(v, 1, 2, 2, 2, 2), stride=(2, 1, 1), padding=(0, 1, 0)
    ),
    "max-pool-3d": lambda v: functional.max_pool3d(
        volume(v), (2, 2, 1), stride=1, padding=(1, 1, 0)
    ),
    "average-pool-3d": lambda v: functional.avg_pool3d(volume(v), 2, stride=1, ceil_mode=True),
    "adaptive-pool-3d": lambda v: functional.adaptive_avg_pool3d(volume(v), (2, 2, 2)),
    "adaptive-max-pool-3d": lambda v: functional.adaptive_max_pool3d(volume(v), (2, 1, 2)),
    "interpolate-trilinear": lambda v: functional.interpolate(
        volume(v), scale_factor=(1, 1.5, 2), mode="trilinear"
    ),
    "interpolate-nearest-3d": lambda v: functional.interpolate(volume(v), scale_factor=2),
    "sort": lambda v: v.sort(-1).values,
    "sort-descending": lambda v: torch.sort(v, dim=1, descending=True, stable=True)[0],
    "topk": lambda v: v.topk(2, dim=1).values * torch.tensor([[1.0], [0.5]], dtype=v.dtype),
    "topk-smallest": lambda v: v.topk(4, dim=-1, largest=False)[0],
    "topk-of-all": lambda v: v.flatten(1).topk(5)[0],
    "kthvalue": lambda v: v.kthvalue(2, dim=-1).values,
    "median": lambda v: v.median(dim=-1, keepdim=True).values * v,
    "tan": lambda v: torch.tan(v.clamp(-1, 1)),
    "addcmul": lambda v: torch.addcmul(v, v.flip(1), v.exp(), value=0.5),
    "addcdiv": lambda v: torch.addcdiv(v, v.flip(1), 1 + v**2, value=-0.5),
    "lerp": lambda v: torch.lerp(v, v.flip(-1), 0.3) + torch.lerp(v, v.exp(), v.sigmoid()),
    "baddbmm": lambda v: torch.baddbmm(v[..., :3], v[..., 3:], v[..., :3], beta=0.5, alpha=2),
    "diff": lambda v: torch.diff(v, n=2, dim=-1),
    "prod": lambda v: v.prod(1, keepdim=True) * v,
    "std-mean": lambda v: torch.cat(torch.std_mean(v, 1), -1),
    "cummax": lambda v: v.cummax(1).values,
    "cummin": lambda v: v.cummin(-1)[0],
    "threshold": lambda v: functional.threshold(v, 0.1, -0.4),
    "hardshrink": functional.hardshrink,
    "triangles": lambda v: v.tril(1) + 2 * v.triu(),
    "diagonal": lambda v: v.diagonal(1, 1, 2),
    "other-names": lambda v: (
        torch.clip(
            torch.subtract(
                torch.multiply(v, v), torch.true_divide(torch.absolute(v), 3)
            ).negative(),
            -2,
        )
        * torch.greater_equal(v, 0.2)
    ),
    "logaddexp": lambda v: torch.logaddexp(v[..., :3], v[..., 3:]),
    "logcumsumexp": lambda v: v.logcumsumexp(1),
    "einsum": lambda v: torch.einsum("btd,bsd->bts", v, v.flip(1)),
    "einsum-of-constant": lambda v: torch.einsum(
        "bti, oi -> bot", v, torch.linspace(-1, 1, 4 * WIDTH, dtype=v.dtype).reshape(4, WIDTH)
    ),
    "einsum-trace-of-axes": lambda v: torch.einsum("bti,bti->bt", v, v * 0.5),
    "einsum-outer": lambda v: torch.einsum("bt,bi->bti", v[..., 0], v[:, 0]),
    "einsum-alone": lambda v: torch.einsum("bti->it b".replace(" ", ""), v).permute(2, 0, 1),
    "einsum-summed": lambda v: torch.einsum("bti,bsj->bj", v, v),
    "einsum-of-three": lambda v: torch.einsum("btd,btn,btd->btdn", v, v[..., :2], v.tanh()),
    "einsum-constants-first": lambda v: torch.einsum(
        "io,op,bti->btp", weights(v, WIDTH, 3), weights(v, 3, 2), v
    ),
    "einsum-ellipsis": lambda v: torch.einsum("...id,...jd->...ij", v, v.flip(1)),
    "einsum-short-ellipsis": lambda v: torch.einsum("...ti,...i->...t", v, weights(v, 1, WIDTH)[0]),
    "einsum-without-result": lambda v: torch.einsum("...ij,jk", v, weights(v, WIDTH, 3)),
    "einsum-diagonal": lambda v: torch.einsum("btii->bti", v[..., None] * v[..., None, :]),
    "einsum-trace": lambda v: torch.einsum("btii->bt", v[..., None] * v[..., None, :]),
    "einsum-axis-of-one": lambda v: torch.einsum("bti,bsi,i->bti", v, v[:, :1], v.new_ones(1)),
    "shared-heads": lambda v: functional.scaled_dot_product_attention(
        v[:, None].expand(-1, 4, -1, -1) * v.new_tensor([1, 2, 3, 4])[:, None, None],
        torch.stack([v, v.flip(1)], 1),
        torch.stack([v, -v], 1),
        enable_gqa=True,
    ),
}


class Around(nn.Module):
    """A dense layer, what is tested, and a dense layer for its outputs."""

    def __init__(self, apply: Apply, positive: bool) -> None:
        super().__init__()
        self.before = nn.Linear(WIDTH, WIDTH)
        self.apply_it, self.positive = apply, positive
        size = self.middle(torch.rand(2, STEPS, WIDTH)).flatten(1).shape[1]
        self.after = nn.Linear(size, CLASSES)

    def middle(self, x: Tensor) -> Tensor:
        v = self.before(x)
        return self.apply_it(torch.sigmoid(v) * 3.9 + 0.1 if self.positive else 1.5 * v)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.middle(x).flatten(1))


class Together(nn.Module):
    """A score of each of several operators behind one dense layer."""

    def __init__(self, applied: tuple[Apply, ...], positive: bool) -> None:
        super().__init__()
        self.each = nn.ModuleList(Around(apply, positive) for apply in applied)
        for around in self.each[1:]:
            around.before = self.each[0].before

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([around(x)[:, 0] for around in self.each], dim=1)


def groups(operators: dict[str, Apply], positive: bool) -> list[Any]:
    """List operators by the group that they are captured in: an export takes most of the time."""
    names = list(operators)
    parts = [names[i : i + TOGETHER] for i in range(0, len(names), TOGETHER)]
    return [
        pytest.param(tuple(operators[each] for each in part), positive, number, id=name)
        for part in parts
        for number, name in enumerate(part)
    ]


EVERY = [*groups(OF_POSITIVE, True), *groups(OF_ANY, False)]


@functools.cache
def together(applied: tuple[Apply, ...], positive: bool) -> tuple[Together, pyrel.Explainer]:
    """Return a model in float64 and its explainer."""
    torch.manual_seed(0)
    model = Together(applied, positive).eval()
    explainer = unchecked_at(model, batch(2), method="gradient")
    return model.double(), explainer


def model_of(apply: Apply, positive: bool, seed: int = 0) -> Around:
    torch.manual_seed(seed)
    return Around(apply, positive).eval()


def batch(count: int = 9) -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.normal(size=(count, STEPS, WIDTH)).astype(np.float32)


@pytest.mark.parametrize(("applied", "positive", "number"), EVERY)
def test_outputs_and_gradients_are_torchs(
    applied: tuple[Apply, ...], positive: bool, number: int
) -> None:
    (model, explainer), x = together(applied, positive), batch()
    e = explainer(x, target=number)
    output, gradient = torch_gradient(model, x.astype(np.float64), e.target)
    output, found = output[:, number], e.output[:, number]
    assert_within(np.abs(found - output), RELATIVE * np.abs(output).max(), "output")
    error = norms(rows(e.relevance) - rows(gradient))
    assert_within(error, RELATIVE * norms(gradient), "gradient")


class Clamped(nn.Module):
    """Two clamps between dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.hardtanh(self.a(x), -0.4, 0.5)
        return self.c(self.b(h).clamp(0.1, 0.6))


def test_a_clamp_hands_relevance_on_where_it_is_open() -> None:
    """Against the ε rule, written in float64."""
    torch.manual_seed(1)
    model = Clamped().eval()
    x = np.random.default_rng(2).normal(size=(40, 5)).astype(np.float32)
    e = pyrel.Explainer(model, x[:2], method="lrp_epsilon", epsilon=1e-3)(x)
    w = {n: p.detach().double().numpy() for n, p in model.named_parameters()}
    v = x.astype(np.float64)
    za = v @ w["a.weight"].T + w["a.bias"]
    h = np.clip(za, -0.4, 0.5)
    zb = h @ w["b.weight"].T + w["b.bias"]
    k = np.clip(zb, 0.1, 0.6)
    zc = k @ w["c.weight"].T + w["c.bias"]
    r = np.where(np.arange(3) == np.asarray(e.target)[:, None], zc, 0.0)

    def back(r: np.ndarray, z: np.ndarray, weight: np.ndarray, a: np.ndarray) -> np.ndarray:
        return a * ((r / (z + 1e-3 * np.where(z < 0, -1, 1))) @ weight)

    r = back(r, zc, w["c.weight"], k) * ((zb > 0.1) & (zb < 0.6))
    r = back(r, zb, w["b.weight"], h) * ((za > -0.4) & (za < 0.5))
    r = back(r, za, w["a.weight"], v)
    # Rounding of relevance that is amplified on the way.
    size = RELATIVE * np.asarray(e.amplification)[:, None] * np.abs(zc).max(axis=1, keepdims=True)
    assert_within(np.abs(rows(e.relevance) - r), size, "relevance")
    start = zc[np.arange(40), np.asarray(e.target)]
    rest = np.abs(r.sum(axis=1) + np.asarray(e.absorbed) - start)[:, None]
    assert_within(rest, size, "conservation")


def root(v: Tensor) -> Tensor:
    return (v.square().mean(-1, keepdim=True) + 0.01).sqrt()


def magnitude(v: Tensor) -> Tensor:
    return 1 + v.abs().mean(1, keepdim=True)


def spread(v: Tensor) -> Tensor:
    return v.std(-1, keepdim=True) + 0.1


# A factor by which values are divided or multiplied, and what else is done to them.
FACTORS: dict[str, tuple[Apply, Callable[[Tensor, Tensor], Tensor]]] = {
    "root-mean-square": (root, lambda v, f: v / f),
    "deviation": (spread, lambda v, f: v / f),
    "norm": (lambda v: v.norm(dim=-1, keepdim=True).clamp_min(0.01), lambda v, f: v / f),
    "largest-magnitude": (lambda v: v.abs().amax(-1, keepdim=True), lambda v, f: v / f),
    "mean-magnitude-put-back": (magnitude, lambda v, f: torch.tanh(v / f) * f),
    "exponential": (lambda v: torch.exp(0.3 * v.flip(-1)), lambda v, f: v * f),
    "decay": (lambda v: 1 - torch.exp(-torch.relu(v.flip(-1))), lambda v, f: v * f),
    "hard-sigmoid": (lambda v: functional.hardsigmoid(v.flip(-1)), lambda v, f: v * f),
    "clamped": (lambda v: v.flip(-1).clamp(0, 1), lambda v, f: v * f),
    "sum-of-gates": (lambda v: v.sigmoid() + v.flip(-1).sigmoid(), lambda v, f: v / f),
}


@pytest.mark.parametrize("name", FACTORS)
@pytest.mark.parametrize("gates", ["signal", "half"])
def test_factors_that_count_as_constants(name: str, gates: str) -> None:
    """LRP is input × gradient of the model in which they are detached, but for what ε takes."""
    of, then = FACTORS[name]
    model, x = model_of(lambda v: then(v, of(v)), False), batch()
    e = unchecked_at(model, x[:2], method="lrp_epsilon", epsilon=1e-9, gates=gates)(x)
    leaf = torch.from_numpy(x).double().requires_grad_()
    model.double()
    z = model.before(leaf) * 1.5
    factor = of(z).detach()
    values = then(z, factor)
    values = z * (values / z).detach()  # functions hand relevance on
    output = model.after(values.flatten(1))
    (gradient,) = torch.autograd.grad(output[torch.arange(len(x)), e.target].sum(), leaf)
    expected = rows(gradient) * rows(x)
    size = np.maximum(1.0, np.asarray(e.amplification)) * np.abs(rows(output.detach())).max(axis=1)
    assert_within(np.abs(rows(e.relevance) - expected), 2 * RELATIVE * size[:, None], "relevance")


def test_a_gate_beside_an_exponential_is_the_gate() -> None:
    model = model_of(lambda v: v.flip(-1).sigmoid() * v.exp(), False)
    x = batch()
    e = pyrel.Explainer(model, x[:2], method="lrp_epsilon")(x)
    assert (np.abs(rows(e.relevance)).sum(axis=1) > 0).all()
    both = model_of(lambda v: v.flip(-1).exp() * v.exp(), False)
    with pytest.raises(pyrel.UnsupportedModelError, match="both or neither is a gate"):
        pyrel.Explainer(both, x[:2], method="lrp_epsilon")


@pytest.mark.parametrize("name", ["softmax", "matmul", "product"])
def test_products_of_two_signals_have_no_rule(name: str) -> None:
    model, x = model_of(OF_ANY[name], False), batch()
    with pytest.raises(pyrel.UnsupportedModelError, match="here both or neither is a gate"):
        pyrel.Explainer(model, x[:2], method="lrp_epsilon")


@pytest.mark.parametrize("gates", ["signal", "half"])
@pytest.mark.parametrize("name", ["where", "mask-times-value", "sign"])
def test_comparisons_have_no_rule(name: str, gates: str) -> None:
    model, x = model_of(OF_ANY[name], False), batch()
    with pytest.raises(pyrel.UnsupportedModelError) as refused:
        pyrel.Explainer(model, x[:2], method="lrp_epsilon", gates=gates)
    assert gates == "signal" or "values of the input are compared" in str(refused.value)


def test_a_norm_of_zeros_has_no_gradient() -> None:
    """As in torch, so that padded steps may be normalised."""
    model = model_of(OF_ANY["normalize"], False)
    with torch.no_grad():
        model.before.bias.zero_()
    x = batch()
    x[:, 1] = 0.0
    e = unchecked_at(model, x[:2], method="gradient")(x)
    _, gradient = torch_gradient(model.double(), x.astype(np.float64), e.target)
    error = norms(rows(e.relevance) - rows(gradient))
    assert_within(error, RELATIVE * norms(gradient), "gradient")
