# SPDX-License-Identifier: Apache-2.0
"""Measures what bounds any program on a device: copies, products, and what a launch costs."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from machine import Machine, Rows, options_of
from torch import Tensor

KEYS = ("probe", "value", "unit", "median_ms", "failure")
LAUNCHES = 1000


def main() -> None:
    """Write a row for each probe; exit status 1 if one fails."""
    options = options_of(__doc__)
    machine, rows = Machine(options.emulated), Rows(options.out, KEYS)
    side, size, launches = (64, 1 << 16, 10) if machine.emulated else (8192, 1 << 30, LAUNCHES)

    def made(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.ones(*shape, dtype=dtype, device=machine.place)

    def probe(name: str, amount: float, unit: str, work: Callable[[], object]) -> None:
        """Give ``amount`` in a second of ``work``; of a launch the time itself."""
        try:
            median = statistics.median(machine.times(work))
            value = 1e6 * median / amount if unit == "µs" else amount / median / 1e12
            rows.add(probe=name, value=value, unit=unit, median_ms=1e3 * median)
        except Exception as error:  # the others still tell something
            rows.add(probe=name, failure=f"{type(error).__name__}: {error}"[:300])

    source, target = made(size, dtype=torch.uint8), made(size, dtype=torch.uint8)
    probe("copy, read and written", 2 * size, "TB/s", lambda: target.copy_(source))
    small = source[: 8 << 20], target[: 8 << 20]
    read_and_written = 2 * len(small[0])
    probe("copy of 8 MiB, within L2", read_and_written, "TB/s", lambda: small[1].copy_(small[0]))
    for name, dtype, tf32 in (
        *(("fp32", torch.float32, False), ("TF32", torch.float32, True)),
        ("BF16", torch.bfloat16, False),
    ):
        machine.use_tf32(tf32)
        a, b = made(side, side, dtype=dtype), made(side, side, dtype=dtype)
        flops = 2.0 * side**3
        probe(f"product {side}³, {name}", flops, "TFLOP/s", lambda a=a, b=b: a @ b)
    machine.use_tf32(False)
    one = made(1)

    def chain() -> Tensor:
        for _ in range(launches):
            one.add_(1)
        return one

    probe("launch, one after the other", launches, "µs", chain)
    probe("node of a CUDA graph", launches, "µs", machine.captured(chain))
    probe("launch that is waited for", 1, "µs", lambda: one.add_(1))
    raise SystemExit(1 if rows.wrong else 0)


if __name__ == "__main__":
    main()
