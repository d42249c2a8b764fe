# SPDX-License-Identifier: Apache-2.0
"""Errors as users of a terminal want them: one line that says what is wrong, and an exit code."""

from __future__ import annotations

import contextlib
import dis
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, get_type_hints

import typer
from typer.models import OptionInfo

from pyrel.cli.stopping import Stopped
from pyrel.errors import CudaError, MissingPackageError, UnsupportedModelError
from pyrel.files.foreign import shown

REFUSED, INTERRUPTED = 1, 130
_LONGEST = 4000  # characters of a message

# Raised for what the machine or the model does not have, wherever they come from.
_ALWAYS = (OSError, MemoryError, UnsupportedModelError, MissingPackageError, CudaError)
# Raised by pyrel's checks of what it is given, and by Python and libraries where pyrel is wrong.
_WHERE_CHECKED = (ValueError, TypeError, ArithmeticError)

_PACKAGE = Path(__file__).parents[1]
_P = ParamSpec("_P")


def refusing(command: Callable[_P, None]) -> Callable[_P, None]:
    """Turn refusals of a command into one line on standard error and an exit code.

    Anything else is a fault of pyrel, and keeps its traceback.
    """

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt as error:
            _say(command.__name__, str(error) or "interrupted; nothing is left half-written")
            raise typer.Exit(INTERRUPTED) from None
        except Stopped as stop:
            with contextlib.suppress(OSError):  # after SIGHUP there may be no terminal
                _say(command.__name__, stop.text)
            raise
        except BrokenPipeError:
            raise
        except (*_ALWAYS, *_WHERE_CHECKED) as error:
            if not is_refusal(error):
                raise
            _say(command.__name__, in_words_of_options(command, _line(error)))
            raise typer.Exit(REFUSED) from None

    return run


def is_refusal(error: BaseException) -> bool:
    """Return whether an error tells the user something, rather than being a fault of pyrel.

    A ValueError, TypeError or ArithmeticError is a refusal if a ``raise`` in pyrel raised it. One
    that comes out of an operation, a call of a library or the interpreter was foreseen by nobody.
    """
    if isinstance(error, _ALWAYS):
        return True
    if not isinstance(error, _WHERE_CHECKED) or error.__traceback__ is None:
        return False
    origin = error.__traceback__
    while origin.tb_next is not None:
        origin = origin.tb_next
    code = origin.tb_frame.f_code
    raised = dis.opname[code.co_code[origin.tb_lasti]] == "RAISE_VARARGS"
    return raised and Path(code.co_filename).is_relative_to(_PACKAGE)


def in_words_of_options(command: Callable[..., None], text: str) -> str:
    """Call the library's arguments by the options of a command that give them.

    An argument stands before a colon at the start of a message, or before an equals sign. A tuple
    of numbers has commas alone on the command line.
    """
    hints = get_type_hints(command, include_extras=True)
    options = [
        name
        for name, kind in hints.items()
        if any(isinstance(part, OptionInfo) for part in getattr(kind, "__metadata__", ()))
    ]
    argument = "|".join(map(re.escape, options))
    named = rf"(?<![\w.=-])({argument})=(?:True\b|(?=[ ,;:)]|$))|^({argument})(?=: )"
    text = re.sub(named, lambda m: f"--{(m[1] or m[2]).replace('_', '-')}", text)
    given = rf"(?<![\w.=-])({argument})=\((\d+(?:, \d+)*)\)"
    return re.sub(given, lambda m: f"--{m[1].replace('_', '-')} {m[2].replace(' ', '')}", text)


def _say(name: str, text: str) -> None:
    typer.echo(f"pyrel {name}: {text}", err=True)


def _line(error: BaseException) -> str:
    return shown(_text(error), _LONGEST)


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror[:1].lower()}{error.strerror[1:]}"
    if isinstance(error, MemoryError):
        return f"not enough memory {error}".strip()
    return " ".join(str(error).split()) or type(error).__name__
