# SPDX-License-Identifier: Apache-2.0
"""Explaining a file: inputs that change meanwhile, in any order of memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import pyrel
from pyrel import explain_file as module
from pyrel.explain_file import explain_file
from pyrel.files.arrays import open_array, read_array

COUNT = 20


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "small.program"
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 5), torch.nn.ReLU())
    pyrel.Explainer(model, np.ones((1, 3, 2), np.float32), "lrp_epsilon").save(path)
    return path


@pytest.fixture(scope="module")
def explainer(program: Path) -> pyrel.Explainer:
    return pyrel.Explainer.load(program)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(COUNT, 3, 2)).astype(np.float32)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PART_SAMPLES", 3)


def changed_after_two_parts(change: Callable[[], None]) -> Callable[[int, int], None]:
    def progress(done: int, _: int) -> None:
        if done == 6:
            change()

    return progress


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"1234")


def overwrite_unseen(path: Path) -> None:
    """Overwrite, and set the time of the last change back, as copying programs do."""
    before = path.stat()
    overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"1")


def test_an_input_that_is_cut_off_is_refused(program: Path, x: np.ndarray, tmp_path: Path) -> None:
    # In a process of its own, which a memory map of a cut file would end.
    source, out = tmp_path / "x.npy", tmp_path / "r.npz"
    np.save(source, x)
    script = (
        "import sys, pyrel, test_explain_file as here; from pathlib import Path\n"
        "here.module._PART_SAMPLES = 3\n"
        "program, source, out = sys.argv[1:]\n"
        "here.explain_file(pyrel.Explainer.load(program), source, out,\n"
        "    progress=here.changed_after_two_parts(lambda: here.cut_off(Path(source))))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, program, source, out],
        cwd=Path(__file__).parent, stderr=subprocess.PIPE, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    told = ended.stderr.splitlines()[-1]
    assert told.startswith("OSError: ")
    assert "it changed while it was read" in told
    assert str(source) in told
    assert os.listdir(tmp_path) == ["x.npy"]


@pytest.mark.parametrize("change", [overwrite, overwrite_unseen, append, cut_off])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_input_that_changes_is_refused(
    explainer: pyrel.Explainer,
    x: np.ndarray,
    tmp_path: Path,
    order: str,
    change: Callable[[Path], None],
) -> None:
    source, out = tmp_path / "x.npy", tmp_path / "r.npz"
    np.save(source, np.asarray(x, order=order))
    progress = changed_after_two_parts(lambda: change(source))
    with pytest.raises(OSError, match=r"it changed while it was read.*x\.npy"):
        explain_file(explainer, source, out, progress=progress)
    assert os.listdir(tmp_path) == ["x.npy"]


def test_a_change_after_the_last_part_is_seen_too(
    explainer: pyrel.Explainer, x: np.ndarray, tmp_path: Path
) -> None:
    source = tmp_path / "x.npy"
    np.save(source, x)

    def progress(done: int, _: int) -> None:
        if done == COUNT:
            overwrite(source)

    with pytest.raises(OSError, match="it changed while it was read"):
        explain_file(explainer, source, tmp_path / "r.npz", progress=progress)
    assert os.listdir(tmp_path) == ["x.npy"]


def test_an_archive_that_changes_while_it_is_read_is_refused(
    x: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "x.npz"
    np.savez(source, x=x)
    load = np.load

    def cut_before(*args: object, **kwargs: object) -> object:
        cut_off(source)
        return load(*args, **kwargs)

    monkeypatch.setattr(np, "load", cut_before)
    with pytest.raises(OSError, match="it changed while it was read.*x.npz"):
        open_array(source)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", ">f8"])
def test_any_order_and_type_is_read(
    explainer: pyrel.Explainer, x: np.ndarray, tmp_path: Path, order: str, dtype: str
) -> None:
    source, out = tmp_path / "x.npy", tmp_path / "r.npz"
    given = np.asarray(x.astype(dtype), order=order)
    np.save(source, given)
    explain_file(explainer, source, out)
    with np.load(out) as file:
        np.testing.assert_array_equal(file["relevance"], explainer(given).relevance)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(), (7,), (0, 3), (7, 0, 2), (7, 1), (1, 5), (7, 2, 3, 4)])
def test_pieces_are_those_of_the_array(tmp_path: Path, shape: tuple[int, ...], order: str) -> None:
    source = tmp_path / "x.npy"
    x = np.asarray(np.random.default_rng(0).integers(9, size=shape), order=order)
    np.save(source, x)
    np.testing.assert_array_equal(read_array(source), x)
    with open_array(source) as file:
        assert (file.shape, file.dtype, file.like.shape) == (x.shape, x.dtype, x.shape)
        if x.shape:
            assert len(file) == len(x)
            for first in range(len(x)):
                for last in range(first, len(x) + 1):
                    piece = file.piece(slice(first, last))
                    np.testing.assert_array_equal(piece, x[first:last])
                    assert piece.dtype == x.dtype


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000000000000,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000000000000, 0)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (%s)}" % ("1, " * 99),
        "{'descr': ',', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (%s1,)}" % ("-" * 9000),
    ],
)  # fmt: skip
def test_headers_of_no_array_are_refused(tmp_path: Path, header: str) -> None:
    source, text = tmp_path / "x.npy", header.encode() + b"\n"
    source.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(8))
    with pytest.raises(ValueError, match=r"x\.npy is damaged or cut off"):
        open_array(source)
