# SPDX-License-Identifier: Apache-2.0
"""Measure what explaining each step costs beside a call for each step.

For an LSTM of 128 units over 50 steps that scores each step, in one and in both directions:
`target="each step"` is first compared with the calls that it stands for, then both are timed in
turns, on one thread. Prints the least time of each, and their ratio:

    python tools/measure_each_step.py --samples 16
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import pyrel

FEATURES, UNITS, CLASSES = 32, 128, 10


class Tagger(nn.Module):
    """Scores (n, T, classes)."""

    def __init__(self, bidirectional: bool) -> None:
        super().__init__()
        self.lstm = nn.LSTM(FEATURES, UNITS, batch_first=True, bidirectional=bidirectional)
        self.output = nn.Linear((1 + bidirectional) * UNITS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scores."""
        scores: Tensor = self.output(self.lstm(x)[0])
        return scores


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure(bidirectional: bool, samples: int, steps: int, method: str, rounds: int) -> None:
    """Compare and time one model."""
    torch.manual_seed(0)
    x = torch.randn(samples, steps, FEATURES)
    explainer = pyrel.Explainer(Tagger(bidirectional), x, method)
    e = explainer(x, "each step")

    def one_by_one() -> None:
        for t in range(steps):
            alone = explainer(x, (t, e.target[:, t, 1]))
            if not torch.equal(alone.relevance, e.relevance[:, t]):
                raise AssertionError(f"step {t} is explained differently alone")

    one_by_one()
    targets = [(t, e.target[:, t, 1]) for t in range(steps)]
    each, calls = [], []
    for _ in range(rounds):
        each.append(seconds(lambda: explainer(x, "each step")))
        calls.append(seconds(lambda: [explainer(x, target) for target in targets]))
    print(
        f"{'both directions' if bidirectional else 'one direction':>15}: each step "
        f"{1e3 * min(each):.1f} ms, {steps} calls {1e3 * min(calls):.1f} ms, ratio "
        f"{min(each) / min(calls):.2f} ({samples} samples, {method})"
    )


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--method", default="lrp_epsilon")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    pyrel.set_num_threads(1)
    for bidirectional in (False, True):
        measure(bidirectional, options.samples, options.steps, options.method, options.rounds)


if __name__ == "__main__":
    main()
