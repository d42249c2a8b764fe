# SPDX-License-Identifier: Apache-2.0
"""What the compiler knows of all engines is what the compiled extension says."""

from __future__ import annotations

from pyrel import _core
from pyrel.compiler import limits


def test_both_sides_have_the_same_numbers() -> None:
    known = dict(_core.limits)
    assert known.pop("space") == 1 << 31  # which only the engine checks
    assert known == {
        "segments": limits.SEGMENTS,
        "exact": limits.LARGEST_EXACT,
        "line": limits.LINE,
        "row_cost": limits.ROW_COST,
        "result_cost": limits.RESULT_COST,
    }
