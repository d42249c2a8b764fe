# SPDX-License-Identifier: Apache-2.0
"""Experiments of the sources as library functions: problems, training, judging, the demo.

The commands `pyrel demo`, `pyrel train` and `pyrel evaluate` are thin layers on these. Of the deep
Taylor paper there are its two relevance models, Taylor decomposition at the nearest root and the
natural decomposition, which explain other things than one model by one rule at each node.
"""

from pyrel.experiment.activation_maximisation import Maximised, maximise_activation
from pyrel.experiment.degradation import DegradationStudy, degradation_study, relevance_of
from pyrel.experiment.demo import demo
from pyrel.experiment.judging import METHODS, choose_shown, judge
from pyrel.experiment.linear_figure import linear_model_figure
from pyrel.experiment.linear_model import LinearModel, angle, root_mean_square_angles
from pyrel.experiment.natural_decomposition import natural_decomposition
from pyrel.experiment.nearest_root import NearestRoot, nearest_root
from pyrel.experiment.problem import Problem
from pyrel.experiment.randomisation import (
    RandomisedLayer,
    randomisation_check,
    randomise_weights,
)
from pyrel.experiment.relevance_models import (
    DeepTaylorMinMax,
    MinMaxExplanation,
    relevance_of_pools,
    training_free,
)
from pyrel.experiment.training import (
    TrainedCell,
    accuracy_on,
    load_cell,
    new_cell,
    recipe,
    train_cell,
)
from pyrel.experiment.two_digit_training import (
    TwoDigitNetwork,
    TwoDigitTraining,
    train_two_digit,
)

__all__ = [
    "METHODS",
    "DeepTaylorMinMax",
    "DegradationStudy",
    "LinearModel",
    "Maximised",
    "MinMaxExplanation",
    "NearestRoot",
    "Problem",
    "RandomisedLayer",
    "TrainedCell",
    "TwoDigitNetwork",
    "TwoDigitTraining",
    "accuracy_on",
    "angle",
    "choose_shown",
    "degradation_study",
    "demo",
    "judge",
    "linear_model_figure",
    "load_cell",
    "maximise_activation",
    "natural_decomposition",
    "nearest_root",
    "new_cell",
    "randomisation_check",
    "randomise_weights",
    "recipe",
    "relevance_of",
    "relevance_of_pools",
    "root_mean_square_angles",
    "train_cell",
    "train_two_digit",
    "training_free",
]
