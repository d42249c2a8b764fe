# SPDX-License-Identifier: Apache-2.0
"""A study as one HTML page that needs nothing else: no network, no other file."""

from pyrel.metrics import load_study, save_study
from pyrel.report.machine import machine_facts
from pyrel.report.page import render, write

__all__ = ["load_study", "machine_facts", "render", "save_study", "write"]
