# SPDX-License-Identifier: Apache-2.0
"""Models that are checked on a device, and cells with their right answers in float64."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

import pyrel
from pyrel.benchmark import noisy, reference
from pyrel.benchmark.cases import thesis_cell
from pyrel.benchmark.contestants import EPSILON, LINEAR
from pyrel.benchmark.gated import GRU, LSTM
from pyrel.benchmark.jobs import Job
from pyrel.benchmark.reference import RELATIVE, Reference
from pyrel.nn import Cell, ConvDeep, Deep

# One product of TF32 rounds to 11 bits instead of 24: to first order its errors are larger by that.
TF32_ERRORS = 2.0**13
_CANDIDATES = 4  # for each sample that is wanted
_LARGER = 5.0  # than the first weights of the cells of `pyrel.nn`
_KEPT = tempfile.TemporaryDirectory()  # of weights, until the process ends
_FOLDER = Path(_KEPT.name)


class Attention(nn.Module):
    """Self-attention over steps, a residual sum, a layer norm and the mean of the steps."""

    def __init__(self, features: int = 6, classes: int = 3) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(features, features) for _ in range(3))
        self.norm, self.out = nn.LayerNorm(features), nn.Linear(features, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of samples (n, steps, features)."""
        scores = self.query(x) @ self.key(x).transpose(1, 2) / x.shape[2] ** 0.5
        mixed = torch.softmax(scores, -1) @ self.value(x)
        result: Tensor = self.out(self.norm(x + mixed).mean(1))
        return result


class Images(nn.Module):
    """Two convolutions with a max pool between them, and a linear layer."""

    def __init__(self, maps: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, maps, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(maps, 2 * maps, 3), nn.ReLU(), nn.Flatten()),
        )
        self.out = nn.Linear(2 * maps * 2 * 2, 3)
        nn.init.constant_(self.out.bias, 1.0)  # scores above zero, which deep Taylor shares out

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores of images (n, 1, 8, 8)."""
        result: Tensor = self.out(self.body(x))
        return result


def strong(cell: Cell) -> Cell:
    """Enlarge the weights of a cell of few units, whose scores would be below zero."""
    with torch.no_grad():
        for parameter in cell.parameters():
            if parameter.ndim > 1:
                parameter *= _LARGER
    return cell


class Model(NamedTuple):
    """A model, the shape of its samples, which are in [0, 1), and methods for it."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    methods: tuple[str, ...]


_PROPAGATING = ("deep_taylor", "lrp_epsilon", "gradient_x_input", "guided_backprop")
_GATES = ("lrp_epsilon", "gradient", "gradient_x_input")
MODELS: dict[str, Model] = {
    "Deep": Model(lambda: strong(Deep(3, (9,), 4, (11, 13, 7))), (3, 9), _PROPAGATING),
    "ConvDeep": Model(
        lambda: strong(ConvDeep(2, (6, 5), 3, (2, 3, 7, 5))), (2, 6, 5), _PROPAGATING[:1]
    ),
    "LSTM": Model(lambda: LSTM(4, (5,), 3, (9, 9)), (4, 5), _GATES),
    "GRU": Model(lambda: GRU(4, (5,), 3, (9, 9)), (4, 5), _GATES),
    "images": Model(Images, (1, 8, 8), _PROPAGATING),
    "attention": Model(Attention, (4, 6), _GATES),
}


def made(make: Callable[[], nn.Module], seed: int = 0) -> Any:
    """Make a module with random weights of a seed, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


def samples(shape: tuple[int, ...], count: int, seed: int = 0) -> Any:
    """Return random samples in [0, 1), as an array."""
    return np.random.default_rng(seed).random((count, *shape), np.float32)


class Answered(NamedTuple):
    """A cell, a method, samples (n, steps, features) and their right answers."""

    cell: Cell
    job: Job
    x: Any
    reference: Reference

    def explainer(self, device: str = "cuda") -> Any:
        """Compile for a device."""
        given: Any = self.job.method
        if given == "lrp_epsilon":
            given = pyrel.methods.LrpEpsilon(EPSILON)
        shape = (self.cell.steps, *self.cell.step_shape)
        example, bounds = self.x[:1].reshape(1, *shape), {"low": 0.0, "high": 1.0}
        return pyrel.Explainer(self.cell, example, given, device=device, check=None, **bounds)

    def worst(self, relevance: Tensor, tf32: bool) -> tuple[float, float]:
        """Return the worst error of samples relative to ‖R‖, and in parts of what is allowed.

        Parameters
        ----------
        relevance : Tensor, shape (m, ...)
            Of the samples, over and over.
        tf32 : bool
            Whether products are of TF32, and not of float32 or of three TF32.
        """
        wanted = torch.from_numpy(self.reference.relevance).to(relevance.device).flatten(1)
        allowed = torch.from_numpy(self.reference.allowed).to(relevance.device)
        allowed = allowed * (TF32_ERRORS if tf32 else 1)
        worst, excess = 0.0, 0.0
        for part in relevance.flatten(1).split(len(wanted)):
            n = len(part)
            error = (part.double() - wanted[:n]).norm(dim=1)
            # A NaN is the largest error.
            worst = max(worst, _largest(error / wanted[:n].norm(dim=1)))
            excess = max(excess, _largest(error / allowed[:n]))
        return worst, excess


def _largest(values: Tensor) -> float:
    return float(values.nan_to_num(nan=torch.inf).max())


def answered(cell: Cell, method: str, count: int) -> Answered:
    """Find samples whose explanations float32 can decide, and explain them in float64."""
    weights = _FOLDER / f"{len(list(_FOLDER.iterdir()))}.safetensors"
    safetensors.torch.save_file(cell.state_dict(), weights)
    job = Job(cell.config(), weights, method, {})
    x = samples((cell.steps, cell.step_features), _CANDIDATES * count)
    if method == "gradient":
        found = _gradient(cell, x)
    elif job.config["cell"] in LINEAR:
        found = reference.explain(job.layers(), x, method)
    else:
        found = noisy.explain(job, x)
    kept = np.flatnonzero(found.decided)[:count]
    if len(kept) < count:
        raise ValueError(f"{job.config['cell']}, {method}: {len(kept)} samples are decided")
    wanted = Reference(found.relevance[kept], found.allowed[kept], found.decided[kept], found.zeros)
    return Answered(cell, job, x[kept], wanted)


def _gradient(cell: Cell, x: Any) -> Reference:
    """Return torch's gradients in float64; RELATIVE is for 50 nodes one after the other."""
    nodes = 4 * cell.steps * len(cell.sizes)
    wide = torch.from_numpy(x).double().requires_grad_()
    scores = copy.deepcopy(cell).double()(wide.reshape(len(x), cell.steps, *cell.step_shape))
    (found,) = torch.autograd.grad(scores.max(1).values.sum(), wide)
    norm = found.flatten(1).norm(dim=1)
    best = scores.detach().topk(2, 1).values
    decided = (best[:, 0] - best[:, 1]) > 1e-4 * scores.detach().abs().amax(1)
    allowed = RELATIVE * max(1.0, nodes / 50) * norm
    return Reference(found.numpy(), allowed.numpy(), decided.numpy(), {})


def full_cell(name: str, steps: int) -> Any:
    """Return a cell at the sizes of the benchmark."""
    return made(lambda: thesis_cell(name, steps))


def tiny_cell(name: str) -> Any:
    """Return a cell of two steps and few units."""
    makers: dict[str, Callable[[], Cell]] = {
        "Deep": lambda: Deep(2, (6,), 4, (8, 7, 6)),
        "ConvDeep": lambda: ConvDeep(2, (6, 5), 3, (2, 3, 7, 5)),
        "LSTM": lambda: LSTM(2, (5,), 3, (6, 6)),
        "GRU": lambda: GRU(2, (5,), 3, (6, 6)),
    }
    return made(lambda: strong(makers[name]()))
