# SPDX-License-Identifier: Apache-2.0
"""Patterns of the layers of a model: found by module and weights, saved and loaded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pyrel.compiler.passes.whole_layers import Digests, digests, place_of
from pyrel.files.foreign import parsing
from pyrel.files.tensors import read_tensors, write_tensors
from pyrel.patterns.estimators import Pattern
from pyrel.patterns.moments import Floats, Mask

LINEAR, TWO_COMPONENT = "linear", "two_component"
FITTED = (LINEAR, TWO_COMPONENT)
_PATTERNS = ("a", "plus", "minus")


@dataclass(frozen=True, eq=False)
class LayerPatterns:
    """Patterns of one layer.

    Those of units that no relevance reaches, such as gates, are zero, as are those of units whose
    output does not vary.

    Attributes
    ----------
    module : str
        Path of the module.
    columns : ndarray of int64, shape (inputs,)
        Digests of the columns of the weights.
    units : ndarray of int64, shape (units,)
        The outputs that relevance reaches.
    before_relu : ndarray of bool, shape (width,)
        Whether only a ReLU reads a unit.
    rows : int
        How many rows were seen: samples times steps times positions.
    a, plus, minus : Pattern or None
        Of all rows, of those with wᵀx > 0, and of the others; arrays (width, inputs) and (width,).
        The last two are None where only the linear estimator was fitted.
    """

    module: str
    columns: Digests
    units: Digests
    before_relu: Mask
    rows: int
    a: Pattern
    plus: Pattern | None
    minus: Pattern | None

    @property
    def without(self) -> int:
        """How many of the units that relevance reaches have no pattern a."""
        return int((~self.a.known[self.units]).sum())

    def direction(self, estimator: str) -> Floats:
        """Return the patterns that relevance goes back by, (width, inputs).

        Those of the linear estimator are a; of the two-component one a₊ before a ReLU, a elsewhere.
        """
        if estimator == LINEAR:
            return self.a.values
        if self.plus is None:
            raise ValueError(
                f"estimator: only the linear one was fitted, and {estimator!r} was asked for; fit "
                'with estimator="two_component", which gives both'
            )
        return np.where(self.before_relu[:, None], self.plus.values, self.a.values)


class Patterns:
    """The patterns of the layers of a model, of `pyrel.patterns.fit`.

    Parameters
    ----------
    layers : iterable of LayerPatterns
        In the order of the model.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x = torch.rand(500, 3)
    >>> patterns = pyrel.patterns.fit(pyrel.capture(model, x), x)
    >>> patterns
    Patterns(2 layers: 0 of 8 × 3, 2 of 2 × 8)
    >>> e = pyrel.explain(model, x, "pattern_attribution", patterns=patterns)
    """

    def __init__(self, layers: Iterator[LayerPatterns] | tuple[LayerPatterns, ...]) -> None:
        self.layers = tuple(layers)

    def __repr__(self) -> str:
        """Show the layers by module and size, and how many units have no pattern."""
        shown = [f"{each.module} of {' × '.join(map(str, _shape(each)))}" for each in self.layers]
        without = sum(each.without for each in self.layers)
        end = f"; {without} units without" if without else ""
        return f"Patterns({len(shown)} layers: {', '.join(shown)}{end})"

    def direction(self, module: str, weight: Floats, estimator: str) -> Floats | None:
        """Return the patterns of a linear node, of the shape of its weights; None for no such node.

        Parameters
        ----------
        module : str
            Of the node.
        weight : ndarray, shape (width, inputs)
            All of a layer's weights, or some columns of them, side by side.
        estimator : {"linear", "two_component"}
        """
        columns, width = digests(weight), len(weight)
        alike = [each for each in self.layers if (each.module, _shape(each)[0]) == (module, width)]
        for layer in sorted(alike, key=lambda each: each.columns.size):
            place = place_of(columns, layer.columns)
            if place is not None:
                return layer.direction(estimator)[:, place : place + columns.size]
        return None

    def save(self, path: str | Path) -> None:
        """Write a safetensors file.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        tensors: dict[str, torch.Tensor] = {}
        for number, layer in enumerate(self.layers):
            arrays = {name: getattr(layer, name) for name in ("columns", "units", "before_relu")}
            for name in _PATTERNS:
                pattern = getattr(layer, name)
                if pattern is not None:
                    arrays |= {f"{name}.values": pattern.values, f"{name}.known": pattern.known}
            tensors |= {f"{number}.{n}": torch.from_numpy(a.copy()) for n, a in arrays.items()}
        listed = [{"module": layer.module, "rows": layer.rows} for layer in self.layers]
        write_tensors(Path(path), "set of patterns", tensors, {"layers": listed})

    @classmethod
    def load(cls, path: str | Path) -> Patterns:
        """Read a file of `save`.

        Raises
        ------
        OSError
            The file cannot be read.
        ValueError
            It is truncated, changed, or holds something else.
        """
        tensors, content = read_tensors(Path(path), "set of patterns")
        with parsing(Path(path), "holds no patterns that this pyrel reads ({error}); fit anew"):
            layers = []
            for number, listed in enumerate(content["layers"]):
                prefix = f"{number}."
                arrays = {
                    name.removeprefix(prefix): tensor.numpy()
                    for name, tensor in tensors.items()
                    if name.startswith(prefix)
                }
                layers.append(_layer(listed["module"], listed["rows"], arrays))
            return cls(tuple(layers))


def _layer(module: str, rows: int, arrays: dict[str, np.ndarray]) -> LayerPatterns:
    found = {
        name: Pattern(arrays[f"{name}.values"], arrays[f"{name}.known"])
        for name in _PATTERNS
        if f"{name}.values" in arrays
    }
    columns, before = arrays["columns"], arrays["before_relu"]
    for pattern in found.values():
        if (
            pattern.values.shape != (before.size, columns.size)
            or pattern.known.shape != before.shape
        ):
            raise ValueError(f"the patterns of {module!r} have shape {pattern.values.shape}")
    plus, minus = found.get("plus"), found.get("minus")
    return LayerPatterns(module, columns, arrays["units"], before, rows, found["a"], plus, minus)


def _shape(layer: LayerPatterns) -> tuple[int, int]:
    return layer.before_relu.size, layer.columns.size
