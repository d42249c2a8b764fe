# SPDX-License-Identifier: Apache-2.0
"""Time pyrel beside hand-written torch products, in one process: ``python bench/against_torch.py``.

In every block pyrel, the peer and the peak of fused multiply-adds run one after the other, each
after a pause and a call that is not counted, and the best of several calls counts. The ratio of a
block compares neighbours in time; the median over the blocks is what is printed. Answers are
compared before anything is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from by_hand import DeepTaylorByHand

import pyrel
from pyrel import _core

_PAUSE = 0.3  # seconds: another library's threads spin on after a call and would slow the next
_CALLS = 6
_INPUTS = 4


def _best(run: Callable[[int], object]) -> float:
    time.sleep(_PAUSE)
    run(0)
    seconds = []
    for call in range(_CALLS):
        start = time.perf_counter()
        run(call % _INPUTS)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _peak(threads: int, isa: str) -> float:
    """FLOP/s of independent multiply-adds on one thread, times the threads."""
    repetitions = 2_000_000
    seconds = _best(lambda _: _core.peak(isa, repetitions))
    return threads * _core.peak(isa, repetitions) / seconds


def _check(explainer: pyrel.Explainer, peer: DeepTaylorByHand, x: torch.Tensor) -> None:
    ours, theirs = explainer(x).relevance.double(), peer(x).double()
    worst = ((ours - theirs).flatten(1).norm(dim=1) / theirs.flatten(1).norm(dim=1)).max()
    if not worst < 2e-5:  # both are float32: the sum of two errors of at most 1e-5
        raise SystemExit(f"the two disagree: relative L2 error {worst:.1e}")


def main() -> None:
    """Print samples per second, the median ratio, and the share of the peak."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=1024, help="samples a call (default 1024)")
    parser.add_argument("--blocks", type=int, default=20, help="repetitions (default 20)")
    options = parser.parse_args()
    threads = pyrel.show_config()["num_threads"]
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    cell = pyrel.nn.Deep.for_majority().eval()
    xs = [torch.rand(options.batch, 12, 28, 7) for _ in range(_INPUTS)]
    explainer = pyrel.Explainer(cell, xs[0][:2], low=0.0, high=1.0)
    peer = DeepTaylorByHand(cell)
    _check(explainer, peer, xs[0])
    ours, theirs, share = [], [], []
    with torch.inference_mode():
        for _ in range(options.blocks):
            peak = _peak(threads, pyrel.show_config()["isa"])
            theirs.append(_best(lambda i: peer(xs[i])))
            ours.append(_best(lambda i: explainer(xs[i])))
            share.append(explainer.flops * options.batch / ours[-1] / peak)
    ratio = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    print(f"Deep-12, deep_taylor, batch {options.batch}, {threads} threads")
    print(f"pyrel           {options.batch / statistics.median(ours):10,.0f} samples/s")
    print(f"torch by hand   {options.batch / statistics.median(theirs):10,.0f} samples/s")
    print(f"ratio           {ratio:10.2f}   (median of the blocks' ratios)")
    print(f"of the peak     {statistics.median(share):10.0%}   ({explainer.flops / 1e6:.2f} MFLOP)")
    print(np.round([b / a for a, b in zip(ours, theirs, strict=True)], 2))


if __name__ == "__main__":
    main()
