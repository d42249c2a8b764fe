# SPDX-License-Identifier: Apache-2.0
"""The command line; `pyrel.cli.commands` has the commands."""

from __future__ import annotations

import sys

from pyrel.errors import MissingPackageError, part_of_extra

_REFUSED, _INTERRUPTED = 1, 130


def main() -> None:
    """Run the command line."""
    try:
        # Imported here, for Ctrl-C may come meanwhile.
        with part_of_extra("cli", "the command line", "typer", "rich"):
            from pyrel.cli.commands import app
            from pyrel.cli.stopping import listen

        listen()
        app()
    except MissingPackageError as error:
        print(f"pyrel: {error}", file=sys.stderr)
        sys.exit(_REFUSED)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
