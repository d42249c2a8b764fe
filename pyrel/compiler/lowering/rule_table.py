# SPDX-License-Identifier: Apache-2.0
"""The rules that a method puts at the nodes of a model, as a table for people."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pyrel.compiler.graph.gates import GatedSum
from pyrel.compiler.graph.nodes import Copy, Embedding, Linear, MaxPool, Node
from pyrel.compiler.lowering.placement import Placement
from pyrel.compiler.lowering.pooling import in_proportion
from pyrel.compiler.lowering.sites import KIND_OF_NODE, function_of
from pyrel.methods import Rule, ZBeta, ZPlus
from pyrel.methods.other_rules import InProportion, Winner


class PlacedRule(NamedTuple):
    """A rule, and the nodes of one module that have it."""

    node: str
    module: str
    rule: str
    nodes: int


def placed_rules(placement: Placement) -> tuple[PlacedRule, ...]:
    """List the rules from the input to the output, equal ones of a module as one."""
    found: dict[tuple[str, str, str], int] = {}
    for node in placement.facts.graph.nodes:
        rule = placement.rules.get(node.start)
        if rule is None or isinstance(node, Copy | Embedding):
            continue  # they only move what arrives
        if isinstance(node, Linear) and node.start in placement.facts.members:
            continue  # their sum is listed
        key = _name(node), node.module, _effective(node, rule, placement)
        found[key] = found.get(key, 0) + 1
    return tuple(PlacedRule(*key, count) for key, count in found.items())


def _name(node: Node) -> str:
    if isinstance(node, GatedSum):
        return "gated dense"
    kind = node.kind if isinstance(node, Linear) else KIND_OF_NODE[type(node)]
    return function_of(node) or kind.replace("_", " ")


def _effective(node: Node, rule: Rule, placement: Placement) -> str:
    """Show a rule as what it comes to with the domain of the inputs."""
    if isinstance(rule, InProportion) and isinstance(node, MaxPool):
        return repr(rule if in_proportion(node, placement) else Winner())
    if isinstance(rule, ZBeta):
        domain = placement.domain(node)
        nonneg = (domain.nonneg | domain.zero).all(axis=0) | domain.constant
        names = {True: repr(ZPlus()), False: repr(rule)}
        return " and ".join(names[kind] for kind in sorted(set(nonneg.tolist()), reverse=True))
    return repr(rule)


def as_text(rules: Iterable[PlacedRule]) -> str:
    """Show rules as a table: node, module, rule."""
    rows = [("node", "module", "rule")]
    for each in rules:
        times = f"{each.node} × {each.nodes}" if each.nodes > 1 else each.node
        rows.append((times, each.module or "(the model)", each.rule))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(
        f"  {node:{widths[0]}}  {module:{widths[1]}}  {rule}" for node, module, rule in rows
    )
