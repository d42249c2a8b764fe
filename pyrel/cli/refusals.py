# SPDX-License-Identifier: Apache-2.0
"""Errors as users of a terminal want them: one line that says what is wrong, and an exit code."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec

import typer

from pyrel.errors import UnsupportedModelError

REFUSED, INTERRUPTED = 1, 130

# What the library raises for inputs that it does not take; anything else is a fault of pyrel, and
# keeps its traceback.
_REFUSALS = (
    OSError, ValueError, TypeError, ArithmeticError, MemoryError, ImportError,
    UnsupportedModelError,
)  # fmt: skip

_P = ParamSpec("_P")


def refusing(command: Callable[_P, None]) -> Callable[_P, None]:
    """Turn errors of a command into one line on standard error and an exit code."""

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as error:
            _say(command.__name__, str(error) or "interrupted; nothing is left half-written")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            raise
        except _REFUSALS as error:
            _say(command.__name__, _line(error))
            raise typer.Exit(REFUSED) from None

    return run


def _say(name: str, text: str) -> None:
    typer.echo(f"pyrel {name}: {text}", err=True)


def _line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror.lower()}"
    if isinstance(error, MemoryError):
        return f"not enough memory {error}".strip()
    return " ".join(str(error).split()) or type(error).__name__
