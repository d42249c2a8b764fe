# SPDX-License-Identifier: Apache-2.0
"""Images to train on and to explain: MNIST and relatives, as sequences, side by side."""

from pyrel.data.errors import (
    ChecksumError,
    CorruptFileError,
    CountMismatchError,
    DataError,
    DownloadError,
    MagicError,
    ShapeError,
    TrailingBytesError,
    TruncatedFileError,
)
from pyrel.data.images import load_images, read_images
from pyrel.data.majority import MajoritySamples, majority
from pyrel.data.sequences import sequence
from pyrel.data.two_digit import TwoDigitSamples, two_digits

__all__ = [
    "ChecksumError",
    "CorruptFileError",
    "CountMismatchError",
    "DataError",
    "DownloadError",
    "MagicError",
    "MajoritySamples",
    "ShapeError",
    "TrailingBytesError",
    "TruncatedFileError",
    "TwoDigitSamples",
    "load_images",
    "majority",
    "read_images",
    "sequence",
    "two_digits",
]
