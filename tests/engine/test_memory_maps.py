# SPDX-License-Identifier: Apache-2.0
"""Memory maps of any type are explained without being held in memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.cases import Floats, by_name, compiled, inputs
from engine.fields import bits

import pyrel
from pyrel.engine import arrays

CASE = by_name("Elman")
MIB = 1 << 20


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convert 7 of the case's samples at a time."""
    monkeypatch.setattr(arrays, "_PIECE_BYTES", 4 * 7 * 28 + 3)


def others(x: Floats) -> dict[str, Any]:
    """Return arrays with the values of ``x``, none of which the engine can read where it lies."""
    tensor = torch.from_numpy(x)
    return {
        "float16": x.astype(np.float16),
        "float64": x.astype(np.float64),
        "long double": x.astype(np.longdouble),
        "swapped bytes": x.astype(x.dtype.newbyteorder()),
        "every other sample": np.repeat(x, 2, axis=0)[::2],
        "reversed": x[::-1].copy()[::-1],
        "column-major": np.asfortranarray(x),
        "one sample repeated": np.broadcast_to(x[:1], x.shape),
        "double tensor": tensor.double(),
        "half tensor": tensor.half(),
        "bfloat16 tensor": tensor.bfloat16(),
        "transposed tensor": tensor.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        "expanded tensor": tensor[:1].expand(x.shape),
    }


def as_float32(x: Any) -> Floats:
    return np.ascontiguousarray(x.float() if isinstance(x, torch.Tensor) else x, np.float32)


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 50])
@pytest.mark.parametrize("kind", others(np.zeros((1, 4, 7), np.float32)))
@pytest.mark.usefixtures("small_pieces")
def test_pieces_make_no_difference(kind: str, count: int) -> None:
    explainer, x = compiled(CASE, "deep_taylor"), others(inputs(CASE, count))[kind]
    targets = np.arange(count) % 5
    wanted = explainer(as_float32(x), target=targets)
    assert bits(explainer(x, target=targets)) == bits(wanted)
    out: Any = np.full(x.shape, 7, np.float32)
    out = torch.from_numpy(out) if isinstance(x, torch.Tensor) else out
    assert explainer(x, target=targets, out=out).relevance is out
    np.testing.assert_array_equal(out, wanted.relevance)


@pytest.mark.parametrize("array", [np.float64, torch.from_numpy], ids=["numpy", "torch"])
@pytest.mark.usefixtures("small_pieces")
def test_errors_count_samples_from_the_first(array: Any) -> None:
    x = inputs(CASE, 30).astype(np.float64)
    for value, message in [(np.nan, "finite"), (1.5, r"\[0.0, 1.0\]"), (1e300, "finite")]:
        x[23, 1, 2] = value
        with pytest.raises(ValueError, match=rf"{message}.* x\[23, 1, 2\]"):
            compiled(CASE, "deep_taylor")(array(x))
    loose = pyrel.Explainer(CASE.module(), x[:2], "gradient")
    x[23] = 3e38
    with pytest.raises(ValueError, match=r"output \d for x\[23\] is NaN or infinite"):
        loose(array(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_out_in_the_memory_of_a_converted_input_is_refused(dtype: torch.dtype) -> None:
    storage = torch.zeros(6 * 28 * 8, dtype=torch.uint8)
    out = storage[: 6 * 28 * 4].view(torch.float32).view(6, 4, 7)
    x = storage[: 6 * 28 * dtype.itemsize].view(dtype).view(6, 7, 4).transpose(1, 2)
    with pytest.raises(ValueError, match="out: wanted memory apart from x"):
        compiled(CASE, "deep_taylor")(x, out=out)
    if dtype != torch.bfloat16:
        with pytest.raises(ValueError, match="out: wanted memory apart from x"):
            compiled(CASE, "deep_taylor")(x.numpy(), out=out.numpy())


# Explains memory maps into others, each in a process forked from one that has loaded torch, and
# writes how far anonymous memory grew meanwhile.
CHILD = """
import os, re, sys, threading
from pathlib import Path
import numpy as np, torch
import pyrel

def anonymous():
    return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

def opened(kind, source, target):
    if kind == "torch":
        x = torch.from_file(source, False, shape[0] * shape[1], dtype=torch.float32).view(shape)
        return x, torch.from_file(target, True, x.numel(), dtype=torch.float32).view(shape)
    order = "F" if kind == "column-major" else "C"
    dtype = kind if kind.startswith("float") else "float32"
    x = np.memmap(source, dtype, "r", shape=shape, order=order)
    return x, np.memmap(target, np.float32, "r+", shape=shape)

def growth(kind):
    x, out = opened(kind, f"{kind}.x", f"{kind}.out")
    explainer(x[:100], out=out[:100])
    done, seen, before = threading.Event(), [], anonymous()
    def watch():
        while not done.wait(0.0005):
            seen.append(anonymous())
    watcher = threading.Thread(target=watch)
    watcher.start()
    explainer(x, out=out)
    done.set()
    watcher.join()
    return max(*seen, anonymous()) - before

explainer = pyrel.Explainer.load("program")
shape = (int(sys.argv[1]), int(sys.argv[2]))
for kind in sys.argv[3:]:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            Path(kind).write_text(str(growth(kind)))
            status = 0
        finally:
            os._exit(status)
    os.waitpid(child, 0)
"""
SAMPLES, SIZE, CLASSES, THREADS = 24_000, 1024, 3, 2
KINDS = {"float32": 4, "float16": 2, "float64": 8, "column-major": 4, "torch": 4}  # bytes each


@pytest.fixture(scope="module")
def growth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file for each kind, of what was measured."""
    folder = tmp_path_factory.mktemp("growth")
    model = torch.nn.Sequential(torch.nn.Linear(SIZE, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    explainer = pyrel.Explainer(model.eval(), torch.zeros(2, SIZE), low=0.0, high=1.0)
    explainer.save(folder / "program")
    for kind, size in KINDS.items():
        for name, bytes_each in (("x", size), ("out", 4)):
            (folder / f"{kind}.{name}").touch()
            os.truncate(folder / f"{kind}.{name}", SAMPLES * SIZE * bytes_each)
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(SAMPLES), str(SIZE), *KINDS],
        cwd=folder, env=os.environ | {"PYREL_NUM_THREADS": str(THREADS)},
        capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    for kind in KINDS:
        (folder / f"{kind}.x").unlink()
        (folder / f"{kind}.out").unlink()
    return folder


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system has no /proc")
@pytest.mark.parametrize("kind", KINDS)
def test_anonymous_memory_does_not_grow_with_the_input(kind: str, growth: Path) -> None:
    # Per sample: the outputs, an int64 target, what was absorbed, conservation, amplification. Per
    # thread: a slab of at most 12 samples, and its stack. A piece is converted while the last one
    # is still there, and the C library may keep the memory of the one before that.
    results = SAMPLES * (4 * CLASSES + 8 + 3 * 4)
    per_thread = 2 * MIB
    pieces = 0 if kind in ("float32", "torch") else 3 * arrays._PIECE_BYTES
    bound = results + THREADS * per_thread + pieces + 8 * MIB  # the last for the interpreter
    assert bound < SAMPLES * SIZE * 4 / 1.5, "a whole copy would not be noticed"
    assert int((growth / kind).read_text()) < bound
