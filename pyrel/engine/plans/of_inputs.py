# SPDX-License-Identifier: Apache-2.0
"""Options of methods as rows of several inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.layout import Kind
from pyrel.engine.inputs import Inputs
from pyrel.engine.plans.copies import broadcast
from pyrel.engine.plans.ids import checked_ids
from pyrel.engine.several import SeveralInputs, check_names

Mask = npt.NDArray[np.bool_]


def option_of(name: str, given: Any, inputs: Inputs, steps: int) -> npt.NDArray[Any]:
    """Return an option of a method in the shape of a sample; zeros where it says nothing.

    Raises
    ------
    ValueError
        If it does not fit the input, or one of several.
    """
    shape = inputs.of_steps(steps)
    if not isinstance(inputs, SeveralInputs):
        if isinstance(given, Mapping):
            raise ValueError(f"{name}: wanted a number or an array; the model has one input")
        return broadcast(name, np.zeros(()) if given is None else given, shape)
    layout = inputs.layout_at(steps)
    if not isinstance(given, Mapping):
        if given is not None and given.size > 1:
            raise ValueError(
                f"{name}: wanted one number, or a dictionary by the names of the inputs, "
                f"{', '.join(layout.names)}; got shape {given.shape}"
            )
        number = 0.0 if given is None else given.reshape(())
        return np.where(layout.is_float, np.float32(number), np.float32(0))
    check_names(name, list(given), layout)
    parts = []
    for leaf, part in zip(layout.leaves, inputs.parts, strict=True):
        own = given.get(leaf.name, np.zeros((), np.int64))
        if leaf.elements == Kind.ids and leaf.name in given:
            own = checked_ids(own, part, leaf.shape)
        else:
            own = broadcast(f"{name}: {leaf.name}", own, leaf.shape)
        parts.append(own.reshape(-1).astype(np.float32))
    return np.concatenate(parts)


def held_of(inputs: Inputs, steps: int, *kinds: Kind) -> Mask | None:
    """Mark the elements of a row that copies leave as they are; None if there are none."""
    if not isinstance(inputs, SeveralInputs):
        return None
    held = inputs.is_held(steps, kinds)
    return held if held.any() else None


def slices_of(inputs: Inputs, steps: int) -> tuple[slice, ...]:
    """Return where each of several inputs lies in a row; of one input, all elements."""
    if not isinstance(inputs, SeveralInputs):
        return (slice(None),)
    return inputs.layout_at(steps).slices
