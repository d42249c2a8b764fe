# SPDX-License-Identifier: Apache-2.0
"""Studies and explained texts as HTML pages that need nothing else: no network, no other file."""

from pyrel.metrics import load_study, save_study
from pyrel.report.machine import machine_facts
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
