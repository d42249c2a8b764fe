# SPDX-License-Identifier: Apache-2.0
"""Draw the picture of the README from an evaluation that the demo kept, or that of the results.

pyrel demo --keep kept
python scripts/make_readme_picture.py kept/evaluation.json docs/images/heatmaps.png

pyrel evaluate runs/*/model.safetensors --methods sensitivity,...,lrp_epsilon
python scripts/make_readme_picture.py evaluation/evaluation.json docs/images/majority-mnist.png \
    --methods deep_taylor,lrp_epsilon
"""

from __future__ import annotations

import argparse

from pyrel import plots
from pyrel.metrics import Study, load_study
from pyrel.report.words import label


def draw(study: Study, shown: int, methods: list[str]) -> list[plots.HeatmapColumn]:
    """Return a column for each cell."""
    sample, true = int(study.shown.index[shown]), int(study.shown.y[shown])
    return [
        plots.HeatmapColumn(
            title=name,
            x=study.shown.x[shown],
            relevance={label(m): result.heatmaps[m][shown, true] for m in methods},
            relevant=study.shown.relevant[shown],
            notes={label(m): f"{result.evaluations[m].share.values[sample]:.2f}" for m in methods},
        )
        for name, result in study.cells.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("evaluation", help="evaluation.json that pyrel demo --keep left")
    parser.add_argument("picture", help="the .png file to write")
    parser.add_argument("--shown", type=int, default=1, help="which of the shown samples, from 0")
    parser.add_argument("--methods", help="names divided by commas; by default all")
    arguments = parser.parse_args()
    study = load_study(arguments.evaluation)
    methods = arguments.methods.split(",") if arguments.methods else study.methods()
    columns = draw(study, arguments.shown, methods)
    figure = plots.heatmap_grid(columns, note="number: share in them")
    figure.savefig(arguments.picture, dpi=200, facecolor="white")


if __name__ == "__main__":
    main()
