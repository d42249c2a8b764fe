# SPDX-License-Identifier: Apache-2.0
"""Training of classifiers over sequences: fast on few cores, exactly resumable, no pickle."""

from pyrel.training.config import TrainingConfig
from pyrel.training.evaluation import Evaluation, evaluate, predict
from pyrel.training.loop import train
from pyrel.training.models import load_model, save_model
from pyrel.training.recipes import RECIPES, Recipe, majority_draws
from pyrel.training.result import (
    EpochRecord,
    TrainingDivergedError,
    TrainingInterrupted,
    TrainingResult,
)

__all__ = [
    "RECIPES",
    "EpochRecord",
    "Evaluation",
    "Recipe",
    "TrainingConfig",
    "TrainingDivergedError",
    "TrainingInterrupted",
    "TrainingResult",
    "evaluate",
    "load_model",
    "majority_draws",
    "predict",
    "save_model",
    "train",
]
