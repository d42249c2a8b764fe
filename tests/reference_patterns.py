# SPDX-License-Identifier: Apache-2.0
"""Patterns from the formulas of Kindermans et al. (2018), over all rows at once, in float64.

And what is propagated by them, by torch's autograd: a layer whose value is that of its weights, but
whose gradient is that of other matrices.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

Array = npt.NDArray[np.float64]
Model = Callable[["Layers", Tensor], Tensor]


def a(x: Array, w: Array) -> Array:
    """cov(x, y) / var(y) with y = wᵀx, unit by unit; (units, inputs)."""
    return np.stack([_covariance(x, x @ unit) / (np.var(x @ unit) or np.inf) for unit in w])


def of_sign(x: Array, w: Array, sign: int, overall: bool = False) -> Array:
    """a₊ (sign 1: rows with wᵀx > 0) or a₋ (−1: the others); zero where there are no rows.

    ``overall`` puts E[y] in the place of E₊[y].
    """
    found = []
    for unit in w:
        y = x @ unit
        rows = y > 0 if sign > 0 else y <= 0
        numerator = np.zeros(x.shape[1])
        if rows.sum() > 1:
            numerator = _covariance(x[rows], y[rows])
            if overall:
                numerator = (x * y[:, None])[rows].mean(axis=0) - x[rows].mean(axis=0) * y.mean()
        divisor = unit @ numerator
        found.append(numerator / divisor if divisor else numerator)
    return np.stack(found)


def _covariance(x: Array, y: Array) -> Array:
    return ((x - x.mean(axis=0)) * (y - y.mean())[:, None]).mean(axis=0)


def filters(w: Array) -> Array:
    """w / wᵀw."""
    return w / (w**2).sum(axis=1, keepdims=True)


def random(w: Array, seed: int) -> Array:
    """u / wᵀu, u normal, drawn by the seed and the bytes of the weights in float32."""
    contents = crc32(np.ascontiguousarray(w, np.float32).tobytes())
    u = np.random.default_rng([seed, contents]).standard_normal(w.shape)
    return u / (w * u).sum(axis=1, keepdims=True)


def quality(distractor: Array, y: Array, ridge: float) -> float:
    """1 − corr(vᵀd, y), v of least squares with ``ridge`` added to the covariance of d."""
    d, y = distractor - distractor.mean(axis=0), y - y.mean()
    covariance = d.T @ d / len(d) + ridge * np.eye(d.shape[1])
    found = d @ np.linalg.solve(covariance, d.T @ y / len(d))
    size = np.sqrt(np.mean(found**2) * np.mean(y**2))
    return float(1 - np.mean(found * y) / size) if size else 1.0


class Layers:
    """The linear layers of a model: they note what they read, and propagate by ``matrices``.

    Without these and with ``share`` they hand on x_j w_kj / y_k; with ``rounded`` its size, and in
    the layer that runs as the ``rounded``-th how much rounding may change that, relative to ε.
    """

    def __init__(
        self,
        matrices: Mapping[str, Array] | None = None,
        share: bool = False,
        rounded: int | None = None,
    ) -> None:
        self.matrices, self.share, self.rounded = matrices, share, rounded
        self.runs = 0
        self.read: dict[str, list[Array]] = defaultdict(list)
        self.weights: dict[str, Array] = {}
        self.kernels: dict[str, int] = {}  # elements of a kernel in each channel
        self.nearest = torch.tensor(np.inf)  # |z| of each sample, the smallest

    def dense(self, name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return W x + b of rows (n, ..., inputs)."""
        self.read[name].append(x.detach().reshape(-1, x.shape[-1]).numpy())
        self.weights[name] = weight.detach().numpy()
        z = x @ weight.T + bias
        sizes = z.detach().abs().reshape(len(z), -1).min(dim=1).values
        self.nearest = torch.minimum(self.nearest, sizes)
        if self.matrices is None and not self.share:
            return z
        if self.matrices is not None:
            other = x @ torch.from_numpy(self.matrices[name]).T
        else:
            other = self._shared(x, weight.detach())
        return z.detach() + other - other.detach()

    def _shared(self, x: Tensor, weight: Tensor) -> Tensor:
        """x · (x_j w_kj / y_k), y = W x stabilised by 1e-6."""
        values = x.detach()
        y = values @ weight.T
        y += 1e-6 * torch.where(y < 0, -1.0, 1.0)
        self.runs += 1
        if self.rounded is None:
            return (x * values) @ weight.T / y
        if self.runs - 1 != self.rounded:
            return (x * values.abs()) @ weight.abs().T / y.abs()
        # Inputs lie in [−1, 1] and are off by some ε: by as much times |w_kj| / |y_k| the share is
        # off, and by |x_j w_kj| / y_k² times what y is off, which is Σ |w_k| times as much.
        of_y = (x * values.abs()) @ weight.abs().T * weight.abs().sum(dim=1) / y**2
        return x @ weight.abs().T / y.abs() + of_y

    def convolution(self, name: str, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Convolve with as much padding as keeps height and width; rows are positions."""
        kernel = weight.shape[-1]
        self.kernels[name] = kernel**2
        rows = F.unfold(x, kernel, padding=kernel // 2).transpose(1, 2)
        z = self.dense(name, rows, weight.flatten(1), bias)
        return z.transpose(1, 2).reshape(len(x), -1, *x.shape[2:])

    def rows(self, name: str) -> Array:
        """All that a layer has read, (rows, inputs)."""
        return np.concatenate(self.read[name])


def hooked(cell: nn.Module) -> Model:
    """Make a model of a cell whose layers are modules with ``weight`` and ``bias``."""

    def run(layers: Layers, x: Tensor) -> Tensor:
        def replace(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
            def hook(module: Any, inputs: tuple[Tensor], _: Tensor) -> Tensor:
                plain = isinstance(module, nn.Linear | nn.Conv2d)
                bias = module.bias if plain else -F.softplus(module.bias.float()).double()
                layer = layers.dense if module.weight.dim() == 2 else layers.convolution
                return layer(name, inputs[0], module.weight, bias)

            return hook

        handles = [
            module.register_forward_hook(replace(name))
            for name, module in cell.named_modules()
            if hasattr(module, "weight")
        ]
        try:
            result: Tensor = cell(x)
        finally:
            for handle in handles:
                handle.remove()
        return result

    return run


def propagated(model: Model, x: Tensor, targets: Tensor, layers: Layers) -> tuple[Array, Array]:
    """Return what ``layers`` make of an output of 1; and each sample's smallest |z|."""
    x = x.clone().requires_grad_()
    model(layers, x).gather(1, targets[:, None]).sum().backward()
    assert x.grad is not None
    return x.grad.numpy(), layers.nearest.numpy()
