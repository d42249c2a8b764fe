# SPDX-License-Identifier: Apache-2.0
"""Imports point one way, and the folders are those that the architecture names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pyrel"
FACE = {"explainer", "explanation", "one_call", "explain_file"}

# What each part may import of the package. All may import `errors` and the extension, `_core`.
# The compiler: methods <- graph <- capture, passes <- lowering -> program <- engine;
# program <- capture.
COMPILER = {
    "compiler": set(),
    "methods": set(),
    "limits": {"methods"},
    "graph": {"limits", "methods"},
    "passes": {"methods", "graph", "limits"},
    "capture": {"limits", "methods", "graph", "passes", "program"},
    "program": {"methods", "graph", "limits", "files"},
    "lowering": {"methods", "graph", "passes", "limits", "program"},
    "engine": {"methods", "graph", "passes", "capture", "limits", "program", "lowering", "files"},
    "face": {"methods", "capture", "limits", "program", "engine", "files"},
}
AROUND = {
    "errors": set(),
    "files": set(),
    "nn": set(),
    "importing": set(),
    "data": {"files"},
    "metrics": {"files"},
    "patterns": {"methods", "graph", "passes", "files"},
    "plots": {"metrics"},
    "report": {"files", "metrics", "plots"},
    "training": {"data", "files", "limits", "nn", "program"},
    "experiment": {
        *("face", "methods", "capture", "engine", "data", "files", "metrics", "nn", "plots"),
        *("patterns", "report", "training"),
    },
    "benchmark": {
        *("face", "methods", "engine", "experiment", "files", "nn", "plots", "report", "training")
    },
    "cli": {
        *("face", "methods", "limits", "program", "engine", "files", "metrics", "plots", "report"),
        *("patterns", "training", "experiment", "benchmark"),
    },
    "__init__": {
        *("face", "methods", "graph", "capture", "limits", "program", "engine", "data"),
        *("importing", "metrics", "nn", "patterns", "experiment", "plots", "report", "training"),
    },
    "__main__": {"cli"},
}
MAY_IMPORT: dict[str, set[str]] = COMPILER | AROUND


def part(names: list[str]) -> str:
    """Name the part of the package that a module is in, given as ["compiler", "graph", ...]."""
    if not names:
        return "__init__"
    if names[0] == "compiler":
        return names[1] if len(names) > 1 else "compiler"
    return "face" if names[0] in FACE else names[0]


def imported(text: str) -> Iterator[list[str]]:
    """Yield the modules of the package that a text imports, wherever in it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide what is imported"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == "pyrel" and rest and rest[0] not in ("errors", "_core"):
                yield rest


def wrong(module: Path, text: str) -> Iterator[tuple[str, str]]:
    """Yield the importing and the imported part of each import that may not be."""
    here = part([*module.parts[:-1], *([module.stem] if module.stem != "__init__" else [])])
    for names in imported(text):
        there = part(names)
        if there != here and there not in MAY_IMPORT[here]:
            yield here, there


def test_the_parts_have_an_order() -> None:
    assert len([*TopologicalSorter(MAY_IMPORT).static_order()]) == len(MAY_IMPORT)


@pytest.mark.parametrize(
    ("module", "text", "found"),
    [
        ("compiler/graph/nodes.py", "from pyrel.compiler.lowering.lower import lower", "lowering"),
        ("compiler/passes/fold.py", "import pyrel.compiler.capture.capture", "capture"),
        ("compiler/program/program.py", "def f():\n    from pyrel.engine import config", "engine"),
        ("files/atomic.py", "from pyrel import Explainer", "Explainer"),
        ("methods/base.py", "from pyrel.explainer import Explainer", "face"),
    ],
)
def test_an_import_that_is_turned_round_is_found(module: str, text: str, found: str) -> None:
    assert [there for _, there in wrong(Path(module), text)] == [found]


def test_imports_point_one_way() -> None:
    found = {
        (str(path.relative_to(ROOT)), *pair)
        for path in PACKAGE.rglob("*.py")
        for pair in wrong(path.relative_to(PACKAGE), path.read_text("utf-8"))
    }
    assert found == set()


def test_includes_point_one_way() -> None:
    """A program knows no processor, an engine no Python."""
    may_include = {
        "program": set(),
        "shared": {"program"},
        "cpu": {"program", "shared"},
        "cuda": {"program", "shared"},
        "python": {"program", "shared", "cpu", "cuda"},
    }
    csrc = ROOT / "csrc"
    assert {path.name for path in csrc.iterdir()} <= may_include.keys()
    for path in csrc.rglob("*.*"):
        here = path.parent.name
        for name in re.findall(r'^#include "(.*)"', path.read_text("utf-8"), re.MULTILINE):
            there = (path.parent / name).resolve().parent.name
            assert there in {here, *may_include[here]}, f"{path.name} includes {name}"


def test_the_folders_are_those_of_the_architecture() -> None:
    there = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert there == {
        *(MAY_IMPORT.keys() - COMPILER.keys()),
        *("methods", "compiler", "engine"),
        *FACE,
    }
    stages = {p.name for p in (PACKAGE / "compiler").iterdir() if p.is_dir()} - {"__pycache__"}
    assert stages == {"capture", "graph", "passes", "lowering", "program"}
