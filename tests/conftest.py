# SPDX-License-Identifier: Apache-2.0
"""What every test shares."""

import gc
import itertools
import os
from pathlib import Path

import pytest

# Many small products: torch threads would only wait for each other (and for another run of tests).
os.environ.setdefault("OMP_NUM_THREADS", "1")

# These compile the same models, which each process does once; so they run one after another, model
# by model: where a worker takes tests over from another one, few models are compiled again.
_TOGETHER = (
    ("test_passes.py", "test_lanes.py", "test_reference_zoo.py", "test_zoo.py")
    + ("test_rules.py", "test_bias_share.py", "test_constant_gates.py"),
    ("test_memory.py", "test_precision.py", "test_work.py", "test_agreement.py")
    + ("test_same_bits.py", "test_program_files.py", "test_ways_back.py"),
)


def _place(item: pytest.Item) -> tuple[int, str]:
    """Say which part of the order an item is in, and by which model."""
    name = item.path.name
    parts = (number for number, names in enumerate(_TOGETHER, start=1) if name in names)
    part = next(parts, 0)
    given = item.callspec.params if part and hasattr(item, "callspec") else {}
    model = next(
        (given[kind] for kind in ("exhibit", "variant", "case", "name") if kind in given), ""
    )
    return part, str(getattr(model, "name", model))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring tests that share what they compile together: workers begin with a part in order."""
    items.sort(key=_place)


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
