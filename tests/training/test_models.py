# SPDX-License-Identifier: Apache-2.0
"""Model files: what goes in comes out, and nothing else is taken for one."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

from pyrel.files import tensors as tensor_files
from pyrel.files.tensors import read_tensors, write_tensors
from pyrel.nn import Deep, DeepV2, Shallow
from pyrel.training import load_model, save_model

if TYPE_CHECKING:
    from conftest import Problem


@pytest.fixture
def path(problem: "Problem", tmp_path: Path) -> Path:
    save_model(tmp_path / "m.safetensors", problem.model())
    return tmp_path / "m.safetensors"


@pytest.mark.parametrize("cell", [Shallow, Deep, DeepV2])
def test_a_saved_cell_comes_back(cell: type[Any], tmp_path: Path) -> None:
    model = cell.for_majority(6).eval()
    file = tmp_path / "new" / "folder" / "m.safetensors"
    save_model(file, model, low=0, high=1.0, training={"epochs": 3}, extra={"note": "ä"})
    before = torch.random.get_rng_state()
    loaded, metadata = load_model(file)
    assert torch.equal(before, torch.random.get_rng_state())
    assert type(loaded) is cell and not loaded.training
    assert metadata["cell"] == loaded.config() == model.config()
    assert (metadata["low"], metadata["high"]) == (0.0, 1.0)
    assert (metadata["training"], metadata["extra"]) == ({"epochs": 3}, {"note": "ä"})
    assert metadata["format_version"] == 2 and metadata["pyrel_version"]
    x = torch.rand(3, 6, 28, 14)
    assert torch.equal(loaded(x), model(x))
    assert all(p.requires_grad for p in loaded.parameters())


def test_a_domain_may_be_an_array_or_absent(problem: "Problem", path: Path) -> None:
    assert load_model(path)[1]["low"] is None
    save_model(path, problem.model(), low=np.zeros((3, 1), np.float32), high=[[1.0], [2.0], [3.0]])
    metadata = load_model(path)[1]
    assert metadata["low"] == [[0.0]] * 3
    assert metadata["high"] == [[1.0], [2.0], [3.0]]


def test_the_header_is_readable_without_pyrel(path: Path) -> None:
    with safetensors.safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["pyrel"])
        assert set(file.keys()) == set(load_model(path)[0].state_dict())
    assert header["kind"] == "model"
    assert header["cell"]["cell"] == "Deep"


def test_only_cells_can_be_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="model must be a cell of pyrel.nn, .* not Linear"):
        save_model(tmp_path / "m", nn.Linear(2, 2))  # type: ignore[arg-type]


def test_what_json_cannot_hold_is_refused_and_leaves_no_file(
    problem: "Problem", tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="JSON"):
        save_model(tmp_path / "m", problem.model(), extra={"loss": math.nan})
    with pytest.raises(TypeError, match="JSON"):
        save_model(tmp_path / "m", problem.model(), extra={"loss": object()})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(
    problem: "Problem", path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(path, problem.model(seed=5))
    assert path.read_bytes() == old
    assert list(path.parent.iterdir()) == [path]


def refused(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_model(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.safetensors"):
        load_model(tmp_path / "nowhere.safetensors")


def test_a_truncated_file_is_refused_wherever_it_ends(path: Path) -> None:
    data = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        refused(path, "is not a whole safetensors file")


def test_a_longer_file_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    refused(path, "is not a whole safetensors file")


def test_a_changed_weight_is_refused(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    refused(path, "was changed after pyrel wrote it")


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'\\"high\\": 1.0', b'\\"high\\": 9.0'), (b'\\"classes\\": 3', b'\\"classes\\": 4')],
)
def test_a_changed_description_is_refused(
    problem: "Problem", path: Path, old: bytes, new: bytes
) -> None:
    save_model(path, problem.model(), low=0.0, high=1.0)
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))
    refused(path, "was changed after pyrel wrote it")


@pytest.mark.parametrize("extra", [{1: "a", "b": (2, 3)}, {"ä": 1e-320, "big": 10**30}])
def test_what_json_changes_is_no_change_of_the_file(
    problem: "Problem", path: Path, extra: dict[Any, Any]
) -> None:
    save_model(path, problem.model(), extra=extra)
    assert load_model(path)[1]["extra"] == json.loads(json.dumps(extra))


@pytest.mark.parametrize("data", [b"PK\x03\x04" + bytes(200), b"\x80\x02}q\x00." * 30])
def test_files_of_other_kinds_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.pt").write_bytes(data)
    refused(tmp_path / "m.pt", "is not a whole safetensors file")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_foreign_safetensors_are_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    file = tmp_path / "m.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2)}, file, metadata=metadata)
    refused(file, "is a safetensors file, but pyrel did not write it")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format_version": "x"}', "[" * 10**5])
def test_a_damaged_description_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "m.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2)}, file, metadata={"pyrel": text})
    refused(file, "has a damaged description")


def rewritten(path: Path, drop: str | None = None, **changes: Any) -> None:
    tensors, content = read_tensors(path, "model")
    if drop is not None:
        del tensors[drop]
    write_tensors(path, "model", tensors, content | changes)


@pytest.mark.parametrize(("version", "words"), [(99, "install a newer"), (1, "write it anew")])
def test_another_format_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, version: int, words: str
) -> None:
    tensors, content = read_tensors(path, "model")
    with monkeypatch.context() as patch:
        patch.setitem(tensor_files.FORMAT_VERSIONS, "model", version)
        patch.setattr(tensor_files, "version", lambda: "9.0")
        write_tensors(path, "model", tensors, content)
    refused(path, f"has format {version} of pyrel 9.0.* {words}")


def test_a_checkpoint_is_no_model(path: Path) -> None:
    write_tensors(path, "checkpoint", *read_tensors(path, "model"))
    refused(path, "holds a checkpoint, not a model")


def test_a_cell_of_other_sizes_is_refused(problem: "Problem", path: Path) -> None:
    config = problem.model().config()
    rewritten(path, cell=config | {"classes": 4})
    refused(
        path, r"its cell has torch.float32 \(4,\) as output.bias, the file torch.float32 \(3,\)"
    )
    rewritten(path, cell=config | {"cell": "Wide"})
    refused(path, "does not hold a cell that this pyrel knows: no cell is named 'Wide'")
    # A size that no memory holds must not be allocated before it is compared.
    rewritten(path, cell=config | {"classes": 10**15})
    refused(path, "its cell has")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell": "Deep"}, "cell must be a mapping, not 'Deep'"),
        ({"training": [1]}, r"training must be a mapping, not \[1\]"),
        ({"extra": None}, "extra must be a mapping, not None"),
        ({"low": "0"}, "low must be a number or an array of them, not '0'"),
        ({"high": {"a": 1}}, "high must be a number"),
        ({"high": [[1.0], [1.0, 2.0]]}, "inhomogeneous"),
    ],
)
def test_an_entry_of_another_type_is_refused(
    path: Path, changes: dict[str, Any], message: str
) -> None:
    rewritten(path, **changes)
    refused(path, f"does not hold a cell that this pyrel knows: .*{message}")


@pytest.mark.parametrize(
    "change",
    [{"steps": "12"}, {"steps": 1.5}, {"step_shape": 7}, {"cell": ["Deep"]}, {"dropout": "none"},
     {"sizes": [10**15] * 3, "classes": 10**15}, {"sizes": [10**30, 2, 3]}],
)  # fmt: skip
def test_a_cell_that_cannot_be_built_is_refused_by_name(
    problem: "Problem", path: Path, change: dict[str, Any]
) -> None:
    rewritten(path, cell=problem.model().config() | change)
    refused(path, "does not hold a cell that this pyrel knows")


def test_a_missing_tensor_is_named(path: Path) -> None:
    rewritten(path, drop="cell.weight")
    refused(path, r"its cell has torch.float32 \(16, 20\) as cell.weight, the file nothing")
