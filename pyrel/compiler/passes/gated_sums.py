# SPDX-License-Identifier: Apache-2.0
"""Makes one node of each sum of pre-activations of which some are gated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pyrel.compiler.graph.facts import Facts
from pyrel.compiler.graph.gates import GatedSum, Gates
from pyrel.compiler.graph.nodes import (
    Add,
    Addresses,
    Graph,
    Linear,
    Node,
    Product,
    identity,
    look_up,
    picked,
)
from pyrel.compiler.graph.rewrites import compact
from pyrel.compiler.graph.weight_ids import WeightId
from pyrel.methods.terms import Mask


def gather_gated_sums(facts: Facts) -> Graph:
    """Make one `GatedSum` of each sum of pre-activations of which some are gated."""
    graph, gates = facts.graph, facts.gates
    nodes: list[Node] = []
    position = graph.size
    for node in graph.nodes:
        for part in _parts(node, gates) if isinstance(node, Add) else [node]:
            made = _gated_sum(part, gates, position) if isinstance(part, Add) else None
            if made is None:
                nodes.append(part)
                continue
            nodes += made
            position += sum(member.size for member in made[:-1])
    return compact(replace(graph, nodes=tuple(nodes)))


def _parts(node: Add, gates: Gates) -> Iterator[Add]:
    """Cut a sum where an addend changes from one node, or from one row of it, to another."""
    belongs = picked(gates.owner, node.inputs, -1)
    rows = np.stack([_rows_of(addend, gates) for addend in node.inputs])
    cuts = (np.diff(belongs, axis=1) != 0) | (np.diff(rows, axis=1) != 0)
    edges = [0, *(np.flatnonzero(cuts.any(axis=0)) + 1).tolist(), node.size]
    kinds = [gates.graph.nodes[i] for i in np.unique(belongs[belongs >= 0]).tolist()]
    gated = node.gated or any(isinstance(kind, Product) for kind in kinds)
    if len(edges) == 2 or not gated:
        yield node
        return
    for first, stop in zip(edges[:-1], edges[1:], strict=True):
        yield replace(node, start=node.start + first, inputs=node.inputs[:, first:stop])


def _rows_of(addresses: Addresses, gates: Gates) -> Addresses:
    """By element, the row of the linear node it belongs to, directly or as a product's signal."""
    rows = np.zeros_like(addresses)
    belongs = picked(gates.owner, addresses, -1)
    for index in np.unique(belongs[belongs >= 0]).tolist():
        here = belongs == index
        source = gates.graph.nodes[index]
        if isinstance(source, Linear):
            rows[here] = (addresses[here] - source.start) // source.width
        elif isinstance(source, Product) and (parts := gates.split(source)) is not None:
            signals = parts[1][addresses[here] - source.start]
            owner = gates.owner[signals[0]] if signals[0] >= 0 else -1
            linear = gates.graph.nodes[owner] if owner >= 0 else None
            if isinstance(linear, Linear):
                rows[here] = (signals - linear.start) // linear.width
    return rows


def _gated_sum(node: Add, gates: Gates, position: int) -> list[Node] | None:
    """Return the members and their sum, or None if no addend is a gated pre-activation.

    A gated constant beside pre-activations is a gated bias, as GRU's is at the first step; so is a
    gated zero, of which the sum says itself.
    """
    products = [gates.product_at(addend) for addend in node.inputs]
    plain = [gates.linear_at(addend) for addend in node.inputs]
    gated = [None if p is None else gates.linear_at(p[1]) for p in products]
    constant = [p is not None and bool((p[1] < 0).all()) for p in products]
    if not any(gated) and not ((any(constant) or node.gated) and any(plain)):
        return None
    read = next(linear.inputs[:, :1] for linear in (*gated, *plain) if linear is not None)
    members: list[Linear] = []
    factors: list[Addresses] = []
    carried: list[Mask] = []
    bias = np.zeros(node.size)
    for index, addend in enumerate(node.inputs):
        product, member = products[index], gated[index]
        factor = np.full(node.size, -1)
        if product is not None and constant[index]:
            value = look_up(gates.graph.constants, product[1])
            zeros = np.zeros((node.size, 1))
            member = Linear(
                0,
                read,
                zeros,
                value,
                module=node.module,
                weight_id=WeightId("", ("zeros", node.size)),
                connected=zeros != 0,
            )
        if member is not None and product is not None:
            factor = product[0]
        else:
            member = plain[index]
        if (addend < 0).all():
            bias += look_up(gates.graph.constants, addend)
            continue
        if member is None:
            member = identity(0, addend, node.module)
        members.append(replace(member, start=position))
        factors.append(factor)
        # A known factor, such as a mask, leaves all to its member, as a carried state's gate does.
        whole = gates.carried_at(addend)
        whole |= picked(gates.is_stopped | (gates.is_constant & ~gates.is_gate), factor, False)
        carried.append(whole & (factor >= 0) & (not constant[index]))
        position += member.size
    inputs = np.stack([member.addresses for member in members] + factors)
    total = GatedSum(node.start, inputs, bias, np.stack(carried), module=node.module)
    return [*members, total]
