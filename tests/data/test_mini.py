# SPDX-License-Identifier: Apache-2.0
"""The digits in the package: what they are, and that the committed script makes them."""

from __future__ import annotations

import hashlib
import importlib.resources
import importlib.util
from pathlib import Path

import numpy as np
import pytest

import pyrel.data

PACKAGE = Path(str(importlib.resources.files("pyrel.data")))
SCRIPT = Path(__file__).parents[2] / "scripts" / "make_mnist_mini.py"
SHA256 = {
    "train": "f3464688dbbfb21fe5e67066093c9fc0f3da8b293e9aa00fecb7ab2ad316431e",
    "test": "140837df342938ed475f7127c1123946c93916dd2685b12f9ec4b4333351af71",
}


@pytest.mark.parametrize(("split", "each"), [("train", 500), ("test", 100)])
def test_balanced(split, each) -> None:
    images, labels = pyrel.data.load_images("mnist-mini", split)
    assert (images.shape, images.dtype) == ((10 * each, 28, 28), np.uint8)
    assert (labels.shape, labels.dtype) == ((10 * each,), np.int64)
    np.testing.assert_array_equal(np.bincount(labels), [each] * 10)


@pytest.mark.parametrize("split", ["train", "test"])
def test_always_the_same(split) -> None:
    images, labels = pyrel.data.load_images("mnist-mini", split)
    content = images.tobytes() + labels.astype("<i8").tobytes()
    assert hashlib.sha256(content).hexdigest() == SHA256[split]


def test_every_call_gives_its_own_arrays() -> None:
    images, labels = pyrel.data.load_images("mnist-mini", "test")
    images[:], labels[:] = 0, 0
    images, labels = pyrel.data.load_images("mnist-mini", "test")
    assert images.any()
    assert labels.any()


def test_small_and_with_its_licence() -> None:
    assert (PACKAGE / "mnist-mini.npz").stat().st_size <= 1_500_000
    assert "CC BY-SA 3.0" in (PACKAGE / "mnist-mini.LICENSE.md").read_text()
    assert "CC\n    BY-SA 3.0" in pyrel.data.load_images.__doc__


@pytest.mark.parametrize("length", [0, 100, 500_000], ids=["empty", "short", "half"])
def test_a_damaged_package(length, tmp_path, monkeypatch) -> None:
    path = tmp_path / "mnist-mini.npz"
    path.write_bytes((PACKAGE / "mnist-mini.npz").read_bytes()[:length])
    monkeypatch.setattr(importlib.resources, "files", lambda _: tmp_path)
    with pytest.raises(pyrel.data.CorruptFileError, match="install pyrel again") as raised:
        pyrel.data.load_images("mnist-mini")
    assert raised.value.path == str(path)


def test_the_script_makes_the_file(real_data, tmp_path) -> None:
    specification = importlib.util.spec_from_file_location("make_mnist_mini", SCRIPT)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    made = script.mini_arrays(real_data)
    for split in ("train", "test"):
        images, labels = pyrel.data.load_images("mnist-mini", split)
        np.testing.assert_array_equal(made[f"{split}_images"], images)
        np.testing.assert_array_equal(made[f"{split}_labels"], labels)


@pytest.mark.parametrize("split", ["train", "test"])
def test_different_digits_of_the_same_split_of_mnist(real_data, split) -> None:
    images, labels = pyrel.data.load_images("mnist", split, root=real_data)
    known = {(image.tobytes(), label) for image, label in zip(images, labels, strict=True)}
    images, labels = pyrel.data.load_images("mnist-mini", split)
    chosen = {(image.tobytes(), label) for image, label in zip(images, labels, strict=True)}
    assert chosen <= known
    assert len(chosen) == len(labels)
