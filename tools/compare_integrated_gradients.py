# SPDX-License-Identifier: Apache-2.0
"""Measure integrated gradients beside captum's, on the same weights and samples in one process.

    python tools/compare_integrated_gradients.py --rounds 5 --json ig.json

The model is the Deep cell of the thesis over 12 steps with initial weights, the samples are
majority problems of the digits that come with pyrel. Both explain the predicted class from a
baseline of zeros by a Gauss-Legendre quadrature; calls of the two take turns. A completeness error
is ΣR − (f(x) − f(0)), from the relevance that was given and outputs of the model in float64.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from captum.attr import IntegratedGradients

import pyrel

Floats = npt.NDArray[Any]
STEPS = 12


def samples(count: int) -> Floats:
    """Return majority problems of the digits that come with pyrel."""
    images, labels = pyrel.data.load_images("mnist-mini", split="test")
    return pyrel.data.majority(images, labels, seed=0, steps=STEPS).x[:count].astype(np.float32)


def completeness(model: torch.nn.Module, x: Floats, target: Floats, relevance: Floats) -> Floats:
    """Return ΣR − (f(x) − f(0)), with f in float64."""
    double = copy.deepcopy(model).double()
    with torch.no_grad():
        ends = (
            double(torch.from_numpy(x).double()),
            double(torch.zeros_like(torch.from_numpy(x[:1])).double()),
        )
    rows = np.arange(len(x))
    rise = ends[0].numpy()[rows, target] - ends[1].numpy()[0, target]
    return relevance.reshape(len(x), -1).astype(np.float64).sum(axis=1) - rise


def seconds(call: Callable[[], Any]) -> tuple[float, float]:
    """Return how long a call takes, by the clock and of the processors."""
    clock, processors = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - clock, time.process_time() - processors


def measured(rounds: int, batch: int, n_steps: int, threads: int) -> dict[str, Any]:
    """Return times and errors of both."""
    pyrel.set_num_threads(threads)
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model, x = pyrel.nn.Deep.for_majority(STEPS).eval(), samples(batch)
    options = {"n_steps": n_steps, "low": 0.0, "high": 1.0}
    explainer = pyrel.Explainer(model, x[:1], "integrated_gradients", **options)
    target = explainer.forward(x).argmax(axis=1)
    tensor, classes, theirs = (
        torch.from_numpy(x),
        torch.from_numpy(target),
        IntegratedGradients(model),
    )
    calls: dict[str, Callable[[], Any]] = {
        "pyrel": lambda: explainer(x, target).relevance,
        "captum": lambda: theirs.attribute(tensor, target=classes, n_steps=n_steps),
    }
    found = {name: np.asarray(call(), np.float32) for name, call in calls.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call))
    shape = {"batch": len(x), "n_steps": n_steps, "threads": threads, "rounds": rounds}
    result: dict[str, Any] = {"config": pyrel.show_config(), **shape}
    for name, each in times.items():
        errors = np.abs(completeness(model, x, target, found[name]))
        clock, processors = np.array(each).T
        result[name] = {
            "seconds": {"best": clock.min(), "median": np.median(clock)},
            "processor seconds": {"best": processors.min(), "median": np.median(processors)},
            "completeness error": {"median": np.median(errors), "largest": errors.max()},
        }
    apart = np.abs(found["pyrel"] - found["captum"]).max() / np.abs(found["captum"]).max()
    return {**result, "largest difference of maps over the largest relevance": apart}


def main() -> None:
    """Measure, print, and write if a file is named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--n-steps", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    result = measured(given.rounds, given.batch, given.n_steps, given.threads)
    text = json.dumps(result, indent=2, default=float)
    print(text)
    for what in ("seconds", "processor seconds"):
        best, median = (
            result["captum"][what][k] / result["pyrel"][what][k] for k in ("best", "median")
        )
        print(f"{what}: captum over pyrel {best:.2f} (best), {median:.2f} (median)")
    if given.json:
        given.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
