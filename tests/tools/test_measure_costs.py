# SPDX-License-Identifier: Apache-2.0
"""The page of methods has a section for each, with all its parts, and the measured costs."""

from __future__ import annotations

import json
import re

import measure_costs

import pyrel

PARTS = ["Formula", "Source", "Inputs", "Starts from", "Conserves", "Use it", "Cost"]
PAGE = measure_costs.PAGE.read_text("utf-8")
NUMBERS = json.loads(measure_costs.NUMBERS.read_text("utf-8"))


def test_each_method_has_a_section_with_all_its_parts() -> None:
    sections = {found[1]: found[0] for found in measure_costs.SECTION.finditer(PAGE)}
    assert list(sections) == [*pyrel.methods.names(), measure_costs.MINMAX]
    for name, section in sections.items():
        told = re.findall(r"^- \*\*([\w ]+):\*\* \S.*\.$", section, re.MULTILINE)
        assert told == PARTS, name


def test_sections_say_whether_a_method_conserves() -> None:
    for found in measure_costs.SECTION.finditer(PAGE):
        if found[1] != measure_costs.MINMAX:
            conserves = "`absorbed` = " in found[0]
            assert conserves == pyrel.methods.get(found[1]).conserves, found[1]


def test_the_page_has_the_numbers_that_were_measured() -> None:
    """``python tools/measure_costs.py --write`` writes them from the file."""
    assert measure_costs.written(PAGE, NUMBERS) == PAGE
    for case in (measure_costs.DEEP, measure_costs.LSTM):
        assert list(NUMBERS["costs"][case]) == pyrel.methods.names()
        for cost in NUMBERS["costs"][case].values():
            assert cost["ratio"] == cost["seconds"] / cost["forward"]


def test_costs_are_least_seconds_over_those_of_the_forward_pass() -> None:
    def busy(rounds: int) -> None:
        for _ in range(rounds):
            sum(range(1000))

    made = {"ten": (lambda: busy(1000), lambda: busy(100))}
    cost = measure_costs.measured(made, 5)["ten"]
    assert 5 < cost["ratio"] < 20
    assert cost["ratio"] == cost["seconds"] / cost["forward"]
