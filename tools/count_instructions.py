# SPDX-License-Identifier: Apache-2.0
"""Count the instructions that the engine executes, and compare with stored counts.

Times swing with whatever else a machine does; counts do not: two runs give the same, and another
environment or a loaded machine moved them by 0.011 % at most. valgrind knows no AVX-512, so the
kernels are those for AVX2. A count depends on the compiler; counts are stored for one.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

STORED = Path(__file__).with_name("instruction_counts.json")
ISA = "avx2"
TOLERANCE = 0.01  # a hundred times what was seen to vary, and less than a regression worth a look
_COUNTED = (
    "pyrel::run(pyrel::Engine const&, pyrel::Batch const&, int, std::optional<bool>, bool (*)())"
)


@dataclass(frozen=True)
class Case:
    cell: str
    steps: int
    method: str
    batch: int

    def __str__(self) -> str:
        return f"{self.cell}-{self.steps} {self.method} B={self.batch}"


CASES = (
    Case("Deep", 12, "deep_taylor", 1),
    Case("Deep", 12, "deep_taylor", 12),
    Case("Deep", 12, "sensitivity", 12),
    Case("Shallow", 7, "deep_taylor", 12),
    Case("ConvDeep", 3, "deep_taylor", 16),  # in lanes
)


def _cell(name: str, steps: int) -> Any:
    """Make a cell whose weights do not depend on torch's version.

    ConvDeep is a small one: valgrind takes seconds for the others' sizes.
    """
    import torch

    from pyrel.benchmark.cases import thesis_cell
    from pyrel.nn import ConvDeep

    small = partial(ConvDeep, sizes=(8, 16, 64, 32), recurrent=32)
    cell = small(steps) if name == "ConvDeep" else thesis_cell(name, steps)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for weights in (p for p in cell.parameters() if p.dim() == 2):
            weights.copy_(torch.from_numpy(rng.random(weights.shape, np.float32) * 0.4 - 0.2))
    return cell.eval()


@cache
def _graph(name: str, steps: int) -> Any:
    import pyrel

    cell = _cell(name, steps)
    return pyrel.capture(cell, np.zeros((1, steps, *cell.step_shape), np.float32))


def prepare(case: Case) -> tuple[Any, Any]:
    """Compile a case; return its program and its input."""
    from pyrel import methods
    from pyrel.compiler.lowering.lower import lower

    graph = _graph(case.cell, case.steps)
    zeros = np.zeros(graph.input_size)
    x = np.random.default_rng(1).random((case.batch, *graph.input_shape), np.float32)
    return lower(graph, methods.get(case.method), zeros, zeros + 1), x


def execute(path: Path) -> None:
    """Run programs of a file of `count`, each once; this is what valgrind watches."""
    from pyrel._core import Outcome
    from pyrel.engine.loaded import bind

    work = [(bind(program, ISA), program, x) for program, x in pickle.loads(path.read_bytes())]
    _instrument()
    for core, program, x in work:
        n = len(x)
        status = core.run(
            x,
            None,
            np.zeros(program.input_size, np.float32),
            np.ones(program.input_size, np.float32),
            True,
            1,
            np.empty_like(x),
            np.empty((n, program.classes), np.float32),
            np.empty(n, np.int64),
            *(np.empty(n, np.float32) for _ in range(3)),
        )
        assert status.outcome == Outcome.done, status.outcome


def _instrument() -> None:
    """Tell valgrind to look at instructions from now on: imports take it a tenth of the time so.

    It takes commands while the process computes; while that waits, only by leave of the system.
    """
    command = ["callgrind_control", "--instr=on", str(os.getpid())]
    control = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while control.poll() is None:
        pass
    if control.returncode != 0:
        raise RuntimeError(f"callgrind_control ended with {control.returncode}")


def count() -> dict[str, int]:
    """Count the instructions of every case, Python's own left out.

    Raises
    ------
    RuntimeError
        If valgrind fails, or the extension has no symbols to find the engine by.
    """
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder, "work")
        work.write_bytes(pickle.dumps([prepare(case) for case in CASES]))
        done = subprocess.run(
            [
                *("valgrind", "--tool=callgrind", "--instr-atstart=no"),
                f"--toggle-collect={_COUNTED}",
                *(f"--dump-after={_COUNTED}", f"--callgrind-out-file={folder}/counts"),
                *(sys.executable, __file__, "--execute", work),
            ],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": "0"},
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"valgrind failed:\n{done.stderr[-2000:]}")
        counts = [_total(Path(f"{folder}/counts.{number + 1}")) for number in range(len(CASES))]
    return {str(case): total for case, total in zip(CASES, counts, strict=True)}


def _total(dump: Path) -> int:
    found = re.search(r"^totals: (\d+)", dump.read_text(), re.MULTILINE) if dump.exists() else None
    if not found or found[1] == "0":
        raise RuntimeError(
            f"nothing was counted in {_COUNTED}: has it another name now, or is the extension not "
            "from `make build`, which keeps symbols?"
        )
    return int(found[1])


def stored() -> dict[str, Any]:
    """Read the stored counts, and the compiler that they hold for."""
    content: dict[str, Any] = json.loads(STORED.read_text("utf-8"))
    return content


def risen(counts: Mapping[str, int], before: Mapping[str, int]) -> list[str]:
    """List the cases that take more instructions than stored, by more than the tolerance."""
    return [
        f"{case}: {total:,} instructions, {total / before[case] - 1:+.1%}"
        for case, total in counts.items()
        if total > before[case] * (1 + TOLERANCE)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Count the instructions that the engine executes.")
    parser.add_argument("--update", action="store_true", help=f"rewrite {STORED.name}")
    parser.add_argument("--execute", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.execute:
        execute(options.execute)
        return 0
    if shutil.which("valgrind") is None:
        print("valgrind is not installed", file=sys.stderr)
        return 2
    from pyrel import _core

    counts, compiler = count(), _core.compiler()
    kept = stored() if STORED.exists() else {"compiler": "", "counts": {}}
    comparable = kept["compiler"] == compiler
    for case, total in counts.items():
        before = kept["counts"].get(case) if comparable else None
        print(f"{case:32}{total:>14,}{f'{total / before - 1:+10.2%}' if before else ''}")
    if options.update:
        content = {"compiler": compiler, "isa": ISA, "counts": counts}
        STORED.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
    elif not comparable:
        print(f"stored counts are for {kept['compiler'] or 'no compiler'}, this is {compiler}")
    elif faults := risen(counts, kept["counts"]):
        print("\n".join(["more instructions than stored:", *faults]), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
