# SPDX-License-Identifier: Apache-2.0
"""What the files in the root say of the rest has to be true."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_citation_names_the_version_and_the_licences() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {project['version']}\n" in citation
    for licence in project["license"].split(" AND "):
        assert f"\n  - {licence}\n" in citation


def test_hooks_run_what_make_lint_runs() -> None:
    hooks = re.findall(r"^ +entry: (.*)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.M)
    makefile = (ROOT / "Makefile").read_text().replace("$(RUN)", ".venv/bin/python")
    assert len(hooks) >= 6
    for hook in hooks:
        assert f"\t{hook.removesuffix(' --force-exclude')}" in makefile


@pytest.mark.parametrize("page", ["SECURITY.md", "CONTRIBUTING.md"])
def test_files_that_a_page_names_are_there(page: str) -> None:
    text = (ROOT / page).read_text()
    named = re.findall(r"`((?:pyrel|csrc|tests|tools|docs|requirements)/[\w./]*)`", text)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_files_that_the_architecture_names_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`([\w./]+\.(?:py|h|cpp))`", text))
    there = [
        path
        for folder in ("pyrel", "csrc", "tools", "tests")
        for path in (ROOT / folder).rglob("*.*")
    ]
    ends = {"/".join(path.parts[-n:]) for path in there for n in range(1, 6)}
    assert len(named) > 20
    assert named - ends == set()
