# SPDX-License-Identifier: Apache-2.0
"""What a method makes of stopped and of replaced gradients, before all other passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pyrel.compiler.graph.nodes import (
    Addresses,
    CustomGradient,
    Graph,
    Node,
    StopGradient,
    compact,
    picked,
)
from pyrel.compiler.passes.merge_sums import simplify
from pyrel.errors import UnsupportedModelError
from pyrel.methods import Method

_MARKS = (StopGradient, CustomGradient)


def simplified(graph: Graph) -> Graph:
    """Simplify a graph that is the same for all methods; leave others to `prepared`."""
    return compact(graph) if _is_marked(graph) else simplify(graph)


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
    return simplify(_without(graph, dropped))


def _is_marked(graph: Graph) -> bool:
    return any(isinstance(node, _MARKS) for node in graph.nodes)


def _refuse_custom(graph: Graph, method: Method) -> None:
    """Refuse a gradient of the user's own where gradients get to it."""
    reached = np.zeros(graph.size, dtype=bool)
    reached[graph.outputs] = True
    for node in reversed(graph.nodes):
        if isinstance(node, StopGradient) or not reached[node.addresses].any():
            continue
        if isinstance(node, CustomGradient):
            raise UnsupportedModelError(
                "torch's gradient is not that of the forward pass here, and "
                f'{method.name} is torch\'s; autograd="ignore" differentiates the forward pass',
                operator=node.what,
                module=node.module,
            )
        reached[node.inputs[node.inputs >= 0]] = True


def _without(graph: Graph, kinds: type[Node] | tuple[type[Node], ...]) -> Graph:
    """Let readers of some nodes read what those read."""
    origin: Addresses = np.arange(graph.size)
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = picked(origin, node.inputs, node.inputs)
        if isinstance(node, kinds):
            origin[node.addresses] = inputs
        else:
            nodes.append(replace(node, inputs=inputs))
    outputs = picked(origin, graph.outputs, graph.outputs)
    return replace(graph, nodes=tuple(nodes), outputs=outputs)
