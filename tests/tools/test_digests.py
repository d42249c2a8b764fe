# SPDX-License-Identifier: Apache-2.0
"""Digests of explanations, which use models of the tests."""

import json
from pathlib import Path

import digests
import pytest

ONLY = "cases/Shallow-T1-33"


def test_what_differs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "before.json"

    def call(action: str) -> int:
        monkeypatch.setattr("sys.argv", ["digests.py", f"--{action}", str(path), "--only", ONLY])
        return digests.main()

    assert call("write") == 0
    assert call("compare") == 0
    count = len(digests.VARIANTS)
    assert capsys.readouterr().out == f"{count} digests\n{count} digests, 0 differ\n"
    stored = json.loads(path.read_text("utf-8"))
    changed = f"{ONLY} gradient"
    path.write_text(json.dumps(stored | {changed: "0" * 16}), "utf-8")
    assert call("compare") == 1
    told, summary = capsys.readouterr().out.splitlines()
    assert told == f"{changed}: {'0' * 16} before, {stored[changed]} now"
    assert summary == f"{count} digests, 1 differ"
