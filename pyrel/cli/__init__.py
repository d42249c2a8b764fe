# SPDX-License-Identifier: Apache-2.0
"""The command line; `pyrel.cli.commands` has the commands."""

from __future__ import annotations

import sys

_INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    try:
        # Imported here, for Ctrl-C may come meanwhile.
        from pyrel.cli.commands import app
        from pyrel.cli.stopping import listen

        listen()
        app()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
