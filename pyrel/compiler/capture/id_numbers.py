# SPDX-License-Identifier: Apache-2.0
"""Properties of numbers computed from token ids alone, such as counts and masks."""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum

import numpy as np
import torch

from pyrel.compiler.capture.samples import addresses_of
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.graph.builder import Builder
from pyrel.compiler.graph.nodes import Addresses, Graph, picked
from pyrel.compiler.graph.ranges import propagate
from pyrel.compiler.graph.rewrites import live_nodes
from pyrel.compiler.limits import LARGEST_EXACT


class Kind(IntEnum):
    """The numbers that a value computed from token ids alone may hold."""

    other = 0
    whole = 1
    mask = 2  # 0 or 1


class InexactCountError(Exception):
    """A number made of token ids is compared that float32 may round."""


class IdNumbers:
    """The properties of numbers computed from token ids, for one tracer.

    Parameters
    ----------
    builder : Builder
    """

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._kinds = np.empty(0, dtype=np.int8)  # by address, `Kind` of what is made of token ids
        self._compared: list[Addresses] = []  # whole numbers that masks are made of

    def is_of_ids(self, value: Traced) -> bool:
        """Whether all elements are token ids, functions of one, or constants."""
        addresses = addresses_of(value.ids.numpy())
        known = self._builder.lookups.are(addresses)
        known = known | self._builder.lookups.are_ids(addresses)
        return bool((known | (addresses < 0)).all())

    def is_of_ids_alone(self, value: Traced) -> bool:
        """Whether all elements were computed of token ids, without an embedding, or are constant.

        The ids themselves are not.
        """
        addresses = addresses_of(value.ids.numpy())
        return bool((self._builder.lookups.are_alone(addresses) | (addresses < 0)).all())

    def note_kind(self, value: Traced, kind: Kind) -> None:
        """Note what numbers something holds that is made of token ids alone."""
        addresses = addresses_of(value.ids.numpy())
        found = addresses[addresses >= 0]
        if found.size and found.max() >= self._kinds.size:
            more = int(found.max()) + 1
            self._kinds = np.append(self._kinds, np.zeros(more, dtype=np.int8))
        self._kinds[found] = np.maximum(self._kinds[found], kind)

    def kind(self, value: Traced | torch.Tensor | float) -> Kind:
        """Return what numbers something holds that is made of token ids alone, or constant."""
        if isinstance(value, Traced):
            addresses = np.unique(addresses_of(value.ids.numpy()))
        else:
            given = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
            addresses = np.unique(self._builder.constants(given.numpy()))
        numbers = self._builder.values(addresses[addresses < 0])
        found = addresses[addresses >= 0]
        kinds = np.zeros(found.size, np.int8)
        if self._kinds.size and self._builder.lookups.are_alone(found).all():
            kinds = picked(self._kinds, np.where(found < self._kinds.size, found, -1), 0)
        least = min(kinds.tolist(), default=Kind.mask)
        if not (np.isfinite(numbers).all() and (numbers == np.floor(numbers)).all()):
            return Kind.other
        return Kind(least) if np.isin(numbers, (0, 1)).all() else Kind(min(least, Kind.whole))

    def compare(self, value: Traced) -> None:
        """Note that a whole number decides: float32 must not round it."""
        addresses = addresses_of(value.ids.numpy())
        self._compared.append(np.unique(addresses[addresses >= 0]))

    def check_exact(self, graph: Graph) -> None:
        """Raise InexactCountError where a number is compared that float32 may round."""
        if not self._compared:
            return
        read = np.unique(np.concatenate(self._compared))
        nodes = live_nodes(graph.nodes, graph.outputs, graph.size)
        used = np.zeros(graph.size, dtype=bool)
        for node in nodes:
            used[node.addresses] = True
        read = read[used[read]]
        part = replace(graph, nodes=live_nodes(nodes, read, graph.size), outputs=read)
        nothing = np.zeros(graph.input_size)
        low, high = propagate(part, nothing, nothing).of(read)
        if read.size and max(high.max(), -low.min()) > LARGEST_EXACT:
            raise InexactCountError
