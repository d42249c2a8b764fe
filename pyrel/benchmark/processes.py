# SPDX-License-Identifier: Apache-2.0
"""Workers as seen from the process that starts them."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_GRACE = 2.0  # seconds for an idle worker to end by itself


class WorkerError(RuntimeError):
    """A worker could not do what it was asked, or ended."""

    def __init__(self, text: str, kind: str = "") -> None:
        super().__init__(text)
        self.kind = kind


class WorkerProcess:
    """A process of `pyrel.benchmark.worker`, ended with the ``with`` statement, come what may.

    Parameters
    ----------
    name : str
        For messages.
    environment : mapping
        Variables on top of those of this process.
    log : path
        Where its standard error goes.
    """

    def __init__(self, name: str, environment: Mapping[str, str], log: Path) -> None:
        self._name, self._log, self._busy = name, log, False
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "pyrel.benchmark.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environment},
                text=True,
                start_new_session=True,  # a group of its own: Ctrl-C does not reach it
            )

    @property
    def pid(self) -> int:
        """Number of the process, and of its group."""
        return self._process.pid

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises
        ------
        WorkerError
            If the worker fails or ends; the message has what it said.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        self._busy = True
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise WorkerError(
                f"{self._name}: its process ended with code {code}{self._last_words()}"
            )
        self._busy = False
        answer = json.loads(line)
        if failure := answer.get("failure"):
            with self._log.open("a") as log:
                log.write(failure["trace"])
            kind, text = failure["kind"], failure["text"]
            raise WorkerError(f"{self._name}: {kind}: {text}", kind)
        result: dict[str, Any] = answer["answer"]
        return result

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()[-3:]
        return ": " + " / ".join(lines) if lines else ""

    def close(self) -> None:
        """End the process, politely if it is idle, and whatever it has started."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if not self._busy:  # the end of its output is its end
            select.select([self._process.stdout], [], [], _GRACE)
        # Before it is waited for, so that its number cannot have passed to another process.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        """Return the process."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        self.close()
