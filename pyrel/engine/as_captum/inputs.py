# SPDX-License-Identifier: Apache-2.0
"""Reads inputs, and what captum hands on to forward behind them, as inputs of an explainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pyrel.compiler.graph.layout import Layout, parts_of
from pyrel.engine.several import SeveralInputs

_NAME = "additional_forward_args"
_AS_CONSTANT = (
    "other arguments of forward are inputs of the explainer that are constant, as "
    'Explainer(model, (x, mask), ..., constant=["mask"])'
)


@dataclass(frozen=True, eq=False)
class GivenInputs:
    """The inputs of a call.

    Attributes
    ----------
    x : array or structure of inputs
        All that the explainer takes.
    lengths : Any
        Of sequences, if they are given.
    places : tuple of int or str, or None
        Where in ``x`` those lie that attributions are asked of; None for all of it.
    in_tuple : bool
        Whether they were given as a tuple, and attributions go back so.
    """

    x: Any
    lengths: Any
    places: tuple[int | str, ...] | None
    in_tuple: bool

    @property
    def asked(self) -> list[Any]:
        """The inputs that attributions are asked of, one by one."""
        if self.places is not None:
            return [self.x[place] for place in self.places]
        return list(parts_of(self.x).values())

    def baselines(self, given: Any) -> Any:
        """Return baselines, of which captum has one for each of these, in the structure of x.

        Raises
        ------
        TypeError
            If there are more or fewer.
        """
        is_number = not isinstance(given, tuple) and not getattr(given, "shape", False)
        if self.places is None or is_number:
            return given
        own = given if isinstance(given, tuple) else (given,)
        if len(own) != len(self.places):
            raise TypeError(f"baselines: wanted one for each of inputs, got {len(own)}")
        by_place = dict(zip(self.places, own, strict=True))
        if isinstance(self.x, Mapping):
            return {name: by_place.get(name) for name in self.x}
        return tuple(by_place.get(place) for place in range(len(self.x)))

    def attributions(self, relevance: Any) -> Any:
        """Return relevance as captum returns attributions."""
        if self.places is None:
            return (relevance,) if self.in_tuple else relevance
        found = tuple(relevance[place] for place in self.places)
        return found if self.in_tuple else found[0]


def read_inputs(
    inputs: Any, additional: Any, takes_lengths: bool, several: SeveralInputs | None
) -> GivenInputs:
    """Read ``inputs`` and ``additional_forward_args``.

    Parameters
    ----------
    inputs : array, or tuple of arrays
    additional : Any
        What forward takes after the inputs, or a tuple of it.
    takes_lengths : bool
        Whether the explainer takes the lengths of sequences.
    several : SeveralInputs or None
        What the explainer takes, if it takes several inputs.

    Raises
    ------
    TypeError
        If the explainer has no place for an argument; the message says how to make one that has.
    """
    extra = additional if isinstance(additional, tuple) else (additional,)
    if all(each is None for each in extra):
        extra = ()
    if several is None:
        in_tuple = isinstance(inputs, tuple)
        if in_tuple and len(inputs) != 1:
            raise TypeError(
                f"inputs: wanted one array or a tuple of one, got a tuple of {len(inputs)}"
            )
        x = inputs[0] if in_tuple else inputs
        return GivenInputs(x, _lengths(extra, takes_lengths), None, in_tuple)
    order = _order(several.layout)
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    if not extra or isinstance(inputs, Mapping) or len(given) == len(order):
        return GivenInputs(inputs, _lengths(extra, takes_lengths), None, False)
    return _with_constant(given, extra, several, isinstance(inputs, tuple))


def _order(layout: Layout) -> list[int | str]:
    """Return the places of inputs in their structure; indices ascend as forward takes them."""
    places = list(dict.fromkeys(leaf.path[0] for leaf in layout.leaves))
    return sorted(places, key=lambda place: place if isinstance(place, int) else 0)


def _with_constant(
    given: tuple[Any, ...], extra: tuple[Any, ...], several: SeveralInputs, in_tuple: bool
) -> GivenInputs:
    """Return inputs that attributions are asked of, with constant ones behind them."""
    order = _order(several.layout)
    explained = [
        place
        for place in order
        if any(
            leaf.path[0] == place and leaf.name not in several.constant
            for leaf in several.layout.leaves
        )
    ]
    listed = ", ".join(several.layout.names)
    if len(given) + len(extra) != len(order):
        raise TypeError(
            f"{_NAME}: wanted what forward takes behind inputs, of {listed} in all, got "
            f"{len(given)} and {len(extra)} behind them; lengths of sequences go alone here, with "
            "all else in inputs"
        )
    if isinstance(order[0], str):
        if len(given) != 1 or len(explained) != 1 or len(order) != 2:
            raise TypeError(
                f"{_NAME}: the explainer's inputs have names, {listed}, and it does not know in "
                "which order forward takes them; call attribute with a dictionary of all of them"
            )
        order.sort(key=lambda place: place not in explained)
    places, behind = tuple(order[: len(given)]), order[len(given) :]
    if moved := [place for place in behind if place in explained]:
        names = [leaf.name for leaf in several.layout.leaves if leaf.path[0] in moved]
        raise TypeError(
            f"{_NAME}: {', '.join(names)}: not constant, and what is given here gets no "
            f"attributions; make the explainer with constant={names}"
        )
    by_place = dict(zip(order, (*given, *extra), strict=True))
    x = by_place if isinstance(order[0], str) else tuple(by_place[place] for place in order)
    return GivenInputs(x, None, places, in_tuple)


def _lengths(extra: tuple[Any, ...], taken: bool) -> Any:
    if len(extra) > 1:
        raise TypeError(
            f"{_NAME}: wanted the lengths of the sequences or None; {_AS_CONSTANT}; got a tuple of "
            f"{len(extra)}"
        )
    if extra and not taken:
        raise TypeError(
            f"{_NAME}: wanted None, or, from an explainer made with lengths=True, the lengths of "
            f"the sequences; {_AS_CONSTANT}; got {type(extra[0]).__name__}"
        )
    return extra[0] if extra else None
