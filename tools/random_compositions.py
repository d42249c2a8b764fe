# SPDX-License-Identifier: Apache-2.0
"""Compare random compositions of operators with torch autograd in float64, and count.

A model is a dense layer, up to six random operators with views, loops over steps, broadcasting and
writes in place between them, and a dense layer. ``--models N --first SEED``; a failure prints its
seed and its operators. What float32 itself cannot decide (torch's own float32 is as far off, or
outputs are not finite) is counted apart.
"""

from __future__ import annotations

import argparse
import collections
import math
import sys
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

import pyrel

STEPS, WIDTH, CLASSES, DEEPEST = 4, 6, 3, 6
EVERY = 100  # models, after which the counts are printed
TOLERANCE, SLACK = 1e-4, 30.0  # relative to the largest value; times torch's own error in float32
Apply = Callable[[Tensor], Tensor]


def _positive(v: Tensor) -> Tensor:
    return functional.softplus(v) + 0.1


def _looped(v: Tensor) -> Tensor:
    h = torch.zeros_like(v[:, 0])
    states = []
    for t in range(v.shape[1]):
        h = torch.tanh(0.5 * h + v[:, t])
        states.append(h)
    return torch.stack(states, 1)


def _written(v: Tensor) -> Tensor:
    out = v.clone()
    out[:, 0] = v[:, -1] * 0.5
    return out


def _added_to_a_view(v: Tensor) -> Tensor:
    out = v * 1
    part = out[:, 1:, ::2]
    part += v[:, :-1, ::2]
    out[..., -1].mul_(0.5)
    return out


def _gated_loop(v: Tensor) -> Tensor:
    h = v.new_zeros(len(v), WIDTH)
    for t in reversed(range(v.shape[1])):
        gate = torch.sigmoid(v[:, t].roll(1, -1))
        h = gate * h + (1 - gate) * v[:, t]
    return h[:, None] + v


def _turned(v: Tensor) -> Tensor:
    h = torch.complex(v[:, 0], v[:, -1])
    turn = torch.exp(1j * torch.linspace(0, 1, WIDTH, dtype=v.dtype)) * 0.8
    states = []
    for t in range(v.shape[1]):
        h = turn * h + v[:, t]
        states.append(h)
    return torch.stack(states, 1).real


def _weights(v: Tensor, *shape: int) -> Tensor:
    return torch.linspace(-0.6, 0.7, math.prod(shape), dtype=v.dtype).reshape(shape)


OPERATORS: dict[str, Apply] = {
    "exp": lambda v: torch.exp(v.clamp(max=3)),
    "log": lambda v: torch.log(_positive(v)),
    "log1p": lambda v: torch.log1p(_positive(v)),
    "sqrt": lambda v: torch.sqrt(_positive(v)),
    "rsqrt": lambda v: torch.rsqrt(_positive(v)),
    "pow": lambda v: _positive(v) ** 1.3,
    "square": lambda v: v**2,
    "abs": torch.abs,
    "sin": torch.sin,
    "cos": torch.cos,
    "erf": torch.erf,
    "reciprocal": lambda v: 1 / _positive(v),
    "quotient": lambda v: v / _positive(v.flip(-1)),
    "clamp": lambda v: v.clamp(-0.8, 0.9),
    "hardtanh": functional.hardtanh,
    "hardsigmoid": functional.hardsigmoid,
    "hardswish": functional.hardswish,
    "prelu": lambda v: functional.prelu(v, torch.tensor([0.2], dtype=v.dtype)),
    "glu": lambda v: functional.glu(torch.cat([v, v.flip(1)], -1), -1),
    "softmax": lambda v: v.softmax(-1),
    "softmax-steps": lambda v: v.softmax(1),
    "log-softmax": lambda v: v.log_softmax(-1),
    "logsumexp": lambda v: v - v.logsumexp(-1, keepdim=True),
    "log-sigmoid": functional.logsigmoid,
    "standardised": lambda v: (v - v.mean(-1, keepdim=True)) / (v.std(-1, keepdim=True) + 0.1),
    "var": lambda v: v * v.var(1, keepdim=True),
    "norm": lambda v: v / (v.norm(dim=-1, keepdim=True) + 0.1),
    "group-norm": lambda v: functional.group_norm(v.mT, 2).mT,
    "instance-norm": lambda v: functional.instance_norm(v.mT).mT,
    "rms-norm": lambda v: functional.rms_norm(v, (WIDTH,), eps=0.01),
    "layer-norm": lambda v: functional.layer_norm(v, (WIDTH,)),
    "cumsum": lambda v: v.cumsum(1) * 0.5,
    "logcumsumexp": lambda v: v.logcumsumexp(1),
    "matmul": lambda v: v @ v.mT @ v * 0.2,
    "einsum": lambda v: torch.einsum("btd,bsd->bts", v, v) @ v * 0.2,
    "attention": lambda v: functional.scaled_dot_product_attention(v, v.flip(1), v),
    "interpolate": lambda v: functional.interpolate(v, size=WIDTH, mode="linear"),
    "nearest": lambda v: functional.interpolate(v[..., :3], size=WIDTH),
    "maximum": lambda v: torch.maximum(v, v.flip(-1) * 0.7),
    "minimum": lambda v: torch.minimum(v, v.flip(1) * 0.7),
    "largest": lambda v: v - v.amax(1, keepdim=True),
    "where": lambda v: torch.where(v > 0.1, v * 1.5, torch.sin(v)),
    "comparison": lambda v: (v <= v.mean(1, keepdim=True)) * v,
    "sigmoid-gate": lambda v: torch.sigmoid(v[..., :1]) * v,
    "expanded": lambda v: torch.tanh(v[..., :1].expand_as(v)) + v,
    "loop": _looped,
    "in-place": _written,
    "in-place-on-view": _added_to_a_view,
    "loop-with-gate": _gated_loop,
    "masked-fill": lambda v: (v + 0).masked_fill(v < -0.3, 0.2),
    "log2-and-exp2": lambda v: torch.exp2(torch.log2(_positive(v)) * 0.5),
    "std": lambda v: v * v.std((1, 2), keepdim=True),
    "norm-1": lambda v: v / (torch.linalg.vector_norm(v, 1, dim=1, keepdim=True) + 0.1),
    "local-response-norm": lambda v: functional.local_response_norm(v.mT, 3).mT,
    "cumprod": lambda v: torch.tanh(v).cumprod(1),
    "bmm": lambda v: torch.bmm(v[:, :, :4], v) * 0.5,
    "conv1d": lambda v: functional.conv1d(v.mT, _weights(v, WIDTH, WIDTH, 3), padding=1).mT,
    "conv3d": lambda v: functional.conv3d(
        v.unflatten(2, (2, 3))[:, None], _weights(v, 1, 1, 3, 1, 3), padding=(1, 0, 1)
    )[:, 0].flatten(2),
    "transposed-convolution": lambda v: (
        functional.conv_transpose1d(v[:, ::2].mT, _weights(v, WIDTH, WIDTH, 2), stride=2).mT
    ),
    "bilinear": lambda v: functional.interpolate(
        v[:, None, ::2, ::2], size=(STEPS, WIDTH), mode="bilinear"
    )[:, 0],
    "topk": lambda v: v - v.topk(2, dim=1).values.mean(1, keepdim=True),
    "sort": lambda v: v.sort(-1).values,
    "median": lambda v: v - v.median(1, keepdim=True).values,
    "fft": lambda v: torch.fft.fft(v, dim=1, norm="ortho").imag + v,
    "rfft": lambda v: torch.fft.rfft(v).abs()[..., :3].repeat(1, 1, 2) * 0.3,
    "irfft": lambda v: torch.fft.irfft(
        torch.fft.rfft(v) * torch.exp(1j * torch.arange(4, dtype=v.dtype)), n=WIDTH
    ),
    "stft": lambda v: (
        torch.stft(v.flatten(1), 6, 6, window=torch.ones(6, dtype=v.dtype), return_complex=True)
        .abs()[..., :4]
        .mT.repeat(1, 1, 2)[..., :WIDTH]
        * 0.3
    ),
    "complex-states": _turned,
    "view": lambda v: v.reshape(v.shape[0], WIDTH, STEPS).mT.contiguous(),
    "outer": lambda v: v[:, :, :1] * v[:, :1],
}


class Composed(nn.Module):
    """Operators between two dense layers."""

    def __init__(self, names: list[str], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.before, self.after = nn.Linear(WIDTH, WIDTH), nn.Linear(STEPS * WIDTH, CLASSES)
        self.names = names

    def forward(self, x: Tensor) -> Tensor:
        """Apply them."""
        v = self.before(x)
        for name in self.names:
            v = OPERATORS[name](v)
        return self.after(v.flatten(1))


def _torchs(model: nn.Module, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    output = model(leaf)
    (gradient,) = torch.autograd.grad(output[torch.arange(len(x)), target].sum(), leaf)
    return output.detach().double(), gradient.double()


def _compared(names: list[str], seed: int) -> str:
    """Return "right", "undecided", a refusal, or what is wrong."""
    model = Composed(names, seed).eval()
    x = torch.randn(3, STEPS, WIDTH, generator=torch.Generator().manual_seed(seed))
    target = torch.arange(3) % CLASSES
    try:
        captured = pyrel.capture(model, x[:2])
        e = pyrel.Explainer(captured, method="gradient", check=None)(x, target)
    except pyrel.UnsupportedModelError as error:
        return f"refused: {str(error)[:150]}"
    except ValueError as error:
        return "undecided" if "overflows" in str(error) else f"wrong: {error}"
    single = _torchs(model, x, target)
    exact = _torchs(model.double(), x.double(), target)
    for what, found, near, wanted in zip(
        ("output", "gradient"), (e.output, e.relevance), single, exact, strict=True
    ):
        size = wanted.abs().max()
        off, own = (found.double() - wanted).abs().max(), (near - wanted).abs().max()
        if not np.isfinite(float(size)):
            return "undecided"
        if off > TOLERANCE * size:
            return "undecided" if off <= SLACK * own else f"wrong: {what} {off / size:.1e}"
    return "right"


def _counted(found: collections.Counter[str]) -> str:
    return ", ".join(f"{kind} {count}" for kind, count in found.most_common())


def main() -> int:
    """Compare, print counts, and return 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=5000)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    found: collections.Counter[str] = collections.Counter()
    used: collections.Counter[str] = collections.Counter()
    for seed in range(given.first, given.first + given.models):
        rng = np.random.default_rng(seed)
        names = [str(n) for n in rng.choice(list(OPERATORS), rng.integers(1, DEEPEST + 1))]
        result = _compared(names, seed)
        kind = result.partition(":")[0]
        found[kind] += 1
        used.update(set(names))
        if kind not in ("right", "undecided"):
            print(f"seed {seed}: {' '.join(names)}: {result}", flush=True)
        if found.total() % EVERY == 0:
            print(_counted(found), flush=True)
    print(_counted(found))
    print(f"each operator in at least {min(used[name] for name in OPERATORS)} models")
    return int(found["wrong"] > 0)


if __name__ == "__main__":
    sys.exit(main())
