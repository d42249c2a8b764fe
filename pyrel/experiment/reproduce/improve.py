# SPDX-License-Identifier: Apache-2.0
"""Experiment 3 of the thesis: what improves the explanations of Deep (section 4.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyrel.experiment.reproduce import lenet_runs, majority_runs
from pyrel.experiment.reproduce.experiment import Experiment, Page
from pyrel.experiment.reproduce.improve_page import page
from pyrel.experiment.reproduce.majority_runs import Variant
from pyrel.experiment.reproduce.runs import Kept, Run

_MAPS = (6, 44)  # those of ConvDeep in the majority experiment

DEEP = Variant("Deep", "Deep")
PROPOSALS = (
    Variant("Deep, stationary dropout", "Deep", {"stationary": True}),
    Variant("R-LSTM", "RLSTM"),
    Variant("ConvDeep", "ConvDeep"),
    Variant("ConvDeep⁺", "ConvDeepPlus"),
)
COMBINATIONS = (
    Variant("R-LSTM, stationary dropout", "RLSTM", {"stationary": True}),
    Variant("R-LSTM on convolutions", "RLSTM", {"convolutions": _MAPS}),
    Variant(
        "R-LSTM on convolutions, stationary dropout",
        "RLSTM",
        {"convolutions": _MAPS, "stationary": True},
    ),
    Variant("ConvDeep⁺, stationary dropout", "ConvDeepPlus", {"stationary": True}),
)


class Reproduced(Experiment):
    """Stationary dropout, gating units, literal connections and their combinations."""

    name = "improve"
    shares_runs_of = "majority"

    def runs(self) -> Sequence[Run]:
        """Return a run for each variant, data set and seed, and those of LeNet."""
        cells = majority_runs.runs(self._variants, self.settings)
        return [*cells, *lenet_runs.runs(self.settings.of_short)]

    def page(self, results: Mapping[str, Kept]) -> Page:
        """Return the table of the variants, figure 4.15, and Adam against gradient descent."""
        return page(results, self._variants, self.settings)

    @property
    def _variants(self) -> Sequence[Variant]:
        return (DEEP, *PROPOSALS[:1]) if self.settings.quick else (DEEP, *PROPOSALS, *COMBINATIONS)
