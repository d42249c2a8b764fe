# SPDX-License-Identifier: Apache-2.0
"""Readers refuse files that are not what they should be by a ValueError that names the file."""

from __future__ import annotations

import gzip
import io
import json
import resource
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import files_of_others as others
import numpy as np
import pytest
import torch

import pyrel
from pyrel.benchmark.results import load_results
from pyrel.data.idx import read_idx
from pyrel.files import samples
from pyrel.files.arrays import open_array, read_array
from pyrel.files.foreign import shown
from pyrel.files.tensors import read_tensors, write_tensors
from pyrel.metrics import load_study
from pyrel.training import TrainingConfig, load_model, save_model
from pyrel.training.state import TrainingState


def refused(read: Callable[[Path], Any], path: Path, content: bytes | None = None) -> str:
    """Return what is said of the file that is refused."""
    if content is not None:
        path.write_bytes(content)
    with warnings.catch_warnings(), pytest.raises(ValueError) as caught:  # noqa: PT011
        warnings.simplefilter("ignore")
        read(path)
    told = str(caught.value)
    assert str(path) in told
    assert told.isprintable()
    assert len(told) < 1500
    return told


@pytest.mark.parametrize("content", others.NPY.values(), ids=others.NPY)
def test_an_npy_file_is_refused(content: bytes, tmp_path: Path) -> None:
    refused(read_array, tmp_path / "x.npy", content)


@pytest.mark.parametrize("content", others.NPZ.values(), ids=others.NPZ)
def test_an_npz_file_is_refused(content: bytes, tmp_path: Path) -> None:
    refused(read_array, tmp_path / "x.npz", content)


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    path = tmp_path / "x"
    told = refused(read_array, path, others.NPY["enormous"])
    assert f"needs {4 * others.BIG + 88} bytes, and it has 88" in told
    assert "has an encrypted array x" in refused(read_array, path, others.NPZ["encrypted"])
    assert "CRC" in refused(read_array, path, others.NPZ["wrong checksum"])
    assert "version 9.0" in refused(read_array, path, others.NPY["ninth version"])
    with pytest.raises(ValueError, match=r"no array 'y'.*\\x1b\[31m\\u202e"):
        path.write_bytes(others.NPZ["control characters"])
        read_array(path, "y")


@pytest.mark.parametrize("kind", ["npy", "npz", "idx", "gz"])
def test_files_with_changed_bytes_are_read_or_refused(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "_TICK", 0)  # a young file is not waited for
    array, buffer = others.array(), io.BytesIO()
    np.save(buffer, array) if kind == "npy" else np.savez_compressed(buffer, x=array)
    whole = buffer.getvalue()
    if kind in ("idx", "gz"):
        whole = others.idx((3, 4, 5), bytes(60))
        whole = whole if kind == "idx" else gzip.compress(whole)
    path, rng, read = tmp_path / f"x.{kind}", np.random.default_rng(0), 0
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 4)):
            data[rng.integers(min(len(data), 200))] = rng.choice([0, 1, 0x27, 0x2D, 0x7F, 0xFF])
        path.write_bytes(data[: rng.choice([len(data), rng.integers(len(data))], p=[0.8, 0.2])])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read_idx(path, 3) if kind in ("idx", "gz") else read_array(path)
                read += 1
            except ValueError as error:
                assert str(path) in str(error)
    assert read < 400


def test_a_name_in_a_program_is_shown_so_that_it_can_be_printed(tmp_path: Path) -> None:
    path = tmp_path / "program"
    x = np.zeros((1, 3, 2), np.float32)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 2))
    pyrel.Explainer(model, x, "gradient").save(path)
    tensors, content = read_tensors(path, "program")
    changes: list[Callable[[dict[str, Any]], Any]] = [
        lambda c: c["explainer"].update(method="\ud800\x1b[2J"),
        lambda c: c.update(options={"\ud800": 1}),
        lambda c: c["explainer"].update({"\ud800\n": 1}),
        lambda c: c["program"].update({"\ud800\n" * 10_000: 1}),
        lambda c: c.update(pyrel_version="\ud800", explainer=1),
        lambda c: c["instructions"][0].update(template="\udfff"),
    ]
    for change in changes:
        forged = json.loads(json.dumps(content))
        change(forged)
        write_tensors(path, "program", tensors, forged)
        refused(pyrel.Explainer.load, path)


def test_a_description_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "program"
    deep = "[" * 100_000 + "]" * 100_000
    for text in (deep, "[]", "7", '{"kind": 1}', '{"kind": "\\ud800", "format_version": 1}',
                 '{"kind": "program", "format_version": 1e999}',
                 '{"kind": "program", "format_version": ' + "9" * 5000 + "}",
                 '{"kind": "program", "format_version": 99, "pyrel_version": "\\ud800"}',
                 ):  # fmt: skip
        head = json.dumps({"__metadata__": {"pyrel": text}}).encode()
        refused(pyrel.Explainer.load, path, len(head).to_bytes(8, "little") + head)


def test_a_model_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    save_model(path, pyrel.nn.Shallow(2, (3,), 2, (4,), 2))
    tensors, content = read_tensors(path, "model")
    for change in ({"steps": 10**400}, {"steps": -1}, {"step_shape": [10**30]}, {"sizes": "\ud800"},
                   {"sizes": [[[]]]}, {"dropout": 10**400}, {"cell": ["\ud800"]},
                   {"classes": 2**62}, {"recurrent": None}):  # fmt: skip
        forged = json.loads(json.dumps(content))
        forged["cell"].update(change)
        write_tensors(path, "model", tensors, forged)
        refused(load_model, path)
    for low in (10**400, [[1], [1, 2]], "\ud800", {}):
        write_tensors(path, "model", tensors, content | {"low": low})
        refused(load_model, path)


def test_a_checkpoint_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    state = TrainingState.fresh(pyrel.nn.Shallow(2, (3,), 2, (4,), 2), TrainingConfig())
    state.save(path, {})
    tensors, content = read_tensors(path, "checkpoint")

    def restore(file: Path) -> None:
        state.restore(file, {})

    for change in ({"history": [{}]}, {"history": 7}, {"best_epoch": 1}, {"best_epoch": "a"},
                   {"identity": 7}, {"environment": None},
                   {"history": [dict.fromkeys(pyrel_fields(), "\ud800")]}):  # fmt: skip
        write_tensors(path, "checkpoint", tensors, content | change)
        refused(restore, path)
    for name in tensors:
        write_tensors(path, "checkpoint", {k: v for k, v in tensors.items() if k != name}, content)
        refused(restore, path)
        write_tensors(path, "checkpoint", tensors | {name: torch.zeros(3, 3)}, content)
        refused(restore, path)


def pyrel_fields() -> list[str]:
    """Name the numbers of an epoch."""
    return ["epoch", "learning_rate", "loss", "accuracy", "validation_loss", "validation_accuracy",
            "seconds"]  # fmt: skip


def test_other_json_files_are_refused(tmp_path: Path) -> None:
    deep = b"[" * 100_000
    for content in (deep, b"", b"\xff", b"[]", b'{"format": "\\ud800"}', b"9" * 5000):
        refused(load_study, tmp_path / "study.json", content)
        refused(load_results, tmp_path / "results.json", content)


def test_a_text_is_shown_on_one_line() -> None:
    assert shown("a\n\x1b\ud800é\u2028") == "a\\n\\x1b\\ud800é\\u2028"
    assert shown("a" * 1000, 3) == "aaa…"


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_file_larger_than_memory_is_an_error_of_the_system(order: str, tmp_path: Path) -> None:
    size, path = 1 << 32, tmp_path / "x"
    form = {"descr": "<f4", "fortran_order": order == "F", "shape": (4, size // 16)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, form)
        start = file.tell()
        file.truncate(start + size)  # takes no room on the disk
    with open_array(path) as large, little_memory():
        for part, wanted in ((slice(0, 4), size), (slice(0, 2), size // 2)):
            with pytest.raises(OSError, match=f"no memory for {wanted:,} bytes") as caught:
                large.piece(part)
            assert caught.value.filename == str(path)
        with pytest.raises(OSError, match=f"no memory for {size:,} bytes"):
            large.whole()
        for read in (pyrel.Explainer.load, load_model, load_results):
            with pytest.raises(OSError, match=f"no memory for {start + size:,} bytes") as caught:
                read(path)
            assert caught.value.filename == str(path)


@contextmanager
def little_memory() -> Iterator[None]:
    """Allow this process 256 MB more than it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 28), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
