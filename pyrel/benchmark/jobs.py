# SPDX-License-Identifier: Apache-2.0
"""The job of a worker process: the model and method to explain, and the function that does it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from pyrel.benchmark.layers import Layers, layers_of

if TYPE_CHECKING:
    from pyrel.nn import Cell

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Job:
    """A cell and a method.

    Attributes
    ----------
    config : mapping
        As `pyrel.nn.Cell.config` gives it.
    weights : path
        The cell's state, as safetensors.
    method : str
    options : mapping
        Of the contestant.
    """

    config: Mapping[str, Any]
    weights: Path
    method: str
    options: Mapping[str, Any]

    def layers(self) -> Layers:
        """Return the cell as matrices; torch is not imported."""
        return layers_of(self.config, self.state())

    def state(self) -> dict[str, Array]:
        """Return the cell's state as NumPy arrays."""
        return safetensors.numpy.load_file(self.weights)

    def cell(self) -> Cell:
        """Return the cell as a module in eval mode."""
        import safetensors.torch

        from pyrel.benchmark.gated import build

        cell = build(self.config)
        cell.load_state_dict(safetensors.torch.load_file(self.weights))
        return cell.eval()


@dataclass(frozen=True)
class Runner:
    """A contestant that is ready to explain.

    Attributes
    ----------
    load
        NumPy samples (n, steps, pixels) to the array that `run` takes; not timed.
    run
        Explains a batch. What it returns is there, not still being computed.
    relevance
        What `run` returned to NumPy, of any shape with n first; not timed.
    versions
        Of the packages that did the work.
    """

    load: Callable[[Array], Any]
    run: Callable[[Any], Any]
    relevance: Callable[[Any], Array]
    versions: Mapping[str, str]


def make_runner(maker: str, job: Job) -> Runner:
    """Call a maker, named as ``module:function``."""
    module, _, function = maker.partition(":")
    runner: Runner = getattr(importlib.import_module(module), function)(job)
    return runner


def as_rows(values: Array) -> npt.NDArray[np.float64]:
    """Return (n, everything else) in float64."""
    return values.reshape(len(values), -1).astype(np.float64)
