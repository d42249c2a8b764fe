# SPDX-License-Identifier: Apache-2.0
"""Which rules each kind of node takes."""

from __future__ import annotations

from pyrel.methods.other_rules import (
    Absorbing,
    Centred,
    ElementwiseRule,
    NormalisationRule,
    Nothing,
    Pass,
    PoolingRule,
    ProductRule,
    Rule,
    SumRule,
)
from pyrel.methods.rules import LinearRule

RULES_OF_KIND: dict[str, tuple[type[Rule], ...]] = {  # what a node of a kind can be explained by
    "dense": (LinearRule,),
    "convolution": (LinearRule,),
    "activation": (ElementwiseRule,),
    "product": (ProductRule,),
    "sum": (SumRule,),
    "max_pool": (PoolingRule,),
    "normalisation": (NormalisationRule,),
    "embedding": (Pass,),
    "copy": (Pass,),
    "stop": (Absorbing, Nothing),
}


def check_rule(
    rule: object, kind: str, who: str, where: str = "", function: str | None = None
) -> None:
    """Refuse a rule that nodes of a kind do not take.

    Parameters
    ----------
    rule : object
        What should be a rule.
    kind : str
        Of `pyrel.methods.Site`.
    who, where : str
        What put the rule there, and in which module, for the message.
    function : str, optional
        Of an activation, where it is known.

    Raises
    ------
    TypeError
        The rule is not one of those that the kind takes.
    """
    wanted = RULES_OF_KIND[kind]
    if not isinstance(rule, wanted):
        names = " or ".join(each.__name__ for each in wanted)
        raise TypeError(
            f"{who}: wanted a rule of the class {names} for the {kind} node{where}, got {rule!r}"
        )
    if isinstance(rule, Centred) and function not in (None, "sigmoid"):
        raise TypeError(f"{who}: {rule!r} is for a sigmoid, not {function}")
