# SPDX-License-Identifier: Apache-2.0
"""Help that a new user can follow, and that is true."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from commands import pyrel

import pyrel as library
from pyrel.cli import choices
from pyrel.data.sources import SOURCES
from pyrel.experiment import METHODS, Problem, recipe
from pyrel.training import TrainingConfig

COMMANDS = ("demo", "train", "explain", "evaluate", "report", "reproduce", "bench")


def options(text: str) -> dict[str, str]:
    """Return the help of each option, on one line."""
    parts = re.split(r"\n  (?=-)", text.split("Options:\n")[1].split("\n\n")[0])
    lines = (" ".join(part.split()) for part in parts)
    return {re.match(r"(?:-h, )?(--[a-z-]+)", line)[1]: line for line in lines}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    result = pyrel(command, "--help")
    assert result.code == 0
    assert f"Examples:\n  pyrel {command}" in result.out.replace("    pyrel", "  pyrel").replace(
        "  Examples", "Examples"
    )
    for name, line in options(result.out).items():
        assert len(line) > len(name) + 15, f"{name} is not explained"


def test_the_list_of_commands_is_whole() -> None:
    result = pyrel("--help")
    assert result.code == 0
    for command in COMMANDS:
        # A sentence that had to be cut ends in dots.
        assert re.search(rf"^  {command} +[A-Z].*[^.]\.$", result.out, re.MULTILINE)
    assert "130 stopped by Ctrl-C" in result.out


def test_the_version_is_that_of_the_engine() -> None:
    assert pyrel("--version").out == f"pyrel {library.__version__}\n"


def test_options_offer_what_the_library_has() -> None:
    assert list(choices.CELLS) == library.nn.names()
    assert set(choices.DATASETS) == {*SOURCES, "mnist-mini"}
    assert set(METHODS) <= set(choices.METHODS) == set(library.methods.names())
    for kind in choices.PROBLEMS:
        assert Problem.of("mnist", kind).kind == kind
    for schedule in choices.SCHEDULES:
        assert TrainingConfig(schedule=schedule).schedule == schedule
    with pytest.raises(ValueError, match="schedule must be one of") as caught:
        TrainingConfig(schedule="none of them")
    assert all(schedule in str(caught.value) for schedule in choices.SCHEDULES)


def test_defaults_in_the_help_are_those_in_use() -> None:
    help_of = options(pyrel("train", "--help").out)
    mini, others = recipe("mnist-mini"), recipe("mnist")
    assert recipe("fashion-mnist") is others
    assert mini.config.batch_size == others.config.batch_size == 100
    assert mini.config.threads == others.config.threads == 1
    assert "default: (1)" in help_of["--threads"]
    assert mini.config.schedule == others.config.schedule == "one-cycle"
    for option, values in {
        "--epochs": (mini.config.epochs, others.config.epochs),
        "--draws": (mini.draws, others.draws),
        "--learning-rate": (mini.config.learning_rate, others.config.learning_rate),
        "--dropout": (mini.dropout, others.dropout),
    }.items():
        wanted = f"mnist-mini {values[0]:g}, others {values[1]:g}"
        assert wanted in help_of[option].replace("mnist- mini", "mnist-mini")
    for kind, steps in {"majority": 12, "sequence": 4}.items():
        assert f"{kind} {steps}" in help_of["--steps"]
        assert Problem.of("mnist", kind).steps == steps
    assert f"({mini.config.warmup:g})" in help_of["--warmup"]
    assert f"({mini.config.decay_factor:g})" in help_of["--decay-factor"]
    assert f"({mini.config.epochs})" in options(pyrel("demo", "--help").out)["--epochs"]
    evaluated = options(pyrel("evaluate", "--help").out)["--methods"]
    assert ",".join(METHODS) in evaluated.replace(" ", "")


def test_help_does_not_wait_for_torch() -> None:
    program = (
        "import sys, pyrel.cli.commands\n"
        "assert not {'torch', 'matplotlib', 'jinja2'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyrel", "explain", "--no-such-option"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "No such option" in done.stderr
