# SPDX-License-Identifier: Apache-2.0
"""The device that is checked and measured: a GPU, or the emulated library beside torch on the CPU.

Everything that differs between the two is here, so that the rest runs in the same way on both.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyrel.engine import devices
from pyrel.engine.cuda import library, tensors

ROOT = Path(__file__).resolve().parents[2]
DEVICE = "cuda:0"
ISA = "avx2"  # of the CPU's engine whose bits the library has

_SHORTEST = 5e-3  # seconds between two events at least, by repeating the work


class Machine:
    """A device.

    Parameters
    ----------
    emulated : bool

    Attributes
    ----------
    place : torch.device
        Where tensors lie that the library reads.
    """

    def __init__(self, emulated: bool) -> None:
        self.emulated = emulated
        os.environ["PYREL_ISA"] = ISA
        if emulated:
            _use_emulated()
        elif not torch.cuda.is_available():
            raise SystemExit("torch finds no CUDA device (see --emulated)")
        self.place = torch.device("cpu" if emulated else DEVICE)
        torch.backends.cudnn.benchmark = True  # as one who measures convolutions sets it
        self.use_tf32(False)

    def use_tf32(self, allowed: bool) -> None:
        """Let torch's products, convolutions and recurrent layers use TF32, or float32 alone."""
        torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.allow_tf32 = allowed

    def wait(self) -> None:
        """Wait for the current stream."""
        if not self.emulated:
            torch.cuda.current_stream().synchronize()

    def forget(self) -> None:
        """Give back memory that torch keeps for later: pyrel divides batches by what is unused."""
        if not self.emulated:
            torch.cuda.empty_cache()

    def stream(self) -> Any:
        """Return a new stream, or None where there are none."""
        return None if self.emulated else torch.cuda.Stream()

    def using(self, stream: Any) -> Any:
        """Return a context in which a stream is the current one."""
        return torch.cuda.stream(stream)

    def seconds(self, work: Callable[[], object], calls: int) -> float:
        """Return how long a call takes, of several one after the other, each waited for."""

        def all_calls() -> None:
            for _ in range(calls):
                work()
                self.wait()

        if self.emulated:
            start = time.perf_counter()
            all_calls()
            return (time.perf_counter() - start) / calls
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        all_calls()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3 / calls

    def times(self, work: Callable[[], object], most: float = 0.4) -> list[float]:
        """Return the seconds of a call, several times; ``most`` seconds in all, or three times."""
        work()
        self.wait()
        calls = max(1, round(_SHORTEST / max(self.seconds(work, 1), 1e-7)))
        if self.emulated:
            return [self.seconds(work, 1)]
        found: list[float] = []
        while len(found) < 3 or (len(found) < 25 and calls * sum(found) < most):
            found.append(self.seconds(work, calls))
        return found

    def captured(self, work: Callable[[], Tensor]) -> Callable[[], Tensor]:
        """Return a function that replays ``work`` as a CUDA graph; emulated, ``work`` itself."""
        if self.emulated:
            return work
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(
                3
            ):  # what is made at the first call, such as workspaces, is not captured
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = work()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    @contextmanager
    def full(self, spare: int) -> Iterator[None]:
        """Let the device have ``spare`` bytes of unused memory; more, if it gives none so small."""
        if self.emulated:
            from engine import cuda_emulated

            with cuda_emulated.memory(1 << 30, cuda_emulated.used_memory() + spare):
                yield
            return
        torch.cuda.empty_cache()
        held = []
        size = torch.cuda.mem_get_info()[0] - spare
        while size >= 1 << 20:
            size = min(size, torch.cuda.mem_get_info()[0] - spare)
            try:
                held.append(torch.empty(max(size, 0), dtype=torch.uint8, device=DEVICE))
            except torch.OutOfMemoryError:
                size //= 2
        try:
            yield
        finally:
            held.clear()
            torch.cuda.empty_cache()


def _use_emulated() -> None:
    """Let pyrel load the emulated library, and say that tensors lie on its device."""
    sys.path.insert(0, str(ROOT / "tests"))
    from engine import cuda_emulated

    os.environ[library.VARIABLE] = str(cuda_emulated.built())
    devices.lies_on = lambda x: DEVICE if isinstance(x, Tensor) else "cpu"
    tensors.stream_of = lambda device: 0


class Rows:
    """A file of JSON, a row a line, each written at once: a run that is stopped keeps its rows.

    Parameters
    ----------
    path : Path or None
        None to print alone.
    keys : tuple of str
        What each row has.

    Attributes
    ----------
    wrong : int
        Rows that say of something that it is not right, or that it failed.
    """

    def __init__(self, path: Path | None, keys: tuple[str, ...]) -> None:
        self._file = None if path is None else path.open("w", encoding="utf-8")
        self._keys = keys
        self.wrong = 0

    def add(self, **row: Any) -> None:
        """Write a row; what it does not name is null. ValueError for what rows do not have."""
        if unknown := row.keys() - set(self._keys):
            raise ValueError(f"rows have no {', '.join(sorted(unknown))}")
        self.wrong += row.get("right") is False or row.get("failure") is not None
        text = json.dumps({key: row.get(key) for key in self._keys})
        print(text, flush=True)
        if self._file is not None:
            self._file.write(text + "\n")
            self._file.flush()


def options_of(description: str | None, seconds: float | None = None) -> argparse.Namespace:
    """Read the command line of a stage; ``seconds`` is after how many it begins nothing new."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--emulated", action="store_true", help="tiny sizes on the emulated device")
    parser.add_argument("--out", type=Path, help="file for the rows")
    if seconds is not None:
        parser.add_argument("--seconds", type=float, default=seconds, help="begin nothing after")
    return parser.parse_args()
