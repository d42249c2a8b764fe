# SPDX-License-Identifier: Apache-2.0
"""Patterns: what in the inputs of a layer goes with its outputs, fitted to samples.

`fit` makes the `Patterns` that the methods "pattern_net" and "pattern_attribution" propagate by;
`quality` measures on other samples how much of the signal they are.
"""

from pyrel.patterns.fit import Fit, fit
from pyrel.patterns.patterns import LayerPatterns, Patterns
from pyrel.patterns.quality import ESTIMATORS, LayerQuality, quality

__all__ = ["ESTIMATORS", "Fit", "LayerPatterns", "LayerQuality", "Patterns", "fit", "quality"]
