# SPDX-License-Identifier: Apache-2.0
"""Judging explanations by numbers: NumPy in, float64 NumPy out, no torch and no plotting.

Every measure takes relevance of shape (n, steps, ...) and returns one number per sample, NaN where
the map is empty and the measure undefined; `Summary` averages them and counts what was left out.
"""

from pyrel.metrics.agreement import agreement, map_cosine, rank_correlation
from pyrel.metrics.axioms import conservation, conservation_error, positivity, total_relevance
from pyrel.metrics.complexity import entropy, gini
from pyrel.metrics.consistency import (
    ConservationFit,
    Consistency,
    RelevanceHistogram,
    conservation_fit,
    consistency,
    relevance_histogram,
)
from pyrel.metrics.degradation import (
    Degradation,
    DegradationCurves,
    area_over_curve,
    area_under_curve,
    degradation,
    random_degradation,
)
from pyrel.metrics.erasure import comprehensiveness, log_odds, sufficiency
from pyrel.metrics.evaluation import Evaluation, evaluate, evaluate_baselines
from pyrel.metrics.localisation import relevance_mass_accuracy, relevance_rank_accuracy
from pyrel.metrics.maps import channel_sum, pixel_mass_map, uniform_map
from pyrel.metrics.perturbation import Perturbation
from pyrel.metrics.position import (
    PositionShare,
    centre_of_relevance,
    last_steps_share,
    position_shares,
)
from pyrel.metrics.region import cosine_similarity, relevance_in_region
from pyrel.metrics.regions import Regions, patch_regions, pixel_regions, step_regions
from pyrel.metrics.robustness import Noise, noise_sensitivity
from pyrel.metrics.steps import StepProfile, step_profiles, step_shares
from pyrel.metrics.storage import load_study, save_study
from pyrel.metrics.study import CellResult, ShownSamples, Study
from pyrel.metrics.summary import Summary, paired_difference
from pyrel.metrics.table import table_csv, table_rows, table_text

__all__ = [
    "CellResult",
    "ConservationFit",
    "Consistency",
    "Degradation",
    "DegradationCurves",
    "Evaluation",
    "Noise",
    "Perturbation",
    "PositionShare",
    "Regions",
    "RelevanceHistogram",
    "ShownSamples",
    "StepProfile",
    "Study",
    "Summary",
    "agreement",
    "area_over_curve",
    "area_under_curve",
    "centre_of_relevance",
    "channel_sum",
    "comprehensiveness",
    "conservation",
    "conservation_error",
    "conservation_fit",
    "consistency",
    "cosine_similarity",
    "degradation",
    "entropy",
    "evaluate",
    "evaluate_baselines",
    "gini",
    "last_steps_share",
    "load_study",
    "log_odds",
    "map_cosine",
    "noise_sensitivity",
    "paired_difference",
    "patch_regions",
    "pixel_mass_map",
    "pixel_regions",
    "position_shares",
    "positivity",
    "random_degradation",
    "rank_correlation",
    "relevance_histogram",
    "relevance_in_region",
    "relevance_mass_accuracy",
    "relevance_rank_accuracy",
    "save_study",
    "step_profiles",
    "step_regions",
    "step_shares",
    "sufficiency",
    "table_csv",
    "table_rows",
    "table_text",
    "total_relevance",
    "uniform_map",
]
