# SPDX-License-Identifier: Apache-2.0
"""Judging explanations by numbers: NumPy in, float64 NumPy out, no torch and no plotting.

Every measure takes relevance of shape (n, steps, ...) and returns one number per sample, NaN where
the map is empty and the measure undefined; `Summary` averages them and counts what was left out.
"""

from pyrel.metrics.axioms import conservation, conservation_error, positivity, total_relevance
from pyrel.metrics.evaluation import Evaluation, evaluate, evaluate_baselines
from pyrel.metrics.maps import pixel_mass_map, uniform_map
from pyrel.metrics.region import cosine_similarity, relevance_in_region
from pyrel.metrics.steps import StepProfile, step_profiles, step_shares
from pyrel.metrics.storage import load_study, save_study
from pyrel.metrics.study import CellResult, ShownSamples, Study
from pyrel.metrics.summary import Summary, paired_difference
from pyrel.metrics.table import table_csv, table_rows, table_text

__all__ = [
    "CellResult",
    "Evaluation",
    "ShownSamples",
    "StepProfile",
    "Study",
    "Summary",
    "conservation",
    "conservation_error",
    "cosine_similarity",
    "evaluate",
    "evaluate_baselines",
    "load_study",
    "paired_difference",
    "pixel_mass_map",
    "positivity",
    "relevance_in_region",
    "save_study",
    "step_profiles",
    "step_shares",
    "table_csv",
    "table_rows",
    "table_text",
    "total_relevance",
    "uniform_map",
]
