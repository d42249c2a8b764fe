# SPDX-License-Identifier: Apache-2.0
"""From a study to the page."""

from __future__ import annotations

import base64
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyrel.errors import part_of_extra
from pyrel.files.atomic import write_whole
from pyrel.metrics import (
    CellResult,
    DegradationCurves,
    Evaluation,
    Study,
    Summary,
    paired_difference,
)
from pyrel.report import words
from pyrel.report.findings import findings

with part_of_extra("report", "a report", "jinja2", "markupsafe", "matplotlib", "PIL"):
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from pyrel.report import figures
    from pyrel.report.explorer import explorer

_TEMPLATES = Path(__file__).parent.parent / "templates"

_Number = tuple[str, str]


@dataclass(frozen=True)
class _Line:
    """One line of the table: a name and pairs of a number and what stands small behind it."""

    name: str
    left_out: int
    numbers: tuple[_Number, ...]


@dataclass(frozen=True)
class _Group:
    """The lines of one cell, or of the baselines."""

    heading: str
    facts: str
    lines: tuple[_Line, ...]


@dataclass(frozen=True)
class _Degradation:
    """The figures and the table of the degradation curves."""

    figures: list[Markup]
    groups: list[_Group]


def write(path: str | os.PathLike[str], study: Study) -> Path:
    """Write the report of a study as one HTML file, whole or not at all.

    The page loads nothing from anywhere and holds nothing of the machine but what `study.config`
    says. The same study gives the same bytes.

    Returns
    -------
    The path written.
    """
    path = Path(path)
    write_whole(path, render(study).encode())
    return path


def render(study: Study) -> str:
    """Return the report of a study as HTML text."""
    template = environment().get_template("report.html.j2")
    script = (_TEMPLATES / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return template.render(
        study=study,
        steps=study.relevant.shape[1],
        findings=findings(study),
        explorer=explorer(study),
        method_texts=words.sentences(study.methods()),
        groups=_groups(study),
        explained=words.explained(study.methods()),
        config=config_sections(study.config),
        overview=figures.overview(study),
        degradation=_degradation(study),
        step_bars=figures.steps(study),
        scatters=figures.scatters(study),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
    )


def environment() -> Environment:
    """Return what renders the templates; a name that is not given to them is an error."""
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def config_sections(config: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return a configuration as titled lists of (name, value) texts.

    Plain values come first under "general"; a dict is a section, dicts inside it get dotted names.
    """
    plain = {name: value for name, value in config.items() if not isinstance(value, dict)}
    nested = {name: value for name, value in config.items() if isinstance(value, dict)}
    sections = ({"general": plain} if plain else {}) | nested
    return [(title, _flat(entries)) for title, entries in sections.items()]


def _flat(entries: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    flat: list[tuple[str, str]] = []
    for name, value in entries.items():
        if isinstance(value, dict):
            flat += _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            flat.append((f"{prefix}{name}", ", ".join(str(v) for v in value)))
        else:
            flat.append((f"{prefix}{name}", "none" if value is None else str(value)))
    return flat


def _groups(study: Study) -> list[_Group]:
    mass = study.baselines["pixel_mass"]
    groups = [
        _Group(name, _facts(result), _lines(result.evaluations, mass))
        for name, result in study.cells.items()
    ]
    return [*groups, _Group("Baselines", "use no model", _lines(study.baselines, mass))]


def _degradation(study: Study) -> _Degradation | None:
    made = {cell: r.degradation for cell, r in study.cells.items() if r.degradation is not None}
    if not made:
        return None
    groups = [
        _Group(cell, f"{len(curves.random.scores):,} samples", _area_lines(curves))
        for cell, curves in made.items()
    ]
    return _Degradation(figures.degradation(made), groups)


def _area_lines(curves: DegradationCurves) -> tuple[_Line, ...]:
    lines = [
        _Line(
            words.label(method),
            area.left_out,
            (words.plus_minus(area), words.plus_minus(curves.below_random(method))),
        )
        for method in curves.curves
        for area in [curves.area(method)]
    ]
    random = _Line("random order", 0, (words.plus_minus(curves.random_area()), ("–", "")))
    return (*lines, random)


def _facts(result: CellResult) -> str:
    facts = [
        f"accuracy {words.plus_minus_text(result.accuracy)}",
        *(f"{k} {_fact(v)}" for k, v in result.facts.items()),
    ]
    return ", ".join(facts)


def _fact(value: str | int | float) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else value


def _lines(evaluations: dict[str, Evaluation], mass: Evaluation) -> tuple[_Line, ...]:
    return tuple(
        _Line(words.label(name), evaluation.share.left_out, _numbers(evaluation, mass))
        for name, evaluation in evaluations.items()
    )


def _numbers(evaluation: Evaluation, mass: Evaluation) -> tuple[_Number, ...]:
    over: _Number = ("–", "")
    if evaluation is not mass:
        over = words.plus_minus(paired_difference(evaluation.share, mass.share), sign=True)
    return (
        words.plus_minus(evaluation.share),
        over,
        words.plus_minus(evaluation.cosine_digit),
        words.plus_minus(evaluation.cosine_step),
        (words.plus_minus(evaluation.positivity)[0], ""),
        _conservation(evaluation.conservation, evaluation.propagates),
    )


def _conservation(error: Summary | None, propagates: bool) -> _Number:
    if error is None:
        return "–", ""
    return words.size(error.mean), "" if propagates else "not claimed"
