# SPDX-License-Identifier: Apache-2.0
"""Finds the batch dimension of values in an exported program, and operators that lose it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pyrel.compiler.capture.node_checks import name_of
from pyrel.compiler.capture.places import Place, place_of_node
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer


def is_batch_first(node: Any, inputs: Sequence[torch.fx.Node]) -> bool:
    """Whether the first dimension of a value is the batch of one of the inputs."""
    # The size of the lengths has a symbol of its own, which what they sort may have.
    sizes = [each.meta["val"].shape[0] for each in inputs]
    return any(_grows_with(node.meta["val"].shape[0], size) for size in sizes)


def moved(
    tracer: Tracer,
    last: torch.fx.Node,
    first: torch.fx.Node,
    values: Mapping[torch.fx.Node, Any],
) -> tuple[str, Place] | None:
    """Find the first operator that made a batch dimension of elements of several samples.

    Parameters
    ----------
    tracer : Tracer
    last, first : torch.fx.Node
        Where the samples were mixed, and the model's input.
    values : mapping from Node
        What has been computed.
    """
    size = first.meta["val"].shape[0]
    before = _sources(last)
    for node in last.graph.nodes:
        value = values.get(node)
        if node not in before or not isinstance(value, Traced):
            continue
        sizes = node.meta["val"].shape
        same = [d for d, n in enumerate(value.ids.shape) if n == tracer.batch]
        of_batch = [d for d in same if _grows_with(sizes[d], size)]
        if of_batch and not any(tracer.is_batch(value, d) for d in of_batch):
            return name_of(node), place_of_node(node)
    return None


def _sources(node: torch.fx.Node) -> set[torch.fx.Node]:
    """Return a node and all that it was computed from."""
    found, left = {node}, [node]
    while left:
        more = [n for n in left.pop().all_input_nodes if n not in found]
        found.update(more)
        left += more
    return found


def _grows_with(one: Any, other: Any) -> bool:
    """Whether a size is computed from another one, or is the other one if that is fixed."""
    if not isinstance(other, torch.SymInt):
        return True
    return isinstance(one, torch.SymInt) and other.node.expr.free_symbols <= (
        one.node.expr.free_symbols
    )
