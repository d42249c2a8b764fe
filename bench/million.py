# SPDX-License-Identifier: Apache-2.0
"""Explain a million samples from one memory map into another: ``python bench/million.py``.

The input, real numbers and not holes, and the relevance are files of 9.4 GB each in a temporary
folder, which goes when the run ends. Printed are samples per second and by how much anonymous
memory, which is what a process cannot give back to the disk, grew at most meanwhile.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

import pyrel

_STEPS, _STEP_SHAPE = 12, (28, 7)
_BLOCK = 4096  # samples that the input repeats
_MIB = 1 << 20
_POLL = 0.01  # seconds


def _anonymous() -> int:
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^RssAnon:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise SystemExit("this system does not tell the anonymous memory of a process")
    return 1024 * int(found[1])


class _Growth:
    """By how much anonymous memory grows at most within a ``with`` block, in bytes."""

    def __enter__(self) -> _Growth:
        self._before = self._most = _anonymous()
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._watcher.join()

    def _watch(self) -> None:
        while not self._done.wait(_POLL):
            self._most = max(self._most, _anonymous())

    @property
    def bytes(self) -> int:
        return max(self._most, _anonymous()) - self._before


def _write_input(path: Path, samples: int, dtype: str) -> None:
    rng = np.random.default_rng(0)
    block = rng.random((_BLOCK, _STEPS, *_STEP_SHAPE), dtype=np.float32).astype(dtype)
    with path.open("wb") as file:
        for first in range(0, samples, _BLOCK):
            block[: samples - first].tofile(file)


def main() -> None:
    """Print what one run takes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--dtype", default="float32", help="of the input (default float32)")
    parser.add_argument("--folder", help="where to make the temporary folder")
    options = parser.parse_args()
    shape = (options.samples, _STEPS, *_STEP_SHAPE)
    size = options.samples * _STEPS * int(np.prod(_STEP_SHAPE))
    torch.manual_seed(0)
    cell = pyrel.nn.Deep.for_majority().eval()
    explainer = pyrel.Explainer(cell, torch.zeros(2, *shape[1:]), low=0.0, high=1.0)
    threads = pyrel.show_config()["num_threads"]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        needed = size * (np.dtype(options.dtype).itemsize + 4)
        if shutil.disk_usage(folder).free < needed:
            raise SystemExit(f"{folder}: {needed / 1e9:.1f} GB are needed; see --folder")
        source, target = Path(folder, "x"), Path(folder, "relevance")
        _write_input(source, options.samples, options.dtype)
        x = np.memmap(source, options.dtype, "r", shape=shape)
        out = np.memmap(target, np.float32, "w+", shape=shape)
        explainer(x[:24], out=out[:24])
        start = time.perf_counter()
        with _Growth() as growth:
            e = explainer(x, out=out)
        seconds = time.perf_counter() - start
        last = explainer(np.array(x[-1:])).relevance
        if not np.array_equal(out[-1:], last):
            raise SystemExit("the last sample has another explanation in the million than alone")
    results = sum(
        a.nbytes for a in (e.output, e.target, e.absorbed, e.conservation, e.amplification)
    )
    print(
        f"Deep-12, deep_taylor, {options.samples:,} samples of {options.dtype}, {threads} threads"
    )
    print(f"{options.samples / seconds:,.0f} samples/s, {seconds:.0f} s")
    print(f"anonymous memory grew by at most {growth.bytes / _MIB:.0f} MiB")
    print(f"the results beside the relevance are {results / _MIB:.0f} MiB")


if __name__ == "__main__":
    main()
