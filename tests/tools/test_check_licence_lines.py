# SPDX-License-Identifier: Apache-2.0
import subprocess
from pathlib import Path

import check_licence_lines
import pytest

LINE = "SPDX-License-Identifier: Apache-2.0"


@pytest.fixture
def root(tmp_path):
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    (tmp_path / ".gitignore").write_text("built.py\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", f"# {LINE}\nx = 1\n"),
        ("a.pyi", f"# {LINE}\n"),
        ("a.cpp", f"// {LINE}\nint x;\n"),
        ("run.sh", f"#!/bin/sh\n# {LINE}\n"),
        ("Makefile", f"# {LINE}\n"),
        ("a.html.j2", f"{{# {LINE} #}}\n<p>\n"),
        ("notes.md", "no line needed\n"),
        ("built.py", "ignored by git\n"),
    ],
)
def test_accepted(root, name, text):
    (root / name).write_text(text)
    assert check_licence_lines.unlicensed(root) == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", ""),
        ("a.py", f'"""Late."""\n# {LINE}\n'),
        ("a.cpp", f"# {LINE}\n"),
        ("a.h", "// SPDX-License-Identifier: MIT\n"),
        ("run.sh", "#!/bin/sh\necho\n"),
        ("a.html.j2", "<p>\n"),
        ("b.html.j2", f"{{# {LINE}\n#}}\n"),
        ("CMakeLists.txt", "project(x)\n"),
    ],
)
def test_refused(root, name, text):
    (root / name).write_text(text)
    assert check_licence_lines.unlicensed(root) == [Path(name)]


def test_exit_status(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    assert check_licence_lines.main() == 0
    (root / "a.py").write_text("x = 1\n")
    assert check_licence_lines.main() == 1
    assert "a.py" in capsys.readouterr().err


def test_outside_a_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="git cannot list the files to check in .*not a git repo"):
        check_licence_lines.main()


def test_without_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="git is needed"):
        check_licence_lines.main()
