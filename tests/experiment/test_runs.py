# SPDX-License-Identifier: Apache-2.0
"""Runs of an experiment are worked out once, kept whole, and summed up with their intervals."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from pyrel.experiment.reproduce.numbers import Interval, table
from pyrel.experiment.reproduce.runs import Found, Kept, Run, clock, complete


class Counting:
    """Work that counts how often it is done."""

    def __init__(self, stop: bool = False) -> None:
        self.done, self.stop = 0, stop

    def __call__(self, folder: Path) -> Found:
        assert folder.is_dir()
        self.done += 1
        if self.stop:
            raise KeyboardInterrupt
        return Found({"accuracy": 0.1 + 0.2}, {"map": np.arange(6.0).reshape(2, 3)})


def test_a_run_is_worked_out_once(tmp_path: Path) -> None:
    work, said = Counting(), []
    for _ in range(2):
        runs = [Run("one", {"seed": 0, "sizes": (6, 44)}, work)]
        results = complete(runs, tmp_path / "kept", tmp_path / "models", lambda *a: said.append(a))
    assert work.done == 1
    assert said == [("one", 0, 1), ("all runs", 1, 1)] * 2
    assert results["one"].numbers == {"accuracy": 0.1 + 0.2}
    np.testing.assert_array_equal(results["one"].arrays["map"], np.arange(6.0).reshape(2, 3))
    assert results["one"].machine["cores"] >= 1


def test_a_fresh_run_is_what_is_kept_of_it(tmp_path: Path) -> None:
    """So a page does not depend on whether its runs are fresh: the order of keys, too."""
    run = Run("one", {}, lambda _: Found({"b": 1, "a": {"d": 1, "c": 2}}, {}))
    fresh = complete([run], tmp_path, tmp_path)["one"]
    kept = complete([run], tmp_path, tmp_path)["one"]
    assert repr(fresh) == repr(kept)


def test_time_of_interrupted_runs_is_a_least(tmp_path: Path) -> None:
    machine = {"processor": "Z80"}
    whole = Kept({}, {"training seconds": 50.0}, {}, 60.0, machine)
    stopped = Kept({}, {"training seconds": 600.0}, {}, 90.0, machine)
    assert clock([whole, whole]) == "2 minutes by the clock (Z80)"
    assert clock([whole, stopped]) == "at least 11 minutes by the clock (Z80)"
    assert clock([stopped] * 20) == "at least 3.3 hours by the clock (Z80)"


def test_other_settings_are_worked_out_anew(tmp_path: Path) -> None:
    work = Counting()
    for seed in (0, 1):
        complete([Run("one", {"seed": seed}, work)], tmp_path, tmp_path)
    assert work.done == 2


def test_an_interrupted_run_leaves_those_before_it(tmp_path: Path) -> None:
    first, second = Counting(), Counting(stop=True)
    runs = [Run("first", {}, first), Run("second", {}, second)]
    with pytest.raises(KeyboardInterrupt):
        complete(runs, tmp_path, tmp_path / "models")
    second.stop = False
    assert list(complete(runs, tmp_path, tmp_path / "models")) == ["first", "second"]
    assert (first.done, second.done) == (1, 2)


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text("[]")
    with pytest.raises(ValueError, match=r"one\.json is no result of a run; remove it"):
        complete([Run("one", {}, Counting())], tmp_path, tmp_path)


def test_intervals_are_students() -> None:
    """Half width t·s/√n: for 1, 2, 3 the t of two degrees of freedom is 4.303, s is 1."""
    interval = Interval.of([1.0, 2.0, 3.0])
    assert interval.mean == 2.0
    assert interval.half == pytest.approx(4.303 / math.sqrt(3), rel=1e-12)
    assert math.isnan(Interval.of([1.0]).half)
    many = np.random.default_rng(0).normal(size=40)
    assert Interval.of(many).half == pytest.approx(1.96 * many.std(ddof=1) / math.sqrt(40))
    with pytest.raises(ValueError, match="values"):
        Interval.of([])


def test_runs_without_a_value_are_left_out() -> None:
    """A network whose maps are all empty has no share, and must not take the page with it."""
    assert Interval.of([1.0, None, 2.0, math.nan, 3.0]) == Interval.of([1.0, 2.0, 3.0])
    none = Interval.of([None, math.nan])
    assert none.runs == 0
    assert (str(none), none.percent(), none.difference("above", "below")) == ("–", "–", "–")
    assert none.verdict() == "open"
    paired = Interval.of_differences([2.0, None, 5.0], [1.0, 1.0, None])
    assert (paired.mean, paired.runs) == (1.0, 1)


def test_a_claim_is_decided_by_the_interval() -> None:
    assert Interval.of([0.1, 0.2, 0.3]).verdict() == "open"  # ± 0.248
    assert Interval.of([0.2, 0.2, 0.3]).verdict() == "holds"
    assert Interval.of([-0.2, -0.2, -0.3]).verdict() == "does not hold"
    assert Interval.of([0.2]).verdict() == "open"


def test_a_table_has_a_line_for_each_row() -> None:
    assert table(["a", "b"], [[1, 2], [3, 4]]) == "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |"
