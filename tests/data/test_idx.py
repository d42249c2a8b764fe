# SPDX-License-Identifier: Apache-2.0
"""The IDX reader: what it reads, and what it says about each kind of damaged file."""

from __future__ import annotations

import gzip
import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import pyrel.data
from pyrel.data.idx import read_idx


def idx(shape: tuple[int, ...], elements: bytes) -> bytes:
    return bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes() + elements


IMAGES = idx((2, 3, 4), bytes(range(24)))


@pytest.fixture
def write(tmp_path: Path):
    def write_file(content: bytes, name: str = "some-idx3-ubyte") -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write_file


def assert_says(error: pyrel.data.DataError, path: Path, *words: str) -> None:
    """Check that the message has the file, what was expected, what was found, and more."""
    assert isinstance(error, ValueError)
    assert error.path == str(path)
    for word in (str(path), error.expected, error.found, *words):
        assert word in str(error)


@pytest.mark.parametrize("name", ["x-ubyte", "x-ubyte.gz"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_reads_plain_and_gzipped_whatever_the_name(write, name, pack) -> None:
    content = read_idx(write(pack(IMAGES), name), dimensions=3)
    np.testing.assert_array_equal(content.array, np.arange(24).reshape(2, 3, 4))
    assert content.array.dtype == np.uint8
    assert content.array.flags.writeable
    assert content.sha256 == hashlib.sha256(IMAGES).hexdigest()


def test_reads_a_file_of_several_chunks(write) -> None:
    elements = np.random.default_rng(0).integers(0, 256, (3 << 20) + 1, np.uint8)
    path = write(idx(elements.shape, elements.tobytes()))
    np.testing.assert_array_equal(read_idx(path, dimensions=1).array, elements)


@pytest.mark.parametrize("shape", [(0,), (0, 28, 28), (3, 0)])
def test_reads_no_elements(write, shape) -> None:
    assert read_idx(write(idx(shape, b"")), dimensions=len(shape)).array.shape == shape


@pytest.mark.parametrize("length", range(4))
def test_no_whole_magic(write, length) -> None:
    path = write(IMAGES[:length])
    with pytest.raises(pyrel.data.MagicError) as raised:
        read_idx(path, dimensions=3)
    assert_says(raised.value, path, "0x00000803")


@pytest.mark.parametrize("length", range(4, len(IMAGES)))
def test_truncated_idx(write, length) -> None:
    path = write(IMAGES[:length])
    with pytest.raises(pyrel.data.TruncatedFileError) as raised:
        read_idx(path, dimensions=3)
    header = 4 + 3 * 4
    there, wanted = (length, header) if length < header else (length - header, 24)
    assert_says(raised.value, path, f"{wanted} bytes", f"found {there} bytes", "fetch it again")


def test_truncated_gzip_at_every_byte(write) -> None:
    whole = gzip.compress(IMAGES)
    for length in range(2, len(whole)):  # below 2 it does not begin as gzip
        path = write(whole[:length])
        with pytest.raises(pyrel.data.TruncatedFileError) as raised:
            read_idx(path, dimensions=3)
        assert_says(raised.value, path, "gzip", f"after {length} bytes", "fetch it again")


def test_no_damaged_bit_of_a_gzip_goes_unseen(write) -> None:
    whole = gzip.compress(IMAGES)
    refused = 0
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path = write(bytes(damaged))
        try:
            content = read_idx(path, dimensions=3)
        except pyrel.data.DataError as error:
            assert_says(error, path)
            refused += 1
        else:  # time, system and level in the header of gzip mean nothing
            assert content.sha256 == hashlib.sha256(IMAGES).hexdigest()
    assert refused >= 8 * (len(whole) - 10), "all but those in the header of 10 bytes"


def test_damaged_gzip_says_so(write) -> None:
    damaged = bytearray(gzip.compress(IMAGES))
    damaged[-5] ^= 1  # in the checksum
    path = write(bytes(damaged))
    with pytest.raises(pyrel.data.CorruptFileError) as raised:
        read_idx(path, dimensions=3)
    assert_says(raised.value, path, "gzip", "CRC", "fetch it again")


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"<!DOCTYPE html><html>", id="web page"),
        pytest.param(idx((2, 3), bytes(6)), id="other number of dimensions"),
        pytest.param(b"\0\0\x0d\x03" + IMAGES[4:], id="floats"),
        pytest.param(b"\x03\x08\0\0" + IMAGES[4:], id="other byte order"),
    ],
)
def test_wrong_magic(write, content) -> None:
    path = write(content)
    with pytest.raises(pyrel.data.MagicError) as raised:
        read_idx(path, dimensions=3)
    assert_says(raised.value, path, "expected 0x00000803", f"found 0x{content[:4].hex()}")


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_trailing_bytes(write, pack) -> None:
    path = write(pack(IMAGES + b"xyz"))
    with pytest.raises(pyrel.data.TrailingBytesError) as raised:
        read_idx(path, dimensions=3)
    assert_says(raised.value, path, "expected 24 bytes", "(2, 3, 4)", "found 27 bytes")


def test_bytes_after_the_gzip_stream(write) -> None:
    path = write(gzip.compress(IMAGES) + b"xyz")
    with pytest.raises(pyrel.data.CorruptFileError, match="nothing after it") as raised:
        read_idx(path, dimensions=3)
    assert_says(raised.value, path)


def test_a_false_header_claims_no_memory(write) -> None:
    path = write(idx((1 << 31, 28, 28), bytes(100)))
    tracemalloc.start()
    try:
        with pytest.raises(pyrel.data.TruncatedFileError, match="found 100 bytes"):
            read_idx(path, dimensions=3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20, "a few chunks of 1 MiB"


def test_a_shape_that_no_array_can_have(write) -> None:
    path = write(idx((0, 2**32 - 1, 2**32 - 1), b""))
    with pytest.raises(pyrel.data.ShapeError) as raised:
        read_idx(path, dimensions=3)
    assert_says(raised.value, path)


def test_reads_own_images(write) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
    images_path = write(idx(images.shape, images.tobytes()), "my-images")
    labels_path = write(gzip.compress(idx((3,), bytes([7, 0, 255]))), "my-labels.gz")
    got_images, got_labels = pyrel.data.read_images(images_path, str(labels_path))
    np.testing.assert_array_equal(got_images, images)
    np.testing.assert_array_equal(got_labels, [7, 0, 255])
    assert got_labels.dtype == np.int64


def test_images_of_another_size(write) -> None:
    images = write(idx((2, 32, 32), bytes(2 * 32 * 32)), "my-images")
    labels = write(idx((2,), bytes(2)), "my-labels")
    with pytest.raises(pyrel.data.ShapeError) as raised:
        pyrel.data.read_images(images, labels)
    assert_says(raised.value, images, "28×28", "(2, 32, 32)")


def test_another_number_of_labels(write) -> None:
    images = write(idx((2, 28, 28), bytes(2 * 28 * 28)), "my-images")
    labels = write(idx((3,), bytes(3)), "my-labels")
    with pytest.raises(pyrel.data.CountMismatchError) as raised:
        pyrel.data.read_images(images, labels)
    assert_says(raised.value, labels, str(images), "expected 2 labels", "found 3 labels")


def test_images_and_labels_exchanged(write) -> None:
    images = write(idx((2, 28, 28), bytes(2 * 28 * 28)), "my-images")
    labels = write(idx((2,), bytes(2)), "my-labels")
    with pytest.raises(pyrel.data.MagicError, match="exchanged") as raised:
        pyrel.data.read_images(labels, images)
    assert_says(raised.value, labels)
