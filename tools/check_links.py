# SPDX-License-Identifier: Apache-2.0
"""Check the relative links and anchors of the root's Markdown and docs/; used by `make lint`."""

import re
import sys
from pathlib import Path
from urllib.parse import unquote

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,}).*?(?:^ {0,3}\1[`~]*\s*$|\Z)", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
INLINE = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+[\"'][^)]*)?\s*\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]^]+\]:\s*<?([^\s>]+)", re.MULTILINE)
HTML = re.compile(r"<(?:a|img|source)\b[^>]*?\b(?:href|src|srcset)\s*=\s*[\"']([^\"']+)[\"']")
HEADING = re.compile(r"^ {0,3}#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)
HTML_ANCHOR = re.compile(r"<[^>]*\b(?:id|name)\s*=\s*[\"']([^\"']+)[\"']")
ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:|//", re.IGNORECASE)


def links(text: str) -> list[str]:
    """List the link targets of a Markdown text, in order of kind, without those inside code."""
    prose = CODE_SPAN.sub("", FENCE.sub("", text))
    return [target for pattern in (INLINE, REFERENCE, HTML) for target in pattern.findall(prose)]


def slug(heading: str) -> str:
    """Make the anchor of a heading as Git hosts do: lower case, spaces to hyphens, no marks."""
    plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """Give every anchor of a Markdown text; a repeated heading gets -1, -2, …"""
    prose = FENCE.sub("", text)
    found: set[str] = set(HTML_ANCHOR.findall(prose))
    seen: dict[str, int] = {}
    for heading in HEADING.findall(prose):
        name = slug(heading)
        count = seen.get(name, 0)
        seen[name] = count + 1
        found.add(f"{name}-{count}" if count else name)
    return found


def problem(root: Path, page: Path, target: str) -> str | None:
    """Say what is wrong with one link of `page`, or None."""
    if ELSEWHERE.match(target):
        return None
    name, _, anchor = target.partition("#")
    goal = (page.parent / unquote(name)).resolve() if name else page.resolve()
    if not goal.is_relative_to(root.resolve()):
        return "leads out of the repository"
    if not goal.exists():
        return "leads to no file"
    if anchor and goal.suffix == ".md" and unquote(anchor) not in anchors(goal.read_text("utf-8")):
        return "leads to no heading or anchor"
    return None


def broken_links(root: Path) -> list[str]:
    """List the broken links of *.md and docs/**/*.md under `root`, one line each."""
    pages = [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]
    found = []
    for page in pages:
        for target in links(page.read_text("utf-8")):
            reason = problem(root, page, target)
            if reason is not None:
                found.append(f"{page.relative_to(root)}: link '{target}' {reason}")
    return found


def main() -> int:
    broken = broken_links(Path.cwd())
    for line in broken:
        print(line, file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
