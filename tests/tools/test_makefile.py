# SPDX-License-Identifier: Apache-2.0
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tree(tmp_path):
    """A tree in which pip only counts how often it was asked to install pyrel."""
    for name in ("Makefile", "CMakeLists.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    (tmp_path / "csrc").mkdir()
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    python = tmp_path / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$@" >> builds\n')
    python.chmod(0o755)
    (tmp_path / ".venv" / ".packages-installed").touch()
    return tmp_path


def builds(tree, werror):
    """Say how often `make build` has built up to now."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "PYREL_"))}
    environment = kept if werror is None else {**kept, "PYREL_WERROR": werror}
    subprocess.run(["make", "build"], cwd=tree, env=environment, check=True, capture_output=True)
    return len((tree / "builds").read_text().splitlines())


def test_other_compiler_flags_build_again(tree):
    assert [builds(tree, w) for w in (None, "OFF", "ON", "ON", None)] == [1, 1, 2, 2, 3]
