# SPDX-License-Identifier: Apache-2.0
"""Studies and explained texts as HTML pages that need nothing else: no network, no other file.

Pages need the extra ``report`` (matplotlib, jinja2); facts of the machine and studies do not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pyrel.metrics import load_study, save_study
from pyrel.report.machine import machine_facts

if TYPE_CHECKING:
    from pyrel.report.page import render, write
    from pyrel.report.text import ExplainedText, render_texts, write_texts

__all__ = [
    "ExplainedText",
    "load_study",
    "machine_facts",
    "render",
    "render_texts",
    "save_study",
    "write",
    "write_texts",
]

# Imported at first use, with what they need beside NumPy.
_HOMES = {
    "ExplainedText": "text",
    "render": "page",
    "render_texts": "text",
    "write": "page",
    "write_texts": "text",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pyrel.report' has no attribute '{name}'")
    value = getattr(importlib.import_module(f"pyrel.report.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
