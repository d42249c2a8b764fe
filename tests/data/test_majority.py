# SPDX-License-Identifier: Apache-2.0
"""The majority problem: what the samples are made of, and that they stay the same."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import pyrel.data

STEPS = [3, 6, 12, 21, 42, 84]


def numbered_images(count: int) -> np.ndarray:
    """Make images that show their index: its bytes in the first pixels of each column."""
    images = np.full((count, 28, 28), 200, np.uint8)
    images[:, 0, :] = (np.arange(count) % 256)[:, None]
    images[:, 1, :] = (np.arange(count) // 256)[:, None]
    return images


def shown_indices(x: np.ndarray) -> np.ndarray:
    """Read which three images a sample shows, shape (n, 3)."""
    wide = np.rint(np.concatenate(list(x.transpose(1, 0, 2, 3)), axis=2) * 255).astype(int)
    index = wide[:, 0] + 256 * wide[:, 1]
    assert (wide[:, 2:] == 200).all()
    thirds = index.reshape(-1, 3, 28)
    assert (thirds == thirds[:, :, :1]).all(), "every third is one image"
    return thirds[:, :, 0]


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    """Give the labels of 3,000 images; some classes are large, one has two images only."""
    rng = np.random.default_rng(0)
    return rng.permutation(np.repeat([0, 3, 4, 9], [1500, 1000, 498, 2]))


@pytest.fixture(scope="module")
def images(labels) -> np.ndarray:
    return numbered_images(len(labels))


@pytest.mark.parametrize("steps", STEPS)
def test_two_of_the_class_and_one_of_another(images, labels, steps) -> None:
    samples = pyrel.data.majority(images, labels, seed=5, steps=steps)
    n = len(images)
    assert len(samples) == n
    assert samples.x.shape == (n, steps, 28, 84 // steps)
    assert samples.relevant.shape == (n, steps)
    assert (samples.x.dtype, samples.y.dtype) == (np.float32, np.int64)
    assert (samples.relevant.dtype, samples.digits.dtype) == (np.bool_, np.int64)
    assert samples.x.flags.c_contiguous

    shown = shown_indices(samples.x)
    np.testing.assert_array_equal(samples.digits, labels[shown])
    np.testing.assert_array_equal(samples.y, labels)
    own_class = labels[shown] == labels[:, None]
    np.testing.assert_array_equal(own_class.sum(axis=1), 2)
    np.testing.assert_array_equal(samples.relevant, np.repeat(own_class, steps // 3, axis=1))
    own_image = shown == np.arange(n)[:, None]
    np.testing.assert_array_equal(own_image.sum(axis=1), 1, "its own image once, not twice")
    assert own_class[own_image].all()


def test_the_steps_do_not_change_the_choice(images, labels) -> None:
    first, *others = (pyrel.data.majority(images, labels, 1, steps) for steps in STEPS)
    for other in others:
        np.testing.assert_array_equal(shown_indices(other.x), shown_indices(first.x))


def test_all_choices_are_uniform(labels, images) -> None:
    count, draws = 60, 1000
    few = np.sort(labels)[::50]  # 30, 20 and 10 images of three classes
    counts = {"same": np.zeros((count, count)), "other": np.zeros((count, count))}
    places = np.zeros((3, 3))
    for seed in range(draws):
        shown = shown_indices(pyrel.data.majority(images[:count], few, seed, steps=3).x)
        own, other = shown == np.arange(count)[:, None], few[shown] != few[:, None]
        same = ~own & ~other
        for kind, mask in (("same", same), ("other", other)):
            np.add.at(counts[kind], (np.arange(count), shown[mask]), 1)
        places += [[mask[:, third].sum() for third in range(3)] for mask in (own, same, other)]
    alike = few[:, None] == few
    np.fill_diagonal(alike, False)
    for kind, possible in (("same", alike), ("other", few[:, None] != few)):
        expected = possible * (draws / possible.sum(axis=1, keepdims=True))
        assert_fits(counts[kind][possible], expected[possible], possible.sum() - count)
        assert counts[kind][~possible].sum() == 0
    assert_fits(places, np.full((3, 3), draws * count / 3), 4)


def assert_fits(counts: np.ndarray, expected: np.ndarray, freedom: int) -> None:
    """Check chi-square within five standard deviations of its mean, the degrees of freedom."""
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - freedom) < 5 * np.sqrt(2 * freedom)


def test_same_seed_same_samples(images, labels) -> None:
    one, two, three = (pyrel.data.majority(images, labels, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.x, two.x)
    np.testing.assert_array_equal(one.relevant, two.relevant)
    assert (shown_indices(one.x) != shown_indices(three.x)).mean() > 0.5


def test_pinned() -> None:
    """Hold the samples of mnist-mini, bit by bit: same seed, same data, on every machine."""
    images, labels = pyrel.data.load_images("mnist-mini", "test")
    samples = pyrel.data.majority(images, labels, seed=0)
    content = b"".join(
        array.astype(kind).tobytes()
        for array, kind in (
            (samples.x, "<f4"),
            (samples.y, "<i8"),
            (samples.relevant, "u1"),
            (samples.digits, "<i8"),
        )
    )
    expected = "93c9e691d15fc1d4491da739b070c3b460be7499621af10a4992050f5449ac48"
    assert hashlib.sha256(content).hexdigest() == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64])
def test_labels_of_any_integer_type(images, labels, dtype) -> None:
    expected = pyrel.data.majority(images, labels, 0)
    samples = pyrel.data.majority(images, labels.astype(dtype), 0)
    np.testing.assert_array_equal(samples.x, expected.x)
    assert samples.y.dtype == np.int64


def test_leaves_the_arguments_alone(images, labels) -> None:
    before = images.copy(), labels.copy()
    samples = pyrel.data.majority(images, labels, 0)
    samples.y[:] = -1
    np.testing.assert_array_equal(images, before[0])
    np.testing.assert_array_equal(labels, before[1])


def test_the_fewest_images() -> None:
    samples = pyrel.data.majority(numbered_images(4), np.array([5, 5, -1, -1]), 0)
    shown = shown_indices(samples.x)
    majority = shown[samples.relevant[:, ::4]].reshape(4, 2)
    np.testing.assert_array_equal(np.sort(majority), [[0, 1], [0, 1], [2, 3], [2, 3]])


def test_no_images() -> None:
    samples = pyrel.data.majority(np.empty((0, 28, 28), np.uint8), np.empty(0, np.int64), 0)
    assert samples.x.shape == (0, 12, 28, 7)
    assert samples.relevant.shape == (0, 12)
    assert samples.digits.shape == (0, 3)
    assert len(samples) == 0


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 7, 9, 14, 28, 85, -3])
def test_steps_across_a_border(images, labels, steps) -> None:
    with pytest.raises(ValueError, match=f"steps: got {steps}, one of 3, 6, 12, 21, 42, 84"):
        pyrel.data.majority(images, labels, 0, steps)


def test_one_image_of_a_class() -> None:
    labels = np.array([0, 0, 7, 1, 1, 8])
    with pytest.raises(ValueError, match="one image only of class 7, 8, two or more"):
        pyrel.data.majority(numbered_images(6), labels, 0)


def test_one_class() -> None:
    with pytest.raises(ValueError, match="the class 3 only, two classes or more"):
        pyrel.data.majority(numbered_images(4), np.full(4, 3), 0)


def test_labels_of_another_type(images, labels) -> None:
    for wrong, found in ((labels.astype(float), "float64"), (labels.tolist(), "list")):
        with pytest.raises(TypeError, match=f"labels: got .*{found}.*integers is wanted"):
            pyrel.data.majority(images, wrong, 0)


def test_another_number_of_labels(images, labels) -> None:
    with pytest.raises(ValueError, match=r"labels: got shape \(2999,\), \(3000,\) is wanted"):
        pyrel.data.majority(images, labels[:-1], 0)


def test_images_of_another_type_or_shape(images, labels) -> None:
    with pytest.raises(TypeError, match="images: got a numpy array of float64, .*uint8 is wanted"):
        pyrel.data.majority(images / 255, labels, 0)
    with pytest.raises(ValueError, match=r"images: got shape \(3000, 784\)"):
        pyrel.data.majority(images.reshape(3000, 784), labels, 0)


def test_a_bad_seed(images, labels) -> None:
    with pytest.raises(ValueError, match="seed: got -1"):
        pyrel.data.majority(images, labels, -1)
