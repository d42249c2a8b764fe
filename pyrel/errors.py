# SPDX-License-Identifier: Apache-2.0
"""The errors that pyrel raises beside ValueError and TypeError."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class MissingPackageError(ImportError):
    """A part of pyrel needs a package that is not installed.

    The message names the extra of pyrel that brings the package, the attribute ``name`` the
    package itself.
    """


@contextmanager
def part_of_extra(extra: str, part: str, *packages: str) -> Iterator[None]:
    """Name the extra where one of its packages cannot be imported.

    Parameters
    ----------
    extra
        As pyproject.toml calls it.
    part
        What needs the packages, as the message begins.
    packages
        Those that the block imports. Other modules that are missing are faults of their own.

    Raises
    ------
    MissingPackageError
        One of the packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in packages:
            raise
        raise MissingPackageError(
            f"{part} needs the package {missing}: pip install 'pyrel[{extra}]'", name=missing
        ) from error


NO_RULE = "no rule for this operator"


class CudaError(RuntimeError):
    """CUDA was asked for and is not there, or failed; the message has its words."""


class ModulePath(str):
    """Path of a module in a model, and beside it a line of the model's code.

    It is the path alone to whoever compares it, looks it up or writes it to a file.

    Attributes
    ----------
    at : str
        Such as ``"model.py, line 12: x = self.pool(x)"``; empty where it is not known.
    """

    at: str

    def __new__(cls, path: str, at: str = "") -> ModulePath:
        """Make a path."""
        made = super().__new__(cls, path)
        made.at = at
        return made


class UnsupportedModelError(Exception):
    """The model holds something that pyrel cannot explain, and will not guess at.

    Attributes
    ----------
    operator : str
        What was met, such as ``"aten.lstm"``.
    module : str
        Path of the module that it belongs to, such as ``"encoder.rnn"``; ``""`` for the model.
        Where it is a `ModulePath`, the message has its line, too.
    supported : tuple of str
        Where an operator is refused, those that are supported, in alphabetical order.
    """

    def __init__(
        self, reason: str, *, operator: str, module: str = "", supported: Sequence[str] = ()
    ) -> None:
        self.operator = operator
        self.module = str(module)
        self.supported = tuple(sorted(supported))
        where = f"module '{module}'" if module else "the model itself"
        if isinstance(module, ModulePath) and module.at:
            where += f" ({module.at})"
        message = f"{operator} in {where}: {reason}"
        if self.supported and operator.removeprefix("aten.") not in self.supported:
            message += (
                "\ndocs/models.md lists the supported operators, and so does this error's supported"
            )
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with its message as it is: errors come back from other processes so."""
        return _unpickled, (type(self), str(self), dict(vars(self)))


def _unpickled(
    cls: type[UnsupportedModelError], message: str, attributes: dict[str, Any]
) -> UnsupportedModelError:
    error = cls.__new__(cls, message)
    Exception.__init__(error, message)
    vars(error).update(attributes)
    return error


class SelfCheckError(UnsupportedModelError):
    """The compiled program computes something else than the model: a fault of pyrel, found in time.

    The message says which number is off, by how much, and what rounding explains. A rule of a
    user's ``own`` that does not conserve relevance is found, too.
    """

    def __init__(self, found: str, own: str = "") -> None:
        if own:
            super().__init__(
                f"{found}. What a rule hands on and what it absorbs have to add up to its "
                f"denominator: see {own}. A method that is not to conserve relevance says so in "
                "its class, conserves = False. check=None compiles it all the same",
                operator="self-check",
            )
            return
        super().__init__(
            f"{found}. So explanations of this model would be wrong: please report it, with the "
            "model. Does the model compute the same at each call? check=None compiles it all the "
            "same",
            operator="self-check",
        )
