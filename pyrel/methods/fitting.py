# SPDX-License-Identifier: Apache-2.0
"""Which rules each kind of node takes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pyrel.methods.other_rules import (
    Absorbing,
    ByValues,
    Centred,
    ElementwiseRule,
    NormalisationRule,
    Nothing,
    Pass,
    PoolingRule,
    ProductRule,
    Rule,
    SoftmaxRule,
    SumRule,
)
from pyrel.methods.rules import LinearRule
from pyrel.methods.terms import Denominator, LinearNode, Propagation, Term

RULES_OF_KIND: dict[str, tuple[type[Rule], ...]] = {  # what a node of a kind can be explained by
    "dense": (LinearRule,),
    "convolution": (LinearRule,),
    "activation": (ElementwiseRule,),
    "product": (ProductRule,),
    "sum": (SumRule,),
    "max_pool": (PoolingRule,),
    "softmax": (SoftmaxRule,),
    "normalisation": (NormalisationRule,),
    "embedding": (Pass,),
    "copy": (Pass,),
    "stop": (Absorbing, Nothing),
}


def check_rule(
    rule: object,
    kind: str,
    who: str,
    where: str = "",
    function: str | None = None,
    norm: bool | None = None,
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
    norm : bool, optional
        Of a sum, where it is known: whether it is that of an L^q norm.

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
    if isinstance(rule, ByValues) and norm is False:
        raise TypeError(
            f"{who}: {rule!r} is for the sum of an L^q norm of values that are not below zero; the "
            f"sum{where} is none"
        )


def check_propagation(made: object, node: LinearNode, rule: LinearRule, zeros: bool) -> None:
    """Refuse what a rule made of a node, if it is no propagation of this node's shapes.

    Parameters
    ----------
    made : object
        What should be a `Propagation`.
    node : LinearNode
    rule : LinearRule
    zeros : bool
        Whether inputs that are zero may get relevance although the rule does not say so.

    Raises
    ------
    TypeError, ValueError
        It names the rule, and the array that has another shape.
    """
    if not isinstance(made, Propagation):
        wanted = "Propagation.of(...)" if isinstance(made, Term) else "a Propagation"
        raise TypeError(f"{rule!r}: propagation has to return {wanted}, got {_kind(made)}")
    if not zeros and not rule.reaches_zeros and made.reaches_zeros:
        raise TypeError(
            f"{rule!r} gives relevance to inputs that are zero, by a factor other than the value: "
            "its class has to say so, reaches_zeros = True"
        )
    for what, array, shapes in _shapes(made, node):
        found = np.shape(array)
        if found not in shapes:
            wanted = " or ".join(map(str, shapes))
            raise ValueError(f"{rule!r}: {what} has the shape {found}, and has to have {wanted}")


def _shapes(
    made: Propagation, node: LinearNode
) -> Iterator[tuple[str, npt.ArrayLike, list[tuple[int, ...]]]]:
    """Yield each array of a propagation, with its name and the shapes that it may have."""
    out, inputs = node.weight.shape
    rows = len(node.domain.low)
    for part in made.parts:
        divisor = part.denominator if part.denominator is not None else Denominator(np.zeros(out))
        for name, terms in (("a term", part.terms), ("a term of the denominator", divisor.terms)):
            for term in terms:
                yield f"features of {name} (one for each input)", term.features, [(inputs,)]
                marked = int(np.count_nonzero(term.features))
                yield f"matrix of {name} (outputs, marked inputs)", term.matrix, [(out, marked)]
        yield "constant of the denominator", divisor.constant, [(out,), (rows, out)]
        if part.absorbed is not None:
            yield "absorbed", part.absorbed, [(out,)]


def _kind(made: object) -> str:
    return f"a {type(made).__name__}" if isinstance(made, Term | Denominator) else repr(made)
