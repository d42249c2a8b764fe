# SPDX-License-Identifier: Apache-2.0
"""The methods by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from pyrel.methods.base import Method
from pyrel.methods.composite import EpsilonAlpha2Beta1, EpsilonGammaBox, EpsilonPlus
from pyrel.methods.deep_taylor import DeepTaylor
from pyrel.methods.gradient import (
    Deconvnet,
    Gradient,
    GradientXInput,
    GuidedBackprop,
    Sensitivity,
)
from pyrel.methods.lrp import LrpAlphaBeta, LrpEpsilon, LrpGamma
from pyrel.methods.options import single

_METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Gradient,
        Sensitivity,
        GuidedBackprop,
        Deconvnet,
        GradientXInput,
        DeepTaylor,
        LrpEpsilon,
        LrpAlphaBeta,
        LrpGamma,
        EpsilonPlus,
        EpsilonAlpha2Beta1,
        EpsilonGammaBox,
    )
}


def names() -> list[str]:
    """Names of all methods."""
    return list(_METHODS)


def named(name: str) -> type[Method] | None:
    """Return the class of a name, None if there is no such method."""
    return _METHODS.get(name)


def get(method: str | Method, others: Iterable[str] = (), /, **options: Any) -> Method:
    """Make the method of a name, with its options, or return the object itself.

    ``others`` are the options that are not of a method, for a message.

    Raises
    ------
    ValueError
        If there is no method of that name.
    TypeError
        If ``method`` is neither a name nor a method object, or does not take an option.
    """
    if isinstance(method, Method):
        if options:
            raise TypeError(f"options of a method object are set when it is made; got {options}")
        return method
    method = single(method)
    if not isinstance(method, str):
        got = f"the class {method.__name__}" if isinstance(method, type) else type(method).__name__
        raise TypeError(f"method: wanted a name, or an object such as DeepTaylor(); got {got}")
    if method not in _METHODS:
        raise ValueError(f"method: no '{method}'; there are {', '.join(_METHODS)}")
    made = _METHODS[method]
    known = inspect.signature(made).parameters
    unknown = [name for name in options if name not in known]
    if unknown:
        explained = ", ".join(others)
        also = f" nor of Explainer ({explained})" if explained else ""
        raise TypeError(
            f"{', '.join(unknown)}: {'neither' if also else 'not among the'} options of {method} "
            f"({', '.join(known) or 'none'}){also}"
        )
    return made(**options)
