# SPDX-License-Identifier: Apache-2.0
"""The public data sets that pyrel knows: their files, checksums and mirrors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceFile:
    """A file: its name without ``.gz``, its dimensions, the sha256 of its decompressed content."""

    name: str
    dimensions: int
    sha256: str


@dataclass(frozen=True)
class Source:
    """A public data set.

    Attributes
    ----------
    name : str
        What users call it, and the name of its folder.
    splits : dict
        Split → (file of images, file of labels).
    mirrors : tuple of str
        URL prefixes; mirror + file name + ``.gz`` is the file. Tried in this order. None of them is
        trusted: what comes is checked, so plain http is no risk.
    """

    name: str
    splits: dict[str, tuple[SourceFile, SourceFile]]
    mirrors: tuple[str, ...]


def _splits(sums: tuple[str, str, str, str]) -> dict[str, tuple[SourceFile, SourceFile]]:
    train_images, train_labels, test_images, test_labels = sums
    return {
        "train": (
            SourceFile("train-images-idx3-ubyte", 3, train_images),
            SourceFile("train-labels-idx1-ubyte", 1, train_labels),
        ),
        "test": (
            SourceFile("t10k-images-idx3-ubyte", 3, test_images),
            SourceFile("t10k-labels-idx1-ubyte", 1, test_labels),
        ),
    }


MNIST = Source(
    name="mnist",
    splits=_splits(
        (
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        )
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ),
)

FASHION_MNIST = Source(
    name="fashion-mnist",
    splits=_splits(
        (
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        )
    ),
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
)

SOURCES = {source.name: source for source in (MNIST, FASHION_MNIST)}
