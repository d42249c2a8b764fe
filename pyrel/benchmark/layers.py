# SPDX-License-Identifier: Apache-2.0
"""A cell as plain matrices, which peers of every array library start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer: ``a @ weight + bias``, weight of shape (inputs, outputs)."""

    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Layers:
    """The layers of a cell of `pyrel.nn`.

    Attributes
    ----------
    steps : int
        Length of a sequence.
    encoders
        Applied to every step, one after the other; none in the Shallow cell.
    cell
        Reads the encoded step and the recurrent input, in this order.
    feedback
        Makes the next recurrent input of the state; None where there is one step only.
    readers
        Applied to the last state, one after the other; the last has no ReLU.
    """

    steps: int
    encoders: tuple[Layer, ...]
    cell: Layer
    feedback: Layer | None
    readers: tuple[Layer, ...]

    @property
    def recurrent(self) -> int:
        """Width of the recurrent input."""
        return 0 if self.feedback is None else self.feedback.bias.size

    @property
    def encoded(self) -> int:
        """Width of an encoded step."""
        return int(self.cell.weight.shape[0]) - self.recurrent

    @property
    def pixels(self) -> int:
        """Input elements of one step."""
        return self.encoders[0].weight.shape[0] if self.encoders else self.encoded

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return sum(layer.weight.size + layer.bias.size for layer in self.all())

    def all(self) -> tuple[Layer, ...]:
        """Return every layer."""
        feedback = () if self.feedback is None else (self.feedback,)
        return (*self.encoders, self.cell, *feedback, *self.readers)


def softplus_bias(parameter: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the bias that a cell's parameter b stands for: −softplus(b)."""
    bias: npt.NDArray[np.float64] = -np.logaddexp(0.0, parameter.astype(np.float64))
    return bias


def layers_of(config: Mapping[str, Any], state: Mapping[str, npt.NDArray[Any]]) -> Layers:
    """Return the layers of a cell from ``cell.config()`` and its state as NumPy arrays."""

    def layer(name: str) -> Layer:
        weight = np.ascontiguousarray(state[f"{name}.weight"].T, np.float32)
        return Layer(weight, softplus_bias(state[f"{name}.bias"]))

    def present(*names: str) -> tuple[Layer, ...]:
        return tuple(layer(name) for name in names if f"{name}.weight" in state)

    return Layers(
        steps=config["steps"],
        encoders=present("encoder", "encoder_2"),
        cell=layer("cell"),
        feedback=next(iter(present("feedback")), None),
        readers=present("decision", "output"),
    )
