# SPDX-License-Identifier: Apache-2.0
"""What every test shares."""

import os
from pathlib import Path

import pytest

# Many small products: torch threads would only wait for each other (and for another run of tests).
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Give the folder with the real MNIST and Fashion-MNIST files; skip where there is none."""
    folder = os.environ.get("PYREL_DATA_DIR")
    if not folder:
        pytest.skip("needs the real data sets: set PYREL_DATA_DIR to their folder")
    return Path(folder)
