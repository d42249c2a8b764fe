# SPDX-License-Identifier: Apache-2.0
"""The commands, of which each is a thin layer on the library.

Nothing that takes long to import is imported before a command needs it, so that help comes at once.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pyrel._core import version
from pyrel.cli import bench, demo, evaluate, explain, report, reproduce, train

# Plain help: boxes leave too little room for sentences in 80 columns.
app = typer.Typer(
    name="pyrel",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command(epilog=demo.EXAMPLES)(demo.demo)
app.command(epilog=train.EXAMPLES)(train.train)
app.command(epilog=explain.EXAMPLES)(explain.explain)
app.command(epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command(epilog=report.EXAMPLES)(report.report)
app.command(epilog=reproduce.EXAMPLES)(reproduce.reproduce)
app.command(epilog=bench.EXAMPLES)(bench.bench)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pyrel {version()}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Explain what recurrent neural networks decide: relevance of every input element.

    To begin, run 'pyrel demo'. Every command explains itself: pyrel COMMAND --help.

    Exit codes: 0 done, 1 an input was refused (the message says why), 2 the command line is wrong,
    130 stopped by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP; then nothing is left half-written.
    """
