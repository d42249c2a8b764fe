# SPDX-License-Identifier: Apache-2.0
"""Experiments of the thesis as library functions: problems, training, judging, the demo.

The commands `pyrel demo`, `pyrel train` and `pyrel evaluate` are thin layers on these.
"""

from pyrel.experiment.degradation import DegradationStudy, degradation_study, relevance_of
from pyrel.experiment.demo import demo
from pyrel.experiment.judging import METHODS, choose_shown, judge
from pyrel.experiment.linear_model import LinearModel, angle, root_mean_square_angles
from pyrel.experiment.problem import Problem
from pyrel.experiment.randomisation import (
    RandomisedLayer,
    randomisation_check,
    randomise_weights,
)
from pyrel.experiment.training import (
    TrainedCell,
    accuracy_on,
    load_cell,
    new_cell,
    recipe,
    train_cell,
)

__all__ = [
    "METHODS",
    "DegradationStudy",
    "LinearModel",
    "Problem",
    "RandomisedLayer",
    "TrainedCell",
    "accuracy_on",
    "angle",
    "choose_shown",
    "degradation_study",
    "demo",
    "judge",
    "load_cell",
    "new_cell",
    "randomisation_check",
    "randomise_weights",
    "recipe",
    "relevance_of",
    "root_mean_square_angles",
    "train_cell",
]
