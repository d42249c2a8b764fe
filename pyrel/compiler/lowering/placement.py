# SPDX-License-Identifier: Apache-2.0
"""Which rule stands at which node of a graph, and what a linear node's rule makes of weights."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property

import numpy as np

from pyrel.compiler.graph.facts import Facts
from pyrel.compiler.graph.gates import GatedSum
from pyrel.compiler.graph.nodes import (
    Add,
    Addresses,
    Choice,
    EvenMaximum,
    Floats,
    Linear,
    Lookup,
    Node,
    Product,
    StopGradient,
)
from pyrel.compiler.graph.relevant_zeros import relevant_at_zero
from pyrel.compiler.graph.softmax import Softmax
from pyrel.compiler.lowering.cache import LoweringCache
from pyrel.compiler.lowering.sites import KIND_OF_NODE, Sites
from pyrel.errors import UnsupportedModelError
from pyrel.methods import (
    AlphaBeta,
    Method,
    Rule,
    Site,
    UnsuitableDomainError,
    WSquared,
    ZBeta,
    ZPlus,
)
from pyrel.methods.enums import AtRelu, Start
from pyrel.methods.fitting import check_propagation, check_rule
from pyrel.methods.other_rules import BothFactors, Half
from pyrel.methods.rules import LinearRule
from pyrel.methods.terms import Domain, LinearNode, Mask, Propagation, Term

# For messages; else "linear".
_OPERATORS = {"normalisation": "layer_norm", "product": "mul", "softmax": "softmax"}


class Placement:
    """The rules of one method at the nodes of one graph.

    Parameters
    ----------
    method : Method
    facts : Facts
    cache : LoweringCache, optional

    Attributes
    ----------
    rules : dict
        By the start of each node that relevance reaches. The members of a gated sum have its
        linear rule.
    sites : list of Site
        Where these nodes stand.
    reached : ndarray of bool
        By address: whether relevance reaches it; gates that get none are not reached.

    Raises
    ------
    UnsupportedModelError
        The method has no rule for a node with what is known of its inputs.
    """

    def __init__(self, method: Method, facts: Facts, cache: LoweringCache | None = None) -> None:
        self.method, self.facts = method, facts
        self.rules: dict[int, Rule] = {}
        self.products: dict[int, Rule] = {}  # of gated sums: who gets what of gate and signal
        self.reached = np.zeros(facts.graph.size, dtype=bool)
        # Where in the arena a denominator lies, by the node's start and the part of its rule.
        self.denominators: dict[tuple[int, int], int] = {}
        self.sites: list[Site] = []  # of all nodes that have a rule
        self._sites = Sites(facts)
        self.cache = cache or LoweringCache()
        self._choose()

    def _choose(self) -> None:
        """Choose rules from the outputs back, as a rule says which inputs get relevance."""
        graph = self.facts.graph
        self.reached[graph.outputs] = True
        refused: dict[int, UnsupportedModelError] = {}
        for index in range(len(graph.nodes) - 1, -1, -1):
            node = graph.nodes[index]
            if not self.reached[node.start : node.start + node.size].any():
                continue
            try:
                self._choose_for(node)
            except UnsuitableDomainError as error:
                linear = isinstance(node, Linear | GatedSum)
                operator = "add" if isinstance(node, GatedSum) else "linear"
                named = operator if linear else _OPERATORS.get(KIND_OF_NODE[type(node)], "linear")
                # The first linear node in the order of the model; of others, the last.
                order = index if linear else 2 * len(graph.nodes) - index
                refused[order] = UnsupportedModelError(
                    str(error), operator=named, module=node.module
                )
            if not isinstance(node, StopGradient | Lookup):
                inputs = self._receivers(node)
                self.reached[self._live(inputs[inputs >= 0])] = True
        if refused:
            raise refused[min(refused)]

    def _choose_for(self, node: Node) -> None:
        if node.start in self.rules:  # a member of a gated sum, which has chosen
            return
        rule = self._rule(node)
        self.rules[node.start] = rule
        if isinstance(node, GatedSum):
            for member in node.members[:, 0]:
                self.rules[int(member)] = rule
            self.products[node.start] = self._rule(node, "product")

    def _rule(self, node: Node, kind: str | None = None) -> Rule:
        site = self._sites.of(node, kind)
        self.sites.append(site)
        rule = self.method.rule(site)
        where = f" in module '{site.module}'" if site.module else ""
        check_rule(rule, site.kind, self.method.name, where, site.function, site.norm)
        return rule

    def _receivers(self, node: Node) -> Addresses:
        """Return the inputs that may get relevance of a node."""
        if isinstance(node, Product) and not isinstance(self.rules[node.start], BothFactors):
            return np.concatenate([part for part, _ in self.shares(node)])
        if isinstance(node, GatedSum) and not isinstance(self.products.get(node.start), Half):
            return node.members
        if isinstance(node, EvenMaximum | Choice):
            return node.values
        if isinstance(node, Softmax):
            return node.logits
        return node.inputs

    def _live(self, addresses: Addresses) -> Addresses:
        """Leave out what no gradient goes through to the input."""
        if self.method.conserves:
            return addresses
        return addresses[~self.facts.gates.is_stopped[addresses]]

    def shares(self, node: Product) -> list[tuple[Addresses, Floats | None]]:
        """Return what gets relevance of a product, and its share; None is all.

        The signal all, or gate and signal half each but where the signal is a state carried on, or
        what a local response is normalised by: that is bypassed (deep Taylor paper, section 6.2).
        A factor that is detached is a constant, which gets none, and so are those that
        `pyrel.compiler.graph.factors` finds; a SiLU times what a selective scan gave is halved.
        """
        gates = self.facts.gates
        stopped = gates.split_stopped(node)
        if stopped is not None:
            return [(stopped[1], None)]
        parts = gates.split(node)
        if parts is None and gates.is_halved(node):
            return [(factor, np.full(node.size, 0.5)) for factor in node.inputs]
        if not isinstance(self.rules[node.start], Half) or gates.by_constants(node):
            return [(part, None) for part in (node.inputs if parts is None else parts[1:])]
        if parts is not None and gates.is_response[parts[0]].all():
            return [(parts[1], None)]
        halves = np.full(node.size, 0.5)
        if parts is None or node.carried is None:
            return [(factor, halves) for factor in node.inputs]
        gate = np.where(node.carried, -1, parts[0])  # nothing where the signal has all
        return [(gate, halves), (parts[1], np.where(node.carried, 1.0, 0.5))]

    def domain(self, node: Node) -> Domain:
        """Return what is known of a node's inputs."""
        return self._sites.domain(node)

    # Where relevance may arrive at zeros

    @cached_property
    def relevant_at_zero(self) -> Mask:
        """Mark the addresses that may have relevance where they are zero."""
        return relevant_at_zero(self.facts.graph, self._given_at_zero())

    def _given_at_zero(self) -> Mask | None:
        """Mark the inputs that a rule may give relevance to although they are zero."""
        given = self.facts.domains.boxed if self._is_deep_taylor else None
        for node in self.facts.graph.nodes:
            rule = self.rules.get(node.start)
            reaches = isinstance(rule, LinearRule) and rule.reaches_zeros
            if self.shares_bias and isinstance(node, Linear | Add):
                reaches = True
            if reaches and (self.shares_bias or not self._is_deep_taylor):
                given = np.zeros(self.facts.graph.size, dtype=bool) if given is None else given
                given[node.inputs[node.inputs >= 0]] = True
        return given

    @property
    def _is_deep_taylor(self) -> bool:
        """Whether no rule of a method that folds is a user's.

        Its own give relevance to zeros in boxes alone, and divide by no value below zero.
        """
        linear = (rule for rule in self.rules.values() if isinstance(rule, LinearRule))
        return self.method.folds and all(type(rule) in (ZBeta, WSquared) for rule in linear)

    @property
    def _passes_relus(self) -> bool:
        """Whether relevance goes through ReLUs that are zero; gradients stop there."""
        return self.method.relu == AtRelu.pass_on

    def relus_apart(self) -> set[int]:
        """Return the starts of linear nodes with a ReLU that must keep values below zero.

        Relevance may arrive where the ReLU gives zero, and their rules divide by the value before
        it. Deep Taylor's do not, and gradients stop there.
        """
        if self._is_deep_taylor or not self._passes_relus:
            return set()
        return {
            node.start
            for node in self.facts.graph.nodes
            if isinstance(node, Linear)
            and node.relu
            and self.relevant_at_zero[node.addresses].any()
        }

    def never_divides_by_zero(self, node: Linear) -> bool:
        """Whether the denominator is above zero wherever relevance arrives, as z > 0 is there.

        It is z and terms ≥ 0 then. Nobody knows that of the rules of users.
        """
        return self.positive(node) and type(self.rules[node.start]) in (AlphaBeta, ZPlus, ZBeta)

    def positive(self, node: Linear) -> bool:
        """Whether relevance arrives at outputs above zero only."""
        if node.start == int(self.facts.graph.outputs[0]):
            return self.method.start == Start.positive_output
        return node.relu and not self.relevant_at_zero[node.addresses].any()

    @property
    def shares_bias(self) -> bool:
        """Whether bias and stabilisers give their share of relevance to a node's inputs."""
        return self.method.conserves and self.method.bias == "share"

    # What rules make of weights

    def propagation(self, node: Linear) -> Propagation:
        """Return what a node's rule makes of its weights; equal nodes have the same object.

        Raises
        ------
        UnsupportedModelError
            The rule does not fit what is known of the node's inputs.
        """
        rule = self.rules[node.start]
        assert isinstance(rule, LinearRule)
        seen = self.facts.linear_node(
            node, self.positive(node), gated=node.start in self.facts.members
        )
        key = _key(rule, node, seen)
        if key not in self.cache.propagations:
            try:
                made = rule.propagation(seen)
            except UnsuitableDomainError as error:
                raise UnsupportedModelError(
                    str(error), operator="linear", module=node.module
                ) from None
            check_propagation(made, seen, rule, zeros=not self._passes_relus)
            self.cache.propagations[key] = made
        return self.cache.propagations[key]

    def of_bias(self, node: GatedSum) -> Propagation:
        """Return what the rule of a gated sum makes of its own bias, beside the members."""
        rule = self.rules[node.start]
        assert isinstance(rule, LinearRule)
        nothing = np.zeros((1, 0))
        domain = Domain(nothing, nothing, nothing.astype(bool), nothing[0].astype(bool))
        weight = np.zeros((node.size, 0))
        return rule.propagation(LinearNode(weight, node.bias, domain, nothing[0], gated=True))

    def count_inputs(self, node: Linear) -> tuple[tuple[Term, ...], Floats]:
        """Count the inputs of each output that are neither constants nor padding.

        Returns the term that gives the same to each, one object for equal nodes, and the numbers.
        """
        seen = self.facts.linear_node(node)
        features = seen.receiving
        key = node.named, features.tobytes()
        if key not in self.cache.even_terms:
            self.cache.even_terms[key] = (Term(features, seen.read[:, features]),)
        (term,) = self.cache.even_terms[key]
        return (term,), (seen.present @ term.matrix.T).ravel()


def _key(rule: LinearRule, node: Linear, seen: LinearNode) -> Hashable:
    """Return all that a propagation depends on."""
    domain = seen.domain
    bounds = domain.low, domain.high, domain.raw, domain.constant
    parts = (node.bias, seen.value, *bounds, seen.present)
    return rule, node.named, seen.positive, seen.gated, *(part.tobytes() for part in parts)
