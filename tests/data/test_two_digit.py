# SPDX-License-Identifier: Apache-2.0
"""The two-digit problem: what the samples are made of, and that they stay the same."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import pyrel.data


def marked_images(count: int) -> np.ndarray:
    """Make images that show their index, of one pixel in the middle each."""
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 14, 13] = 1 + np.arange(count)
    return images


LABELS = np.repeat(np.arange(10), 10)


@pytest.mark.parametrize("shift", [0, 1, 5])
def test_two_images_side_by_side(shift: int) -> None:
    samples = pyrel.data.two_digits(
        marked_images(100), LABELS, 4000, 3, shift=shift, low=0.0, high=255.0
    )
    assert samples.x.shape == (4000, 28, 56)
    assert (samples.x.dtype, samples.y.dtype) == (np.float32, np.bool_)
    halves = np.stack([samples.x[:, :, :28], samples.x[:, :, 28:]], axis=1).astype(int)
    assert ((halves > 0).sum(axis=(2, 3)) == 1).all()
    shown = halves.max(axis=(2, 3)) - 1
    np.testing.assert_array_equal(samples.digits, LABELS[shown])
    np.testing.assert_array_equal(samples.relevant, samples.digits <= 3)
    np.testing.assert_array_equal(samples.y, (samples.digits <= 3).any(axis=1))
    place = halves.reshape(4000, 2, -1).argmax(axis=2)
    down, right = place // 28 - 14, place % 28 - 13
    # Every translation of both axes is as likely as every other, and each image, too.
    side = 2 * shift + 1
    table = np.zeros((2, side, side))
    np.add.at(table, (np.arange(2), down + shift, right + shift), 1)
    fits(table)
    fits(np.bincount(shown.ravel(), minlength=100))


def fits(counts: np.ndarray) -> None:
    """Check chi-square against equal chances, within five standard deviations of its mean."""
    expected, freedom = counts.mean(), counts.size - 1
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom) + 1e-9


def test_pixels_that_are_pushed_out_are_lost() -> None:
    white = np.full((1, 28, 28), 255, np.uint8)
    x = pyrel.data.two_digits(white, np.array([0]), 500, 0, shift=27).x
    assert set(np.unique(x)) == {np.float32(-0.5), np.float32(1.5)}
    inside = (x[:, :, :28] > 0).sum(axis=(1, 2))
    assert inside.min() < 100
    assert inside.max() <= 784


def test_pinned() -> None:
    """Hold the samples of mnist-mini, bit by bit: same seed, same data, on every machine."""
    images, labels = pyrel.data.load_images("mnist-mini", "test")
    samples = pyrel.data.two_digits(images, labels, 200, seed=0, shift=3)
    content = samples.x.astype("<f4").tobytes() + samples.digits.astype("<i8").tobytes()
    assert (
        hashlib.sha256(content).hexdigest()
        == "ba54236eca1d58d7ae9d16acad12d4f2b3adf608c9048221ecffd8d623461d54"
    )


def test_no_samples() -> None:
    samples = pyrel.data.two_digits(np.empty((0, 28, 28), np.uint8), np.empty(0, np.int64), 0, 0)
    assert samples.x.shape == (0, 28, 56)
    assert len(samples) == 0


@pytest.mark.parametrize(
    ("changed", "error", "says"),
    [
        ({"count": -1}, ValueError, "count: got -1, at least 0 is wanted"),
        ({"count": 1.5}, TypeError, "count: got float, an integer"),
        ({"shift": 28}, ValueError, "shift: got 28, 0 to 27 is wanted"),
        ({"seed": -1}, ValueError, "seed: got -1"),
        ({"low": 2.0}, ValueError, "low, high: got 2.0 and 1.5"),
        ({"labels": LABELS[:3]}, ValueError, r"labels: got shape \(3,\)"),
        ({"images": marked_images(0), "labels": LABELS[:0]}, ValueError, "images: got none"),
    ],
)
def test_wrong_arguments(changed: dict, error: type, says: str) -> None:
    given = {"images": marked_images(100), "labels": LABELS, "count": 5, "seed": 0} | changed
    with pytest.raises(error, match=says):
        pyrel.data.two_digits(**given)
