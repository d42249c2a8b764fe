# SPDX-License-Identifier: Apache-2.0
"""The figure of the linear model: one signal, several directions of the distractor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyrel.experiment.linear_model import DISTRACTOR, LinearModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DISTRACTORS = (DISTRACTOR, (0.0, 1.0), (-1.0, 1.0), (1.0, 0.3))

_SHOWN = {"gradient": "weights w, the gradient", "linear": "pattern a of S_a"}


def linear_model_figure(
    distractors: Sequence[tuple[float, float]] = DISTRACTORS, count: int = 400, seed: int = 0
) -> Figure:
    """Draw samples, signal, distractor, weights and the fitted pattern for each distractor.

    Seminar on PatternNet, figure 2: the signal stays, the weights turn with the distractor.

    Parameters
    ----------
    distractors : sequence of pairs
        Directions a_d, none parallel to the signal (1, 0).
    count : int
        Samples drawn and fitted to.
    seed : int

    Raises
    ------
    ValueError
        There is no distractor, or one is parallel to the signal.
    """
    from pyrel.plots.planes import DirectionPanel, directions_grid

    panels = []
    for distractor in distractors:
        model = LinearModel(distractor=distractor, deviation=0.5)
        x, y = model.draw(count, np.random.default_rng(seed))
        found = model.directions(x)
        directions = {
            "signal": np.asarray(model.signal),
            "distractor": np.asarray(distractor),
            **{label: found[name] for name, label in _SHOWN.items()},
        }
        panels.append(DirectionPanel(f"distractor {_pair(distractor)}", x, y, directions))
    return directions_grid(panels, "A signal along (1, 0), and what reads it")


def _pair(direction: tuple[float, float]) -> str:
    return f"({direction[0]:g}, {direction[1]:g})".replace("-", "−")
