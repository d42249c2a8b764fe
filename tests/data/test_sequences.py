# SPDX-License-Identifier: Apache-2.0
"""Images cut into steps."""

from __future__ import annotations

import hashlib
from fractions import Fraction

import numpy as np
import pytest

import pyrel.data

ALL_VALUES = np.resize(np.arange(256, dtype=np.uint8), (1, 28, 28))


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)


@pytest.mark.parametrize("steps", [1, 2, 4, 7, 14, 28])
def test_steps_side_by_side_are_the_image(images, steps) -> None:
    x = pyrel.data.sequence(images, steps)
    assert x.shape == (5, steps, 28, 28 // steps)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    joined = np.concatenate([x[:, step] for step in range(steps)], axis=2)
    np.testing.assert_array_equal(np.rint(joined * 255), images)


def test_numpy_integers_are_steps(images) -> None:
    assert pyrel.data.sequence(images, np.int64(4)).shape == (5, 4, 28, 7)


def test_any_memory_layout(images) -> None:
    turned = np.asfortranarray(images)[::-1]
    expected = pyrel.data.sequence(images, 7)[::-1]
    np.testing.assert_array_equal(pyrel.data.sequence(turned, 7), expected)


def test_no_images() -> None:
    assert pyrel.data.sequence(np.empty((0, 28, 28), np.uint8), 4).shape == (0, 4, 28, 7)


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-0.5, 1.5), (-1, 1), (0.1, 0.7), (-1e16, 1)]
)
def test_values_are_linear_between_low_and_high(low, high) -> None:
    x = pyrel.data.sequence(ALL_VALUES, 1, low, high).ravel()[:256]
    assert x[0] == np.float32(low)
    assert x[-1] == np.float32(high)
    assert (np.diff(x) > 0).all()
    exact = [Fraction(low) + (Fraction(high) - Fraction(low)) * v / 255 for v in range(256)]
    # Rounded to float32 once, at half a unit in the last place; the four float64 operations before
    # it add at most 2⁻⁵⁰ of the largest magnitude on the way.
    bound = np.spacing(np.abs(x)).astype(float) / 2 + 2.0**-50 * max(abs(low), abs(high))
    error = [abs(Fraction(float(got)) - want) for got, want in zip(x, exact, strict=True)]
    assert (np.array(error, float) <= bound).all()


def test_values_are_the_same_on_every_machine() -> None:
    values = b"".join(
        pyrel.data.sequence(ALL_VALUES, 1, *domain).astype("<f4").tobytes()
        for domain in [(0.0, 1.0), (-0.5, 1.5), (0.1, 0.7)]
    )
    expected = "01d2009e7cf076259d9f05b9cee9b7d181ed3e12ca7ab154934136c09b87153d"
    assert hashlib.sha256(values).hexdigest() == expected


@pytest.mark.parametrize("steps", [0, -1, 3, 5, 12, 29, 56, True])
def test_steps_that_do_not_divide(images, steps) -> None:
    with pytest.raises(ValueError, match=f"steps: got {steps}, one of 1, 2, 4, 7, 14, 28"):
        pyrel.data.sequence(images, steps)


@pytest.mark.parametrize("steps", [4.0, "4", None])
def test_steps_of_another_type(images, steps) -> None:
    with pytest.raises(TypeError, match="steps: got .*, an integer is wanted"):
        pyrel.data.sequence(images, steps)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.0, 0.0), (1.0, 0.0), (float("nan"), 1.0), (0.0, float("inf")), (0.0, float("nan"))],
)
def test_no_domain(images, low, high) -> None:
    with pytest.raises(ValueError, match=f"low, high: got {low} and {high}"):
        pyrel.data.sequence(images, 4, low, high)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        (np.zeros((2, 28, 28), np.float32), "float32"),
        (np.zeros((2, 28, 28), np.int8), "int8"),
        ([[0] * 28] * 28, "list"),
    ],
)
def test_images_of_another_type(wrong, found) -> None:
    with pytest.raises(TypeError, match=f"images: got .*{found}.*uint8 is wanted"):
        pyrel.data.sequence(wrong, 4)


@pytest.mark.parametrize("shape", [(28, 28), (2, 1, 28, 28), (2, 32, 32), (2, 784)])
def test_images_of_another_shape(shape) -> None:
    with pytest.raises(
        ValueError, match=r"images: got shape .*, \(n, 28, 28\) is wanted"
    ) as raised:
        pyrel.data.sequence(np.zeros(shape, np.uint8), 4)
    assert str(shape) in str(raised.value)
