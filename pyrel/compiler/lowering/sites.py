# SPDX-License-Identifier: Apache-2.0
"""Where each node stands: its kind, its depth, and what is known of its inputs."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from pyrel.compiler.graph.facts import Facts
from pyrel.compiler.graph.gates import GatedSum
from pyrel.compiler.graph.matrices import Matmul
from pyrel.compiler.graph.nodes import (
    Activation,
    Add,
    Choice,
    Copy,
    Embedding,
    EvenMaximum,
    Graph,
    Linear,
    Lookup,
    MaxPool,
    Node,
    Normalise,
    Product,
    Relu,
    Scale,
    StopGradient,
)
from pyrel.compiler.graph.softmax import Softmax
from pyrel.compiler.graph.weight_ids import WeightId
from pyrel.methods import Domain, Site

_FAR = np.iinfo(np.int32).max

KIND_OF_NODE: dict[type[Node], str] = {
    Activation: "activation",
    Relu: "activation",
    Scale: "activation",
    Add: "sum",
    Choice: "copy",
    Copy: "copy",
    Embedding: "embedding",
    EvenMaximum: "max_pool",
    Lookup: "stop",
    Matmul: "product",
    MaxPool: "max_pool",
    Normalise: "normalisation",
    Product: "product",
    Softmax: "softmax",
    StopGradient: "stop",
}


class Sites:
    """Where each node of a graph stands.

    Parameters
    ----------
    facts : Facts
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        graph = facts.graph
        forward = np.full(graph.size + 1, _FAR, dtype=np.int64)  # the last is for constants
        forward[: graph.input_size] = 0
        back = np.full(graph.size, _FAR, dtype=np.int64)
        back[graph.outputs] = 0
        self._groups = _groups(graph)
        self._from_input: dict[Hashable, int] = {}
        self._from_output: dict[Hashable, int] = {}
        for node in graph.nodes:
            depth = int(forward[np.maximum(node.inputs, -1)].min(initial=_FAR))
            key = self._group(node)
            self._from_input[key] = min(depth, self._from_input.get(key, _FAR))
            forward[node.addresses] = min(depth + isinstance(node, Linear), _FAR)
        for node in reversed(graph.nodes):
            depth = int(back[node.addresses].min(initial=_FAR))
            key = self._group(node)
            self._from_output[key] = min(depth, self._from_output.get(key, _FAR))
            read = node.inputs[node.inputs >= 0]
            back[read] = np.minimum(back[read], min(depth + isinstance(node, Linear), _FAR))

    def of(self, node: Node, kind: str | None = None) -> Site:
        """Return where a node stands; a gated sum is a linear node, and a product as well."""
        layers = self._layers(node)
        linear: Node = layers[0] if layers else node
        if kind is None:
            kind = linear.kind if isinstance(linear, Linear) else KIND_OF_NODE[type(node)]
        from_input, from_output = self._depth(linear)
        return Site(
            kind,
            node.module,
            from_input,
            from_output,
            lambda: self.domain(node),
            function=function_of(node),
            gated=isinstance(node, GatedSum),
            attention=self._is_of_attention(node),
            norm=isinstance(node, Add) and node.start in self._facts.norms,
            merged=tuple(name for layer in layers for name in (layer.module, *layer.merged)),
        )

    def _is_of_attention(self, node: Node) -> bool:
        is_product = isinstance(node, Product)
        return is_product and bool(self._facts.attention[node.addresses].all())

    def _layers(self, node: Node) -> list[Linear]:
        """Return a linear node itself, of a gated sum its members; none of others."""
        nodes = [node]
        if isinstance(node, GatedSum):
            nodes = [self._facts.graph.nodes[self._facts.owners[m]] for m in node.members[:, 0]]
        return [each for each in nodes if isinstance(each, Linear)]

    def domain(self, node: Node) -> Domain:
        """Return what is known of a node's inputs; of a gated sum those of all its members."""
        domains = self._facts.domains
        if not isinstance(node, GatedSum):
            return domains.of_inputs(node)
        members = [self._facts.owner(int(member)) for member in node.members[:, 0]]
        parts = [domains.of_inputs(member) for member in members if member is not None]
        return Domain(
            np.concatenate([part.low for part in parts], axis=1),
            np.concatenate([part.high for part in parts], axis=1),
            np.concatenate([part.raw for part in parts], axis=1),
            np.concatenate([part.constant for part in parts]),
        )

    def _group(self, node: Node) -> Hashable:
        return self._groups[node.named] if isinstance(node, Linear) else node.start

    def _depth(self, node: Node) -> tuple[int, int]:
        """Return the depths of a node from the input and from the output."""
        key = self._group(node)
        return self._from_input[key], self._from_output[key]


def _groups(graph: Graph) -> dict[WeightId, Hashable]:
    """Group the weights that share an array, as the first step of a recurrence and the others.

    At the first step, whose state is zeros, the node has the weights of the input alone; at the
    others it is a sum of two.
    """
    groups: dict[Hashable, set[WeightId]] = {}
    for name in {node.named for node in graph.nodes if isinstance(node, Linear)}:
        joined = {name}.union(*(groups.get(original, ()) for original in name.originals))
        for original in set().union(*(each.originals for each in joined)):
            groups[original] = joined
    return {name: id(joined) for joined in groups.values() for name in joined}


def function_of(node: Node) -> str:
    """Return the name of an elementwise function; "" for other nodes."""
    if isinstance(node, Activation):
        return node.function.name
    return {Relu: "relu", Scale: "scale"}.get(type(node), "")
