# SPDX-License-Identifier: Apache-2.0
"""Saved programs: what comes back explains the same, and nothing else is taken for one."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from engine.cases import ALL_CASES, Case, by_name, captured, compiled, inputs
from engine.cells import CellCase
from engine.fields import bits
from reference import METHODS

import pyrel
from pyrel import _core
from pyrel.compiler.program.enums import Scale
from pyrel.files import tensors as tensor_files
from pyrel.files.records import decode, encode
from pyrel.files.tensors import read_tensors, write_tensors
from pyrel.training import save_model

Content = dict[str, Any]
Tensors = dict[str, torch.Tensor]

SMALL = by_name("Elman")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "elman.program"
    compiled(SMALL, "deep_taylor").save(file)
    return file


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
def test_a_loaded_explainer_is_the_saved_one(
    case: Case | CellCase, method: str, tmp_path: Path
) -> None:
    saved = compiled(case, method)
    saved.save(tmp_path / "program")
    loaded = pyrel.Explainer.load(tmp_path / "program")
    x = inputs(case, 13)
    assert bits(loaded(x)) == bits(saved(x))
    assert bits(loaded(x, target=0)) == bits(saved(x, target=0))
    for attribute in ("input_shape", "classes", "flops"):
        assert getattr(loaded, attribute) == getattr(saved, attribute), attribute
    assert repr(loaded) == repr(saved)
    assert type(loaded.method) is type(saved.method)


@pytest.mark.parametrize("isa", _core.instruction_sets())
def test_every_instruction_set_loads_what_one_saved(
    path: Path, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYREL_ISA", isa)
    module, x = SMALL.module(), inputs(SMALL, 25)
    fresh = pyrel.Explainer(module, x, low=0.0, high=1.0)
    loaded = pyrel.Explainer.load(path)
    assert repr(loaded).endswith(f"{isa})")
    assert bits(loaded(x)) == bits(fresh(x))


def test_a_loaded_explainer_can_be_saved_again(path: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    pyrel.Explainer.load(path).save(again)
    assert again.read_bytes() == path.read_bytes()


def test_neither_the_model_nor_export_is_needed(path: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", inputs(SMALL, 3))
    program = """
import sys
import numpy as np, torch
import pyrel.engine.prepare
def refuse(*args, **kwargs): raise AssertionError("something was exported")
torch.export.export = pyrel.engine.prepare.capture_in_short = refuse
e = pyrel.Explainer.load(sys.argv[1])(np.load(sys.argv[2]))
np.save(sys.argv[3], e.relevance)
"""
    out = tmp_path / "out.npy"
    subprocess.run(
        [sys.executable, "-c", program, path, tmp_path / "x.npy", out], check=True, timeout=60
    )
    np.testing.assert_array_equal(
        np.load(out), compiled(SMALL, "deep_taylor")(inputs(SMALL, 3)).relevance
    )


def test_bounds_and_finiteness_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "program"
    low = np.linspace(-1.0, 0.0, 7)
    x = np.zeros((2, 4, 7), np.float32)
    pyrel.Explainer(SMALL.module(), x, method="gradient", low=low, high=1.0).save(file)
    x[1, 2, 3] = -0.6
    with pytest.raises(ValueError, match=r"\[-0.5, 1.0\], got x\[1, 2, 3\] = -0.6"):
        pyrel.Explainer.load(file)(x)
    x[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match=r"x\[1, 2, 3\] = nan"):
        pyrel.Explainer.load(file)(x)
    pyrel.Explainer(SMALL.module(), x, method="gradient", check_finite=False).save(file)
    assert np.isnan(pyrel.Explainer.load(file)(x).output[1]).any()


def test_options_of_the_method_are_kept(tmp_path: Path) -> None:
    for squared in (False, True):
        method = pyrel.methods.GuidedBackprop(squared=squared)
        saved = pyrel.Explainer(SMALL.module(), inputs(SMALL, 2), method)
        saved.save(tmp_path / "program")
        loaded = pyrel.Explainer.load(tmp_path / "program")
        assert f"GuidedBackprop(squared={squared})" in repr(loaded)
        assert loaded.method.finish is method.finish


class Mine(pyrel.methods.GradientXInput):
    """A method of one's own, with an option."""

    name = "mine"

    def __init__(self, level: Any = 1) -> None:
        super().__init__()
        self.level = level

    @property
    def options(self) -> dict[str, Any]:
        return {"level": self.level}


def test_a_method_of_ones_own_is_saved_by_name(tmp_path: Path) -> None:
    x = inputs(SMALL, 5)
    explainer = pyrel.Explainer(SMALL.module(), x[:2], Mine(level=3))
    explainer.save(tmp_path / "program")
    loaded = pyrel.Explainer.load(tmp_path / "program")
    assert isinstance(loaded.method, pyrel.methods.Custom)
    assert repr(loaded.method) == "custom mine(level=3)"
    assert loaded.method.options == {"level": 3}
    assert loaded.method.conserves is False
    assert bits(loaded(x)) == bits(explainer(x))
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "program").read_bytes()
    with pytest.raises(TypeError, match="mine is known by its name only"):
        pyrel.Explainer(SMALL.module(), x[:2], loaded.method)


def test_options_that_json_cannot_hold_are_refused(tmp_path: Path) -> None:
    explainer = pyrel.Explainer(SMALL.module(), inputs(SMALL, 2), Mine(level=object()))
    with pytest.raises(TypeError, match="those of Mine are nothing that JSON can hold"):
        explainer.save(tmp_path / "program")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        compiled(SMALL, "gradient").save(path)
    assert path.read_bytes() == old
    assert os.listdir(path.parent) == [path.name]


def test_the_header_is_readable_without_pyrel(tmp_path: Path) -> None:
    path = tmp_path / "program"
    _, graph = captured(SMALL)
    pyrel.Explainer(graph, inputs(SMALL, 2), low=SMALL.low, high=SMALL.high).save(path)
    with safetensors.safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["pyrel"])
    assert header["kind"] == "program"
    explainer = header["explainer"]
    assert explainer.pop("checked").startswith("outputs on 2 inputs")
    assert explainer == {"method": "deep_taylor", "input_shape": [4, 7], "check_finite": True}


def refused(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        pyrel.Explainer.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.program"):
        pyrel.Explainer.load(tmp_path / "nowhere.program")


def test_a_truncated_file_is_refused_wherever_it_ends(path: Path) -> None:
    data = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1]:
        path.write_bytes(data[:length])
        refused(path, "is not a whole safetensors file")


def test_a_changed_file_is_refused(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    refused(path, "was changed after pyrel wrote it")


def test_other_files_are_refused(path: Path) -> None:
    save_model(path, pyrel.nn.Shallow(2, (3,), 2, (4,), 2))
    refused(path, "holds a model, not a program")
    path.write_bytes(b"\x80\x02}q\x00." * 30)
    refused(path, "is not a whole safetensors file")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_files_of_torch_are_told_apart(path: Path) -> None:
    model, x = torch.nn.Linear(6, 3), torch.zeros(2, 6)
    for old in (False, True):
        torch.save(model.state_dict(), path, _use_new_zipfile_serialization=not old)
        refused(path, r"a file of torch\.save.* load_state_dict")
    torch.jit.trace(model, x).save(path)
    refused(path, r"a model of torch\.jit\.save.* the torch\.nn\.Module")
    exported = path.with_suffix(".pt2")
    torch.export.save(torch.export.export(model, (x,)), exported)
    refused(exported, r"a program of torch\.export\.save.* torch\.export\.load\(path\)")
    np.savez(path.with_suffix(".npz"), x=x)
    refused(path.with_suffix(".npz"), "is not a whole safetensors file")


def test_a_newer_format_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(tensor_files.FORMAT_VERSIONS, "program", 9)
        patch.setattr(tensor_files, "version", lambda: "9.0")
        compiled(SMALL, "deep_taylor").save(path)
    refused(path, "has format 9 of pyrel 9.0.* install a newer pyrel")


def forged(path: Path, change: Callable[[Tensors, Content], object]) -> None:
    """Write a changed program with a checksum that is right."""
    tensors, content = read_tensors(path, "program")
    change(tensors, content)
    write_tensors(path, "program", tensors, content)


def first(content: Content, kind: str) -> Content:
    templates = (entry["template"] for entry in content["instructions"])
    template: Content = next(t for t in templates if t["kind"] == kind)
    return template


def repeated(content: Content, count: Any, **fields: Any) -> None:
    """Put the first instruction into a repeat."""
    entry = content["instructions"][0]
    content["instructions"][0] = {"repeat": count, "body": [entry]} | fields


def unbounded(tensors: Tensors, content: Content, shape: list[int]) -> None:
    """Give samples another shape, of which nothing else is known."""
    del tensors["low"], tensors["high"]
    content["explainer"].update(input_shape=shape)


FORGERIES: dict[str, tuple[Callable[[Tensors, Content], object], str]] = {
    "no offsets": (lambda t, c: t.pop("offsets"), "the tensor 'offsets' is missing"),
    "no matrix": (lambda t, c: t.pop("matrix.0"), r"unknown to this pyrel"),
    "last matrix gone": (lambda t, c: t.pop(max(n for n in t if "mat" in n)), "no such matrix"),
    "other tensor": (lambda t, c: t.update(more=torch.ones(1)), "a tensor 'more', unknown"),
    "double": (lambda t, c: t.update({"vector.0": t["vector.0"].double()}), "vector.0: wanted"),
    "flat": (lambda t, c: t.update({"matrix.0": t["matrix.0"].reshape(-1)}), "matrix.0: wanted"),
    "wide": (lambda t, c: t.update({"matrix.0": t["matrix.0"].T.clone()}), "depth"),
    "far": (lambda t, c: t["offsets"].__setitem__(3, 2**63 - 1), "beyond its space"),
    "negative": (lambda t, c: t["offsets"].__setitem__(3, -1), "beyond its space"),
    "zeros": (lambda t, c: t["offsets"].zero_(), "read before it is written"),
    "offsets missing": (lambda t, c: t.update(offsets=t["offsets"][:-1].clone()), "fewer than"),
    "offsets more": (lambda t, c: t.update(offsets=t["offsets"].repeat(2)), "more than"),
    "low alone": (lambda t, c: t.pop("high"), "low and high must both"),
    "short low": (lambda t, c: t.update(low=t["low"][:-1].clone()), "low and high must both"),
    "low above 0": (lambda t, c: t["low"].fill_(0.5), "low: wanted values <= 0"),
    "NaN low": (lambda t, c: t["low"].fill_(float("nan")), "low: wanted numbers, got NaN"),
    "shape": (lambda t, c: c["explainer"].update(input_shape=[7, 5]), "low and high must"),
    "wide shape": (lambda t, c: unbounded(t, c, [7, 5]), "do not fit its program"),
    "negative shape": (lambda t, c: c["explainer"].update(input_shape=[-4, -7]), "do not fit"),
    "method": (lambda t, c: c["explainer"].update(method="magic"), "no 'magic'; there are"),
    "method's type": (lambda t, c: c["explainer"].update(method=1), "_Header.method: 1 is unknown"),
    "option": (lambda t, c: c.update(options={"a": 1}), "a: not among the options of deep_taylor"),
    "options": (lambda t, c: c.update(options=[]), "options: wanted a mapping"),
    "explainer": (lambda t, c: c.pop("explainer"), "wanted a mapping, got None"),
    "instructions": (lambda t, c: c.update(instructions={}), "instructions: wanted a list"),
    "no seed": (lambda t, c: c["instructions"].clear(), "more than instructions ask for"),
    "arena": (lambda t, c: c["program"].update(arena_size=2**62), "larger than 2"),
    "small arena": (lambda t, c: c["program"].update(arena_size=16), "beyond its space"),
    "arena's type": (lambda t, c: c["program"].update(arena_size=1.0), "arena_size: 1.0 is"),
    "classes": (lambda t, c: c["program"].update(classes=2**31), "beyond its space"),
    "flag": (lambda t, c: c["program"].update(conserves=1), "conserves: 1 is unknown"),
    "steps": (lambda t, c: c["instructions"][0].update(steps=0), "fewer than instructions"),
    "many steps": (lambda t, c: c["instructions"][0].update(steps=2**62), "fewer than"),
    "new instruction": (lambda t, c: first(c, "Gemm").update(kind="Repeat"), "'Repeat' is unknown"),
    "no kind": (lambda t, c: first(c, "Gemm").pop("kind"), "None is unknown"),
    "new field": (lambda t, c: first(c, "Gemm").update(magic=1), "Gemm has 'magic', unknown"),
    "field gone": (lambda t, c: first(c, "Gemm").pop("matrix"), "Gemm: matrix is missing"),
    "matrix": (lambda t, c: first(c, "Gemm").update(matrix=99), "no such matrix"),
    "huge matrix": (lambda t, c: first(c, "Gemm").update(matrix=2**40), "no such matrix"),
    "beyond int64": (lambda t, c: first(c, "Gemm").update(matrix=2**64), "matrix: 1844.* unknown"),
    "space": (lambda t, c: first(c, "Gemm").update(out="disk"), "Gemm.out: 'disk' is unknown"),
    "input": (lambda t, c: first(c, "Gemm").update(out="input"), "writes to the input"),
    "early": (lambda t, c: first(c, "Gemm").update(out="relevance"), "relevance before the seed"),
    "pair": (lambda t, c: first(c, "Gemm").update(segments=[["input"]]), "wanted 2 entries, got 1"),
    "repeat": (lambda t, c: repeated(c, 0), "at least one iteration"),
    "endless repeat": (lambda t, c: repeated(c, 2**63 - 1), "as many offsets for each iteration"),
    "huge repeat": (lambda t, c: repeated(c, 2**80), "incompatible function arguments"),
    "repeat's count": (lambda t, c: repeated(c, True), "a repeat wants a number and a list"),
    "repeat's body": (lambda t, c: repeated(c, 1, body={}), "a repeat wants a number and a list"),
    "repeat's field": (lambda t, c: repeated(c, 1, more=1), "a repeat wants a number and a list"),
    "nested repeat": (
        lambda t, c: (repeated(c, 1), repeated(c, 1)), "_Step has 'body', unknown"
    ),
    "start": (lambda t, c: first(c, "Seed").update(start=1), "Seed.start: 1 is unknown"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), FORGERIES.values(), ids=FORGERIES)
def test_a_forged_program_is_refused(
    path: Path, change: Callable[[Tensors, Content], object], message: str
) -> None:
    forged(path, change)
    refused(path, f"does not hold a program that this pyrel .* can run.*{message}")


def test_an_index_that_is_not_there_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "program"
    compiled(by_name("Repeated"), "gradient").save(file)
    original = file.read_bytes()
    for index in (99, -1):
        forged(file, lambda t, c, i=index: first(c, "Gather").update(index=i))
        refused(file, "names an index that is not there")
        file.write_bytes(original)
    forged(file, lambda t, c: t["index.0"].fill_(2**63 - 1))
    refused(file, "an index reaches beyond its space")


def test_deep_nesting_is_refused(path: Path) -> None:
    text: Any = []
    for _ in range(800):
        text = [text]
    forged(path, lambda t, c: c.update(options={"a": text}))
    refused(path, "damaged description|can run")


MUTATIONS = 50  # `make fuzz` tries many more
EXTREMES = (-1, 0, 1, 7, 2**31 - 1, 2**31, 2**62, 2**63 - 1, -(2**63))


def mutate(
    rng: np.random.Generator, tensors: Tensors, content: Content, keys: tuple[str, str]
) -> None:
    """Change one offset, or one number, name or flag of some entries, somewhere."""
    if rng.random() < 0.5:
        values = tensors["offsets"]
        new = rng.choice(EXTREMES) if rng.random() < 0.3 else rng.integers(-20, 300)
        values[rng.integers(len(values))] = int(new)
        return
    node, key = content, rng.choice(keys)
    while isinstance(node[key], dict | list) and len(node[key]):
        node = node[key]
        keys = sorted(node) if isinstance(node, dict) else range(len(node))
        key = keys[rng.integers(len(keys))]
    replacements = [*map(int, EXTREMES), 3, "arena", "relu", "operand", "vector", True, None, []]
    node[key] = replacements[rng.integers(len(replacements))]


def assert_refused_or_harmless(
    save: Callable[[Path, int], None], file: Path, keys: tuple[str, str], batches: list[Any]
) -> None:
    """Changes at random: what still loads also runs, to the end or to an error."""
    rng = np.random.default_rng(0)
    loaded = 0
    for trial in range(MUTATIONS):
        save(file, trial)
        forged(file, lambda t, c: mutate(rng, t, c, keys))
        try:
            explainer = pyrel.Explainer.load(file)
        except ValueError as error:
            assert str(file) in str(error)
            continue
        loaded += 1
        for x in batches:
            with contextlib.suppress(ValueError, MemoryError):
                explainer(x)
    assert 0 < loaded < MUTATIONS


@pytest.mark.parametrize("name", ["Elman", "Repeated"])
def test_random_changes_are_refused_or_harmless(name: str, tmp_path: Path) -> None:
    """The engine stays within its memory."""
    case = by_name(name)

    def save(file: Path, trial: int) -> None:
        compiled(case, METHODS[trial % len(METHODS)]).save(file)

    keys = ("instructions", "program")
    assert_refused_or_harmless(save, tmp_path / "program", keys, [inputs(case, 3)])


@dataclass(frozen=True)
class Old:
    size: int


@dataclass(frozen=True)
class New:
    size: int
    precision: str = "fp32"
    scale: Scale = Scale.none


def test_fields_that_are_added_with_a_default() -> None:
    """An older pyrel reads what does not use them, a newer one what does not have them."""
    assert decode(New, encode(Old(3))) == New(3)
    assert decode(Old, encode(New(3))) == Old(3)
    changed = New(3, "bf16", Scale.vector)
    assert decode(New, json.loads(json.dumps(encode(changed)))) == changed
    with pytest.raises(ValueError, match="Old has 'precision', unknown to this pyrel"):
        decode(Old, encode(changed))
