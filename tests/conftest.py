# SPDX-License-Identifier: Apache-2.0
"""What every test shares."""

import gc
import itertools
import os
from pathlib import Path

import pytest

# Many small products: torch threads would only wait for each other (and for another run of tests).
os.environ.setdefault("OMP_NUM_THREADS", "1")

# These compile the same cases, which each process does once; so they run one after another.
_TOGETHER = ("test_agreement.py", "test_same_bits.py", "test_program_files.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring tests that share what they compile together: workers begin with a part in order."""
    order = {name: number for number, name in enumerate(_TOGETHER, start=1)}
    items.sort(key=lambda item: order.get(item.path.name, 0))


def pytest_collection_finish() -> None:
    """Look for garbage less often: exports make many objects that last; it took a tenth of all."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Give the folder with the real MNIST and Fashion-MNIST files; skip unless all are there.

    What is missing would be downloaded, which no test is to do.
    """
    from pyrel.data.sources import SOURCES  # not above: it loads torch, which reads the variable

    given = os.environ.get("PYREL_DATA_DIR")
    if not given:
        pytest.skip("needs the real data sets: set PYREL_DATA_DIR to their folder")
    folder = Path(given)
    for source in SOURCES.values():
        for file in itertools.chain.from_iterable(source.splits.values()):
            path = folder / source.name / f"{file.name}.gz"
            if not path.is_file():
                pytest.skip(f"needs the real data sets: PYREL_DATA_DIR is set, but no file {path}")
    return folder
