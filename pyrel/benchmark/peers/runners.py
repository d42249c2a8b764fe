# SPDX-License-Identifier: Apache-2.0
"""Makers of runners: pyrel itself, and the explanations by hand."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pyrel.benchmark.contestants import EPSILON, GATED, LRP
from pyrel.benchmark.jobs import Job, Runner
from pyrel.benchmark.peers.by_hand import ByHand

if TYPE_CHECKING:
    from pyrel.benchmark.peers.conv_by_hand import ConvByHand
    from pyrel.benchmark.peers.gated_by_hand import GatedByHand
    from pyrel.benchmark.peers.with_torch import TorchLibrary

Array = npt.NDArray[Any]

_NUMPY_SLAB = 64  # samples: more of them leave the caches, and take longer each


def pyrel(job: Job) -> Runner:
    """Make the engine explain, as `pyrel.Explainer` does for everybody."""
    from pyrel import methods
    from pyrel.explainer import Explainer

    method: str | methods.Method = job.method
    if method in LRP:
        method = methods.LrpEpsilon(EPSILON)
    cell = job.cell()
    shape = (cell.steps, *cell.step_shape)
    explainer = Explainer(
        cell, np.zeros((1, *shape), np.float32), method, low=0.0, high=1.0, **job.options
    )
    return Runner(
        load=lambda x: x.reshape(-1, *shape),
        run=explainer,
        relevance=lambda e: e.relevance,
        versions={"pyrel": version("pyrel")},
    )


def numpy(job: Job) -> Runner:
    """Make NumPy explain by hand, large batches in parts that stay in the caches."""
    from pyrel.benchmark.peers.with_numpy import NumpyLibrary

    explain = ByHand(job.layers(), NumpyLibrary(), job.method)

    def run(x: Array) -> Array:
        if len(x) <= _NUMPY_SLAB:
            relevance: Array = explain(x)
            return relevance
        out = np.empty_like(x)
        for i in range(0, len(x), _NUMPY_SLAB):
            out[i : i + _NUMPY_SLAB] = explain(x[i : i + _NUMPY_SLAB])
        return out

    return Runner(np.ascontiguousarray, run, np.asarray, {"numpy": version("numpy")})


def torch(job: Job) -> Runner:
    """Make torch explain by hand; with the option ``compile``, through `torch.compile`."""
    import torch

    from pyrel.benchmark.peers.with_torch import TorchLibrary

    explain: Any = torch_by_hand(job, TorchLibrary())
    if job.options.get("compile"):
        torch.compiler.reset()
        explain = torch.compile(explain, dynamic=False)

    def run(x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            relevance: torch.Tensor = explain(x)
            return relevance

    return Runner(torch.from_numpy, run, lambda r: r.numpy(), {"torch": torch.__version__})


def torch_by_hand(job: Job, library: TorchLibrary) -> ByHand | ConvByHand | GatedByHand:
    """Return what explains the job's cell with torch's operations."""
    from pyrel.benchmark.peers.conv_by_hand import ConvByHand
    from pyrel.benchmark.peers.gated_by_hand import GatedByHand

    if job.config["cell"] in GATED:
        return GatedByHand(job.config, job.state(), library, EPSILON)
    if job.config["cell"] == "ConvDeep":
        return ConvByHand(job.config, job.state(), library)
    return ByHand(job.layers(), library, job.method)


def lstm_lrp(job: Job) -> Runner:
    """Make NumPy explain an LSTM or a GRU as published."""
    from pyrel.benchmark.peers.lstm_lrp import LstmLrp

    explain = LstmLrp(job.config, job.state(), EPSILON)
    return Runner(np.ascontiguousarray, explain, np.asarray, {"numpy": version("numpy")})


def jax(job: Job) -> Runner:
    """Make JAX explain by hand, compiled by `jax.jit`."""
    import jax

    from pyrel.benchmark.peers.with_jax import JaxLibrary

    explain = jax.jit(ByHand(job.layers(), JaxLibrary(), job.method).__call__)
    return Runner(
        load=jax.numpy.asarray,
        run=lambda x: explain(x).block_until_ready(),
        relevance=np.asarray,
        versions={name: version(name) for name in ("jax", "jaxlib")},
    )
