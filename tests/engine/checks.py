# SPDX-License-Identifier: Apache-2.0
"""What agreement with the reference means, sample by sample."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from reference import CONSERVING, GRADIENTS, Reference
from reference_graph import Array
from torch import nn

import pyrel
from pyrel.compiler.capture import capture as captures
from pyrel.engine.prepare import Captured

Floats = npt.NDArray[np.floating[Any]]
Targets = npt.NDArray[np.int64]

# The accuracy that the project promises: 80 eps of float32, for up to 50 linear nodes in a row.
RELATIVE = 1e-5

# Here the reference has one node for what pyrel measures apart: a layer applied to all steps at
# once, the groups of a convolution, the rows of a layer norm. So its sums are larger, or equal.
COARSE = (
    *("EncodedAtOnce", "FoldedBatch", "StepStatistics", "TokenBag"),
    *("conv2d-groups", "conv1d-strided-padding", "average-pool-of-pre-activations"),
    *("layer-norm-rows", "layer-norm-plain", "bidirectional=True-num_layers=2-mean"),
)

# For tests that compare with a reference themselves: the check costs a third of compiling.
unchecked = functools.partial(pyrel.Explainer, check=None)


def unchecked_at(model: nn.Module, x: Any, **options: Any) -> pyrel.Explainer:
    """Compile for as many steps as those of x alone: for any number there may be more exports."""
    return unchecked(pyrel.capture(model, x), **options)


def captured_once(model: nn.Module, x: Any) -> Captured:
    """Capture a model for several explainers, which compare with the model itself.

    Of a model that uses what may change unseen, as a queue, pyrel keeps no capture of its own.
    """
    return Captured(captures.capture_at(model, x), model, None)


def captured_but_for_one_step(model: nn.Module, x: Any, lengths: bool = False) -> captures.Capture:
    """Capture for any number of steps but one, for which there may be two exports more."""
    source = captures._exported(model, x, lengths=lengths, at_once=False)
    source.refuse_one_step("not asked for")
    return source


def rows(values: Any) -> Array:
    """Return (n, everything else) in float64."""
    flat = np.asarray(values, np.float64)
    return flat.reshape(flat.shape[0], int(np.prod(flat.shape[1:], dtype=int)))


def torch_gradient(
    module: Callable[[torch.Tensor], torch.Tensor], x: Floats, target: Targets
) -> tuple[Array, Array]:
    """Return outputs (n, classes) and gradients of the target's output, in x's precision."""
    tensor = torch.from_numpy(x).requires_grad_()
    output = module(tensor).reshape(len(x), -1)
    output[torch.arange(len(x)), torch.from_numpy(target)].sum().backward()
    assert tensor.grad is not None
    return rows(output.detach()), tensor.grad.double().numpy()


def norms(values: Any) -> Array:
    """Return the Euclidean norm of every sample."""
    return np.sqrt((rows(values) ** 2).sum(axis=1))


def assert_within(error: Array, allowed: Array, what: str) -> None:
    """Every error is within its bound; the message names the sample that is furthest out."""
    over = error > allowed
    if over.any():
        worst = np.unravel_index((error - allowed).argmax(), error.shape)
        number = ", ".join(map(str, worst))
        raise AssertionError(
            f"{what}: {over.sum()} of {over.size} out of bounds; "
            f"[{number}] is off by {error[worst]:.3g}, allowed {allowed[worst]:.3g}"
        )


def assert_output(e: Any, expected: Reference) -> None:
    """Outputs agree to the rounding bound, targets are the reference's."""
    error = np.abs(rows(e.output) - expected.output)
    assert_within(error, expected.uncertainty, "output")
    np.testing.assert_array_equal(e.target, expected.target)


def assert_deep_taylor(e: Any, expected: Reference, *, floor: float = 0.0) -> None:
    """Relative L2 error, conservation and positivity of deep Taylor relevance, every sample.

    The relevance is proportional to the output f, which float32 knows to ± uncertainty only, so the
    relative error of 1e-5 grows by uncertainty / f where f is small beside Σ|terms|. `floor` allows
    an error relative to the relevance put in, for nets whose biases absorb nearly all of it.
    """
    assert_output(e, expected)
    relevance, absorbed = rows(e.relevance), np.asarray(e.absorbed, np.float64)
    unknown = expected.uncertainty[np.arange(len(expected.target)), expected.target]
    start, total = expected.start, relevance.sum(axis=1)
    assert (relevance >= 0).all()
    assert (absorbed >= 0).all()
    assert (relevance[start + unknown == 0] == 0).all()
    known = start > unknown
    bound = RELATIVE + np.divide(unknown, start, out=np.zeros_like(start), where=known)
    size = norms(expected.relevance)
    error = norms(relevance - rows(expected.relevance))
    assert_within(error[known], (bound * size + floor * start)[known], "relevance")
    difference = np.abs(absorbed - expected.absorbed)
    assert_within(difference[known], (bound * start)[known], "absorbed")
    assert_conserved(e, np.maximum(target_score(e), 0.0))
    unknown_size = total + absorbed
    assert (unknown_size[~known] <= (start + 2 * unknown)[~known]).all()


def target_score(e: Any) -> Array:
    """Return the explained output of every sample, as the engine computed it."""
    output = rows(e.output)
    return output[np.arange(output.shape[0]), np.asarray(e.target)]


def assert_conserved(e: Any, start: Array) -> None:
    """|ΣR + absorbed − start| ≤ 1e-5 · max(|start|, Σ|R|), and e.conservation says so."""
    relevance, absorbed = rows(e.relevance), np.asarray(e.absorbed, np.float64)
    total = relevance.sum(axis=1)
    allowed = RELATIVE * np.maximum(np.abs(start), np.abs(relevance).sum(axis=1))
    error = np.abs(total + absorbed - start)
    assert_within(error, allowed, "relevance + absorbed")
    assert_within(np.abs(np.asarray(e.conservation) - (total - start)), allowed, "conservation")


def assert_gradient(e: Any, expected: Reference) -> int:
    """Relative L2 error of a gradient method where no ReLU is within rounding of 0.

    Returns how many samples were left out because one is.
    """
    assert_output(e, expected)
    safe = expected.margin > 1
    error = norms(rows(e.relevance) - rows(expected.relevance))
    size = norms(expected.relevance)
    assert_within(error[safe], RELATIVE * size[safe], "relevance")
    assert np.isfinite(rows(e.relevance)).all()
    return int((~safe).sum())


def assert_relevance(e: Any, expected: Reference, method: str) -> int:
    """Relevance or gradient within 1e-5 of the largest Σ|R| of any node, or its derived bound.

    The derived bound (`reference_backward.Backward`) stands in where it is the larger one: where a
    denominator or a unit's sum is small beside its terms, float32 cannot keep the promise. Returns
    how many samples were left out because a unit may switch.
    """
    assert_output(e, expected)
    relevance = rows(e.relevance)
    assert np.isfinite(relevance).all()
    safe = expected.margin > 1
    derived = np.sqrt((rows(expected.doubt) ** 2).sum(axis=1))
    promised = RELATIVE * (expected.peak if method in CONSERVING else norms(expected.relevance))
    error = norms(relevance - rows(expected.relevance))
    assert_within(error[safe], np.maximum(promised, derived)[safe], "relevance")
    # The promise itself holds for most samples.
    assert np.median(error[safe] - promised[safe]) <= 0
    if method in CONSERVING:
        score = target_score(e)
        assert_conserved(e, np.maximum(score, 0.0) if method == "deep_taylor" else score)
    return int((~safe).sum())


def start_of(e: Any, method: str) -> Any:
    """What was put in, from the outputs."""
    if method in GRADIENTS:
        return np.ones(len(e.output))
    score = target_score(e)
    return np.maximum(score, 0.0) if method == "deep_taylor" else score


def assert_amplification(e: Any, wanted: Reference, method: str, name: str) -> None:
    """Against float64, where no unit may switch, relative to what rounds: the largest Σ|R|."""
    size = np.abs(start_of(e, method))
    at_end = np.abs(rows(e.relevance)).sum(axis=1)
    assert (e.amplification * size >= at_end * (1 - RELATIVE)).all()
    np.testing.assert_array_equal(e.amplification == 0, size == 0)
    assert (e.amplification[size > 0] >= 1).all()
    doubt = np.abs(rows(wanted.doubt)).sum(axis=1)  # of the result; others pass on what it is of
    known = (wanted.margin > 1) & (size > 0)
    error = e.amplification * size - wanted.amplification * np.abs(wanted.start)
    if not any(coarse in name for coarse in COARSE):
        error = np.abs(error)
    allowed = RELATIVE * np.maximum(wanted.peak, size) + 10 * doubt
    assert (error[known] <= allowed[known]).all(), (error / allowed)[known].max()
