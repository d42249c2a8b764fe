# SPDX-License-Identifier: Apache-2.0
"""The MNIST experiment of the deep Taylor paper (section 6.1): a digit 0 to 3 in a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from pyrel.data import load_images
from pyrel.experiment.reproduce.experiment import Experiment, Page
from pyrel.experiment.reproduce.runs import Found, Kept, Run
from pyrel.experiment.reproduce.two_digit_page import page
from pyrel.experiment.two_digit import RootSearch, run_two_digit
from pyrel.experiment.two_digit_training import TwoDigitTraining

QUICK = {"iterations": 200, "layers": ((80, 20), (80, 1))}
QUICK_SEARCH = {"sharpness": (1.0, 8.0, 64.0), "smooth_iterations": 20}
SAMPLES, QUICK_SAMPLES = 1000, 60


class Reproduced(Experiment):
    """Figures 5 and 6 and table 1, over seeds."""

    name = "two-digit"

    def runs(self) -> Sequence[Run]:
        """Return a run for each seed."""
        return [self._run(seed) for seed in range(self.settings.seeds)]

    def page(self, results: Mapping[str, Kept]) -> Page:
        """Return the page."""
        return page(results, self.settings)

    def _run(self, seed: int) -> Run:
        quick = self.settings.quick
        changed, searched = (QUICK, QUICK_SEARCH) if quick else ({}, {})
        config = TwoDigitTraining(seed=seed, **changed)  # type: ignore[arg-type]
        search = RootSearch(**searched)  # type: ignore[arg-type]
        samples = QUICK_SAMPLES if quick else SAMPLES
        settings = {
            "training": config.to_dict(),
            "search": search.to_dict(),
            "samples": samples,
            "data": self._data,
        }
        return Run(f"seed-{seed}", settings, partial(self._work, config, search, samples))

    @property
    def _data(self) -> str:
        return "mnist-mini" if self.settings.quick else "mnist"

    def _work(
        self, config: TwoDigitTraining, search: RootSearch, samples: int, folder: Path
    ) -> Found:
        root = self.settings.data_root
        training, test = (load_images(self._data, split, root) for split in ("train", "test"))
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the products are small, and the result is that of one thread
        try:
            return Found(*run_two_digit(training, test, config, search, samples))
        finally:
            torch.set_num_threads(threads)
