# SPDX-License-Identifier: Apache-2.0
"""Make pyrel/data/mnist-mini.npz from MNIST: 500 training and 100 test digits of each class.

    python scripts/make_mnist_mini.py [--root FOLDER] [--output FILE]

MNIST is looked for as pyrel.data.load_images does it. The digits are drawn without replacement,
test digits from the test set alone, and kept in MNIST's order. Same content on every machine; a
test holds its checksum. (The bytes of the compressed file may differ with the version of zlib.)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

import pyrel.data
from pyrel.data._random import Draws

PER_CLASS = {"train": 500, "test": 100}
SEED = 2018
OUTPUT = Path(__file__).parents[1] / "pyrel" / "data" / "mnist-mini.npz"


def balanced_part(labels: npt.NDArray[np.int64], per_class: int) -> npt.NDArray[np.int64]:
    """Choose `per_class` indices of each class at random; ascending."""
    keys = Draws(SEED).keys(len(labels))
    chosen = []
    for digit in np.unique(labels):
        members = np.flatnonzero(labels == digit)
        chosen.append(members[np.argsort(keys[members], kind="stable")[:per_class]])
    return np.sort(np.concatenate(chosen))


def mini_arrays(root: Path | None) -> dict[str, npt.NDArray[np.uint8]]:
    """Return the arrays of the file by name."""
    arrays = {}
    for split, per_class in PER_CLASS.items():
        images, labels = pyrel.data.load_images("mnist", split, root=root)
        part = balanced_part(labels, per_class)
        arrays[f"{split}_images"] = images[part]
        arrays[f"{split}_labels"] = labels[part].astype(np.uint8)
    return arrays


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--root", type=Path, help="where MNIST is (default: PYREL_DATA_DIR, the cache, a mirror)"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    np.savez_compressed(options.output, allow_pickle=False, **mini_arrays(options.root))
    print(f"{options.output}: {options.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
