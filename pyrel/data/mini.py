# SPDX-License-Identifier: Apache-2.0
"""``mnist-mini``: the digits that come with the package.

A class-balanced part of MNIST (LeCun, Cortes, Burges), made by ``scripts/make_mnist_mini.py``.
MNIST and this part of it are under CC BY-SA 3.0; see ``mnist-mini.LICENSE.md`` beside this file.
"""

from __future__ import annotations

import importlib.resources

import numpy as np
import numpy.typing as npt

from pyrel.data.errors import CorruptFileError

FILE = "mnist-mini.npz"


def load_mini(split: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Read the digits of a split from the file in the package."""
    resource = importlib.resources.files("pyrel.data").joinpath(FILE)
    with resource.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return arrays[f"{split}_images"], arrays[f"{split}_labels"].astype(np.int64)
        except Exception as error:  # numpy and zipfile raise many types for a damaged file
            raise CorruptFileError(
                str(resource), "the arrays of mnist-mini", error, "install pyrel again"
            ) from error
