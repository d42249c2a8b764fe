# SPDX-License-Identifier: Apache-2.0
"""What a file says of an explainer's inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pyrel.compiler.graph.layout import Kind, Layout, Leaf
from pyrel.compiler.limits import LARGEST_EXACT
from pyrel.compiler.program.file_limits import Limits
from pyrel.compiler.program.tensors import Arrays, take
from pyrel.engine import arrays
from pyrel.engine.arrays import Float32s, Int64s
from pyrel.engine.inputs import RAISE, Inputs
from pyrel.engine.several import Part, SeveralInputs, check_names, part_of, several
from pyrel.files.foreign import shown


@dataclass(frozen=True, kw_only=True)
class StoredInputs:
    """All of inputs but their bounds; of several, ``inputs``, the names of those ``constant``."""

    input_shape: tuple[int, ...]
    check_finite: bool
    vocabulary: int = 0
    any_steps: bool = False
    lengths: bool = False
    out_of_range: str = RAISE
    inputs: tuple[Leaf, ...] = ()
    constant: tuple[str, ...] = ()


def stored_inputs(inputs: Inputs) -> tuple[StoredInputs, Arrays]:
    """Return what a file says of inputs, and their bounds."""
    low, high, vocabularies = inputs.low, inputs.high, inputs.vocabularies
    leaves: tuple[Leaf, ...] = ()
    constant: tuple[str, ...] = ()
    if isinstance(inputs, SeveralInputs):
        leaves, constant = inputs.layout.leaves, inputs.constant
        low, high, vocabularies = _side_by_side(inputs)
    stored = StoredInputs(
        input_shape=inputs.shape,
        check_finite=inputs.check_finite,
        vocabulary=inputs.vocabulary,
        any_steps=inputs.any_steps,
        lengths=inputs.lengths,
        out_of_range=inputs.out_of_range,
        inputs=leaves,
        constant=constant,
    )
    found = {"low": low, "high": high, "vocabulary": vocabularies}
    return stored, {name: each.reshape(-1) for name, each in found.items() if each is not None}


def _side_by_side(
    inputs: SeveralInputs,
) -> tuple[Float32s | None, Float32s | None, Int64s | None]:
    """Return the bounds of several inputs: infinite, and 0 ids, where there are none."""
    lows, highs, counts = [], [], []
    for leaf, part in zip(inputs.layout.leaves, inputs.parts, strict=True):
        size = math.prod(leaf.shape)
        lows.append(np.full(size, -np.inf) if part.low is None else part.low.reshape(-1))
        highs.append(np.full(size, np.inf) if part.high is None else part.high.reshape(-1))
        own = np.full(size, part.vocabulary)
        counts.append(own if part.vocabularies is None else part.vocabularies.reshape(-1))
    low, high = (np.concatenate(each).astype(np.float32) for each in (lows, highs))
    known = any(part.low is not None for part in inputs.parts)
    bounds = (low, high) if known else (None, None)
    return *bounds, np.concatenate(counts) if inputs.vocabulary else None


def read_inputs(stored: StoredInputs, left: dict[str, Tensor], limits: Limits) -> Inputs:
    """Make inputs of what a file says, and take their bounds from its tensors.

    Raises
    ------
    ValueError
        If that makes no sense.
    """
    if min(stored.input_shape, default=1) < 1:
        raise ValueError(f"samples of shape {stored.input_shape} do not fit its program")
    limits.check_shape("inputs", stored.input_shape, "elements of an input")
    if not 0 <= stored.vocabulary <= LARGEST_EXACT:
        raise ValueError(f"it has a vocabulary of {stored.vocabulary}")
    bounds = [take(left, n, torch.float32, 1) for n in ("low", "high") if n in left]
    vocabularies = _vocabularies(left, stored)
    shape = stored.input_shape
    if bounds and (len(bounds) != 2 or any(each.size != math.prod(shape) for each in bounds)):
        raise ValueError("low and high must both have one value for each input element")
    low, high = (each.reshape(shape) for each in bounds) if bounds else (None, None)
    if stored.inputs:
        inputs: Inputs = _several(stored, low, high, vocabularies, limits)
    else:
        low, high = arrays.bounds(low, high, shape) or (None, None)
        inputs = Inputs(
            *(shape, low, high, stored.vocabulary, stored.any_steps, stored.lengths),
            stored.check_finite,
            vocabularies=vocabularies,
            out_of_range=stored.out_of_range,
        )
    inputs.check_out_of_range()
    return inputs


def _several(
    stored: StoredInputs,
    low: Float32s | None,
    high: Float32s | None,
    vocabularies: Int64s | None,
    limits: Limits,
) -> SeveralInputs:
    layout = _layout(stored, limits)
    if stored.input_shape != (layout.size,):
        raise ValueError(f"samples of shape {stored.input_shape} do not fit its inputs")
    check_names("it has constant inputs", stored.constant, layout)
    own = np.zeros(layout.size, np.int64) if vocabularies is None else vocabularies
    parts = [*_parts(layout, own)]
    ends: tuple[dict[str, Float32s] | None, ...] = (None, None)
    if low is not None and high is not None:
        pairs = zip(layout.split(low), layout.split(high), strict=True)
        found = dict(zip(layout.names, pairs, strict=True))
        bounded = [n for n, (a, b) in found.items() if not (np.isneginf(a) & np.isposinf(b)).all()]
        ends = tuple({name: found[name][end] for name in bounded} for end in (0, 1))
    return several(
        layout,
        parts,
        ends[0] or None,
        ends[1] or None,
        stored.constant,
        any_steps=stored.any_steps,
        lengths=stored.lengths,
        check_finite=stored.check_finite,
        out_of_range=stored.out_of_range,
    )


def _layout(stored: StoredInputs, limits: Limits) -> Layout:
    """Return the layout of several inputs; ValueError if it makes no sense."""
    leaves = stored.inputs
    for leaf in leaves:
        limits.check_shape("inputs", leaf.shape, "elements of an input")
        if not leaf.name.isprintable() or not leaf.path:
            raise ValueError(f"it has an input {shown(leaf.name, 60)}")
    paths = {leaf.path for leaf in leaves}
    named = len({leaf.name for leaf in leaves}) == len(leaves) == len(paths)
    within = any(path[:n] in paths for path in paths for n in range(len(path)))
    kinds: dict[tuple[int | str, ...], set[type]] = {}
    for path in paths:
        for n, key in enumerate(path):
            kinds.setdefault(path[:n], set()).add(type(key))
    mixed = any(len(each) > 1 for each in kinds.values())
    if not named or within or mixed or any(min(leaf.shape, default=1) < 1 for leaf in leaves):
        raise ValueError(f"it has inputs {shown([leaf.name for leaf in leaves], 60)}")
    steps = {leaf.shape[:1] for leaf in leaves if leaf.steps}
    if len(steps) > 1 or () in steps or (steps and not leaves[0].steps):
        raise ValueError("its inputs have no one number of steps")
    if stored.any_steps and not steps:
        raise ValueError("its inputs have no steps")
    return Layout(leaves)


def _parts(layout: Layout, own: Int64s) -> Iterator[Part]:
    for leaf, counts in zip(layout.leaves, layout.split(own), strict=True):
        most = int(counts.max())
        wanted = {Kind.floats: most == 0, Kind.masks: bool((counts == 2).all())}
        if not wanted.get(leaf.elements, True):
            raise ValueError("its vocabularies do not fit its inputs")
        if leaf.steps and (counts != counts[:1]).any():
            raise ValueError("its vocabularies differ from step to step")
        yield part_of(leaf, counts)


def _vocabularies(left: dict[str, Tensor], stored: StoredInputs) -> Int64s | None:
    """Take the bounds of token ids by element, if there are such."""
    if "vocabulary" not in left:
        return None
    own = take(left, "vocabulary", torch.int64, 1)
    whole = own.size == math.prod(stored.input_shape) > 0
    if not whole or own.min() < 0 or own.max() != stored.vocabulary:
        raise ValueError("its vocabularies do not fit its input")
    if not own.any():
        raise ValueError("it has vocabularies for an input of floats")
    own = own.reshape(stored.input_shape)
    if stored.any_steps and not stored.inputs and (own != own[:1]).any():
        raise ValueError("its vocabularies differ from step to step")
    return own
