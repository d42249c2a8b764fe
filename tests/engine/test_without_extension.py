# SPDX-License-Identifier: Apache-2.0
"""Graphs, passes, lowering, programs and methods need no compiled extension."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyrel

_FOLDER = Path(pyrel.__file__).parent
_PACKAGES = (
    *("methods", "compiler/graph", "compiler/passes"),
    *("compiler/lowering", "compiler/program"),
)
_CHILD = """
import importlib, sys, types
package = types.ModuleType("pyrel")
package.__path__ = [sys.argv[1]]
sys.modules |= {"pyrel": package, "pyrel._core": None}
for name in sys.argv[2:]:
    importlib.import_module(name)
print(len(sys.argv) - 2)
"""


def test_programs_are_made_without_the_extension() -> None:
    files = [file for each in _PACKAGES for file in sorted((_FOLDER / each).rglob("*.py"))]
    names = [".".join(f.relative_to(_FOLDER.parent).with_suffix("").parts) for f in files]
    assert len(names) > 30
    command = [sys.executable, "-c", _CHILD, str(_FOLDER), *names]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(names)
