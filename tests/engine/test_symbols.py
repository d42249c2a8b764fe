# SPDX-License-Identifier: Apache-2.0
"""Kernel objects hold no weak symbols, of which the linker takes one object's copy for all.

An inline function of the C++ library that is compiled for AVX-512 could so end up in code that
every processor runs.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from engine.building import ARM, build_folder, cross_compiled, kernel_commands, run, tool

from pyrel import _core


def shared_symbols(objects: Path, nm: str = "nm") -> list[str]:
    """List what an object shares by name with others, but for the function that gives its table."""
    lines = run(tool(nm), "--defined-only", "--extern-only", "--demangle", objects).splitlines()
    symbols = [line.split(maxsplit=2)[-2:] for line in lines]
    return [
        f"{kind} {name}"
        for kind, name in symbols
        if kind != "T" or not name.startswith("pyrel::kernels_")
    ]


def kernel_objects(folder: Path) -> list[Path]:
    return sorted(folder.glob("CMakeFiles/kernels_*.dir/**/*.o"))


def test_kernel_objects_share_nothing() -> None:
    objects = kernel_objects(build_folder())
    assert len(objects) >= len(_core.instruction_sets())
    assert {path: found for path in objects if (found := shared_symbols(path))} == {}


def test_kernel_objects_for_arm_share_nothing() -> None:
    objects = kernel_objects(cross_compiled().parent)
    assert len(objects) == 2
    assert {path: found for path in objects if (found := shared_symbols(path, f"{ARM}-nm"))} == {}


@pytest.mark.parametrize(
    "code",
    [
        "#include <map>\nvoid put(std::map<int, int>& m, int k) { m[k] = k; }\n",
        "template <typename T> T twice(T v) { return v + v; }\ntemplate int twice(int);\n",
        "struct Tile { virtual ~Tile() {} };\nTile* tile() { return new Tile; }\n",
        "inline int counter = 0;\nint count() { return ++counter; }\n",
    ],
    ids=["library", "template", "class", "variable"],
)
def test_shared_symbols_are_found(code: str, tmp_path: Path) -> None:
    """The flags of each set, given something inline."""
    (tmp_path / "unit.cpp").write_text(code)
    for command in kernel_commands():
        command[command.index("-o") + 1] = str(tmp_path / "unit.o")
        command[command.index("-c") + 1] = str(tmp_path / "unit.cpp")
        run(*command)
        assert [line for line in shared_symbols(tmp_path / "unit.o") if line[0] in "WVu"]
