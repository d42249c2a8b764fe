# SPDX-License-Identifier: Apache-2.0
"""Commands as tests run them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from pyrel.cli.commands import app

TINY = ("--training-images", "100", "--test-samples", "40", "--epochs", "1")


@dataclass
class Outcome:
    code: int
    out: str
    err: str


def pyrel(*arguments: object) -> Outcome:
    """Run a command in this process."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result.exit_code, result.stdout, result.stderr)


@dataclass
class Workshop:
    """Where the tiny demo left its files, and what it printed."""

    folder: Path
    printed: Outcome

    @property
    def deep(self) -> Path:
        return self.folder / "deep.safetensors"

    @property
    def shallow(self) -> Path:
        return self.folder / "shallow.safetensors"
