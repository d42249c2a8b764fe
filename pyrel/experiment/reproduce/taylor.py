# SPDX-License-Identifier: Apache-2.0
"""Figure 1 of the deep Taylor paper: sensitivity against decomposition in a plane."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyrel.experiment.natural_decomposition import FUNCTIONS, grid, largest_jump
from pyrel.experiment.reproduce.experiment import Experiment, Page
from pyrel.experiment.reproduce.numbers import table
from pyrel.experiment.reproduce.runs import Found, Kept, Run
from pyrel.explainer import Explainer
from pyrel.nn import DetectionPooling

STEP = 1e-6  # to the right, over which a field may change
ACROSS = 11  # arrows


class Reproduced(Experiment):
    """Where sensitivity jumps, and what the natural decomposition does there."""

    name = "taylor"
    seeds = 1  # nothing is drawn

    def runs(self) -> Sequence[Run]:
        """Return the one run."""
        return [Run("plane", {"step": STEP, "across": ACROSS}, lambda _: _measured())]

    def page(self, results: Mapping[str, Kept]) -> Page:
        """Return figure 1 and its numbers."""
        from pyrel.plots.planes import vector_fields

        kept = results["plane"]
        figures = {
            _file(name): vector_fields(
                kept.arrays["x"],
                kept.arrays[f"{name} value"],
                {
                    "sensitivity": kept.arrays[f"{name} sensitivity"],
                    "decomposition": kept.arrays[f"{name} decomposition"],
                },
                f"f = {function.label}",
            )
            for name, function in FUNCTIONS.items()
        }
        rows = [
            [FUNCTIONS[name].label, field, f"{of['jump']:.2g}", f"{of['error']:.2g}"]
            for name in FUNCTIONS
            for field in _FIELDS
            if (of := kept.numbers[name].get(field)) is not None
        ]
        heads = ["f", "explanation", "largest change over a step of 10⁻⁶", "largest ΣR − f"]
        pictures = "\n".join(f"![{name}](taylor/{_file(name)}.svg)" for name in FUNCTIONS)
        text = "\n\n".join([_HEAD, table(heads, rows), _AFTER, pictures])
        return Page(text, figures, dict(kept.numbers))


_FIELDS = ("sensitivity", "natural decomposition", "deep Taylor, by the engine")

_HEAD = """# Sensitivity against decomposition

Figure 1 and section 2.1 of Montavon et al. 2017. The natural decomposition of f = Σσ(x_p) gives
each input its own addend. The paper shows one function and gives no formula for it; the first of
these two is the sum of two detection units, the second has no kink. Written by
`pyrel reproduce taylor`."""

_AFTER = """The largest change is looked for over steps to the right from a grid of 41×41 points in
[−1, 1]²: about 10⁻⁶ times a slope where an explanation is continuous. What the paper says holds:
sensitivity of the hinge jumps by 1 where a unit begins to be active, and does not depend on f
beyond; the decomposition is continuous and sums to f. For the second function sensitivity is
continuous, too, and still no decomposition of it: it is twice f here. Deep Taylor relevance of the
hinge by the engine (a detection-pooling network of two units, w² rule, in float32) is its
decomposition."""


def _measured() -> Found:
    x = grid(ACROSS)
    arrays: dict[str, Any] = {"x": x}
    numbers: dict[str, Any] = {}
    for name, function in FUNCTIONS.items():
        value = function.value(x)
        fields = {
            _FIELDS[0]: function.sensitivity,
            _FIELDS[1]: function.decomposition,
        }
        numbers[name] = {
            label: {
                "jump": largest_jump(field, STEP),
                "error": float(np.abs(field(x).sum(axis=1) - value).max()),
            }
            for label, field in fields.items()
        }
        arrays[f"{name} value"] = value
        arrays[f"{name} sensitivity"] = function.sensitivity(x)
        arrays[f"{name} decomposition"] = function.decomposition(x)
    numbers["hinge"][_FIELDS[2]] = _by_the_engine(x)
    return Found(numbers, arrays)


def _by_the_engine(x: Any) -> dict[str, float]:
    """Return the same numbers for the deep Taylor relevance of the hinge as a network."""
    network = DetectionPooling(2, [(2, 1)])
    network.linear[0].weight.data = network.linear[0].weight.new_tensor([[1.0, 0.0], [0.0, 1.0]])
    explainer = Explainer(network, x[:2].astype(np.float32), "deep_taylor")

    def relevance(points: Any) -> Any:
        return explainer(np.asarray(points, dtype=np.float32)).relevance

    value = FUNCTIONS["hinge"].value(x)
    return {
        "jump": largest_jump(relevance, STEP),
        "error": float(np.abs(relevance(x).sum(axis=1) - value).max()),
    }


def _file(name: str) -> str:
    return name.replace(" ", "-")
