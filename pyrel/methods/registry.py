# SPDX-License-Identifier: Apache-2.0
"""The methods by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from pyrel.methods.base import Method, RelevancePropagation
from pyrel.methods.composite import Composite, EpsilonAlpha2Beta1, EpsilonGammaBox, EpsilonPlus
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
from pyrel.methods.pattern import PatternAttribution, PatternNet
from pyrel.methods.perturbation import IntegratedGradients, Occlusion, SmoothGrad

_METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Gradient,
        Sensitivity,
        GuidedBackprop,
        Deconvnet,
        GradientXInput,
        IntegratedGradients,
        SmoothGrad,
        Occlusion,
        DeepTaylor,
        LrpEpsilon,
        LrpAlphaBeta,
        LrpGamma,
        PatternNet,
        PatternAttribution,
        EpsilonPlus,
        EpsilonAlpha2Beta1,
        EpsilonGammaBox,
    )
}


# Methods of the sources that are no choice of rules for one model, and where they are.
_ELSEWHERE = {
    "deep_taylor_minmax": "it explains a network by a second one that is fitted to it: "
    "pyrel.experiment.DeepTaylorMinMax(network, model, example, low=..., high=...)",
}


def elsewhere(name: str) -> str:
    """Return why a method of the sources is none of `names`, and where it is; else ""."""
    return _ELSEWHERE.get(name, "")


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
        If there is no method of that name; of one that is elsewhere it says where.
    TypeError
        If ``method`` is neither a name nor a method object, or does not take an option.
    """
    if isinstance(method, Method):
        if options:
            raise TypeError(f"options of a method object are set when it is made; got {options}")
        return _complete(method)
    method = single(method)
    if not isinstance(method, str):
        got = f"the class {method.__name__}" if isinstance(method, type) else type(method).__name__
        raise TypeError(f"method: wanted a name, or an object such as DeepTaylor(); got {got}")
    if method not in _METHODS:
        known = elsewhere(method) or f"there are {', '.join(_METHODS)}"
        raise ValueError(f"method: no '{method}'; {known}")
    made = _METHODS[method]
    parameters = inspect.signature(made).parameters
    unknown = [name for name in options if name not in parameters]
    if unknown:
        explained = ", ".join(others)
        also = f" nor of Explainer ({explained})" if explained else ""
        raise TypeError(
            f"{', '.join(unknown)}: {'neither' if also else 'not among the'} options of {method} "
            f"({', '.join(parameters) or 'none'}){also}"
        )
    return made(**options)


def _complete(method: Method) -> Method:
    """Return a method that has all that a method of a user's own has to have.

    Raises
    ------
    TypeError
        Its class has no ``name``, or its ``__init__`` does not call that of the base class.
    """
    made = type(method).__name__
    if not isinstance(getattr(method, "name", None), str):
        raise TypeError(f'{made}: a method needs a name: name = "..." in the class')
    if isinstance(method, RelevancePropagation) and not hasattr(method, "epsilon"):
        raise TypeError(f"{made}: its __init__ has to call super().__init__()")
    return method


def own_parts(method: Method) -> str:
    """Name what of a method is a user's own: itself, or rules of a composite; "" if nothing is."""
    if not isinstance(method, Composite):
        return "" if _is_ours(method) else repr(method)
    rules = (each.rule for each in method.assignments)
    return ", ".join(dict.fromkeys(repr(rule) for rule in rules if not _is_ours(rule)))


def _is_ours(made: object) -> bool:
    return type(made).__module__.partition(".")[0] == "pyrel"
