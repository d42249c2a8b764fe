# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Workshop, pyrel
from processes import PATIENCE, start, wait_for

import pyrel as library
from pyrel import _core
from pyrel import explain_file as module
from pyrel.engine import config as runtime

Samples = tuple[np.ndarray, np.ndarray]
Captured = tuple[library.Graph, np.ndarray]


def left_behind(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith((".npz", ".partial"))]


# A gradient, the default, one that explains any score, and a composite that takes the range.
@pytest.mark.parametrize("method", ["gradient", "deep_taylor", "lrp_epsilon", "epsilon_gamma_box"])
def test_the_file_has_what_the_library_says(
    workshop: Workshop,
    samples: Samples,
    captured: Captured,
    x_file: Path,
    tmp_path: Path,
    method: str,
) -> None:
    x, y = samples
    np.save(tmp_path / "y.npy", y)
    out = tmp_path / "r.npz"
    result = pyrel(
        "explain", workshop.deep, x_file, "--method", method, "--target", tmp_path / "y.npy",
        "--out", out,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert f"Wrote {out}: 30 samples, {method}" in result.out
    e = library.Explainer(*captured, method, low=0.0, high=1.0)(x, y)
    with np.load(out, allow_pickle=False) as file:
        assert set(file) == {
            "relevance",
            "output",
            "target",
            "absorbed",
            "conservation",
            "amplification",
        }
        for name in file:
            assert file[name].dtype == getattr(e, name).dtype
            np.testing.assert_array_equal(file[name], getattr(e, name))


def test_patterns_come_from_a_file(
    workshop: Workshop, samples: Samples, captured: Captured, x_file: Path, tmp_path: Path
) -> None:
    patterns = library.patterns.fit(captured[0], samples[0])
    patterns.save(tmp_path / "p.safetensors")
    out = tmp_path / "r.npz"
    result = pyrel(
        "explain", workshop.deep, x_file, "--method", "pattern_attribution", "--patterns",
        tmp_path / "p.safetensors", "--out", out,
    )  # fmt: skip
    assert result.code == 0, result.err
    e = library.Explainer(*captured, "pattern_attribution", patterns=patterns)(samples[0])
    with np.load(out, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["relevance"], e.relevance)


@pytest.mark.parametrize("method", ["deep_taylor", "gradient"])
def test_maps_of_zeros_are_counted(
    tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PART_SAMPLES", 2)
    program, source, out = tmp_path / "relu.program", tmp_path / "x.npy", tmp_path / "r.npz"
    relu = torch.nn.ReLU()
    library.Explainer(relu, np.ones((1, 1), np.float32), method, low=-1.0, high=1.0).save(program)
    for values, told in (([1.0, 0.0, -1.0, 0.5, 0.0], True), ([1.0, 0.5], False)):
        np.save(source, np.array(values)[:, None])
        result = pyrel("explain", program, source, "--out", out)
        assert result.code == 0, result.err
        assert ("3 of 5 samples have a map of zeros" in result.out) == told
        because = "deep_taylor shares out scores above 0 only" in result.out
        assert because == (told and method == "deep_taylor")


def test_parts_make_no_difference(
    program: Path, x_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parts = tmp_path / "whole.npz", tmp_path / "parts.npz"
    assert pyrel("explain", program, x_file, "--out", whole).code == 0
    monkeypatch.setattr(module, "_PART_SAMPLES", 7)
    assert pyrel("explain", program, x_file, "--out", parts).code == 0
    with np.load(whole) as first, np.load(parts) as second:
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("count", [0, 1])
def test_few_samples(program: Path, samples: Samples, tmp_path: Path, count: int) -> None:
    np.save(tmp_path / "x.npy", samples[0][:count])
    out = tmp_path / "r.npz"
    assert pyrel("explain", program, tmp_path / "x.npy", "--out", out).code == 0
    with np.load(out) as file:
        assert file["relevance"].shape == (count, 12, 28, 7)
        assert file["output"].shape == (count, 10)


def test_arrays_of_an_archive(program: Path, samples: Samples, tmp_path: Path) -> None:
    source, out = tmp_path / "data.npz", tmp_path / "r.npz"
    np.savez(source, x=samples[0], y=samples[1])
    command = ("explain", program, source, "--out", out)
    without, wrong = pyrel(*command), pyrel(*command, "--key", "z")
    assert (without.code, wrong.code) == (1, 1)
    assert "holds 2 arrays (x, y)" in without.err
    assert "has no array 'z'; its arrays: x, y" in wrong.err
    assert not out.exists()
    assert pyrel(*command, "--key", "x").code == 0
    np.savez_compressed(source, only=samples[0])
    assert pyrel(*command).code == 0


def damaged(x: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "objects":
        np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    elif kind == "archive of objects":
        np.savez(buffer, allow_pickle=True, x=np.array([{}], dtype=object))
    elif kind in ("cut archive", "changed archive"):
        np.savez(buffer, x=x)
    else:
        np.save(buffer, x)
    content = bytearray(buffer.getvalue())
    if kind == "changed archive":
        content[5000] ^= 1
    if kind == "open head":
        content[content.index(b"}")] = ord("{")
    return {"empty": b"", "text": b"hello", "cut head": content[:50]}.get(
        kind, content[:5000] if kind.startswith("cut") else bytes(content)
    )


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("empty", "neither an .npy nor an .npz file"),
        ("text", "neither an .npy nor an .npz file"),
        ("cut", "damaged or cut off"),
        ("cut head", "damaged or cut off"),
        ("open head", "damaged or cut off"),
        ("cut archive", "damaged or cut off"),
        ("changed archive", "damaged or cut off"),
        ("objects", "holds Python objects"),
        ("archive of objects", "holds Python objects"),
    ],
)
def test_damaged_files(
    program: Path, samples: Samples, tmp_path: Path, kind: str, message: str
) -> None:
    source = tmp_path / "x.npy"
    source.write_bytes(damaged(samples[0], kind))
    result = pyrel("explain", program, source, "--out", tmp_path / "r.npz")
    assert result.code == 1
    assert result.err.startswith(f"pyrel explain: {source}")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not left_behind(tmp_path)


def spoiled(x: np.ndarray, kind: str) -> np.ndarray:
    x = x.copy()
    if kind == "NaN":
        x[23, 1, 2, 3] = np.nan
    elif kind == "too bright":
        x[23, 1, 2, 3] = 1.5
    elif kind == "flat":
        return x.reshape(len(x), -1)
    elif kind == "integers":
        return (255 * x).astype(np.uint8)
    elif kind == "number":
        return np.float32(1.0)
    return x


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("NaN", "NaN or infinity in sample 23"),
        ("too bright", "x: wanted values in [low, high] = [0.0, 1.0], got x[23, 1, 2, 3] = 1.5"),
        ("flat", "x.npy: wanted floats of shape (n, 12, 28, 7), got shape (30, 2352)"),
        ("number", "got shape ()"),
        ("integers", "got dtype uint8; convert it with x.astype('float32')"),
    ],
)
def test_inputs_that_do_not_fit(
    program: Path,
    samples: Samples,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    message: str,
) -> None:
    monkeypatch.setattr(module, "_PART_SAMPLES", 10)
    source = tmp_path / "x.npy"
    np.save(source, spoiled(samples[0], kind))
    result = pyrel("explain", program, source, "--out", tmp_path / "r.npz")
    assert result.code == 1
    assert f"{source}" in result.err
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not left_behind(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--method", "lrp"], 2, "'lrp' is not one of gradient"),
        (["--method", "deep_taylor_minmax"], 2, "not one of these: it explains a network by a"),
        (["--target", "10"], 1, "--target: wanted classes 0 to 9, got 10"),
        (["--target", "ten"], 2, "'ten' is neither 'predicted' nor a class"),
        (["--target", "²"], 2, "'²' is neither 'predicted' nor a class"),
        (["--target", "none.npy"], 1, "none.npy: no such file"),
        (["--low", "0.5"], 1, "--low: wanted values <= 0, got 0.5"),
        (["--precision", "half"], 1, '--precision: wanted "float32" or'),
        (["--precision", "tf32"], 1, "'tf32' is computed by the tensor cores of a GPU"),
        (["--key", "x"], 1, "is an .npy file, which holds one array"),
        (["--method", "pattern_net"], 1, "pattern_net needs --patterns, which"),
        (["--patterns", "none.safetensors"], 1, "none.safetensors: no such file"),
    ],
)
def test_wrong_options(
    workshop: Workshop,
    program: Path,
    x_file: Path,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    out = x_file.with_name("r.npz")
    of_a_model = arguments[0] in ("--method", "--low", "--patterns", "--precision")
    model = workshop.deep if of_a_model else program  # which is compiled already
    result = pyrel("explain", model, x_file, "--out", out, *arguments)
    assert result.code == code
    assert message in " ".join(result.err.split())
    assert not out.exists()


def test_the_output_is_an_archive(program: Path, x_file: Path, tmp_path: Path) -> None:
    result = pyrel("explain", program, x_file, "--out", tmp_path / "r.npy")
    assert result.code == 1
    assert "wanted a name ending in .npz" in result.err
    result = pyrel("explain", program, x_file, "--out", tmp_path / "none" / "r.npz")
    assert result.code == 1
    assert f"{tmp_path / 'none'}: there is no such folder" in result.err


@pytest.mark.parametrize("link", [None, os.symlink, os.link])
@pytest.mark.parametrize("role", ["the model", "the input", "the file of classes"])
def test_no_input_is_overwritten(
    workshop: Workshop, samples: Samples, tmp_path: Path, role: str, link: Callable | None
) -> None:
    files = {"the model": "model.npz", "the input": "x.npz", "the file of classes": "y.npy"}
    paths = {what: tmp_path / name for what, name in files.items()}
    shutil.copy(workshop.deep, paths["the model"])
    np.savez(paths["the input"], x=samples[0])
    np.save(paths["the file of classes"], samples[1])
    before = {what: path.read_bytes() for what, path in paths.items()}
    out = paths[role]
    if link is not None or out.suffix == ".npy":
        out = tmp_path / "out.npz"
        (link or os.symlink)(paths[role], out)
    result = pyrel(
        "explain", paths["the model"], paths["the input"], "--target", paths["the file of classes"],
        "--out", out,
    )  # fmt: skip
    assert result.code == 1
    assert f"{out} is {role}, which the output would replace" in result.err
    assert {what: path.read_bytes() for what, path in paths.items()} == before


def test_the_library_does_not_overwrite_its_input(
    captured: Captured, samples: Samples, tmp_path: Path
) -> None:
    source = tmp_path / "x.npz"
    np.savez(source, x=samples[0])
    explainer = library.Explainer(*captured)
    with pytest.raises(ValueError, match="is the input, which the output would replace"):
        module.explain_file(explainer, source, source)
    with np.load(source) as file:
        assert list(file) == ["x"]


def test_models_that_cannot_be_read(workshop: Workshop, x_file: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(workshop.deep.read_bytes()[:5000])
    for path, message in [
        (cut, "is not a whole safetensors file"),
        (x_file, "is not a whole safetensors file"),
        (tmp_path / "none.safetensors", "no such file"),
    ]:
        result = pyrel("explain", path, x_file, "--out", tmp_path / "r.npz")
        assert result.code == 1
        assert str(path) in result.err
        assert message in result.err


@pytest.mark.skipif(
    not _core.has_bf16(runtime.isa()), reason="this instruction set has no products of bfloat16"
)
def test_products_of_bfloat16(
    workshop: Workshop, samples: Samples, captured: Captured, x_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r.npz"
    result = pyrel("explain", workshop.deep, x_file, "--precision", "bf16", "--out", out)
    assert result.code == 0, result.err
    e = library.Explainer(*captured, "deep_taylor", low=0.0, high=1.0, precision="bf16")(samples[0])
    with np.load(out, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["relevance"], e.relevance)


def test_a_saved_program_stands_for_the_model(
    workshop: Workshop, x_file: Path, tmp_path: Path
) -> None:
    program, first, second = (tmp_path / name for name in ("deep.program", "1.npz", "2.npz"))
    made = pyrel(
        "explain", workshop.deep, x_file, "--out", first, "--method", "guided_backprop",
        "--save-program", program,
    )  # fmt: skip
    assert made.code == 0, made.err
    assert f"Wrote {program}: the compiled program" in made.out
    used = pyrel("explain", program, x_file, "--out", second)
    assert used.code == 0, used.err
    assert "30 samples, guided_backprop" in used.out
    assert first.read_bytes() == second.read_bytes()
    assert repr(library.Explainer.load(program)).startswith(
        "Explainer(GuidedBackprop(squared=True)"
    )


def test_a_program_takes_no_options_of_a_model(program: Path, x_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "r.npz"
    result = pyrel(
        "explain", program, x_file, "--out", out, "--method", "gradient", "--low", "0",
        "--precision", "bf16",
    )  # fmt: skip
    assert result.code == 1
    assert f"{program} is a compiled program" in result.err
    assert "leave out --method, --low, --precision" in result.err
    assert not out.exists()


def test_a_program_replaces_none_of_the_other_files(
    workshop: Workshop, x_file: Path, tmp_path: Path
) -> None:
    before = x_file.read_bytes()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "dangling").symlink_to(tmp_path / "r.npz")
    both = "r.npz is named for the output and for the program"
    for program, message in [
        (x_file, "is the input, which the output would replace"),
        (tmp_path / "r.npz", both),
        (tmp_path / "x" / ".." / "r.npz", both),
        (tmp_path / "link" / "r.npz", both),
        (tmp_path / "dangling", both),
        (os.path.relpath(tmp_path / "r.npz"), both),
    ]:
        result = pyrel(
            "explain", workshop.deep, x_file, "--out", tmp_path / "r.npz", "--save-program", program
        )
        assert result.code == 1
        assert message in result.err
        assert result.err.count("\n") == 1
    assert x_file.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["dangling", "link", "x.npy"]


def test_an_exported_program_needs_trust(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    x = torch.rand(5, 6)
    program = tmp_path / "model.pt2"
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=dynamic), program)
    np.save(tmp_path / "x.npy", x.numpy())
    out = tmp_path / "r.npz"
    command = ("explain", program, tmp_path / "x.npy", "--out", out, "--low", 0, "--high", 1)
    refused = pyrel(*command)
    assert refused.code == 1
    assert "loading one can execute code" in refused.err
    assert "--trust" in refused.err
    assert not out.exists()
    assert pyrel(*command, "--trust").code == 0
    e = library.explain(model, x, low=0.0, high=1.0)
    with np.load(out) as file:
        np.testing.assert_array_equal(file["relevance"], e.relevance)

    program.write_bytes(program.read_bytes()[:1000])
    damaged = pyrel(*command, "--trust")
    assert damaged.code == 1
    assert f"{program} could not be loaded" in damaged.err
    assert damaged.err.count("\n") == 1


def test_one_of_several_outputs_and_one_of_its_steps(tmp_path: Path) -> None:
    class Several(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.out = torch.nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            steps = self.out(x.cumsum(1))
            return {"last": steps[:, -1], "steps": steps}

    model, x = Several(), torch.rand(5, 4, 3)
    program, source, out = tmp_path / "model.pt2", tmp_path / "x.npy", tmp_path / "r.npz"
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=dynamic), program)
    np.save(source, x.numpy())
    command = ("explain", program, source, "--trust", "--out", out, "--method", "gradient")
    cases: list[tuple[str, str, Any]] = [
        ("last", "1", 1), ("steps", "2,1", (2, 1)), ("steps", "0,0", (0, 0))
    ]  # fmt: skip
    for name, text, target in cases:
        result = pyrel(*command, "--output", name, "--target", text)
        assert result.code == 0, result.err
        e = library.explain(model, x, "gradient", target, output=name)
        with np.load(out) as file:
            np.testing.assert_array_equal(file["relevance"], e.relevance)
            np.testing.assert_array_equal(file["output"], e.output)
        out.unlink()
    for given, words in (
        (["--output", "first"], "'last' (tensor with 2 dimensions), 'steps'"),
        (["--output", "steps", "--target", "4,0"], "wanted 0 to 3 for dimension 0"),
        (["--output", "steps", "--target", "1"], "one index for each dimension"),
        (["--output", "steps"], "one index for each dimension, as --target 0,0, numbers"),
        (["--output", "steps", "--target", "1,x"], "nor several with commas"),
        ([], "--output chooses one of these"),
    ):
        refused = pyrel(*command, *given)
        assert refused.code != 0
        assert words in " ".join(refused.err.replace("│", " ").split())
        assert not out.exists()
    library.Explainer(model, x, "gradient", output="last").save(tmp_path / "program")
    refused = pyrel("explain", tmp_path / "program", source, "--out", out, "--output", "last")
    assert refused.code == 1
    assert "has one output: leave out --output" in refused.err


def begin(program: Path, folder: Path, count: int) -> subprocess.Popen[str]:
    """Explain many samples; return when some of them are done."""
    source = folder / "x.npy"
    if not source.exists():
        # Zeros take no room on the disk.
        np.lib.format.open_memmap(source, "w+", np.float32, (count, 12, 28, 7))
    process = start(
        "-m", "pyrel", "explain", program, source, "--out", folder / "r.npz",
        stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYREL_NUM_THREADS": "1"},
    )  # fmt: skip
    journal = folder / ".r.npz.unfinished"
    wait_for(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 1, process)
    return process


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "stopped by SIGTERM"),  # SIGHUP does what it does: test_stopping.py
    ],
)
def test_ctrl_c_leaves_nothing(
    program: Path, tmp_path: Path, number: signal.Signals, code: int, told: str
) -> None:
    process = begin(program, tmp_path, 60_000)
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code
    assert err == f"pyrel explain: {told}; nothing is left half-written\n"
    assert os.listdir(tmp_path) == ["x.npy"]


def test_a_killed_run_is_gone_on_with(program: Path, tmp_path: Path) -> None:
    count = 10_000
    process = begin(program, tmp_path, count)
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert process.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 3
    source, out = tmp_path / "x.npy", tmp_path / "r.npz"
    result = pyrel("explain", program, source, "--out", out)
    assert result.code == 0, result.err
    (resumed,) = re.findall(
        r"([\d,]+) of them were done before, by a run that was killed", result.out
    )
    assert 0 < int(resumed.replace(",", "")) < count
    assert sorted(os.listdir(tmp_path)) == ["r.npz", "x.npy"]
    with np.load(out) as file:
        e = library.Explainer.load(program)(np.zeros((1, 12, 28, 7), np.float32))
        for name in file:
            np.testing.assert_array_equal(file[name], np.repeat(getattr(e, name), count, 0))


class Windows(torch.nn.Module):
    """Embedded tokens, a convolution over time, and the mean over the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = torch.nn.Embedding(9, 5), torch.nn.Linear(4, 3)
        self.front = torch.nn.Conv1d(5, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.front(self.table(x).transpose(1, 2))).mean(2))


@pytest.fixture
def tagger(tmp_path: Path) -> tuple[torch.nn.Module, Path, Path]:
    """A model of tokens, the same as a .pt2 that takes any number of steps, and ids."""
    torch.manual_seed(0)
    model, x = Windows().eval(), torch.randint(0, 9, (7, 6))
    dynamic = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},)
    torch.export.save(
        torch.export.export(model, (x,), dynamic_shapes=dynamic), tmp_path / "tagger.pt2"
    )
    np.save(tmp_path / "ids.npy", x.numpy())
    return model, tmp_path / "tagger.pt2", tmp_path / "ids.npy"


def test_tokens_and_lengths(
    tagger: tuple[torch.nn.Module, Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, program, source = tagger
    lengths = np.array([6, 2, 3, 6, 4, 2, 5])
    np.save(tmp_path / "lengths.npy", lengths)
    ids, out = np.load(source), tmp_path / "r.npz"
    ids[1, 2:] = -1  # beyond the end
    np.save(source, ids)
    monkeypatch.setattr(module, "_PART_SAMPLES", 3)
    command = ("explain", program, source, "--trust", "--out", out, "--method", "lrp_epsilon")
    result = pyrel(*command, "--lengths", tmp_path / "lengths.npy")
    assert result.code == 0, result.err
    e = library.explain(model, ids, "lrp_epsilon", lengths=lengths)
    with np.load(out) as file:
        assert file["relevance"].dtype == np.float32
        for name in file:
            np.testing.assert_array_equal(file[name], getattr(e, name))

    ids[4, 3] = 9
    np.save(source, ids)
    result = pyrel(*command, "--lengths", tmp_path / "lengths.npy")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert f"{source}: x: wanted token ids from 0 to 8, got x[4, 3] = 9" in result.err
    np.save(tmp_path / "lengths.npy", lengths + 1)
    result = pyrel(*command, "--lengths", tmp_path / "lengths.npy")
    assert result.code == 1
    assert "lengths: wanted 1 to 6, the number of steps, got 7 for x[0]" in result.err


def test_lengths_for_what_takes_none(
    workshop: Workshop, program: Path, x_file: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "lengths.npy", np.full(30, 12))
    out = tmp_path / "r.npz"
    command = ("--lengths", tmp_path / "lengths.npy", "--out", out)
    made = pyrel("explain", workshop.deep, x_file, *command)
    assert made.code == 1
    assert "--lengths is for models that take any number of steps" in made.err
    used = pyrel("explain", program, x_file, *command)
    assert used.code == 1
    assert f"{program} is a compiled program that takes no lengths" in used.err
    assert not left_behind(tmp_path)


def test_the_output_does_not_replace_the_lengths(
    workshop: Workshop, x_file: Path, tmp_path: Path
) -> None:
    lengths = tmp_path / "lengths.npz"
    np.savez(lengths, np.full(30, 12))
    result = pyrel("explain", workshop.deep, x_file, "--out", lengths, "--lengths", lengths)
    assert result.code == 1
    assert "is the file of lengths, which the output would replace" in result.err
