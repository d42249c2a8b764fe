# SPDX-License-Identifier: Apache-2.0
"""The two inputs on which a compiled program is compared with its model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.layout import Kind
from pyrel.engine.arrays import Float32s
from pyrel.engine.inputs import Inputs
from pyrel.engine.several import SeveralInputs

SAMPLES = 2  # of each input
_POOL = 16  # samples of the example, the elements of which are moved
_UNBOUNDED = 1.0  # the size of values that are drawn where nothing bounds them

Generator = np.random.Generator


def check_inputs(
    example: Any,
    inputs: Inputs,
    steps: int,
    samples: int = SAMPLES,
    padding: int | None = None,
) -> tuple[Float32s, Float32s]:
    """Make two batches of a few samples that an explainer takes.

    The first holds samples of the example, as they are where they are legal. The second holds the
    example's elements, moved between samples and positions: inside the bounds of each element. An
    example that holds one value only, or none, shows little, and so random values stand in for it
    in the second batch. Where the model tells a token id from others, its sequences are padded with
    that: the first has none, and the others are shorter and shorter.

    Parameters
    ----------
    example : ndarray or Tensor, shape (n, ...), or None
    inputs : Inputs
        What the explainer takes.
    steps : int
        Number of steps of the second batch.
    samples : int
        How many samples each batch has.
    padding : int, optional
        The token id.

    Returns
    -------
    tuple of two float32 arrays, shape (samples, *sample shape)
    """
    if isinstance(inputs, SeveralInputs):
        return _of_several(example, inputs, steps, samples, padding)
    return _of_one(example, inputs, steps, samples, padding, np.random.default_rng(0))


def _of_several(
    example: Any, inputs: SeveralInputs, steps: int, samples: int, padding: int | None
) -> tuple[Float32s, Float32s]:
    """Make rows of several inputs."""
    leaves = inputs.layout.leaves
    given = [None] * len(leaves) if example is None else inputs.layout.taken(example)
    found = []
    for number, (leaf, part, each) in enumerate(zip(leaves, inputs.parts, given, strict=True)):
        own = steps if part.any_steps else part.steps
        padded = None if leaf.elements == Kind.floats else padding
        random = np.random.default_rng(number)
        pair = _of_one(each, part, own, samples, padded, random)
        if leaf.elements == Kind.masks:
            pair = pair[0], _of_both(pair[1])
        found.append([one.reshape(samples, -1) for one in pair])
    first, second = (np.concatenate(parts, axis=1) for parts in zip(*found, strict=True))
    return first, second


def _of_both(masks: Float32s) -> Float32s:
    """Let no row be of one value: a model may have no result where all is masked."""
    if masks.ndim > 1 and masks.shape[-1] > 1:
        alike = (masks == masks[..., :1]).all(axis=-1)
        masks[..., 0] = np.where(alike, 1 - masks[..., 0], masks[..., 0])
    return masks


def _of_one(
    example: Any,
    inputs: Inputs,
    steps: int,
    samples: int,
    padding: int | None,
    random: Generator,
) -> tuple[Float32s, Float32s]:
    given = _numbers(example)
    first = _filled(given, inputs, samples, random)
    shape = (samples, *inputs.of_steps(steps))
    elements = given[np.isfinite(given)]
    if elements.size == 0 or (elements == elements[0]).all():
        moved = _drawn(inputs, steps, shape, random)
    else:
        moved = _moved(elements, int(np.prod(shape)), random).reshape(shape)
    second = _within(moved, inputs, steps)
    return first, second if padding is None else _padded(second, padding, inputs, steps)


def _numbers(example: Any) -> npt.NDArray[np.float64]:
    """Return the first samples of the example in float64; none where there is no example."""
    if example is None:
        return np.zeros(0)
    example = example[:_POOL]
    if not isinstance(example, np.ndarray):
        example = example.detach().cpu()
        example = (example.double() if example.is_floating_point() else example).numpy()
    return np.asarray(example, np.float64)


def _filled(
    given: npt.NDArray[np.float64], inputs: Inputs, samples: int, random: Generator
) -> Float32s:
    """Take samples of the example, and make those that it lacks of the elements that it has."""
    shape = inputs.of_steps(inputs.steps)
    few = given[:samples] if given.shape[1:] == shape else given[:0]
    batch = np.zeros((samples, *shape))
    if len(few):
        batch[: len(few)] = few
        for row in range(len(few), samples):
            batch[row] = random.permutation(few[0].reshape(-1)).reshape(shape)
    else:
        batch[:] = _drawn(inputs, inputs.steps, batch.shape, random)
    return _within(np.where(np.isfinite(batch), batch, 0.0), inputs, inputs.steps)


def _moved(
    elements: npt.NDArray[np.float64], size: int, random: Generator
) -> npt.NDArray[np.float64]:
    """Lay ``size`` elements in another order; each comes again only after all have come."""
    if elements.size > size:
        elements = random.choice(elements, size, replace=False)
    return np.resize(random.permutation(elements), size)


def _within(batch: npt.NDArray[np.float64], inputs: Inputs, steps: int) -> Float32s:
    """Take values into the bounds of their elements: the nearest, or for token ids the rest."""
    bounds = inputs.bounds(steps)
    values = batch.astype(np.float32)
    if bounds is None:
        return np.where(np.isfinite(values), values, np.float32(0))
    low, high = (bound.reshape(batch.shape[1:]) for bound in bounds)
    if inputs.vocabulary:
        legal = (values >= low) & (values <= high)
        return np.where(legal, values, low + np.mod(values - low, high - low + 1))
    return np.clip(values, low, high)


def _padded(batch: Float32s, padding: int, inputs: Inputs, steps: int) -> Float32s:
    """Put padding at the ends of sequences, of several lengths, and other ids before."""
    bounds = inputs.bounds(steps)
    if bounds is None or batch.ndim < 2:
        return batch
    low, high = (np.broadcast_to(bound.reshape(batch.shape[1:]), batch.shape) for bound in bounds)
    ends = -(-batch.shape[1] * np.arange(len(batch), 0, -1) // len(batch))
    within = np.arange(batch.shape[1]) < ends[:, None]
    within = within.reshape(*within.shape, *[1] * (batch.ndim - 2))
    other = np.where(batch < high, batch + 1, low)
    kept = np.where(batch == padding, other, batch)
    return np.where(within | (padding > high), kept, np.float32(padding))


def _drawn(
    inputs: Inputs, steps: int, shape: tuple[int, ...], random: Generator
) -> npt.NDArray[np.float64]:
    """Draw values evenly between the bounds, between -1 and 1 where there are none."""
    bounds = inputs.bounds(steps)
    if bounds is None:
        return random.uniform(-_UNBOUNDED, _UNBOUNDED, shape)
    low, high = (bound.reshape(shape[1:]).astype(np.float64) for bound in bounds)
    if inputs.vocabulary:
        return np.floor(low + random.random(shape) * (high - low + 1)).clip(low, high)
    low = np.where(np.isfinite(low), low, np.minimum(high, 0) - _UNBOUNDED)
    high = np.where(np.isfinite(high), high, np.maximum(low, 0) + _UNBOUNDED)
    return random.uniform(low, high, shape)
