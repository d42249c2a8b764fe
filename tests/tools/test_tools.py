# SPDX-License-Identifier: Apache-2.0
"""Every tool can be imported: some use what the tests share, which may move."""

import importlib
from pathlib import Path

import pytest

import pyrel

TOOLS = sorted(p.stem for p in (Path(pyrel.__file__).parent.parent / "tools").glob("*.py"))


@pytest.mark.parametrize("name", TOOLS)
def test_can_be_imported(name: str) -> None:
    if name == "compare_integrated_gradients":
        pytest.importorskip("captum")
    importlib.import_module(name)
