# SPDX-License-Identifier: Apache-2.0
"""Write into docs/architecture.md what its examples print. ``--check`` compares only."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import sys
from pathlib import Path

from pyrel.engine.config import isa

PAGE = Path(__file__).parents[1] / "docs" / "architecture.md"
EXAMPLE = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


def printed(page: str) -> str:
    """Return a page with the output that its examples have now, run in their order."""
    names: dict[str, object] = {}

    def run(found: re.Match[str]) -> str:
        with contextlib.redirect_stdout(io.StringIO()) as told:
            exec(compile(found[1], "an example", "exec"), names)
        output = told.getvalue().replace(isa(), "avx2")  # the same page on every machine
        return f"```python\n{found[1]}```\n\n```text\n{output}```"

    return EXAMPLE.sub(run, page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the page says another thing")
    check = parser.parse_args().check
    page = PAGE.read_text("utf-8")
    now = printed(page)
    if check and now != page:
        print(f"{PAGE.name}: python tools/printed_output.py writes another output", file=sys.stderr)
        return 1
    PAGE.write_text(now, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
