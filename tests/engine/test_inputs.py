# SPDX-License-Identifier: Apache-2.0
"""What an explainer takes and gives back, and what it refuses with which words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.cases import Floats, by_name, compiled, inputs
from reference import METHODS

import pyrel

CASE = by_name("Elman")
SHAPE = (4, 7)


@pytest.fixture
def explainer() -> Any:
    return compiled(CASE, "deep_taylor")


@pytest.fixture
def x() -> Floats:
    return inputs(CASE, 6).copy()


def assert_equal(one: Any, other: Any) -> None:
    for field in ("relevance", "output", "target", "absorbed", "conservation", "amplification"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), err_msg=field)


@pytest.mark.parametrize("method", METHODS)
def test_numpy_in_numpy_out(method: str, x: Floats) -> None:
    before = x.copy()
    e = compiled(CASE, method)(x)
    for field, shape in {
        "relevance": (6, *SHAPE),
        "output": (6, 5),
        "absorbed": (6,),
        "conservation": (6,),
        "amplification": (6,),
    }.items():
        value = getattr(e, field)
        assert type(value) is np.ndarray, field
        assert value.shape == shape, field
        assert value.dtype == np.float32, field
    assert type(e.target) is np.ndarray
    assert e.target.dtype == np.int64
    np.testing.assert_array_equal(x, before)


def test_torch_in_torch_out(explainer: Any, x: Floats) -> None:
    e = explainer(torch.from_numpy(x))
    for field in ("relevance", "output", "absorbed", "conservation", "amplification"):
        value = getattr(e, field)
        assert isinstance(value, torch.Tensor), field
        assert value.dtype == torch.float32, field
        assert value.device.type == "cpu", field
        assert not value.requires_grad, field
    assert isinstance(e.target, torch.Tensor)
    assert e.target.dtype == torch.int64


def test_results_are_not_shared_between_calls(explainer: Any, x: Floats) -> None:
    first = explainer(x)
    kept = first.relevance.copy()
    explainer(x[::-1])
    np.testing.assert_array_equal(first.relevance, kept)
    assert not np.shares_memory(first.relevance, x)


@pytest.mark.parametrize("array", [np.asarray, torch.from_numpy], ids=["numpy", "torch"])
def test_zero_samples(explainer: Any, array: Any) -> None:
    e = explainer(array(np.zeros((0, *SHAPE), np.float32)))
    assert tuple(e.relevance.shape) == (0, *SHAPE)
    assert tuple(e.output.shape) == (0, 5)
    for field in ("target", "absorbed", "conservation", "amplification"):
        assert tuple(getattr(e, field).shape) == (0,), field


@pytest.mark.parametrize("count", [0, 1, 5])
def test_example_of_any_batch_size(count: int, x: Floats) -> None:
    module = CASE.module()
    e = pyrel.Explainer(module, x[:count], method="deep_taylor", low=0.0, high=1.0)(x)
    assert_equal(e, compiled(CASE, "deep_taylor")(x))


def test_strides_do_not_matter(explainer: Any, x: Floats) -> None:
    wanted = explainer(x)
    reversed_twice = x[:, :, ::-1].copy()[:, :, ::-1]
    column_major = np.asfortranarray(x)
    every_other = np.repeat(x, 2, axis=1)[:, ::2]
    for strided in (reversed_twice, column_major, every_other):
        assert not strided.flags.c_contiguous
        assert_equal(explainer(strided), wanted)
    transposed = torch.from_numpy(x.transpose(2, 1, 0).copy()).permute(2, 1, 0)
    assert not transposed.is_contiguous()
    assert_equal(explainer(transposed), wanted)


def test_expanded_and_read_only_and_swapped_bytes(explainer: Any, x: Floats) -> None:
    repeated = np.broadcast_to(x[:1], x.shape)
    np.testing.assert_array_equal(
        explainer(repeated).relevance, np.broadcast_to(explainer(x[:1]).relevance, x.shape)
    )
    expanded = torch.from_numpy(x[:1]).expand(6, -1, -1)
    assert_equal(explainer(expanded), explainer(repeated))
    assert_equal(explainer(x.astype(">f4")), explainer(x))
    locked = x.copy()
    locked.flags.writeable = False
    assert_equal(explainer(locked), explainer(x))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_converted(explainer: Any, dtype: Any, x: Floats) -> None:
    wanted = explainer(x.astype(dtype).astype(np.float32))
    assert_equal(explainer(x.astype(dtype)), wanted)
    e = explainer(torch.from_numpy(x.astype(dtype)))
    assert_equal(e, wanted)
    assert e.relevance.dtype == torch.float32


def test_input_that_requires_grad(explainer: Any, x: Floats) -> None:
    tensor = torch.from_numpy(x).requires_grad_()
    e = explainer(tensor)
    assert_equal(e, explainer(x))
    assert tensor.grad is None
    with torch.inference_mode():
        assert_equal(explainer(torch.from_numpy(x)), e)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", ["gradient", "deep_taylor"])
def test_values_that_are_not_finite(value: float, method: str, x: Floats) -> None:
    x[4, 2, 5] = value
    for array in (x, torch.from_numpy(x), x.astype(np.float64)):
        with pytest.raises(
            ValueError, match=r"4, 2, 5.*(finite|NaN|nan|inf)|(finite|NaN|nan|inf).*4, 2, 5"
        ):
            compiled(CASE, method)(array)


@pytest.mark.parametrize("position", [0, 99])
def test_not_finite_in_any_slab(position: int) -> None:
    x = inputs(CASE).copy()
    x[position, 3, 6] = np.nan
    with pytest.raises(ValueError, match=f"{position}, 3, 6"):
        compiled(CASE, "deep_taylor")(x)


def test_float64_beyond_float32_is_not_finite(x: Floats) -> None:
    large = x.astype(np.float64)
    large[1, 1, 1] = 1e300
    with pytest.raises(ValueError, match="1, 1, 1"):
        compiled(CASE, "gradient")(large)


def test_check_finite_can_be_turned_off(x: Floats) -> None:
    x[4, 2, 5] = np.nan
    loose = pyrel.Explainer(CASE.module(), x[:2], method="gradient", check_finite=False)
    e = loose(x)
    kept = [0, 1, 2, 3, 5]
    np.testing.assert_array_equal(e.relevance[kept], compiled(CASE, "gradient")(x[kept]).relevance)


@pytest.mark.parametrize("value", [-0.001, 1.001, 255.0])
def test_values_outside_the_bounds(explainer: Any, value: float, x: Floats) -> None:
    x[3, 1, 6] = value
    for array in (x, torch.from_numpy(x)):
        with pytest.raises(ValueError, match="3, 1, 6") as raised:
            explainer(array)
        assert "[0.0, 1.0]" in str(raised.value)
        assert str(value)[:5] in str(raised.value)


@pytest.mark.parametrize(
    "shape", [(4, 7), (6, 7), (6, 4), (6, 4, 8), (6, 7, 4), (6, 4, 7, 1), (6, 28), ()]
)
def test_wrong_shapes(explainer: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape") as raised:
        explainer(np.zeros(shape, np.float32))
    assert ", ".join(map(str, shape)) in str(raised.value)
    assert "4, 7" in str(raised.value)


@pytest.mark.parametrize("dtype", [np.complex64, object, "U3", "datetime64[s]"])
def test_wrong_dtypes(explainer: Any, dtype: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="dtype|float"):
        explainer(np.zeros((2, *SHAPE)).astype(dtype))


def test_wrong_torch_dtype(explainer: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="dtype|float"):
        explainer(torch.zeros((2, *SHAPE), dtype=torch.complex64))


@pytest.mark.parametrize("value", [None, "x", [[1.0]], 3.0, {"x": 1}])
def test_things_that_are_no_array(explainer: Any, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="array|shape|tensor"):
        explainer(value)


@pytest.mark.parametrize(
    "target",
    [
        2, np.int64(2), np.uint8(2), torch.tensor(2), np.full(6, 2), np.full(6, 2, np.int8),
        torch.full((6,), 2), torch.full((6,), 2, dtype=torch.int32), [2] * 6, np.full(12, 2)[::2],
    ],
    ids=lambda target: f"{type(target).__name__}-{getattr(target, 'dtype', '')}",
)  # fmt: skip
def test_targets(explainer: Any, target: Any, x: Floats) -> None:
    e = explainer(x, target=target)
    np.testing.assert_array_equal(e.target, np.full(6, 2))
    assert_equal(e, explainer(x, target=2))


@pytest.mark.parametrize(
    "target",
    [
        5, -1, 2**40, np.array([0, 1, 2, 3, 4, 5]), np.array([0, 1, 2, 3, 4, -1]), np.zeros(5, int),
        np.zeros((6, 1), int), np.zeros(1, int), 1.0, np.zeros(6), "cat", np.zeros(6, bool), True,
        torch.zeros(6), [0.5] * 6, 2**70,
    ],
    ids=str,
)  # fmt: skip
def test_bad_targets(explainer: Any, target: Any, x: Floats) -> None:
    with pytest.raises((ValueError, TypeError), match="target"):
        explainer(x, target=target)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ({}, "dict"), ({"a": 1}, "dict"), (set(), "set"), (1.0, "float"),
        (True, "bool"), ([0.5] * 6, "list of float64"), ([None] * 6, "list"),
        (np.zeros(6), "dtype float64"), (torch.zeros(6), "dtype torch.float32"),
        (2**20_000, "an int of more than 64 bits"),
    ],
    ids=lambda each: each if isinstance(each, str) else type(each).__name__,
)  # fmt: skip
def test_a_target_of_another_type_is_named(
    explainer: Any, target: Any, told: str, x: Floats
) -> None:
    wanted = f"target: wanted an int or integers of shape (6,), got {told}"
    with pytest.raises(TypeError, match=f"^{re.escape(wanted)}$"):
        explainer(x, target=target)


def test_out_array(explainer: Any, x: Floats) -> None:
    wanted = explainer(x)
    out = np.full((6, *SHAPE), 7, np.float32)
    e = explainer(x, out=out)
    assert e.relevance is out or np.shares_memory(e.relevance, out)
    np.testing.assert_array_equal(out, wanted.relevance)
    tensor = torch.full((6, *SHAPE), 7.0)
    e = explainer(torch.from_numpy(x), out=tensor)
    np.testing.assert_array_equal(tensor, wanted.relevance)


def test_out_memory_map(explainer: Any, x: Floats, tmp_path: Path) -> None:
    path = tmp_path / "relevance.npy"
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(6, *SHAPE))
    explainer(x, out=out)
    out.flush()
    np.testing.assert_array_equal(np.load(path), explainer(x).relevance)


def test_input_memory_map(explainer: Any, x: Floats, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert_equal(explainer(mapped), explainer(x))


def locked() -> Floats:
    out = np.zeros((6, *SHAPE), np.float32)
    out.flags.writeable = False
    return out


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((5, *SHAPE), np.float32), np.zeros((6, 7, 4), np.float32), np.zeros((6, *SHAPE)),
        locked(), [0.0], torch.zeros((6, *SHAPE), dtype=torch.float64),
    ],
    ids=["rows", "shape", "dtype", "read-only", "list", "torch-dtype"],
)  # fmt: skip
def test_bad_out(explainer: Any, out: Any, x: Floats) -> None:
    with pytest.raises((ValueError, TypeError), match="out"):
        explainer(x, out=out)


def test_out_that_is_the_input_is_right_or_refused(explainer: Any, x: Floats) -> None:
    wanted = explainer(x).relevance
    try:
        explainer(x, out=x)
    except ValueError as error:
        assert "out" in str(error)  # noqa: PT017
    else:
        np.testing.assert_array_equal(x, wanted)


def test_strided_out_is_filled_or_refused(explainer: Any, x: Floats) -> None:
    wide = np.full((6, 4, 14), 7, np.float32)
    try:
        explainer(x, out=wide[:, :, ::2])
    except ValueError as error:
        assert "out" in str(error)  # noqa: PT017
    else:
        np.testing.assert_array_equal(wide[:, :, ::2], explainer(x).relevance)
    assert (wide[:, :, 1::2] == 7).all()


@pytest.mark.parametrize("method", ["deep taylor", "", "DeepTaylor2", None, 3])
def test_unknown_methods(method: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="method|deep_taylor"):
        pyrel.Explainer(CASE.module(), inputs(CASE, 2), method=method)


def test_method_object_is_its_name(x: Floats) -> None:
    method = pyrel.methods.DeepTaylor()
    e = pyrel.Explainer(CASE.module(), x, method=method, low=0.0, high=1.0)(x)
    assert_equal(e, compiled(CASE, "deep_taylor")(x))


@pytest.mark.parametrize(
    ("model", "example"),
    [(None, np.zeros((2, 4, 7), np.float32)), (torch.relu, np.zeros((2, 4, 7), np.float32)),
     (CASE.module(), None), (CASE.module(), "x"), (CASE.module(), np.float32(0))],
    ids=["no-model", "function", "no-example", "text", "scalar"],
)  # fmt: skip
def test_bad_models_and_examples(model: Any, example: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="model|example"):
        pyrel.Explainer(model, example, method="deep_taylor", low=0.0, high=1.0)


def unaligned(array: Floats) -> Floats:
    """Return a copy that starts at an odd address."""
    buffer = np.zeros(array.nbytes + 1, np.uint8)
    copy: Floats = buffer[1:].view(np.float32).reshape(array.shape)
    copy[...] = array
    assert not copy.flags.aligned
    return copy


def test_memory_that_is_not_aligned(explainer: Any, x: Floats) -> None:
    assert_equal(explainer(unaligned(x)), explainer(x))
    out = unaligned(np.zeros_like(x))
    try:
        explainer(x, out=out)
    except ValueError as error:
        assert "out" in str(error)  # noqa: PT017
    else:
        np.testing.assert_array_equal(out, explainer(x).relevance)


def test_only_one_bound_is_refused() -> None:
    with pytest.raises((ValueError, TypeError), match="high"):
        pyrel.Explainer(CASE.module(), inputs(CASE, 2), method="gradient", low=0.0)
    with pytest.raises((ValueError, TypeError), match="low"):
        pyrel.Explainer(CASE.module(), inputs(CASE, 2), method="gradient", high=1.0)


def test_bounds_of_gradient_methods_are_checked_too(x: Floats) -> None:
    bounded = pyrel.Explainer(CASE.module(), x, method="gradient", low=0.0, high=1.0)
    with pytest.raises(ValueError, match="2, 3, 4"):
        x[2, 3, 4] = 1.5
        bounded(x)
    free = pyrel.Explainer(CASE.module(), x, method="gradient")
    assert np.isfinite(free(x).relevance).all()


def test_bounds_are_copied(x: Floats) -> None:
    low = np.zeros(SHAPE, np.float32)
    bounded = pyrel.Explainer(CASE.module(), x, method="gradient", low=low, high=1.0)
    low -= 1.0
    with pytest.raises(ValueError, match=r"\[0.0, 1.0\], got x\[2, 3, 4\] = -0.5"):
        x[2, 3, 4] = -0.5
        bounded(x)


def test_no_result_after_an_error(explainer: Any, x: Floats) -> None:
    """An explainer that refused a batch explains the next one as ever."""
    wanted = explainer(x)
    bad = x.copy()
    bad[5, 0, 0] = np.nan
    with pytest.raises(ValueError, match="5, 0, 0"):
        explainer(bad)
    assert_equal(explainer(x), wanted)
