# SPDX-License-Identifier: Apache-2.0
"""The explanation methods and their rules."""

from pyrel.methods.base import (
    DeepTaylor,
    Gradient,
    GradientXInput,
    GuidedBackprop,
    LrpEpsilon,
    Method,
    Sensitivity,
    UnsuitableDomainError,
    get,
    named,
    names,
)

__all__ = [
    "DeepTaylor",
    "Gradient",
    "GradientXInput",
    "GuidedBackprop",
    "LrpEpsilon",
    "Method",
    "Sensitivity",
    "UnsuitableDomainError",
    "get",
    "named",
    "names",
]
