# SPDX-License-Identifier: Apache-2.0
"""Which inputs of a recurrent product wait for the step before.

The others, such as the elements of a sequence or what a layer below has made of them, can be
multiplied for all steps at once. A product of one row is bound by reading its weights; one product
over all steps reads them once.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from pyrel.compiler.graph.nodes import Addresses, Graph, Linear
from pyrel.compiler.graph.weight_ids import WeightId
from pyrel.methods.terms import Mask

_FEWEST_STEPS = 3  # that repay a product of their own


@dataclass(frozen=True, eq=False)
class Recurrence:
    """Linear nodes of one row and the same weights, of which each waits for the one before.

    Attributes
    ----------
    starts : ndarray of int
        Of the nodes' outputs.
    inputs : ndarray of int, shape (nodes, inputs)
    late : ndarray of bool
        By input: whether it may wait for another of the nodes. The others are all computed before
        the first of them.
    """

    starts: Addresses
    inputs: Addresses
    late: Mask


def find_recurrences(graph: Graph) -> dict[int, Recurrence]:
    """Find those of pre-activations of which some inputs, but not all, wait for the step before.

    Where a model goes step by step through several layers, only the inputs of the lowest are early:
    nodes are taken in the order in which they come.

    Returns
    -------
    dict
        By the start of each of the nodes.
    """
    groups: dict[WeightId, list[int]] = defaultdict(list)
    for index, node in enumerate(graph.nodes):
        if isinstance(node, Linear) and not node.relu and len(node.inputs) == 1:
            groups[node.named].append(index)
    owners = graph.owners()
    found: dict[int, Recurrence] = {}
    for members in groups.values():
        if len(members) < _FEWEST_STEPS:
            continue
        inputs = np.concatenate([graph.nodes[index].inputs for index in members])
        late = (owners[inputs] >= members[0]).any(axis=0)
        if (inputs >= 0).all() and late.any() and not late.all():
            starts = np.array([graph.nodes[index].start for index in members])
            found.update(dict.fromkeys(starts.tolist(), Recurrence(starts, inputs, late)))
    return found
