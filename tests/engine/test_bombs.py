# SPDX-License-Identifier: Apache-2.0
"""Small files that ask for much are loaded or refused soon, in little memory."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import bombs
from engine.bomb_child import in_child
from engine.sequences import Last, batch, shared

import pyrel
from pyrel.compiler.program.file_limits import NO_LIMITS, Limits
from pyrel.compiler.program.instructions import Map
from pyrel.compiler.program.rows import Rows, write_rows
from pyrel.compiler.program.step_pattern import Item, Part, Pattern
from pyrel.engine.compiled_model import limits_of
from pyrel.files.tensors import read_tensors, write_tensors
from pyrel.training import load_model, save_model

# Python 3.12 warns of any fork in a process with threads.
pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
SECONDS, BYTES = 2.0, 256 << 20
NAMES = [
    *(f"fixed {name}" for name in bombs.FIXED),
    *(f"pattern {name}" for name in bombs.PATTERNS),
    *(f"model {name}" for name in bombs.MODELS),
]
REFUSED_BY = {
    "fixed 40,000 instructions": "entries",
    "fixed many tensors": "entries",
    "fixed many matrices": "tensors",
    "fixed many entries": "entries",
    "fixed many lists": "entries",
    "fixed many names": "entries",
    "fixed long text": "text",
    "fixed deep": "entries",
    "fixed vocabulary": "inputs",
    "fixed some loops": "instructions",
    "pattern many steps at least": "first_rows",
    "pattern some values": "values",
    "model many sizes": "entries",
    "model steps": "steps",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Load all of them in processes of their own."""
    folder = tmp_path_factory.mktemp("bombs")
    bombs.write(folder)
    pyrel.Explainer.load(folder / "pattern")  # what is imported for the first one
    files = [*folder.glob("*.program"), *folder.glob("*.model")]
    return {file.stem: in_child(file) for file in sorted(files)}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a program for any number of steps."""
    path = tmp_path_factory.mktemp("saved") / "program"
    shared(Last, "gradient").save(path)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_bomb_is_loaded_or_refused_soon(name: str, found: dict[str, dict[str, Any]]) -> None:
    answer = found[name]
    outcome = answer["outcome"]
    assert outcome == "loaded" or name in outcome, outcome
    assert f"limits.{REFUSED_BY[name]}," in outcome if name in REFUSED_BY else True
    assert not any(word in outcome for word in ("MemoryError", "bad_alloc", "allocate"))
    # Of this process: what others do on a busy machine does not count.
    assert answer["seconds"] < SECONDS
    assert answer["bytes"] < BYTES


def test_limits_can_be_raised(path: Path) -> None:
    saved = shared(Last, "gradient")
    x = batch(Last, 2, 20)
    for name in ("entries", "text", "tensors", "instructions", "inputs", "rows", "first_rows",
                 "values", "work"):  # fmt: skip
        with pytest.raises(ValueError, match=f"{path}.*(limits.{name}|more work)"):
            pyrel.Explainer.load(path, limits=Limits(**{name: 1}))
    for limits in (None, NO_LIMITS, Limits().times(0.5)):
        loaded = pyrel.Explainer.load(path, limits=limits)
        assert (loaded(x).relevance == saved(x).relevance).all()


def test_a_call_for_many_steps_is_bounded_too(path: Path) -> None:
    loaded = pyrel.Explainer.load(path, limits=Limits(all_rows=3000))
    assert loaded(batch(Last, 1, 12)).relevance.shape[1] == 12
    with pytest.raises(ValueError, match=r"x: the program for 500 steps: .*limits\.all_rows"):
        loaded(batch(Last, 1, 500))


def zeros(*growths: list[int], limits: Limits = NO_LIMITS) -> Pattern:
    """Make a pattern of instructions of one run each, for one step or more."""
    numbers = [np.array([growth], np.int64) for growth in growths]
    none = np.zeros((1, 1, 2), np.int64)
    template = Map(None, 1, "arena")
    items = tuple(Item((Part(template, (), Rows(lengths, none, none)),)) for lengths in numbers)
    return Pattern(1, (1, 0), (1, 0), False, items, limits=limits)


@pytest.mark.parametrize("limits", [Limits(), NO_LIMITS])
@pytest.mark.parametrize(
    "growths",
    [
        [[90_001, 40_000], [11, -1]],  # the second has no row at 12 steps
        [[2**62 - 2, 2**59]],
        [[-(2**62), 2**62 // 11 + 1]],
        [[5, 2**63 - 1]],
        [[-(2**63), -(2**63)]],  # 0 if it wrapped
    ],
)
def test_no_run_of_a_later_number_of_steps_is_negative_or_wraps(
    growths: list[list[int]], limits: Limits, monkeypatch: pytest.MonkeyPatch
) -> None:
    if limits is not NO_LIMITS:
        monkeypatch.setattr(np, "repeat", None)  # nothing is written out
    with pytest.raises(ValueError, match=r"a pattern has runs of|a number of a pattern grows to"):
        zeros(*growths, limits=limits).apart(12)


def test_rows_that_run_out_of_an_integer_are_refused() -> None:
    far = np.array([[[2**61, 0]]], np.int64)
    rows = Rows(np.array([[2, 0]], np.int64), far, far)
    with pytest.raises(ValueError, match="a number of a pattern grows to"):
        write_rows([rows], [None], 0)


def test_a_models_steps_can_be_raised(tmp_path: Path) -> None:
    path = tmp_path / "model"
    save_model(path, pyrel.nn.Shallow(2, (3,), 2, (4,), 2))
    tensors, content = read_tensors(path, "model")
    content["cell"]["steps"] = 2000
    write_tensors(path, "model", tensors, content)
    with pytest.raises(ValueError, match=r"model .*2,000 steps, more than limits\.steps, 1,024"):
        load_model(path)
    assert load_model(path, limits=Limits().times(2))[0].steps == 2000


def test_limits_are_numbers_above_zero() -> None:
    with pytest.raises(ValueError, match="rows: wanted a number above 0, got 0"):
        Limits(rows=0)
    with pytest.raises(TypeError, match="work: wanted a number, got str"):
        Limits(work="1")  # type: ignore[arg-type]
    assert Limits().times(math.inf) == NO_LIMITS


def test_a_pickled_explainer_keeps_its_limits(path: Path) -> None:
    loaded = pyrel.Explainer.load(path, limits=Limits(all_rows=3000))
    for _ in range(2):
        loaded = pickle.loads(pickle.dumps(loaded))
        with pytest.raises(ValueError, match=r"x: the program for 500 steps: .*limits\.all_rows"):
            loaded(batch(Last, 1, 500))


def test_what_was_compiled_here_has_no_limits_when_pickled() -> None:
    compiled = shared(Last, "gradient")
    assert limits_of(pickle.loads(pickle.dumps(compiled))._compiled()) == NO_LIMITS
