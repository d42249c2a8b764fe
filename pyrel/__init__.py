# SPDX-License-Identifier: Apache-2.0
"""Explain what recurrent neural networks decide: relevance of every input element.

Examples
--------
>>> import torch, pyrel
>>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
>>> x = torch.rand(5, 3)
>>> e = pyrel.explain(model, x, method="deep_taylor", low=0.0, high=1.0)
>>> e.relevance.shape
torch.Size([5, 3])

All examples of the reference take `numpy` as `np`, `torch` and `pyrel` as imported.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pyrel._core import version

if TYPE_CHECKING:
    from pyrel import data, importing, methods, metrics, nn, patterns
    from pyrel import experiment as experiment
    from pyrel import plots as plots
    from pyrel import report as report
    from pyrel import training as training
    from pyrel.compiler.capture.capture import capture
    from pyrel.compiler.graph.nodes import Graph
    from pyrel.compiler.program.file_limits import Limits
    from pyrel.engine.config import set_num_threads, show_config
    from pyrel.errors import SelfCheckError, UnsupportedModelError
    from pyrel.explainer import Explainer
    from pyrel.explanation import Explanation
    from pyrel.one_call import explain

__version__ = version()

__all__ = [
    "Explainer",
    "Explanation",
    "Graph",
    "Limits",
    "SelfCheckError",
    "UnsupportedModelError",
    "capture",
    "data",
    "explain",
    "importing",
    "methods",
    "metrics",
    "nn",
    "patterns",
    "set_num_threads",
    "show_config",
]

# Loaded at first use: importing torch takes seconds, which `pyrel --help` need not wait for.
_HOMES = {
    "Explainer": "explainer",
    "Explanation": "explanation",
    "Graph": "compiler.graph.nodes",
    "Limits": "compiler.program.file_limits",
    "SelfCheckError": "errors",
    "UnsupportedModelError": "errors",
    "capture": "compiler.capture.capture",
    "explain": "one_call",
    "set_num_threads": "engine.config",
    "show_config": "engine.config",
}
# Beside what `import *` gives: figures and reports need packages that pyrel runs without.
_FOLDERS = {"experiment", "plots", "report", "training"}


def __getattr__(name: str) -> Any:
    if name not in __all__ and name not in _FOLDERS:
        raise AttributeError(f"module 'pyrel' has no attribute '{name}'")
    if name not in _HOMES:
        return importlib.import_module(f"pyrel.{name}")
    value = getattr(importlib.import_module(f"pyrel.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_FOLDERS})
