# SPDX-License-Identifier: Apache-2.0
"""Fits patterns to a model in one pass over samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pyrel.compiler.graph.evaluate import Evaluation
from pyrel.compiler.graph.nodes import Graph
from pyrel.compiler.graph.unit_blocks import blocks, outputs_of
from pyrel.files.foreign import parsing
from pyrel.files.tensors import read_tensors, write_tensors
from pyrel.methods.options import word
from pyrel.methods.pattern import PatternNet
from pyrel.patterns import estimators
from pyrel.patterns.layers import Layer, layers_of, resolved
from pyrel.patterns.moments import (
    Centred,
    Floats,
    Moments,
    largest_sizes,
    rounding_of_outputs,
)
from pyrel.patterns.patterns import FITTED, TWO_COMPONENT, LayerPatterns, Patterns

BATCH = 64


def fit(
    graph: Graph,
    x: Any,
    *,
    estimator: str = TWO_COMPONENT,
    expectation: str = "conditional",
    batch: int = BATCH,
) -> Patterns:
    """Fit the patterns of a model's linear layers (Kindermans et al. 2018).

    With y = wᵀx, without the bias: a = cov(x, y) / var(y), and a₊ = (E₊[xy] − E₊[x] E₊[y]) / (wᵀ of
    the same) over the rows with y > 0, a₋ over the others. Rows are samples, steps and positions of
    a kernel: one pattern serves all steps, over [x; h] where a node reads both. Gates get none.

    Parameters
    ----------
    graph : Graph
        Of `pyrel.capture`.
    x : ndarray or Tensor, shape (n, ...)
        Samples that the model was trained on, or as it will see.
    estimator : {"two_component", "linear"}
        What to fit: "two_component" gives a₊ and a₋ and with them a, "linear" a alone, which takes
        half of the memory (see `Fit.memory`).
    expectation : {"conditional", "overall"}
        "overall" puts E[y] in the place of E₊[y], as formula 5 of the paper has it.
    batch : int
        Samples at a time; the result does not depend on it but for rounding.

    Returns
    -------
    Patterns

    Raises
    ------
    ValueError
        There are no samples, of another shape than the model's, or with NaN or infinity.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x = torch.rand(500, 3)
    >>> pyrel.patterns.fit(pyrel.capture(model, x), x)
    Patterns(2 layers: 0 of 8 × 3, 2 of 2 × 8)
    """
    fitting = Fit(graph, estimator=estimator)
    for some in batches(x, batch):
        fitting.add(some)
    return fitting.patterns(expectation)


class Fit:
    """Patterns that are being fitted: takes batches, merges with others, is saved and loaded.

    Parameters
    ----------
    graph : Graph
    estimator : {"two_component", "linear"}
        As for `fit`.

    Examples
    --------
    >>> model = torch.nn.Linear(3, 2)
    >>> x = torch.rand(500, 3)
    >>> graph = pyrel.capture(model, x)
    >>> one, other = pyrel.patterns.Fit(graph), pyrel.patterns.Fit(graph)
    >>> one.add(x[:300])
    >>> other.add(x[300:])
    >>> one.merge(other)
    >>> one.samples, one.memory
    (500, 312)
    """

    def __init__(self, graph: Graph, *, estimator: str = TWO_COMPONENT) -> None:
        if graph.layout is not None:
            names = ", ".join(graph.layout.names)
            raise ValueError(f"graph: patterns are of models of one input; this takes {names}")
        self.estimator = word("estimator", estimator, *FITTED)
        self.samples = 0
        self._whole = True
        self._graph = resolved(graph, PatternNet())
        self._layers = layers_of(self._graph)
        self._fits = [_LayerFit(layer, self.estimator == TWO_COMPONENT) for layer in self._layers]

    @property
    def memory(self) -> int:
        """Bytes of the moments, which do not grow with the samples.

        For each layer of u units over i inputs about 32 · u · i with both components, 8 · u · i
        with the linear estimator alone: 3.3 GB, or 0.8 GB, for 4,096 units over 25,000 inputs.
        Beside them

        - `add`, `merge` and `patterns` take at most 32 MB for one block of units at a time (of a
          layer with more than 500,000 inputs eight numbers for each),
        - a batch takes 8 bytes for each value of the graph, and of one layer at a time 16 for each
          input and 24 for each output of each row,
        - what `patterns` returns takes 24 · u · i, or 8 · u · i,
        - `save` makes two copies of what it writes.

        The weights of the graph are there before, and those of a layer of which relevance reaches
        some units only, such as one with gates, are copied.
        """
        return sum(each.memory for each in self._fits)

    def add(self, x: Any) -> None:
        """Take a batch, all at once.

        Parameters
        ----------
        x : ndarray or Tensor, shape (n, ...)

        Raises
        ------
        ValueError
            There are no samples, of another shape than the model's, or with NaN or infinity.
        """
        values = evaluated(self._graph, x)
        with self._changing():
            for each in self._fits:
                each.add(each.layer.inputs(values))
            self.samples += len(values)

    def merge(self, other: Fit) -> None:
        """Take what another fit of the same model has seen.

        Raises
        ------
        ValueError
            It is of another model, or with another estimator.
        """
        self._check_alike(other.estimator, [each.name for each in other._fits])
        other._check_whole()
        with self._changing():
            for mine, others in zip(self._fits, other._fits, strict=True):
                mine.merge(others)
            self.samples += other.samples

    def patterns(self, expectation: str = "conditional") -> Patterns:
        """Return the patterns of what was seen so far.

        Parameters
        ----------
        expectation : {"conditional", "overall"}
            As for `fit`.

        Raises
        ------
        ValueError
            Nothing was seen.
        """
        word("expectation", expectation, *estimators.EXPECTATIONS)
        self._check_whole()
        if not self.samples:
            raise ValueError("x: patterns need samples, and there are none")
        return Patterns(tuple(each.patterns(expectation) for each in self._fits))

    def save(self, path: str | Path) -> None:
        """Write a checkpoint, from which `load` goes on.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        self._check_whole()
        arrays: dict[str, Floats] = {}
        for number, each in enumerate(self._fits):
            arrays |= {f"{number}.{name}": array for name, array in each.arrays().items()}
        content = {
            "samples": self.samples,
            "estimator": self.estimator,
            "layers": [each.name for each in self._fits],
        }
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        write_tensors(Path(path), "fit of patterns", tensors, content)

    @classmethod
    def load(cls, path: str | Path, graph: Graph) -> Fit:
        """Read a checkpoint of `save`; ``graph`` is that of the model.

        Raises
        ------
        OSError
            The file cannot be read.
        ValueError
            It is truncated, changed, or of another model.
        """
        tensors, content = read_tensors(Path(path), "fit of patterns")
        with parsing(Path(path), "is no checkpoint for this model ({error}); fit anew"):
            made = cls(graph, estimator=content["estimator"])
            made._check_alike(content["estimator"], content["layers"])
            made.samples = int(content["samples"])
            arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
            for number, each in enumerate(made._fits):
                each.take(arrays, f"{number}.")
        return made

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Change the moments in place; what is interrupted has taken a part of a batch."""
        self._check_whole()
        self._whole = False
        yield
        self._whole = True

    def _check_whole(self) -> None:
        if not self._whole:
            raise RuntimeError(
                "an add or merge of this fit was interrupted, and it has a part of that batch; "
                "load the last checkpoint, or fit anew"
            )

    def _check_alike(self, estimator: str, names: list[str]) -> None:
        if estimator != self.estimator:
            raise ValueError(f"one fit is {self.estimator}, the other {estimator}")
        if names != [each.name for each in self._fits]:
            raise ValueError("the layers or weights are others: it is a fit of another model")


class _LayerFit:
    """What was seen of one layer: of rows with y > 0 and of the others, or of all."""

    def __init__(self, layer: Layer, apart: bool) -> None:
        self.layer, self._apart = layer, apart
        units, inputs = layer.weight.shape
        self._moments = [
            Moments.nothing(units, inputs, apart=apart) for _ in range(2 if apart else 1)
        ]
        self._largest = np.zeros(inputs)
        self._rows = 0

    @property
    def name(self) -> str:
        """Module, width and a digest of the weights, as a text."""
        weights = blake2b(self.layer.columns.tobytes(), digest_size=16).hexdigest()
        return f"{self.layer.module} {self.layer.width} {weights}"

    @property
    def memory(self) -> int:
        arrays = [array for each in self._moments for array in each.arrays("").values()]
        return self._largest.nbytes + sum(array.nbytes for array in arrays)

    def add(self, x: Floats) -> None:
        """Take rows of inputs."""
        y = outputs_of(x, self.layer.weight)
        self._largest = np.maximum(self._largest, largest_sizes(x))
        self._rows += len(x)
        above = y > 0
        rows = (above, ~above) if self._apart else (None,)
        batch = Centred.of(x, y)
        del x, y
        for each, some in zip(self._moments, rows, strict=True):
            each.add(batch, some)

    def merge(self, other: _LayerFit) -> None:
        """Take what another has seen."""
        for mine, others in zip(self._moments, other._moments, strict=True):
            mine.merge(others)
        self._largest = np.maximum(self._largest, other._largest)
        self._rows += other._rows

    def patterns(self, expectation: str) -> LayerPatterns:
        """Return the patterns, for all outputs of the layer's nodes."""
        layer = self.layer
        shape = layer.width, layer.columns.size
        made = [
            estimators.Pattern(np.zeros(shape), np.zeros(layer.width, dtype=bool))
            for _ in range(3 if self._apart else 1)
        ]
        for units in blocks(*layer.weight.shape):
            # Put where the units are among all outputs; 0 where one does not read an input.
            at, read = layer.units[units], layer.connected[units]
            for pattern, found in zip(made, self._of_units(units, expectation), strict=True):
                pattern.values[at] = np.where(read, found.values, 0.0)
                pattern.known[at] = found.known
        plus, minus = made[1:] if self._apart else (None, None)
        before = np.zeros(layer.width, dtype=bool)
        before[layer.units] = layer.before_relu
        return LayerPatterns(
            layer.module, layer.columns, layer.units, before, self._rows, made[0], plus, minus
        )

    def _of_units(self, units: slice, expectation: str) -> Iterator[estimators.Pattern]:
        """Return the patterns of some units: a, then a₊ and a₋ where they are fitted."""
        weight = self.layer.weight[units]
        rounding = rounding_of_outputs(weight, self._largest)
        whole, *parts = (each.of_units(units) for each in self._moments)
        if parts:
            parts = [whole, *parts]
            whole = whole.copy()
            whole.merge(parts[1])
        yield estimators.linear(whole, rounding)
        for each in parts:
            yield estimators.of_one_sign(each, whole.mean_y, weight, rounding, expectation)

    def arrays(self) -> dict[str, Floats]:
        """Return what was seen, by name."""
        seen = {"largest": self._largest, "rows": np.array([float(self._rows)])}
        for number, each in enumerate(self._moments):
            seen |= each.arrays(f"{number}.")
        return seen

    def take(self, arrays: dict[str, Floats], prefix: str) -> None:
        """Go on from what `arrays` made."""
        found = [
            Moments.from_arrays(arrays, f"{prefix}{number}.")
            for number in range(len(self._moments))
        ]
        for mine, read in zip(self._moments, found, strict=True):
            for name, array in read.arrays("").items():
                if array.shape != mine.arrays("")[name].shape or array.dtype != np.float64:
                    raise ValueError(f"{name} of {self.layer.module!r} has shape {array.shape}")
        self._moments = found
        self._largest, self._rows = arrays[f"{prefix}largest"], int(arrays[f"{prefix}rows"][0])


def batches(x: Any, size: int) -> Iterator[npt.NDArray[Any]]:
    """Cut samples into batches.

    Raises
    ------
    ValueError
        ``size`` is below 1.
    """
    if size < 1:
        raise ValueError(f"batch: wanted 1 or more samples, got {size}")
    return (x[start : start + size] for start in range(0, len(x), size))


def evaluated(graph: Graph, x: Any) -> Floats:
    """Return the values of a graph for a batch, (n, addresses), in float64.

    Raises
    ------
    ValueError
        As of `Fit.add`.
    """
    array = np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x)
    if array.shape[1:] != graph.input_shape or not array.ndim:
        raise ValueError(f"x: wanted samples of shape {graph.input_shape}, got {array.shape}")
    if not len(array):
        raise ValueError("x: patterns need samples, and there are none")
    if not np.isfinite(array).all():
        raise ValueError("x: there is NaN or infinity among the samples")
    return Evaluation(graph, array).values
