# SPDX-License-Identifier: Apache-2.0
"""Signal and distractor: the seminar's figures 2 to 7 on PatternNet and PatternAttribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pyrel.experiment.reproduce.experiment import Experiment, Page
from pyrel.experiment.reproduce.runs import Kept, Run
from pyrel.experiment.reproduce.signal_page import page
from pyrel.experiment.reproduce.signal_runs import runs


class Reproduced(Experiment):
    """The linear model; ρ(S), maps and degradation curves of a small VGG."""

    name = "signal"
    seeds = 5

    def runs(self) -> Sequence[Run]:
        """Return a run of the linear model and one of the network for each seed."""
        return runs(self.settings)

    def page(self, results: Mapping[str, Kept]) -> Page:
        """Return the page with the figures 2 to 7."""
        return page(results, self.settings)
