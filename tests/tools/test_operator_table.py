# SPDX-License-Identifier: Apache-2.0
"""The page of models says what the compiler does."""

from __future__ import annotations

import operator_table


def test_the_table_is_what_the_compiler_does() -> None:
    """``python tools/operator_table.py`` writes it anew."""
    page = operator_table.PAGE.read_text()
    assert operator_table.written(page) == page
