# SPDX-License-Identifier: Apache-2.0
"""Check that every source file begins with the licence line; used by `make lint`."""

import subprocess
import sys
from pathlib import Path

LICENCE = "SPDX-License-Identifier: Apache-2.0"
COMMENTS = {
    ".py": "# ",
    ".pyi": "# ",
    ".sh": "# ",
    ".h": "// ",
    ".cpp": "// ",
    ".cu": "// ",
    ".cuh": "// ",
    ".cmake": "# ",
    ".js": "// ",
    ".css": "/* ",
    ".j2": "{# ",
    ".jinja2": "{# ",
}
ENDS = {"{# ": " #}", "/* ": " */"}  # what a comment ends in, where it does not end with the line
NAMED = {"CMakeLists.txt": "# ", "Makefile": "# ", ".ci/run": "# "}


def comment_mark(path: Path) -> str | None:
    """Give what a comment of this file begins with, or None where no licence line is asked for."""
    return NAMED.get(path.as_posix(), COMMENTS.get(path.suffix))


def has_licence_line(text: str, mark: str) -> bool:
    """Tell whether the first line, or the one after an interpreter line, is the licence line."""
    lines = text.splitlines()
    first = lines[1:2] if text.startswith("#!") else lines[:1]
    return first == [mark + LICENCE + ENDS.get(mark, "")]


def source_files(root: Path) -> list[Path]:
    """List the files that git tracks or would track, relative to `root`.

    Raises
    ------
    SystemExit
        If git is not there or `root` is in no checkout.
    """
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise SystemExit("licence lines: git is needed, which lists the files to check") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"licence lines: git cannot list the files to check in {root}: {error.stderr.strip()}"
        ) from None
    listing = done.stdout
    names = sorted({Path(name) for name in listing.split("\0") if name})
    return [name for name in names if (root / name).is_file()]


def unlicensed(root: Path) -> list[Path]:
    """List the source files under `root` whose licence line is missing."""
    marks = [(path, comment_mark(path)) for path in source_files(root)]
    return [
        path
        for path, mark in marks
        if mark is not None and not has_licence_line((root / path).read_text("utf-8"), mark)
    ]


def main() -> int:
    missing = unlicensed(Path.cwd())
    for path in missing:
        print(f"{path}: the first line must be the comment '{LICENCE}'", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
