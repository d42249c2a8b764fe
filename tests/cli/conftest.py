# SPDX-License-Identifier: Apache-2.0
"""A tiny demo whose models, evaluation and samples the tests of the commands work on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from commands import TINY, Workshop, pyrel

from pyrel.experiment import Problem


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    folder = tmp_path_factory.mktemp("demo")
    printed = pyrel("demo", *TINY, "--keep", folder, "--out", folder / "page" / "report.html")
    return Workshop(folder, printed)


@pytest.fixture(scope="session")
def samples() -> tuple[np.ndarray, np.ndarray]:
    """Thirty majority samples, and their classes."""
    problem = Problem.of("mnist-mini", "majority")
    x, y, _ = problem.samples(problem.images("test"), count=30)
    return x, y


@pytest.fixture
def x_file(samples: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, samples[0])
    return path
