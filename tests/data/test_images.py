# SPDX-License-Identifier: Apache-2.0
"""Where load_images looks, in which order, and what it says about files that do not belong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import pyrel.data
import pyrel.data.images


@pytest.fixture
def known(monkeypatch, small, other):
    """Let the two known data sets be small ones; give a function that sets the mirrors."""

    def set_mirrors(*mirrors: str) -> None:
        sources = {files.name: files.source(*mirrors) for files in (small, other)}
        monkeypatch.setattr(pyrel.data.images, "SOURCES", sources)

    set_mirrors()
    return set_mirrors


@pytest.fixture
def places(tmp_path, monkeypatch) -> dict[str, Path]:
    """Give the folders that are looked in, in their order."""
    monkeypatch.setenv("PYREL_DATA_DIR", str(tmp_path / "variable"))
    return {
        "root": tmp_path / "root",
        "variable": tmp_path / "variable",
        "cache": tmp_path / "cache" / "pyrel",
        "system": tmp_path / "system",
    }


def assert_small(loaded, small) -> None:
    images, labels = loaded
    np.testing.assert_array_equal(images, small.images)
    np.testing.assert_array_equal(labels, small.labels)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    assert images.flags.writeable
    assert labels.flags.writeable


@pytest.mark.parametrize("gzipped", [True, False], ids=["gzipped", "plain"])
@pytest.mark.parametrize("subfolder", ["mnist", ""], ids=["named folder", "flat"])
@pytest.mark.parametrize("place", ["root", "variable", "cache", "system"])
def test_finds_the_files(known, places, small, place, subfolder, gzipped) -> None:
    small.put(places[place] / subfolder, gzipped)
    assert_small(pyrel.data.load_images("mnist", root=places["root"]), small)


def test_looks_in_the_order_that_is_documented(known, places, small) -> None:
    folders = [place / sub for place in places.values() for sub in ("mnist", "")]
    for folder in folders:
        small.put(folder)
        (folder / "train-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    for folder in folders:
        with pytest.raises(pyrel.data.MagicError) as raised:
            pyrel.data.load_images("mnist", root=str(places["root"]))
        assert Path(raised.value.path).parent == folder
        (folder / "train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(pyrel.data.DownloadError):
        pyrel.data.load_images("mnist", root=places["root"])


def test_without_root_and_variable(known, tmp_path, small, monkeypatch) -> None:
    monkeypatch.setenv("PYREL_DATA_DIR", "")  # as good as not set, not the current folder
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"damaged")
    small.put(tmp_path / "system" / "mnist")
    assert_small(pyrel.data.load_images("mnist"), small)


def test_a_relative_cache_folder_is_ignored(known, tmp_path, small, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", "here")
    small.put(tmp_path / "home" / ".cache" / "pyrel" / "mnist")
    assert_small(pyrel.data.load_images("mnist"), small)


def test_passes_over_another_known_set_in_a_flat_folder(known, places, small, other) -> None:
    other.put(places["root"])
    small.put(places["cache"] / "mnist")
    assert_small(pyrel.data.load_images("mnist", root=places["root"]), small)
    images, _ = pyrel.data.load_images("fashion-mnist", root=places["root"])
    np.testing.assert_array_equal(images, other.images)


def test_another_known_set_in_the_named_folder(known, places, small, other) -> None:
    other.put(places["root"] / "mnist")
    with pytest.raises(pyrel.data.ChecksumError) as raised:
        pyrel.data.load_images("mnist", root=places["root"])
    assert "which is train-images-idx3-ubyte of fashion-mnist" in str(raised.value)


@pytest.mark.parametrize("subfolder", ["mnist", ""], ids=["named folder", "flat"])
def test_own_data_under_a_known_name(known, places, small, other, monkeypatch, subfolder) -> None:
    monkeypatch.setattr(
        pyrel.data.images, "SOURCES", {"mnist": small.source(), "fashion-mnist": small.source()}
    )
    folder = places["root"] / subfolder
    other.put(folder)
    with pytest.raises(pyrel.data.ChecksumError) as raised:
        pyrel.data.load_images("mnist", root=places["root"])
    error = raised.value
    assert error.path == str(folder / "train-images-idx3-ubyte.gz")
    assert small.pair[0].sha256 in error.expected
    assert error.found == f"sha256 {other.pair[0].sha256}"
    assert "pyrel.data.read_images" in str(error)
    images, _ = pyrel.data.read_images(
        folder / "train-images-idx3-ubyte.gz", folder / "train-labels-idx1-ubyte.gz"
    )
    np.testing.assert_array_equal(images, other.images)


def test_images_of_one_set_with_labels_of_another(known, places, small, other) -> None:
    small.put(places["root"] / "mnist")
    labels = places["root"] / "mnist" / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(other.gzipped[labels.name])
    with pytest.raises(pyrel.data.CountMismatchError, match="expected 200 labels") as raised:
        pyrel.data.load_images("mnist", root=places["root"])
    assert raised.value.path == str(labels)


def test_a_foreign_file_in_the_cache(known, places, small, other, new_mirror) -> None:
    known(new_mirror(small.gzipped).url)
    folder = places["cache"] / "mnist"
    other.put(folder)
    with pytest.raises(pyrel.data.ChecksumError, match="delete the file, and it will be download"):
        pyrel.data.load_images("mnist")
    for path in folder.iterdir():
        path.unlink()
    assert_small(pyrel.data.load_images("mnist"), small)


def test_downloads_to_the_cache_once(known, places, small, new_mirror) -> None:
    mirror = new_mirror(small.gzipped)
    known(mirror.url)
    for _ in range(2):
        assert_small(pyrel.data.load_images("mnist", root=places["root"]), small)
    assert mirror.ranges == [None, None], "images and labels"
    cached = {path.name for path in (places["cache"] / "mnist").iterdir()}
    assert cached == set(small.gzipped)
    assert not places["root"].exists()


def test_a_part_is_not_taken_for_the_file(known, places, small) -> None:
    folder = places["cache"] / "mnist"
    small.put(folder)
    whole = folder / "train-images-idx3-ubyte.gz"
    whole.rename(f"{whole}.part")
    with pytest.raises(pyrel.data.DownloadError):
        pyrel.data.load_images("mnist")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("MNIST",), ("name: got 'MNIST'", "'mnist', 'fashion-mnist', 'mnist-mini'")),
        (("mnist", "validation"), ("split: got 'validation'", "'train', 'test'")),
        (("mnist-mini", "validation"), ("split: got 'validation'", "'train', 'test'")),
    ],
)
def test_unknown_names(arguments, words) -> None:
    with pytest.raises(ValueError) as raised:
        pyrel.data.load_images(*arguments)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_real_data(real_data, name, split, count) -> None:
    images, labels = pyrel.data.load_images(name, split, root=real_data)
    assert images.shape == (count, 28, 28)
    assert labels.shape == (count,)
    assert set(labels) == set(range(10))


def test_a_truncated_real_file(real_data, tmp_path) -> None:
    for name in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        content = (real_data / "mnist" / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(pyrel.data.TruncatedFileError) as raised:
        pyrel.data.load_images("mnist", "test", root=tmp_path)
    assert raised.value.path == str(tmp_path / "t10k-images-idx3-ubyte.gz")
