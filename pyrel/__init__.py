# SPDX-License-Identifier: Apache-2.0
"""Explain what recurrent neural networks decide: relevance of every input element.

Examples
--------
>>> import pyrel
>>> e = pyrel.explain(model, x, method="deep_taylor", low=0.0, high=1.0)
>>> e.relevance  # same shape as x
"""

from pyrel import data, methods, metrics, nn
from pyrel._core import version
from pyrel.capture import capture
from pyrel.errors import UnsupportedModelError
from pyrel.explainer import Explainer, Explanation, explain
from pyrel.graph import Graph
from pyrel.runtime import set_num_threads, show_config

__version__ = version()

__all__ = [
    "Explainer",
    "Explanation",
    "Graph",
    "UnsupportedModelError",
    "capture",
    "data",
    "explain",
    "methods",
    "metrics",
    "nn",
    "set_num_threads",
    "show_config",
]
