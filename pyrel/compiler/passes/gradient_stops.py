# SPDX-License-Identifier: Apache-2.0
"""What a method makes of gradients that are not the plain ones, before all other passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pyrel.compiler.graph.nodes import (
    Add,
    Addresses,
    Copy,
    CustomGradient,
    Graph,
    Node,
    Relu,
    Scale,
    StopGradient,
    picked,
)
from pyrel.compiler.graph.rewrites import compact, reached_by_gradients
from pyrel.compiler.passes.merge_sums import Merged, simplify
from pyrel.compiler.passes.twins import Twins
from pyrel.errors import UnsupportedModelError
from pyrel.methods import AtRelu, Method

_MARKS = (StopGradient, CustomGradient)


def simplified(graph: Graph, merged: Merged | None = None) -> Graph:
    """Simplify a graph that is the same for all methods; leave others to `prepared`.

    ``merged`` is that of `simplify`.
    """
    return compact(graph) if _is_marked(graph) else simplify(graph, merged=merged)


def prepared(graph: Graph, method: Method) -> Graph:
    """Resolve the marks of a graph for a method, and simplify it.

    What a method passes through is taken out, and leaves no trace in the program. `StopGradient`
    stays where the method stops there.

    Raises
    ------
    UnsupportedModelError
        If the method needs the gradient of something whose gradient is another than that of its
        forward pass.
    """
    if not _is_marked(graph):
        return graph
    if method.autograd == "exact" and not method.conserves:
        _refuse_custom(graph, method)
    dropped = CustomGradient if method.detach == "stop" else _MARKS
    exact = not method.conserves and method.relu == AtRelu.mask
    graph = _plain_relus(_without(graph, dropped), exact)
    return simplify(graph, None if method.conserves else Twins(graph))


def _is_marked(graph: Graph) -> bool:
    return any(
        isinstance(node, _MARKS) or (isinstance(node, Relu) and node.at_zero)
        for node in graph.nodes
    )


def _refuse_custom(graph: Graph, method: Method) -> None:
    """Refuse a gradient of the user's own where gradients get to it."""
    reached = reached_by_gradients(graph)
    for node in reversed(graph.nodes):
        if isinstance(node, CustomGradient) and reached[node.addresses].any():
            raise UnsupportedModelError(
                "torch's gradient is not that of the forward pass here, and "
                f'{method.name} is torch\'s; autograd="ignore" differentiates the forward pass',
                operator=node.what,
                module=node.module,
            )


def _without(graph: Graph, kinds: type[Node] | tuple[type[Node], ...]) -> Graph:
    """Let readers of some nodes read what those read."""
    origin: Addresses = np.arange(graph.size)
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = picked(origin, node.inputs, node.inputs)
        if isinstance(node, kinds) and not (isinstance(node, StopGradient) and node.held):
            origin[node.addresses] = inputs
        else:
            nodes.append(replace(node, inputs=inputs))
    outputs = picked(origin, graph.outputs, graph.outputs)
    return replace(graph, nodes=tuple(nodes), outputs=outputs)


def _plain_relus(graph: Graph, exact: bool) -> Graph:
    """Let the derivative of all ReLUs be 0 at 0, what else it was written out if ``exact``.

    x + max(0, −x) is exactly max(0, x), and its derivative at 0 is 1.
    """
    nodes: list[Node] = []
    position = graph.size

    def add(make: Callable[[int], Node]) -> Addresses:
        nonlocal position
        nodes.append(make(position))
        position += nodes[-1].size
        return nodes[-1].addresses

    for node in graph.nodes:
        if not isinstance(node, Relu) or not node.at_zero:
            nodes.append(node)
        elif not exact:
            nodes.append(replace(node, at_zero=0.0))
        else:
            nodes.append(_written_out(node, add))
    return replace(graph, nodes=tuple(nodes))


def _written_out(node: Relu, add: Callable[[Callable[[int], Node]], Addresses]) -> Node:
    module, minus = node.module, np.full(node.size, -1.0)
    # A copy, so that sums of it are not merged into a linear node, which would round anew.
    value = add(lambda start: Copy(start, node.inputs, module=module))
    negative = add(lambda start: Scale(start, value, minus, module=module))
    rest = add(lambda start: Relu(start, negative, module=module))
    if node.at_zero == 1.0:
        return Add(node.start, np.stack([value, rest]), module=module)
    positive = add(lambda start: Relu(start, value, module=module))
    addends = np.stack([value, rest, positive])
    twice = add(lambda start: Add(start, addends, module=module))
    return Scale(node.start, twice, np.full(node.size, 0.5), module=module)
