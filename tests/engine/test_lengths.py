# SPDX-License-Identifier: Apache-2.0
"""Sequences of different lengths in one batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import unchecked
from engine.sequences import (
    MODELS,
    Front,
    Last,
    Packed,
    Tokens,
    assert_same,
    batch,
    made,
    scores,
    shared,
)

import pyrel
from pyrel import _core
from pyrel.engine import arrays

STEPS = 6
LENGTHS = np.array([3, 6, 1, 2, 3, 6, 2, 1])
FIELDS = ("output", "target", "absorbed", "conservation", "amplification")


def padded(make: Any) -> Any:
    """Sequences of `LENGTHS`, with what no model takes beyond their ends."""
    x = batch(make, len(LENGTHS), STEPS)
    for sequence, length in zip(x, LENGTHS, strict=True):
        sequence[length:] = -7 if make is Tokens else np.nan
    return x


def assert_as_alone(e: Any, alone: Any, x: Any, lengths: Any, target: Any = None) -> None:
    """Each sequence of a batch is explained as it is alone, and padding gets nothing."""
    for i, length in enumerate(lengths):
        one = alone(x[i : i + 1, :length], target=None if target is None else int(target[i]))
        relevance = np.asarray(e.relevance[i])
        assert relevance[:length].tobytes() == np.asarray(one.relevance).tobytes()
        assert (relevance[length:] == 0).all()
        for field in FIELDS:
            assert getattr(e, field)[i : i + 1].tobytes() == getattr(one, field).tobytes(), field


# Every method, and every model; not each with each, for a case lowers a model for five lengths.
PADDED = [
    *((Last, method) for method in pyrel.methods.names()),
    *((make, method) for make in MODELS[1:] for method in ("gradient", "lrp_epsilon")),
    (Front, "deep_taylor"),
]


@pytest.mark.parametrize(("make", "method"), PADDED)
def test_a_padded_batch_is_its_sequences(make: Any, method: str) -> None:
    both = shared(make, method, lengths=True)
    x = padded(make)
    e = both(x, lengths=LENGTHS)
    assert_as_alone(e, both, x, LENGTHS)
    assert e.relevance.dtype == np.float32


def test_the_scores_are_those_of_packed_sequences() -> None:
    x = padded(Packed)
    e = shared(Packed, "gradient")(x, lengths=LENGTHS)
    np.nan_to_num(x, copy=False)
    wanted = scores(Packed, x, LENGTHS)
    np.testing.assert_allclose(e.output, wanted, rtol=0, atol=120 * 2.0**-23)


def test_without_lengths_all_are_full() -> None:
    both, x = shared(Last, "lrp_epsilon", lengths=True), batch(Last, 5, STEPS)
    wanted = shared(Last, "lrp_epsilon")(x)
    assert_same(both(x), wanted)
    assert_same(both(x, lengths=np.full(5, STEPS)), wanted)


def test_a_batch_longer_than_the_example() -> None:
    both, x = shared(Last, "lrp_epsilon", lengths=True), batch(Last, 3, 10)
    assert_as_alone(both(x, lengths=[10, 8, 2]), both, x, [10, 8, 2])


@pytest.mark.parametrize(
    "kind", ["float64", "column-major", "strided", "read-only", "torch", "torch-strided"]
)
def test_arrays_of_all_kinds(kind: str) -> None:
    both, x = shared(Last, "lrp_epsilon", lengths=True), padded(Last)
    wanted = both(x, lengths=LENGTHS)
    locked = x.copy()
    locked.flags.writeable = False
    given: Any = {
        "float64": x.astype(np.float64),
        "column-major": np.asfortranarray(x),
        "strided": np.repeat(x, 2, axis=1)[:, ::2],
        "read-only": locked,
        "torch": torch.from_numpy(x).requires_grad_(),
        "torch-strided": torch.from_numpy(x.transpose(2, 1, 0).copy()).permute(2, 1, 0),
    }[kind]
    e = both(given, lengths=LENGTHS)
    assert isinstance(e.relevance, type(given))
    assert_same(e, wanted)


@pytest.mark.parametrize(
    "lengths",
    [
        LENGTHS.tolist(), LENGTHS.astype(np.uint8), torch.from_numpy(LENGTHS),
        torch.from_numpy(LENGTHS.astype(np.int32)), np.repeat(LENGTHS, 2)[::2],
    ],
    ids=["list", "uint8", "torch", "torch-int32", "strided"],
)  # fmt: skip
def test_lengths_of_all_types(lengths: Any) -> None:
    both, x = shared(Last, "gradient", lengths=True), padded(Last)
    assert_same(both(x, lengths=lengths), both(x, lengths=LENGTHS))


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        (LENGTHS[:-1], r"shape \(8,\), got shape \(7,\)"),
        (3, r"shape \(8,\), got shape \(\)"),
        (LENGTHS[:, None], r"got shape \(8, 1\)"),
        (LENGTHS.astype(float), "got dtype float64"),
        (LENGTHS > 2, "got dtype bool"),
        (True, "how many steps each sequence has; got True"),
        ("long", "got str"),
        ([[1], [2, 3]], "lengths: wanted integers"),
        (np.where(LENGTHS == 2, 0, LENGTHS), r"1 to 6, .*, got 0 for x\[3\]"),
        (np.where(LENGTHS == 2, 7, LENGTHS), r"1 to 6, .*, got 7 for x\[3\]"),
        (np.where(LENGTHS == 2, -1, LENGTHS), r"got -1 for x\[3\]"),
    ],
)  # fmt: skip
def test_bad_lengths(lengths: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as raised:
        shared(Last, "gradient", lengths=True)(padded(Last), lengths=lengths)
    assert "lengths" in str(raised.value)


def test_an_explainer_without_lengths_refuses_them() -> None:
    with pytest.raises(TypeError, match="lengths=True"):
        shared(Last, "gradient")(batch(Last, 8, STEPS), lengths=LENGTHS)


def test_targets_go_with_their_sequences() -> None:
    both, x = shared(Last, "lrp_epsilon", lengths=True), padded(Last)
    target = np.arange(len(x)) % 3
    assert_as_alone(both(x, target, lengths=LENGTHS), both, x, LENGTHS, target)
    np.testing.assert_array_equal(both(x, 2, lengths=LENGTHS).target, 2)


def test_a_memory_map_and_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, x = shared(Last, "lrp_epsilon", lengths=True), padded(Last)
    np.save(tmp_path / "x.npy", x)
    out = np.lib.format.open_memmap(tmp_path / "r.npy", "w+", np.float32, x.shape)
    out[:] = 7
    monkeypatch.setattr(arrays, "_PIECE_BYTES", 64)  # one sequence at a time
    e = both(np.load(tmp_path / "x.npy", mmap_mode="r"), lengths=LENGTHS, out=out)
    out.flush()
    monkeypatch.undo()
    assert e.relevance is out
    assert_same(e, both(x, lengths=LENGTHS))
    np.testing.assert_array_equal(np.load(tmp_path / "r.npy"), e.relevance)


def test_no_samples() -> None:
    e = shared(Last, "gradient", lengths=True)(batch(Last, 0, STEPS), lengths=[])
    assert e.relevance.shape == (0, STEPS, 4)
    assert e.target.shape == (0,)


def test_values_within_the_sequences_are_checked() -> None:
    both, x = shared(Last, "deep_taylor", lengths=True), padded(Last)
    x[4, 2, 1] = np.inf
    with pytest.raises(ValueError, match=r"x\[4, 2, 1\] = inf"):
        both(x, lengths=LENGTHS)
    x[4, 2, 1] = -1.5
    with pytest.raises(ValueError, match=r"\[-1.0, 1.0\], got x\[4, 2, 1\] = -1.5"):
        both(x, lengths=LENGTHS)
    with pytest.raises(ValueError, match=r"x\[0, 3, 0\] = nan"):
        both(padded(Last))
    ids = padded(Tokens)
    ids[7, 0] = 2**40 + 1
    with pytest.raises(ValueError, match=r"0 to 10, got x\[7, 0\] = 1099511627777"):
        shared(Tokens, "gradient", lengths=True)(ids, lengths=LENGTHS)


@pytest.mark.parametrize("make", [Last, Packed])
def test_explain_takes_lengths(make: Any) -> None:
    x, model = padded(make), made(make)
    wanted = shared(make, "lrp_epsilon", lengths=True)(x, lengths=LENGTHS)
    assert_same(pyrel.explain(model, x, "lrp_epsilon", lengths=LENGTHS), wanted)
    assert_same(pyrel.explain(model, torch.from_numpy(x), "lrp_epsilon", lengths=LENGTHS), wanted)


def test_a_model_that_takes_lengths_needs_to_be_told() -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match="lengths=True"):
        unchecked(made(Packed), batch(Packed, 2, STEPS), "gradient")


def test_a_graph_has_one_number_of_steps() -> None:
    graph = pyrel.capture(made(Last), batch(Last, 2, STEPS))
    with pytest.raises(pyrel.UnsupportedModelError, match=r"takes \(n, 6, 4\) only"):
        unchecked(graph, method="gradient", lengths=True)


@pytest.mark.skipif(
    not _core.has_bf16(_core.instruction_sets()[-1]), reason="no products of bfloat16"
)
def test_with_classes_decided_in_float32() -> None:
    both = shared(Last, "deep_taylor", lengths=True, precision="bf16_all")
    exact = shared(Last, "deep_taylor", lengths=True)
    x, lengths = batch(Last, 300, STEPS), np.arange(300) % STEPS + 1
    e = both(x, lengths=lengths)
    np.testing.assert_array_equal(e.target, exact(x, lengths=lengths).target)
    assert_as_alone(e, lambda one, target: both(one, target=target), x, lengths, e.target)
