# SPDX-License-Identifier: Apache-2.0
"""A tiny demo whose models, evaluation and samples the tests of the commands work on."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import TINY, Workshop, pyrel

import pyrel as library
from pyrel.experiment import Problem, load_cell
from pyrel.training import load_model


@functools.cache
def read(path: Path, content: bytes, limits: Any) -> Any:
    return load_model(path, limits=limits)


@pytest.fixture(autouse=True)
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `pyrel explain` read a model once: one that lives is captured once for all methods."""
    monkeypatch.setattr(
        "pyrel.training.load_model",
        lambda path, limits=None: read(path, path.read_bytes(), limits),
    )


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


@pytest.fixture(scope="session")
def captured(
    workshop: Workshop, samples: tuple[np.ndarray, np.ndarray]
) -> tuple[library.Graph, np.ndarray]:
    """Return the graph of the tiny deep model, which takes a second to capture, and an example."""
    example = samples[0][:2]
    return library.capture(load_cell(workshop.deep).model, example), example


@pytest.fixture(scope="session")
def program(
    captured: tuple[library.Graph, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny deep model compiled: for tests of what happens once there is an explainer."""
    path = tmp_path_factory.mktemp("compiled") / "deep.program"
    graph, example = captured
    library.Explainer(graph, example, low=0.0, high=1.0).save(path)
    return path


@pytest.fixture
def x_file(samples: tuple[np.ndarray, np.ndarray], tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, samples[0])
    return path
