# SPDX-License-Identifier: Apache-2.0
"""Write the API reference from the docstrings; used by `make docs`. What is wrong in one fails."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

MODULES = (
    *("pyrel", "pyrel.methods", "pyrel.nn", "pyrel.data", "pyrel.importing", "pyrel.metrics"),
    *("pyrel.plots", "pyrel.report", "pyrel.training", "pyrel.experiment", "pyrel.explain_file"),
    *("pyrel.patterns", "pyrel.errors"),
)
TEMPLATE = Path(__file__).parent / "docs_template"
SECTION = re.compile(r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n-+$|\Z)", re.MULTILINE | re.DOTALL)
UNDERLINED = re.compile(r"^(\w[\w ]*)\n(-{3,})$", re.MULTILINE)
SECTIONS = {
    *("Parameters", "Attributes", "Returns", "Yields", "Raises", "Examples", "Notes"),
    *("References", "See Also", "Warnings"),
}


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """Yield what a module offers, by its full name: its names, and the public members of classes.

    Names are taken one by one, as some modules import what they offer at first use.
    """
    own = [n for n, o in vars(module).items() if getattr(o, "__module__", "") == module.__name__]
    for name in getattr(module, "__all__", [n for n in own if not n.startswith("_")]):
        value = getattr(module, name)
        if inspect.ismodule(value):
            continue
        yield f"{module.__name__}.{name}", value
        if inspect.isclass(value) and value.__module__.startswith("pyrel"):
            bases = [base for base in value.__mro__ if base.__module__.startswith("pyrel")]
            for member, what in {k: v for b in bases[::-1] for k, v in vars(b).items()}.items():
                function = getattr(what, "__func__", getattr(what, "fget", what))
                if not member.startswith("_") and inspect.isfunction(function):
                    yield f"{module.__name__}.{name}.{member}", function


VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def faults(name: str, value: Any) -> Iterator[str]:
    """Say what is wrong in a docstring."""
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return
    text = inspect.cleandoc(value.__doc__ or "")
    if not text:
        yield f"{name}: has no docstring"
    for title, line in UNDERLINED.findall(text):
        if title not in SECTIONS:
            yield f"{name}: no section {title!r} is known"
        if len(line) != len(title):
            yield f"{name}: the line below {title!r} has another length"
    for section in SECTION.findall(text):
        heads = [line.partition(" :")[0] for line in section.splitlines() if line[:1].strip()]
        told = [part.strip().lstrip("*") for head in heads for part in head.split(",")]
        taken = inspect.signature(value).parameters
        wanted = [name for name in taken if name not in ("self", "cls")]
        others_taken = [name for name in taken if taken[name].kind in VARIADIC]
        if len(others_taken) == len(VARIADIC) and not set(told) & set(others_taken):
            told = [name for name in told if name in wanted]  # others are told by their own names
            wanted = [name for name in wanted if name not in others_taken]
        others = re.search(r"other parameters are those of `", " ".join(text.split()))
        if set(told) - set(wanted) or (set(wanted) - set(told) and not others):
            yield f"{name}: tells of the parameters {told}, and takes {wanted}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where to write the pages")
    folder = parser.parse_args().folder
    modules = [importlib.import_module(name) for name in MODULES]
    found = [fault for m in modules for name, value in public(m) for fault in faults(name, value)]
    for fault in found:
        print(fault, file=sys.stderr)
    if found:
        return 1
    write(modules, folder)
    return 0


def write(modules: list[ModuleType], folder: Path) -> None:
    """Write a page for each module."""
    import pdoc

    offered = {f"pyrel.{name}" for name in modules[0].__all__}  # which pdoc finds by itself
    classes = {value for module in modules for _, value in public(module) if inspect.isclass(value)}
    pdoc.doc.Class.own_members = property(
        partial(members, {(c.__module__, c.__qualname__) for c in classes})
    )
    pdoc.render.configure(docformat="numpy", show_source=False, template_directory=TEMPLATE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pdoc.pdoc(*[m for m in MODULES if m not in offered], output_directory=folder)


def members(known: set[tuple[str, str]], of: Any) -> list[Any]:
    """List what pdoc shows of a class: its own, and of bases that have no place of their own."""
    return [
        member
        for origin, found in of._members_by_origin.items()
        for member in found
        if origin in (of.taken_from, (of.modulename, of.qualname))
        or (origin not in known and origin[0].startswith("pyrel."))
    ]


if __name__ == "__main__":
    sys.exit(main())
