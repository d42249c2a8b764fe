# SPDX-License-Identifier: Apache-2.0
"""Experiment 2 of the thesis: majority samples, four cells (section 4.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyrel.experiment.reproduce.experiment import Experiment, Page
from pyrel.experiment.reproduce.majority_page import page
from pyrel.experiment.reproduce.majority_runs import AS_IN_THESIS, Variant, datasets, run_of, runs
from pyrel.experiment.reproduce.runs import Kept, Run

VARIANTS = tuple(Variant(cell, cell) for cell in ("Shallow", "Deep", "DeepV2", "ConvDeep"))


class Reproduced(Experiment):
    """Accuracy, and how much of the relevance lies in the two digits of one class."""

    name = "majority"

    def runs(self) -> Sequence[Run]:
        """Return a run for each cell, data set and seed, and one trained as in the thesis."""
        long = run_of(AS_IN_THESIS, datasets(self.settings)[0], 0, self.settings)
        return [*runs(self._variants, self.settings), long]

    def page(self, results: Mapping[str, Kept]) -> Page:
        """Return table 4.6, figures 4.12 to 4.14 and the cosines of the talk."""
        return page(results, self._variants, self.settings)

    @property
    def _variants(self) -> Sequence[Variant]:
        return VARIANTS[:2] if self.settings.quick else VARIANTS
