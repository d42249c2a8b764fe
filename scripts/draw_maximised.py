# SPDX-License-Identifier: Apache-2.0
"""Draw the inputs that activation maximisation finds for each class of a cell, for docs/methods.md.

python scripts/draw_maximised.py MODEL docs/images/maximised.png

MODEL is a cell that pyrel train or pyrel reproduce left, on grey images from 0 to 1.
"""

from __future__ import annotations

import argparse

from matplotlib.figure import Figure

from pyrel import plots
from pyrel.experiment import Problem, load_cell, maximise_activation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="model.safetensors")
    parser.add_argument("picture", help="the .png file to write")
    parser.add_argument("--steps", type=int, default=200, help="of the ascent")
    arguments = parser.parse_args()
    cell = load_cell(arguments.model)
    problem = cell.problem or Problem.of("mnist-mini", "majority", cell.model.steps)
    shape = problem.samples(problem.images("test"), count=1)[0].shape[1:]
    figure = Figure(figsize=(9, 2.1), layout="constrained")
    axes = figure.subplots(-(-len(problem.class_names) // 5), 5, squeeze=False).ravel()
    for target, (name, panel) in enumerate(zip(problem.class_names, axes, strict=False)):
        found = maximise_activation(
            cell.model, shape, target, low=0.0, high=1.0, steps=arguments.steps
        )
        scores = f"{found.scores[0, 0]:.1f} to {found.scores[-1, 0]:.1f}"
        print(f"{name}: score {scores}", flush=True)
        panel.imshow(plots.as_image(found.x[0]), cmap="gray", vmin=0.0, vmax=1.0)
        panel.set_title(f"{name}: {scores}", fontsize=9)
    for panel in axes:
        panel.set_axis_off()
    figure.savefig(arguments.picture, dpi=130, facecolor="white")


if __name__ == "__main__":
    main()
