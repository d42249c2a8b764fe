# SPDX-License-Identifier: Apache-2.0
"""A tiny program for compute-sanitizer, and three launches of a large one for Nsight Compute.

Tensors go through the host, so torch does nothing on the device that these tools would look at.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

from direct import PRECISIONS
from machine import DEVICE, Machine
from models import MODELS, full_cell, made, samples

import pyrel
from pyrel.engine.cuda.engine import CudaEngine, CudaStatus
from pyrel.engine.cuda.library import Batch

SAMPLES = 19  # three groups of eight, the last not full
BATCHES = (1, 64, 1024)  # of the profile


def choose(precision: int, groups: int, team: int, by_steps: bool) -> None:
    """Let engines divide batches so, whoever calls them."""

    def run(self: CudaEngine, name: str, batch: Batch) -> CudaStatus:
        self.precision, batch.groups, batch.team = precision, groups, team
        batch.by_steps = by_steps
        return _RUN(self, name, batch)

    CudaEngine._run = run  # type: ignore[method-assign]


_RUN = CudaEngine._run


def save(path: Path) -> None:
    """Compile the tiny program."""
    model = MODELS["Deep"]
    example, bounds = samples(model.shape, 2), {"low": 0.0, "high": 1.0, "check": None}
    pyrel.Explainer(made(model.make), example, "deep_taylor", **bounds).save(path)


def run(path: Path) -> None:
    """Run it in each precision and some divisions."""
    explainer = pyrel.Explainer.load(path, device=DEVICE)
    x = samples(MODELS["Deep"].shape, SAMPLES)
    divisions = ((0, 0, False), (2, 1, False), (1, 2, False), (1, 1, True))
    for precision, division in itertools.product(PRECISIONS.values(), divisions):
        choose(precision, *division)
        found = explainer(x)
        print(precision, division, float(abs(found.relevance).sum()), flush=True)


def profile(emulated: bool) -> None:
    """Launch the kernel once for each batch size."""
    if emulated:
        model, shape = made(MODELS["Deep"].make), MODELS["Deep"].shape
    else:
        model, shape = full_cell("Deep", 12), (12, 28, 7)
    explainer = pyrel.Explainer(
        model, samples(shape, 1), "deep_taylor", low=0.0, high=1.0, device=DEVICE, check=None
    )
    for batch in (1, 2, 9) if emulated else BATCHES:
        explainer(samples(shape, batch))


def main() -> None:
    """Do one of these."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--emulated", action="store_true")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--save", type=Path, help="compile the program, on the CPU")
    what.add_argument("--load", type=Path, help="run it on the device")
    what.add_argument("--profile", action="store_true", help="three launches of Deep over 12 steps")
    options = parser.parse_args()
    if options.save:
        save(options.save)
        return
    Machine(options.emulated)
    if options.load:
        run(options.load)
    else:
        profile(options.emulated)


if __name__ == "__main__":
    main()
