# SPDX-License-Identifier: Apache-2.0
"""Lengths that a model counts from its token ids: packing, last steps, masks and comparisons."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from engine.compiler_faults import without_graphs
from engine.counted_models import MODELS, Last, Packed, Reduced
from engine.mask_models import ROWS, Layers, Masked, reference
from engine.sequences import made
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import pyrel
from pyrel.compiler.capture import operators
from pyrel.compiler.capture.capture import Capture, capture_at
from pyrel.compiler.capture.operators import packing, recurrence
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.graph.evaluate import Evaluation
from pyrel.engine.check_inputs import check_inputs
from pyrel.engine.inputs import Inputs
from pyrel.engine.prepare import Captured

# Padded at the end, in between, not at all, and but one; what counts is how many are no padding.
IDS = np.array([[1, 2, 3, 4, 0, 0], [5, 0, 6, 0, 4, 1], [3, 1, 5, 6, 2, 4], [4, 0, 0, 0, 0, 0]])
ROUNDING = 200 * 2.0**-23  # of some hundred terms of size one or less


@functools.cache
def captured(make: type[Masked]) -> Capture:
    return capture_at(made(make), IDS)


@functools.cache
def explainer(make: type[Masked], method: str, **options: Any) -> pyrel.Explainer:
    return pyrel.Explainer(captured(make), method=method, check=None, **options)


def assert_gradients(e: pyrel.Explanation, model: Masked, x: Any) -> None:
    output, relevance = reference(model, x, e.target)
    np.testing.assert_allclose(e.output, output, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(e.relevance, relevance, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("make", MODELS)
def test_outputs_and_gradients_are_torchs(make: type[Masked]) -> None:
    assert_gradients(explainer(make, "gradient")(IDS), made(make), IDS)


def test_the_gradients_are_compared_when_compiling() -> None:
    source = Captured(captured(Packed), made(Packed), None)
    found = pyrel.Explainer(source, IDS, "gradient").checked
    assert found.startswith("outputs and gradients on 3 inputs")


@pytest.mark.parametrize("make", [m for m in MODELS if m is not Reduced])
def test_any_number_of_steps(make: type[Masked]) -> None:
    compiled = explainer(make, "gradient")
    assert compiled.any_steps
    rng = np.random.default_rng(0)
    for steps in (1, 11):
        if make.__name__ == "Compared" and steps == 1:
            continue  # of two neighbours
        x = rng.integers(0, ROWS, (3, steps))
        x[:, 0] = 1
        assert_gradients(compiled(x), made(make), x)


@pytest.mark.parametrize("make", MODELS)
def test_relevance_is_conserved(make: type[Masked]) -> None:
    e = explainer(make, "lrp_epsilon")(IDS)
    start = np.take_along_axis(e.output, e.target[:, None], 1)[:, 0]
    np.testing.assert_allclose(e.relevance.sum(1) + e.absorbed, start, rtol=1e-4, atol=1e-5)
    assert np.abs(e.relevance).max() > 1e-3


@pytest.mark.parametrize("make", [m for m in MODELS if m.as_alone])
def test_padding_at_the_end_changes_nothing(make: type[Masked]) -> None:
    """A padded sequence is explained as the sequence alone is: a choice loses nothing."""
    for method in ("gradient", "lrp_epsilon"):
        exact = getattr(make, "exact", True) or method == "gradient"
        compiled = explainer(make, method, **({} if exact else {"epsilon": 1e-9}))
        for row, length in ((0, 4), (3, 1)):
            e, alone = compiled(IDS[row : row + 1]), compiled(IDS[row : row + 1, :length])
            np.testing.assert_allclose(e.output, alone.output, rtol=0, atol=1e-6)
            allowed = (1e-6 if exact else 1e-3) * np.abs(alone.relevance).max()
            np.testing.assert_allclose(
                e.relevance[:, :length], alone.relevance, rtol=0, atol=allowed
            )
            np.testing.assert_array_equal(e.relevance[:, length:], 0)


@pytest.mark.parametrize("make", [m for m in MODELS if issubclass(m, Packed) or m is Last])
@pytest.mark.parametrize("method", ["gradient", "lrp_epsilon"])
def test_a_sequence_of_padding_alone_is_refused(make: type[Masked], method: str) -> None:
    x = np.zeros((3, 6), int)
    x[0] = x[1] = IDS[0]
    model, compiled = made(make), explainer(make, method)
    if make is Last:  # torch takes the step before the first for the last one
        e = compiled(x)
        with torch.no_grad():
            np.testing.assert_allclose(e.output, model(torch.from_numpy(x)), rtol=0, atol=1e-5)
        return
    with pytest.raises(RuntimeError, match="greater than 0"):
        model(torch.from_numpy(x))
    with pytest.raises(ValueError, match=r"for x\[2\] is NaN or infinite.*0, as of padding alone"):
        compiled(x)


class Odd(Layers):
    """Counts that torch refuses, or that pyrel does."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        count = (x != 0).sum(1)
        h = self.core(e)[0]
        match self.what:
            case "too long":
                packed = pack_padded_sequence(e, count + 1, True, enforce_sorted=False)
                return self.core(packed)[1][0][-1]
            case "beyond":
                return h[torch.arange(x.shape[0]), count]
            case "gathered before":
                return h.gather(1, (count - 1).view(-1, 1, 1).expand(-1, 1, 5)).squeeze(1)
            case "not put back":
                lengths, order = count.sort(descending=True)
                return self.core(pack_padded_sequence(e[order], lengths, True))[1][0][-1]
            case "of values":
                lengths = (h.sum((1, 2)) > 0).sum().expand(x.shape[0])
                return self.core(pack_padded_sequence(e, lengths, True))[1][0][-1]
            case "products":
                return h.sum(1) * ((x * (x != 0) * 999983).sum(1) > 1)[:, None]
            case "ids":
                last = x.gather(1, (count - 1)[:, None]).to(h.dtype)
                return h.sum(1) * last
            case "assigned":
                x = x.clone()
                x[x == 0] = 1
                return self.table(x).sum(1)
            case "a fraction":
                return h.sum(1) * (count * 0.5 == 1)[:, None]
            case "sizes":
                packed = pack_padded_sequence(e, count, True, enforce_sorted=False)
                return h.sum(1) * packed.batch_sizes[0]
            case _:
                return h[:, count.max() - 1]


@pytest.mark.parametrize(
    ("what", "row"),
    [
        ("too long", [1, 2, 3, 4, 5, 6]),
        ("beyond", [1, 2, 3, 4, 5, 6]),
        ("gathered before", [0] * 6),
    ],
)
def test_positions_that_torch_has_not_are_refused(what: str, row: list[int]) -> None:
    model = Odd(what).eval()
    x = np.array([IDS[0], row])
    with pytest.raises((RuntimeError, IndexError)):
        model(torch.from_numpy(x))
    compiled = pyrel.Explainer(pyrel.capture(model, IDS), method="gradient", check=None)
    assert np.isfinite(compiled(x[:1]).relevance).all()
    with pytest.raises(ValueError, match=r"for x\[1\] is NaN or infinite"):
        compiled(x)


@pytest.mark.parametrize(
    ("what", "operator", "why"),
    [
        ("not put back", "output", "mixes the samples"),
        ("of values", "sum", "mixes the samples"),
        ("a fraction", "eq", "compares values of the input"),
        ("products", "token ids", "that may be above 16777216"),
        ("ids", "gather", "token ids are chosen"),
        ("assigned", "index_put", "token ids are chosen"),
        ("sizes", "select", "the sizes of packed batches"),
        ("over the batch", "max", "mixes the samples"),
    ],
)
def test_refused_by_name(what: str, operator: str, why: str) -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match=why) as r:
        pyrel.capture(Odd(what).eval(), IDS)
    assert (r.value.operator or "").removeprefix("aten.") == operator


class Unpacked(Packed):
    """What people do with packed sequences padded to the longest of the batch."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        out, lengths = pad_packed_sequence(self.packed(e, x)[0], batch_first=True)
        mask = (x != 0)[..., None]
        match self.what:
            case "mean":
                return out.mean(1)
            case "max":
                return out.max(1)[0]
            case "final":
                return out[:, -1]
            case "mean of lengths":
                return out.sum(1) / lengths[:, None]
            case "last":
                return out[torch.arange(x.shape[0]), lengths - 1]
            case "masked":
                return out.masked_fill(~mask, -torch.inf).amax(1)
            case _:
                return (out * mask[:, : out.shape[1]]).sum(1)


@pytest.mark.parametrize("what", ["mean", "max", "final"])
def test_padding_to_the_longest_of_the_batch_is_refused_where_it_matters(what: str) -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match="longest.*total_length") as r:
        pyrel.capture(Unpacked(what).eval(), IDS)
    assert r.value.operator == "pad_packed_sequence"


class Positions(nn.Module):
    """Rows of a table of positions, by what is counted."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.table, self.how = nn.Embedding(7, 3), how
        self.positions = nn.Parameter(torch.randn(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        e, n = self.table(x), (x != 0).sum(1)
        match self.how:
            case "of lengths":
                return torch.tanh(e.sum(1) + self.positions[n])
            case "from the end":
                return torch.tanh(e.sum(1) * self.positions[n - 7])
            case "of steps":
                return torch.tanh(e + self.positions[(x != 0).cumsum(1)]).sum(1)
            case _:
                places = torch.stack([n - 1, n - 2, n - 1]).clamp(min=0)
                return e[torch.arange(len(x)), places].sum(0)


@pytest.mark.parametrize("how", ["of lengths", "from the end", "of steps", "several"])
def test_tables_read_at_counted_positions(how: str) -> None:
    model = Positions(how).double().eval()
    found = Evaluation(pyrel.capture(model, IDS), IDS).output
    wanted = model(torch.from_numpy(IDS)).detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


class Narrow(nn.Module):
    """A maximum that padding decides only where all steps are below it."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.table, self.core = nn.Embedding(7, 4), nn.LSTM(4, units, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        lengths = (x != 0).long().sum(1)
        packed = pack_padded_sequence(self.table(x), lengths, True, enforce_sorted=False)
        return pad_packed_sequence(self.core(packed)[0], True, **self.options(x))[0].amax(1)

    def options(self, x: Tensor) -> dict[str, Any]:
        return {}


class NarrowButWhole(Narrow):
    def options(self, x: Tensor) -> dict[str, Any]:
        return {"total_length": x.shape[1]}


@pytest.mark.parametrize(("units", "seed"), [(1, 0), (2, 2)])
def test_padding_that_seldom_decides_is_refused(units: int, seed: int) -> None:
    torch.manual_seed(seed)
    with pytest.raises(pyrel.UnsupportedModelError, match="longest.*total_length"):
        pyrel.capture(Narrow(units).eval(), IDS)
    pyrel.capture(NarrowButWhole(units).eval(), IDS)


@pytest.mark.parametrize("what", ["mean of lengths", "last", "masked", "cut"])
def test_padding_to_the_longest_of_the_batch(what: str) -> None:
    model = Unpacked(what).eval()
    wanted, _ = reference(model, IDS, [0] * len(IDS))
    found = Evaluation(pyrel.capture(model, IDS), IDS).output
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


def captured_anew() -> Captured:
    """Let graphs be made anew: by functions that were replaced."""
    return Captured(without_graphs(captured(Packed)), made(Packed), None)


def test_the_second_input_of_the_self_check_is_padded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that reads steps beyond the end is caught by an example without padding."""
    right = packing.batch_sizes

    def full(tracer: Any, lengths: Any, steps: int, batch: int) -> packing.PackedSizes:
        sizes = right(tracer, lengths, steps, batch)
        ones = torch.ones(sizes.within.ids.shape)
        return replace(sizes, within=Traced(tracer.ids(ones)), beyond=Traced(tracer.ids(0 * ones)))

    x = np.random.default_rng(0).integers(1, ROWS, (4, 6))  # without padding
    monkeypatch.setitem(operators.COMPUTE, "packed_lengths", full)
    with pytest.raises(pyrel.SelfCheckError):
        pyrel.Explainer(captured_anew(), x, "gradient")


def test_padding_of_more_steps_than_few_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that does not pass over the steps from the fourth on is caught."""
    right = recurrence.run_layers

    def wrong(builder: Any, layers: Any, x: Any, states: Any, masks: Any = None) -> Any:
        if masks is not None and masks.shape[1] > 3:
            masks = masks.copy()
            masks[:, 3:] = masks[:, :1]
        return right(builder, layers, x, states, masks)

    monkeypatch.setattr(recurrence, "run_layers", wrong)
    with pytest.raises(pyrel.SelfCheckError):
        pyrel.Explainer(
            captured_anew(), np.array([[1, 2, 3, 4, 5, 6], [2, 1, 4, 3, 6, 5]]), "gradient"
        )


def test_check_inputs_are_padded_in_several_lengths() -> None:
    inputs = Inputs((6,), vocabulary=9, any_steps=True)
    _, x = check_inputs(np.array([[3, 0, 4, 5, 0, 0]]), inputs, 7, samples=3, padding=0)
    assert [(row != 0).tolist() for row in x] == [
        [True] * length + [False] * (7 - length) for length in (7, 5, 3)
    ]
    assert x.max() <= 8
