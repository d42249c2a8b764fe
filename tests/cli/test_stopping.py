# SPDX-License-Identifier: Apache-2.0
"""Signals that tell a command to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer

from pyrel.cli.refusals import refusing
from pyrel.cli.stopping import Stopped, listen

NUMBERS = (signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = [signal.getsignal(number) for number in NUMBERS]
    for number in NUMBERS:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in zip(NUMBERS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_ends_a_command_with_its_code(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
            raise AssertionError("it went on")
        finally:
            os.kill(os.getpid(), number)  # an impatient second one
            cleaned.append(True)

    listen()
    with pytest.raises(SystemExit) as stop:
        refusing(work)()
    assert stop.value.code == 128 + number
    assert cleaned == [True]
    name = number.name
    wanted = f"pyrel work: stopped by {name}; nothing is left half-written\n"
    assert capsys.readouterr().err == wanted


def test_without_a_terminal_to_tell_it_the_code_is_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    def work() -> None:
        raise Stopped(signal.SIGHUP)

    monkeypatch.setattr(typer, "echo", gone)
    with pytest.raises(SystemExit) as stop:
        refusing(work)()
    assert stop.value.code == 129


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_that_is_ignored_stays_so(number: signal.Signals) -> None:
    signal.signal(number, signal.SIG_IGN)  # as nohup does
    listen()
    os.kill(os.getpid(), number)
    assert signal.getsignal(number) == signal.SIG_IGN


def test_ctrl_c_while_commands_are_imported_ends_without_a_traceback() -> None:
    program = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from pyrel.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")
