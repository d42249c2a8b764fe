# SPDX-License-Identifier: Apache-2.0
"""Draw the maps of all methods on the same samples, for docs/methods.md.

pyrel demo --keep kept
python scripts/draw_methods.py kept/deep.safetensors docs/images/methods.png

The samples are the first test problems of the shipped digits; the true class is explained.
"""

from __future__ import annotations

import argparse

import pyrel
from pyrel import plots
from pyrel.experiment import Problem, load_cell
from pyrel.report.words import label

FITTED = ("pattern_net", "pattern_attribution")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="the Deep cell that pyrel demo --keep left")
    parser.add_argument("picture", help="the file to write")
    parser.add_argument("--samples", type=int, default=3, help="how many, the first")
    arguments = parser.parse_args()
    cell = load_cell(arguments.model)
    problem = cell.problem or Problem.of("mnist-mini", "majority", cell.model.steps)
    x, y, _ = problem.samples(problem.images("test"), count=arguments.samples)
    graph = pyrel.capture(cell.model, x)
    seen, _, _ = problem.samples(problem.images("train"))
    options = dict.fromkeys(FITTED, {"patterns": pyrel.patterns.fit(graph, seen)})
    maps = {}
    for name in pyrel.methods.names():
        made = pyrel.methods.get(name, **options.get(name, {}))
        explainer = pyrel.Explainer(graph, method=made, low=0.0, high=1.0)
        maps[label(name)] = list(explainer(x, y).relevance)
    samples = [(problem.class_names[c], each) for c, each in zip(y, x, strict=True)]
    figure = plots.method_panels(samples, maps, columns=7)
    figure.savefig(arguments.picture, dpi=130, facecolor="white")


if __name__ == "__main__":
    main()
