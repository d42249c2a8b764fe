# SPDX-License-Identifier: Apache-2.0
"""No file, class or function grows beyond what can be read at once."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LARGEST = {"file": 400, "class": 250, "function": 60}  # lines


class Part(NamedTuple):
    kind: str
    name: str
    lines: int


def of_python(text: str) -> Iterator[Part]:
    """Measure classes and functions, but for the commands, whose options are their definition."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            yield Part("class", node.name, node.end_lineno - node.lineno + 1)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            named = [d.id for d in node.decorator_list if isinstance(d, ast.Name)]
            if "refusing" not in named:
                yield Part("function", node.name, node.end_lineno - node.lineno + 1)


HIDDEN = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'', re.DOTALL)
DIRECTIVE = re.compile(r"^#(?:.*\\\n)*.*", re.MULTILINE)
OF_CLASS = re.compile(r"\b(?:class|struct|union)\s+(\w+)[^()=]*$")
OF_FUNCTION = re.compile(r"([\w:~]+|operator\W+)\s*\([^{}]*\)[^;{}=]*$")
TRANSPARENT = re.compile(r"\b(?:namespace|extern)\b[^()]*$")


def _blank(found: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", found[0])


def of_cpp(text: str) -> Iterator[Part]:
    """Measure classes and functions, from the line of their name to that of the closing brace."""
    code = DIRECTIVE.sub(_blank, HIDDEN.sub(_blank, text))
    opened: list[tuple[str, str, int]] = []
    head = 0  # where what comes before the next brace begins
    for brace in re.finditer(r"[{};]", code):
        line = code.count("\n", 0, brace.start())
        before = code[head : brace.start()]
        head = brace.end()
        if brace[0] == "{":
            inside = any(kind == "function" for kind, *_ in opened)
            found, kind = None, ""
            if not inside and not TRANSPARENT.search(before):
                found, kind = OF_CLASS.search(before), "class"
                if found is None:
                    found, kind = OF_FUNCTION.search(before), "function"
            start = line if found is None else line - before[found.start(1) :].count("\n")
            opened.append((kind, found[1] if found else "", start) if found else ("", "", line))
        elif brace[0] == "}":
            kind, name, start = opened.pop()
            if kind:
                yield Part(kind, name, line - start + 1)


def test_lengths_of_python_are_counted() -> None:
    text = "class A:\n    def f(\n        self,\n    ): ...\n@refusing\ndef g():\n    pass\n"
    assert [*of_python(text)] == [Part("class", "A", 4), Part("function", "f", 3)]


def test_lengths_of_cpp_are_counted() -> None:
    text = """
namespace a {
struct Small { int x = 0; };  // class Comment {
class A : public B {
  int f(int x,
        int y) const {
    if (x) { return y; }
    auto inner = [](int z) { return z; };
    return '{';
  }
};
template <class T> T g(T x) {
  return "}"[0];
}
const int TABLE[] = {1, 2};
}
"""
    assert [*of_cpp(text)] == [
        Part("class", "Small", 1),
        Part("function", "f", 6),
        Part("class", "A", 8),
        Part("function", "g", 3),
    ]


def sources() -> list[Path]:
    kinds = {".py", ".pyi", ".h", ".cpp", ".cu", ".cuh"}
    found = [p for folder in ("pyrel", "csrc") for p in (ROOT / folder).rglob("*")]
    return [path for path in found if path.suffix in kinds]


def too_large(path: Path) -> Iterator[str]:
    text = path.read_text("utf-8")
    name = path.relative_to(ROOT).as_posix()
    parts = of_python(text) if path.suffix in {".py", ".pyi"} else of_cpp(text)
    for part in (Part("file", "", len(text.splitlines())), *parts):
        if part.lines > LARGEST[part.kind]:
            yield f"{name} {part.kind} {part.name}".strip()


def test_all_sources_are_found() -> None:
    names = {path.relative_to(ROOT).as_posix() for path in sources()}
    assert {"pyrel/explainer.py", "pyrel/_core.pyi", "csrc/cpu/kernels.h"} <= names


def test_nothing_is_too_large() -> None:
    assert [part for path in sources() for part in too_large(path)] == []
