# SPDX-License-Identifier: Apache-2.0
"""Explainers of any number of steps in files: for all of them, without the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine.sequences import (
    CLASSES,
    FEATURES,
    WIDTH,
    Front,
    Last,
    Mean,
    Packed,
    Tokens,
    assert_same,
    batch,
    captured,
    made,
    shared,
)
from engine.test_program_files import Content, assert_refused_or_harmless, forged
from torch import Tensor, nn

import pyrel
from pyrel import _core
from pyrel.compiler.program.generalise import TRIED

SOME_STEPS = (1, TRIED[0] - 1, TRIED[0], TRIED[-1] + 1)


class EachStep(nn.Module):
    """A score for each step, every other one of two."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.GRU(FEATURES, WIDTH, batch_first=True)
        self.out = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.core(x)[0])[:, :, 0]


@pytest.mark.parametrize(
    ("make", "method"),
    [
        (Last, "gradient"),
        (Mean, "lrp_epsilon"),
        (Packed, "deep_taylor"),
        (Tokens, "gradient"),
        (EachStep, "lrp_epsilon"),
    ],
)
def test_a_saved_explainer_takes_any_number_of_steps(
    make: Any, method: str, tmp_path: Path
) -> None:
    saved = shared(make, method)
    saved.save(tmp_path / "program")
    loaded = pyrel.Explainer.load(tmp_path / "program")
    assert repr(loaded) == repr(saved)
    for attribute in ("any_steps", "input_shape", "classes", "flops"):
        assert getattr(loaded, attribute) == getattr(saved, attribute), attribute
    for steps in SOME_STEPS if make is Last else SOME_STEPS[::3]:
        x = batch(make, 3, steps, seed=steps)
        bounds = {} if make is Tokens else {"low": -1.0, "high": 1.0}
        # A graph is of one number of steps, and lowered for it.
        graph = captured(make, 6).graph(steps)
        fixed = pyrel.Explainer(graph, method=method, check=None, **bounds)
        assert not fixed.any_steps
        for any_steps in (saved, loaded):
            assert_same(any_steps(x), fixed(x))
        assert loaded.classes_at(steps) == saved.classes_at(steps) == fixed.classes
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "program").read_bytes()


def test_lengths_are_kept(tmp_path: Path) -> None:
    saved = shared(Packed, "lrp_epsilon")
    saved.save(tmp_path / "program")
    x, lengths = batch(Packed, 6, 19), [19, 3, 1, 12, 16, 3]
    loaded = pyrel.Explainer.load(tmp_path / "program")
    assert_same(loaded(x, lengths=lengths), saved(x, lengths=lengths))


@pytest.mark.skipif("avx512_bf16" not in _core.instruction_sets(), reason="no products of bfloat16")
def test_the_program_that_decides_is_kept(tmp_path: Path) -> None:
    saved = shared(Last, "deep_taylor", precision="bf16_all")
    saved.save(tmp_path / "program")
    loaded = pyrel.Explainer.load(tmp_path / "program")
    for steps in SOME_STEPS:
        x = batch(Last, 70, steps, seed=steps)
        assert_same(loaded(x), saved(x))


class Branch(nn.Module):
    """Another output from 40 steps on."""

    def __init__(self) -> None:
        super().__init__()
        self.last = Last()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x) if x.shape[1] < 40 else -self.last(x)


def test_numbers_of_steps_that_the_model_does_not_take(tmp_path: Path) -> None:
    shared(Branch, "gradient").save(tmp_path / "program")
    loaded = pyrel.Explainer.load(tmp_path / "program")
    assert loaded(batch(Last, 2, 39)).output.shape == (2, CLASSES)
    with pytest.raises(ValueError, match="takes 1 to 39 steps, got 40"):
        loaded(batch(Last, 2, 40))


def test_what_cannot_be_saved_says_why(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no pattern .*pyrel\.capture\(model"):
        shared(Front, "deep_taylor").save(tmp_path / "program")
    low = np.linspace(-2.0, -1.0, 6)[:, None]
    by_step = pyrel.Explainer(captured(Last, 6), method="gradient", low=low, high=1.0)
    with pytest.raises(ValueError, match="given for each of 6 steps"):
        by_step.save(tmp_path / "program")
    assert list(tmp_path.iterdir()) == []
    x = batch(Front, 2, 6)
    fixed = pyrel.Explainer(pyrel.capture(made(Front), x), low=-1.0, high=1.0)
    fixed.save(tmp_path / "program")
    assert_same(pyrel.Explainer.load(tmp_path / "program")(x), fixed(x))


@pytest.fixture(scope="module")
def saved_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("saved") / "program"
    shared(Last, "deep_taylor").save(file)
    return file.read_bytes()


@pytest.fixture
def path(tmp_path: Path, saved_bytes: bytes) -> Path:
    file = tmp_path / "program"
    file.write_bytes(saved_bytes)
    return file


def loop(content: Content) -> Content:
    """Return the first loop of the pattern."""
    found: Content = next(item for item in content["items"] if "body" in item)
    return found


def part(content: Content) -> Content:
    """Return the first product in it."""
    found: Content = next(p for p in loop(content)["body"] if p["template"]["kind"] == "Gemm")
    return found


FORGERIES = {
    "no pattern": (lambda t, c: c.pop("pattern"), "Pattern: wanted a mapping"),
    "items": (lambda t, c: c["items"].clear(), "more than instructions ask for"),
    "count": (lambda t, c: loop(c).update(repeat=[3]), "wants two numbers"),
    "few": (lambda t, c: c["explainer"]["few"].append(11), "'few.11.offsets' is missing"),
    "a few left": (lambda t, c: c["explainer"]["few"].pop(), "a tensor 'few.9.offsets', unknown"),
    "growing": (lambda t, c: c.pop("growing"), "growing: wanted a list"),
    "runs": (lambda t, c: part(c).update(runs=2**40), "fewer than instructions ask for"),
    "grows": (lambda t, c: part(c).update(grows=[["post", 1]]), "has no number post"),
    "weights": (lambda t, c: part(c).update(grows=[["matrix", 1]]), "matrix cannot depend"),
    "least": (lambda t, c: c["pattern"].update(least=14), "do not fit its program"),
    "size": (lambda t, c: c["pattern"].update(input_size=[1, 1]), "beyond its space|do not fit"),
    "offsets": (lambda t, c: t["offsets"].neg_(), "a pattern has runs of"),
    "no steps": (lambda t, c: c["explainer"].update(input_shape=[]), "have no steps|must both"),
}


@pytest.mark.parametrize(("change", "message"), FORGERIES.values(), ids=FORGERIES)
def test_a_forged_pattern_is_refused(path: Path, change: Any, message: str) -> None:
    forged(path, change)
    with pytest.raises(ValueError, match=message) as caught:
        pyrel.Explainer.load(path)
    assert str(path) in str(caught.value)


def test_random_changes_are_refused_or_harmless(path: Path) -> None:
    original = path.read_bytes()
    batches = [batch(Last, 3, steps) for steps in (TRIED[-1] + 3, 40)]
    assert_refused_or_harmless(
        lambda file, _: file.write_bytes(original), path, ("items", "pattern"), batches
    )


@pytest.mark.parametrize("number", [-1000, -2, 99, 2**40])
@pytest.mark.parametrize("name", ["matrix", "bias", "scale_vector"])
def test_a_pattern_that_names_what_is_not_there(path: Path, name: str, number: int) -> None:
    forged(path, lambda t, c: changed(part(c)["template"], name, number))
    with pytest.raises(ValueError, match=f"no such (matrix|vector): {number}") as caught:
        pyrel.Explainer.load(path)
    assert str(path) in str(caught.value)


def changed(template: Content, name: str, number: int) -> None:
    """Change a number in a template, or in its epilogue."""
    home = template if name in template else template["epilogue"]
    home[name] = number
