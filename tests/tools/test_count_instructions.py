# SPDX-License-Identifier: Apache-2.0
import shutil

import count_instructions
import pytest

from pyrel import _core


def test_more_instructions_than_the_tolerance_are_named():
    before = {"a": 1_000_000, "b": 1_000_000, "c": 1_000_000}
    counts = {"a": 1_009_999, "b": 1_010_001, "c": 500_000}
    (line,) = count_instructions.risen(counts, before)
    assert line.startswith("b: 1,010,001 instructions, +1.0%")


def test_cases_without_stored_counts_are_named():
    with pytest.raises(KeyError, match="b"):
        count_instructions.risen({"b": 1}, {"a": 1})


def test_nothing_counted_is_an_error(tmp_path):
    dump = tmp_path / "counts.1"
    with pytest.raises(RuntimeError, match="nothing was counted"):
        count_instructions._total(dump)
    dump.write_text("events: Ir\ntotals: 0\n")
    with pytest.raises(RuntimeError, match="nothing was counted"):
        count_instructions._total(dump)
    dump.write_text("events: Ir\ntotals: 12345\n")
    assert count_instructions._total(dump) == 12345


def test_engine_takes_no_more_instructions_than_stored():
    """Where it should: `python tools/count_instructions.py --update`, and say why in the commit."""
    if shutil.which("valgrind") is None:
        pytest.skip("valgrind is not installed")
    if count_instructions.ISA not in _core.instruction_sets():
        pytest.skip(f"this machine has no {count_instructions.ISA}")
    stored = count_instructions.stored()
    if stored["compiler"] != _core.compiler():
        pytest.skip(f"counts are stored for {stored['compiler']}, this is {_core.compiler()}")
    assert count_instructions.risen(count_instructions.count(), stored["counts"]) == []
