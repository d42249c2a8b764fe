# SPDX-License-Identifier: Apache-2.0
"""The methods of programs whose classes are not at hand."""

from __future__ import annotations

from typing import Any

from pyrel.methods.base import Method
from pyrel.methods.other_rules import Rule
from pyrel.methods.site import Site


class Custom(Method):
    """A method of a user's own, as a saved program names it.

    It tells the name and the options, and runs what was compiled, but cannot compile a model.

    Parameters
    ----------
    name : str
        Of the method's class.
    options : dict
        The options that it was made with.
    conserves : bool
        As of the class.
    """

    name = "custom"

    def __init__(self, name: str, options: dict[str, Any], conserves: bool) -> None:
        self.custom_name, self._options = name, dict(options)
        self.conserves = conserves  # type: ignore[misc]  # of the class in all others

    @property
    def options(self) -> dict[str, Any]:
        """Those of the user's method."""
        return dict(self._options)

    def rule(self, site: Site) -> Rule:
        """Refuse: the rules went into the program."""
        raise TypeError(f"{self.custom_name} is known by its name only: it cannot compile a model")

    def __repr__(self) -> str:
        """Show the call that made the user's method."""
        options = ", ".join(f"{name}={value!r}" for name, value in self._options.items())
        return f"custom {self.custom_name}({options})"
