# SPDX-License-Identifier: Apache-2.0
"""Composites: methods that put rules at nodes by kind, name and position."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from pyrel.methods import rules
from pyrel.methods.base import RelevancePropagation
from pyrel.methods.fitting import check_rule
from pyrel.methods.options import number
from pyrel.methods.other_rules import Rule
from pyrel.methods.rules import LinearRule
from pyrel.methods.site import KINDS, Site


@dataclass(frozen=True, repr=False)
class Assign:
    """Puts a rule at the nodes that fit all that is given.

    Parameters
    ----------
    rule : Rule
        One that the kind takes: a `LinearRule` for linear nodes.
    kind : str, optional
        Of `Site`, such as "convolution"; by default "dense" and "convolution".
    module : str, optional
        Pattern for the module's path, as of a shell: "encoder.*", "*.lstm". A sum of several
        layers is one node, which the pattern of any of them fits.
    from_input, from_output : int, optional
        How many linear nodes there are at least between the node and the input, or the output; 0
        for the first, or last, one.

    Raises
    ------
    ValueError
        There is no such kind, or a depth is below 0.
    TypeError
        ``rule`` is no rule, or none that the kind takes; ``module`` is no text.
    """

    rule: Rule
    kind: str | None = None
    module: str | None = None
    from_input: int | None = None
    from_output: int | None = None

    def __post_init__(self) -> None:
        """Check what was given."""
        if not isinstance(self.rule, Rule):
            raise TypeError(f"rule: wanted a rule such as Epsilon(), got {self.rule!r}")
        if self.kind is not None and self.kind not in KINDS:
            raise ValueError(f"kind: no {self.kind!r}; there are {', '.join(KINDS)}")
        if self.module is not None and not isinstance(self.module, str):
            raise TypeError(
                f'module: wanted one pattern, such as "encoder.*", got {self.module!r}; several '
                "take an Assign each"
            )
        check_rule(self.rule, self.kind or "dense", repr(self))
        for name in ("from_input", "from_output"):
            depth = getattr(self, name)
            whole = isinstance(depth, int) and not isinstance(depth, bool)
            if depth is not None and (not whole or depth < 0):
                raise ValueError(f"{name}: wanted a whole number of 0 or more, got {depth!r}")

    def __repr__(self) -> str:
        """Show the rule, and what of the rest is given."""
        given = [f"{name}={value!r}" for name, value in vars(self).items() if value is not None]
        return f"Assign({', '.join([repr(self.rule), *given[1:]])})"

    def fits(self, site: Site) -> bool:
        """Whether a node is one of those."""
        of_kind = site.is_linear if self.kind is None else self.kind == site.kind
        return (
            of_kind
            and (self.module is None or self.names(site))
            and self.from_input in (None, site.from_input)
            and self.from_output in (None, site.from_output)
        )

    @property
    def is_for_all(self) -> bool:
        """Whether every linear node is one of those."""
        return (self.kind, self.module, self.from_input, self.from_output) == (None,) * 4

    def names(self, site: Site) -> bool:
        """Whether the pattern is for a node's module, or one that was merged into it."""
        pattern = self.module or ""
        return any(fnmatchcase(module, pattern) for module in site.modules)


class Composite(RelevancePropagation):
    """Puts a rule at each node: that of the first assignment which fits it.

    Nodes that none fits have the ε rule if they are linear, else the rule of `LrpEpsilon`.

    Parameters
    ----------
    assignments : sequence of Assign
    epsilon, gates, detach, pooling, bias, attention
        As for `LrpEpsilon`.

    Raises
    ------
    TypeError
        ``assignments`` is no sequence of `Assign`.
    ValueError
        When a model is compiled: an assignment fits no node that relevance goes through, or only
        nodes that one before it fits.

    Examples
    --------
    >>> from pyrel.methods import Assign, Composite, Epsilon, Gamma, Flat
    >>> first, encoder = Assign(Flat(), from_input=0), Assign(Gamma(0.25), module="encoder.*")
    >>> composite = Composite([first, encoder, Assign(Epsilon(1e-4))])
    """

    name = "composite"

    def __init__(
        self,
        assignments: Sequence[Assign],
        epsilon: float = 1e-6,
        gates: str = "signal",
        detach: str = "pass",
        pooling: str | None = None,
        bias: str = "absorb",
        attention: str = "values",
    ) -> None:
        super().__init__(epsilon, gates, detach, pooling, bias, attention)
        if isinstance(assignments, Assign | str | Mapping) or not isinstance(assignments, Iterable):
            raise TypeError(f"assignments: wanted a list of Assign, got {assignments!r}")
        self.assignments = tuple(assignments)
        for each in self.assignments:
            if not isinstance(each, Assign):
                raise TypeError(f"assignments: wanted objects of Assign, got {each!r}")

    @property
    def options(self) -> dict[str, Any]:
        """The assignments as text, and those of `LrpEpsilon`."""
        return {"assignments": [repr(each) for each in self.assignments], **super().options}

    def __repr__(self) -> str:
        """Show the constructor call."""
        options = "".join(f", {name}={value!r}" for name, value in super().options.items())
        return f"Composite({list(self.assignments)}{options})"

    def rule(self, site: Site) -> Rule:
        """Return the rule of the first assignment that fits."""
        return next((a.rule for a in self.assignments if a.fits(site)), None) or super().rule(site)

    def check_sites(self, sites: Sequence[Site]) -> None:
        """Refuse assignments that put their rule nowhere."""
        first = [next((a for a in self.assignments if a.fits(site)), None) for site in sites]
        for index, each in enumerate(self.assignments):
            fitting = [a for a, site in zip(first, sites, strict=True) if each.fits(site)]
            if not fitting:
                raise ValueError(_fits_none(each, sites))
            before = self.assignments[:index]
            if each.is_for_all and not any(a.is_for_all for a in before):
                continue  # the default, of which others may leave nothing
            if all(a is not each for a in fitting) or each in before:
                raise ValueError(
                    f"{each!r} is never used: {fitting[0]!r} stands before it, and fits its nodes"
                )


def _fits_none(assignment: Assign, sites: Sequence[Site]) -> str:
    """Say that an assignment fits no node, and what there is."""
    pattern = assignment.module
    if pattern is not None and not any(assignment.names(site) for site in sites):
        modules = sorted({module for site in sites for module in site.modules})
        return (
            f"module={pattern!r} of {assignment.rule!r} matches none of the modules that relevance "
            f"goes through: {_some(repr(m) for m in modules)}"
        )
    near = [site for site in sites if pattern is None or assignment.names(site)]
    deep = assignment.from_input is not None or assignment.from_output is not None
    found = dict.fromkeys(
        f"{site.kind} of {site.module!r}"
        + (f" (from_input={site.from_input}, from_output={site.from_output})" if deep else "")
        for site in near
    )
    kind = f"kind {assignment.kind!r}" if assignment.kind else "kind dense or convolution"
    there = "there" if pattern is not None else "in the model"
    return (
        f"{assignment!r} fits no node ({kind}) that relevance goes through; {there} is "
        f"{_some(found)}"
    )


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return ", ".join(listed[:8]) + (", …" if len(listed) > 8 else "")


class _Preset(RelevancePropagation):
    """A composite with a name: a rule for convolutions, the ε rule for dense layers."""

    @abstractmethod
    def convolution_rule(self, site: Site) -> LinearRule:
        """Choose the rule of a convolution."""

    def linear_rule(self, site: Site) -> LinearRule:
        """Choose by the kind."""
        return (
            self.convolution_rule(site) if site.kind == "convolution" else super().linear_rule(site)
        )


class EpsilonPlus(_Preset):
    """The z⁺ rule for convolutions, the ε rule for dense layers (Kohlbrenner et al. 2020).

    zennit's composite of that name. Recurrent layers count as dense.

    Parameters
    ----------
    epsilon, gates, detach, pooling, bias, attention
        As for `LrpEpsilon`.
    """

    name = "epsilon_plus"

    def convolution_rule(self, site: Site) -> LinearRule:
        """Return the z⁺ rule."""
        return rules.ZPlus()


class EpsilonAlpha2Beta1(_Preset):
    """The αβ rule with α = 2, β = 1 for convolutions, the ε rule for dense layers.

    zennit's composite of that name; units without contributions of one sign leave all to the other
    part, unless ``textbook``. Recurrent layers count as dense.

    Parameters
    ----------
    textbook : bool, default False
        As for `AlphaBeta`; True is zennit's formula.
    epsilon, gates, detach, pooling, bias, attention
        As for `LrpEpsilon`.
    """

    name = "epsilon_alpha2_beta1"

    def __init__(
        self,
        textbook: bool = False,
        epsilon: float = 1e-6,
        gates: str = "signal",
        detach: str = "pass",
        pooling: str | None = None,
        bias: str = "absorb",
        attention: str = "values",
    ) -> None:
        super().__init__(epsilon, gates, detach, pooling, bias, attention)
        self._rule = rules.AlphaBeta(2.0, 1.0, textbook)

    @property
    def options(self) -> dict[str, Any]:
        """``textbook``, and those of `LrpEpsilon`."""
        return {"textbook": self._rule.textbook, **super().options}

    def convolution_rule(self, site: Site) -> LinearRule:
        """Return the αβ rule."""
        return self._rule


class EpsilonGammaBox(_Preset):
    """z^β for the first convolution, γ for the others, ε for dense layers (Montavon et al. 2019).

    zennit's composite of that name. Needs ``low`` and ``high`` of the input. Recurrent layers count
    as dense.

    Parameters
    ----------
    gamma : float, default 0.25
    epsilon, gates, detach, pooling, bias, attention
        As for `LrpEpsilon`.

    Raises
    ------
    ValueError
        γ is below 0; or, when a model is compiled, ``low`` and ``high`` are not given.
    """

    name = "epsilon_gamma_box"
    needs_bounds = True

    def __init__(
        self,
        gamma: float = 0.25,
        epsilon: float = 1e-6,
        gates: str = "signal",
        detach: str = "pass",
        pooling: str | None = None,
        bias: str = "absorb",
        attention: str = "values",
    ) -> None:
        super().__init__(epsilon, gates, detach, pooling, bias, attention)
        self._rule = rules.Gamma(number("gamma", gamma), epsilon)

    @property
    def options(self) -> dict[str, Any]:
        """``gamma``, and those of `LrpEpsilon`."""
        return {"gamma": self._rule.gamma, **super().options}

    def convolution_rule(self, site: Site) -> LinearRule:
        """Return the z^β rule for what reads the input, else the γ rule."""
        return rules.ZBeta() if site.from_input == 0 else self._rule
