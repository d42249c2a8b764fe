# SPDX-License-Identifier: Apache-2.0
"""Changes files at random, reads them, and runs what is accepted, under sanitizers.

`make fuzz` builds the engine with the address and undefined behaviour sanitizers and calls this.
Programs get a checksum that is right after the change, so that what they hold is looked at. Nothing
but the documented errors may come out, and no report of a sanitizer. A file is given by its seed.
Those of tools/fuzz_seeds.txt come first, in every run; then others, from one on that differs from
run to run. A seed that fails is added to them, and its file is left in build/fuzz/failed.
``make fuzz FUZZ_SEED=7`` repeats one.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import itertools
import os
import secrets
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "fuzz"
BASES, FAILED = FOLDER / "bases", FOLDER / "failed"
KEPT = Path(__file__).with_name("fuzz_seeds.txt")
SECONDS = 20  # for one file
MEGABYTES = 512  # for one file, with what the sanitizer needs
EXTREMES = (-1, 0, 1, 2, 3, 7, 63, 300, 2**20, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
NAMES = (
    *("arena", "input", "relevance", "none", "vector", "operand", "relu", "divide", "mask"),
    *("multiply", "square", "sigmoid", "tanh", "gelu", "weighted", "one", "output", "gradient"),
)
WORDS = ("arena", "input", "relevance", "relu", "operand", "vector", True, None, [], 0.5, "x")


def make_bases() -> None:
    """Write programs of all kinds of instructions, the same in every run."""
    import numpy as np
    import torch
    from torch import nn

    import pyrel

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core, self.norm = nn.GRU(3, 4, batch_first=True), nn.LayerNorm(4)
            self.out = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.norm(self.core(x)[0])[:, -1])

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.core = nn.Embedding(9, 3), nn.LSTM(3, 4, batch_first=True)
            self.out = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.core(self.table(x))[0][:, -1])

    pooled = nn.Sequential(
        nn.Conv1d(3, 4, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(8, 3)
    )
    averaged = nn.Sequential(
        nn.Conv1d(3, 4, 3), nn.ReLU(), nn.AvgPool1d(4), nn.Flatten(), nn.Linear(4, 3)
    )
    torch.manual_seed(0)
    floats, ids = np.zeros((1, 6, 3), np.float32), np.zeros((1, 6), np.int64)
    models = {
        "recurrent": (Recurrent(), floats, ("gradient", "lrp_epsilon")),
        "tokens": (Tokens(), ids, ("gradient", "lrp_epsilon")),
        "pooled": (pooled, floats.transpose(0, 2, 1), ("gradient", "lrp_epsilon", "deep_taylor")),
        "averaged": (averaged, floats.transpose(0, 2, 1), ("gradient", "lrp_epsilon")),
    }
    BASES.mkdir(parents=True, exist_ok=True)
    for name, (model, example, methods) in models.items():
        for method in methods:
            explainer = pyrel.Explainer(model, example, method, low=None, high=None, check=None)
            explainer.save(BASES / f"{name}-{method}.program")


def mutate(rng: Any, tensors: dict[str, Any], content: dict[str, Any]) -> None:
    """Change one number of a tensor, or one entry of the description."""
    if rng.random() < 0.4:
        names = sorted(n for n, t in tensors.items() if t.numel() and not t.is_floating_point())
        values = tensors[names[rng.integers(len(names))]].reshape(-1)
        place = int(rng.integers(len(values)))
        near = int(values[place]) + 16 * int(rng.integers(-3, 4)) + int(rng.integers(-1, 2))
        values[place] = EXTREMES[rng.integers(len(EXTREMES))] if rng.random() < 0.2 else near
        return
    node: Any = content
    keys: Any = sorted(set(content) - {"kind", "format_version", "checksum", "pyrel_version"})
    key = keys[rng.integers(len(keys))]
    while isinstance(node[key], dict | list) and node[key] and rng.random() < 0.97:
        node = node[key]
        keys = sorted(node) if isinstance(node, dict) else range(len(node))
        key = keys[rng.integers(len(keys))]
    node[key] = _other(rng, node[key])


def _other(rng: Any, value: Any) -> Any:
    """Return a value that may do in the place of another, or seldom anything."""
    if rng.random() < 0.15:
        return [*EXTREMES, *WORDS][rng.integers(len(EXTREMES) + len(WORDS))]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return [value + 1, value - 1, 2 * value, 0, 1, -1, value + 16][rng.integers(7)]
    if isinstance(value, float):
        return [0.0, -value, 1e30, 1e-30][rng.integers(4)]
    if isinstance(value, str):
        return NAMES[rng.integers(len(NAMES))]
    if isinstance(value, list) and value:
        return [value[:-1], value * 2, value[::-1]][rng.integers(3)]
    return value


def make_file(seed: int, path: Path) -> str:
    """Write the file of a seed; return its kind."""
    import gzip

    import numpy as np

    from pyrel.files.tensors import dump_tensors, read_tensors

    rng = np.random.default_rng(seed)
    kind = str(rng.choice(["program", "npy", "npz", "idx"], p=[0.85, 0.05, 0.05, 0.05]))
    if kind == "program":
        bases = sorted(BASES.glob("*.program"))
        tensors, content = read_tensors(bases[rng.integers(len(bases))], "program")
        for _ in range(rng.choice([1, 1, 2, 3])):
            with contextlib.suppress(KeyError, IndexError, TypeError):  # of an entry that is gone
                mutate(rng, tensors, content)
        path.write_bytes(dump_tensors("program", tensors, content))
        return kind
    buffer, array = io.BytesIO(), rng.normal(size=(3, 4)).astype(np.float32)
    np.savez_compressed(buffer, x=array) if kind == "npz" else np.save(buffer, array)
    whole = buffer.getvalue()
    if kind == "idx":
        whole = b"\0\0\x08\x03" + b"\0\0\0\2" * 3 + bytes(8)
        whole = gzip.compress(whole, mtime=0) if rng.random() < 0.5 else whole
    data = bytearray(whole)
    for _ in range(rng.integers(1, 5)):
        data[rng.integers(len(data))] = rng.integers(256)
    path.write_bytes(data[: rng.choice([len(data), rng.integers(len(data))])])
    return kind


def use(kind: str, path: Path) -> None:
    """Read a file and run what it holds; ValueError where it is refused."""
    import numpy as np

    import pyrel
    from pyrel.data.idx import read_idx
    from pyrel.files.arrays import read_array

    if kind == "idx":
        read_idx(path, 3)
    elif kind != "program":
        read_array(path)
    else:
        limits = pyrel.Limits(work=1e8, memory=1 << 22, inputs=1 << 16, all_rows=1 << 18)
        explainer = pyrel.Explainer.load(path, limits=limits)
        shape = explainer.input_shape
        for steps in (shape[0], 11, 19) if explainer.any_steps else shape[:1]:
            x = np.random.default_rng(0).normal(size=(3, steps, *shape[1:])).astype(np.float32)
            if explainer.inputs.vocabulary:
                x = (np.abs(x) % explainer.inputs.vocabulary).astype(np.int64)  # type: ignore
            for run in (explainer, explainer.forward):
                with contextlib.suppress(ValueError, MemoryError):
                    run(x)


def work(seeds: Iterable[int], seconds: float) -> None:
    """Go through seeds with the sanitizers' engine, in a process that they may end."""
    core = next(FOLDER.glob("_core*.so"))
    spec = importlib.util.spec_from_file_location("pyrel._core", core)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pyrel._core"] = module
    spec.loader.exec_module(module)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    use("program", next(BASES.glob("*.program")))  # imports what is imported late
    go_through(seeds, seconds, FAILED / "file")


def go_through(seeds: Iterable[int], seconds: float, path: Path) -> None:
    """Use the files of seeds, and say which one it is at.

    The first ones, `kept_seeds`, are all gone through, the others until the time is up.
    """
    runs, accepted, stop = 0, 0, time.monotonic() + seconds
    kept = len(kept_seeds())
    for seed in seeds:
        if runs > kept and time.monotonic() > stop:
            break
        print(f"at {seed}", flush=True)
        runs, accepted = runs + 1, accepted + is_accepted(seed, path)
    print(f"done {runs} {accepted}", flush=True)


def is_accepted(seed: int, path: Path) -> bool:
    """Make the file of a seed and use it; return whether it was not refused."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = _kilobytes("VmRSS")
    kind = make_file(seed, path)
    signal.alarm(SECONDS)
    accepted = True
    try:
        use(kind, path)
    except ValueError as error:
        assert str(path) in str(error), error
        accepted = False
    signal.alarm(0)
    assert _kilobytes("VmHWM") - before < MEGABYTES << 10, "it took much memory"
    return accepted


def kept_seeds() -> list[int]:
    """Return the seeds that failed once."""
    lines = KEPT.read_text().splitlines()
    return [int(line) for line in lines if line and not line.startswith("#")]


def keep(seed: int) -> None:
    """Add a seed to those that are gone through first."""
    if seed not in kept_seeds():
        with KEPT.open("a") as file:
            file.write(f"{seed}\n")


def _kilobytes(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def supervise(arguments: Sequence[str], which: str) -> int:
    """Run the work in a process with the sanitizers' libraries, and report."""
    libraries = [
        subprocess.run(
            ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libstdc++.so")
    ]
    options = "detect_leaks=0:quarantine_size_mb=16:allocator_may_return_null=1"
    environment = os.environ | {
        "LD_PRELOAD": ":".join(libraries), "ASAN_OPTIONS": options,
        "UBSAN_OPTIONS": "print_stacktrace=1", "OMP_NUM_THREADS": "1", "PYREL_NUM_THREADS": "2",
    }  # fmt: skip
    FAILED.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with subprocess.Popen(
        [sys.executable, __file__, "--work", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        *_, last = ["nothing", *child.stdout]
    took = time.monotonic() - start
    if child.returncode == 0 and last.startswith("done"):
        runs, accepted = map(int, last.split()[1:])
        print(
            f"fuzz: {runs} files of {which}, {accepted} accepted, {runs - accepted} refused, "
            f"no fault, {took:.0f} s"
        )
        return 0
    seed = (last.split() or [""])[-1]
    if not seed.isdecimal():
        print(f"fuzz: it ended with {child.returncode} before the first file", file=sys.stderr)
        return 1
    file = FAILED / f"seed-{seed}"
    if (FAILED / "file").exists():
        (FAILED / "file").replace(file)
    keep(int(seed))
    print(
        f"fuzz: seed {seed} ended with {child.returncode} ({file}); it is kept in {KEPT}; repeat "
        f"it with make fuzz FUZZ_SEED={seed}",
        file=sys.stderr,
    )
    return 1


def main() -> int:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="repeat one file")
    parser.add_argument("--first", type=int, help="the seed after those kept; else another one")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    first = secrets.randbelow(2**31) if given.first is None else given.first
    if given.work and given.seed is not None:
        work([given.seed], given.seconds)
    elif given.work:
        work(itertools.chain(kept_seeds(), itertools.count(first)), given.seconds)
    else:
        make_bases()
        if given.seed is not None:
            return supervise([f"--seed={given.seed}"], f"seed {given.seed}")
        which = f"{len(kept_seeds())} seeds kept and of seeds from {first} on"
        print(f"fuzz: files of {which}", flush=True)
        return supervise([f"--seconds={given.seconds}", f"--first={first}"], which)
    return 0


if __name__ == "__main__":
    sys.exit(main())
