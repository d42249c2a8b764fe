# SPDX-License-Identifier: Apache-2.0
"""The examples of public docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
import inspect
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import make_docs
import numpy as np
import pytest
import torch

import pyrel
from pyrel.engine import config

GIVEN = {"np": np, "torch": torch, "pyrel": pyrel}  # as the page on the package says


def docstrings() -> Iterator[tuple[str, str]]:
    for name in make_docs.MODULES:
        module = importlib.import_module(name)
        yield name, module.__doc__ or ""
        for full, value in make_docs.public(module):
            if inspect.isclass(value) or inspect.isroutine(value):
                yield full, inspect.getdoc(value) or ""


EXAMPLES = {name: text for name, text in docstrings() if ">>>" in text}


def run(name: str, text: str) -> str:
    """Run the examples of a docstring, and return what is wrong."""
    test = doctest.DocTestParser().get_doctest(text, dict(GIVEN), name, name, 0)
    told = io.StringIO()
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=told.write)
    return told.getvalue()


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_are_true(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "_threads", None)  # which one of them sets
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    assert run(name, EXAMPLES[name]) == ""


def test_a_wrong_example_is_found() -> None:
    assert "Expected:\n    3\nGot:\n    2" in run("wrong", ">>> 1 + 1\n3\n")


def test_what_everybody_uses_has_an_example() -> None:
    named: dict[str, Any] = {name: getattr(pyrel, name) for name in pyrel.__all__}
    used = {
        f"pyrel.{name}"
        for name, value in named.items()
        if not inspect.ismodule(value)
        and not (inspect.isclass(value) and issubclass(value, Exception))
    }
    assert used <= EXAMPLES.keys()
