# SPDX-License-Identifier: Apache-2.0
"""Degrade majority samples by what each method finds most relevant, and write a table and a figure.

pyrel demo --keep kept
python scripts/measure_degradation.py kept/deep.safetensors --figure degradation.png

Prints the area under each curve, how far it lies below that of random order in standard errors,
how alike the maps of the methods are, and the seconds that all took. The exit status is 1 where
deep Taylor is not below random order by more than three standard errors.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

import pyrel
from pyrel import metrics
from pyrel.experiment import Problem, TrainedCell, degradation_study, load_cell
from pyrel.experiment.degradation import DegradationStudy

PATTERNS = {"pattern_net", "pattern_attribution"}
WANTED = 3.0  # standard errors of deep Taylor below random order


def main() -> None:
    arguments = parse()
    cell = load_cell(arguments.model)
    problem = cell.problem or Problem.of("mnist-mini", "majority", cell.model.steps)
    images = problem.images("test", arguments.data)
    x, y, _ = problem.samples(images, count=arguments.samples)
    how = metrics.Perturbation(metrics.patch_regions(x.shape[1:], arguments.tile))
    names = arguments.methods.split(",") if arguments.methods else pyrel.methods.names()
    methods = with_patterns(names, cell, problem, arguments.data)
    start, cpu = time.perf_counter(), time.process_time()
    study = degradation_study(
        cell.model,
        x,
        y,
        methods,
        how,
        removed=range(arguments.points),
        draws=arguments.draws,
    )
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(table(study))
    print(f"\n{len(x)} samples, {how.regions.count} tiles of {arguments.tile}×{arguments.tile}, "
          f"{arguments.points} points, {len(study.curves)} maps, {arguments.draws} random orders: "
          f"{seconds:.1f} s, {cpu:.1f} CPU s")  # fmt: skip
    if arguments.figure:
        draw(study, arguments.figure, f"{cell.name}, {problem.dataset}")
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(numbers(study), file, indent=1)
    if "deep_taylor" in study.curves and study.standard_errors_below("deep_taylor") <= WANTED:
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a cell that pyrel demo --keep or pyrel train left")
    parser.add_argument("--samples", type=int, default=1000, help="how many, the first")
    parser.add_argument("--tile", type=int, default=7, help="side of a patch in pixels")
    parser.add_argument("--points", type=int, default=31, help="of a curve: 0, 1, 2, ... patches")
    parser.add_argument("--draws", type=int, default=5, help="random orders of each sample")
    parser.add_argument("--methods", help="names divided by commas; by default all")
    parser.add_argument("--data", help="folder of the data set, where it is not in the usual one")
    parser.add_argument("--figure", help="the figure to write, such as degradation.png")
    parser.add_argument("--json", help="the file to write the numbers to")
    return parser.parse_args()


def with_patterns(
    names: list[str], cell: TrainedCell, problem: Problem, data: str | None
) -> dict[str, pyrel.methods.Method]:
    """Make the methods; those that need patterns get them from the training images."""
    options = {}
    if PATTERNS & set(names):
        x, _, _ = problem.samples(problem.images("train", data))
        fitted = pyrel.patterns.fit(pyrel.capture(cell.model, x[:1]), x)
        options = {name: {"patterns": fitted} for name in PATTERNS}
    return {name: pyrel.methods.get(name, **options.get(name, {})) for name in names}


def table(study: DegradationStudy) -> str:
    lines = ["area under the curve    mean ± standard error    standard errors below random order"]
    for name in study.in_order():
        area = study.area(name)
        lines.append(f"{name:22}  {area!s:23}  {study.standard_errors_below(name):+.1f}")
    random = metrics.Summary.of(study.random.area_under())
    lines += [f"{'random order':22}  {random!s}", "", "agreement (rank correlation, cosine)"]
    for pair, rank in study.rank_agreement.items():
        cosine = study.cosine_agreement[pair]
        lines.append(f"{' – '.join(pair):45}  {rank.mean:+.3f}  {cosine.mean:+.3f}")
    return "\n".join(lines)


def numbers(study: DegradationStudy) -> dict[str, object]:
    curves = {**study.curves, "random": study.random}
    return {
        "removed": study.random.removed.tolist(),
        "curves": {name: np.round(curve.mean, 6).tolist() for name, curve in curves.items()},
        "area": {
            name: metrics.Summary.of(curve.area_under()).to_dict() for name, curve in curves.items()
        },
        "below_random": {name: study.below_random(name).to_dict() for name in study.curves},
        "agreement": {
            " – ".join(pair): [summary.mean, study.cosine_agreement[pair].mean]
            for pair, summary in study.rank_agreement.items()
        },
    }


def draw(study: DegradationStudy, path: str, title: str) -> None:
    from pyrel import plots
    from pyrel.report.words import label

    curves = {label(name): study.curves[name] for name in study.in_order()}
    figure = plots.degradation_curves(curves, study.random, title=title)
    figure.savefig(path, dpi=200, facecolor="white")


if __name__ == "__main__":
    main()
