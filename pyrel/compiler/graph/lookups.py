# SPDX-License-Identifier: Apache-2.0
"""What a model computes of one token id alone, such as ``x != 0``: a table of numbers by id.

The tables are made when a graph is finished. Before, it is not known how many ids there are: that
is the size of the smallest embedding that reads the same element, and may be seen later.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from pyrel.compiler.graph.nodes import Addresses, Floats, Lookup, Node

Mask = npt.NDArray[np.bool_]

_MOST_TOLD = 8  # ids

# From ids, (rows,), to what a model makes of each, of its own type.
IdFunction = Callable[[torch.Tensor], torch.Tensor]


class SeveralIdsError(Exception):
    """An element is computed of two token ids, so no table has it."""


class UnboundedIdsError(Exception):
    """Something is computed of token ids that no embedding reads.

    Attributes
    ----------
    module : str
        Where.
    """

    def __init__(self, module: str) -> None:
        super().__init__(module)
        self.module = module


class Lookups:
    """Which addresses hold functions of one token id, and which depend on token ids alone.

    Parameters
    ----------
    input_size : int

    Attributes
    ----------
    is_id : ndarray of bool, shape (input size,)
        Which elements of the input are token ids; all of them unless somebody says otherwise.
    """

    def __init__(self, input_size: int) -> None:
        self.is_id: Mask = np.ones(input_size, dtype=bool)
        self._functions: list[IdFunction] = [lambda ids: ids]  # the first is the id itself
        self._numbers: dict[Hashable, int] = {}
        self._by_start: dict[int, int] = {}  # function of each node
        self._made: dict[int, Addresses] = {}  # by function: the address for each id, or −1
        self._wide: dict[Hashable, Addresses] = {}
        # By address, as far as there are lookups: its id, its function (−1 elsewhere), and whether
        # it depends on ids alone.
        self._ids = np.empty(0, dtype=np.int64)
        self._numbers_of = np.empty(0, dtype=np.int64)
        self._alone = np.empty(0, dtype=bool)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._by_start)

    def are(self, addresses: Addresses) -> Mask:
        """Mark functions of one id; constants are none."""
        return np.asarray(self._look(self._numbers_of, addresses, -1) >= 0)

    def are_ids(self, addresses: Addresses) -> Mask:
        """Mark token ids of the input."""
        return np.asarray(self._look(self.is_id, addresses, False) > 0)

    def are_alone(self, addresses: Addresses) -> Mask:
        """Mark what depends on ids alone; constants do not."""
        return np.asarray(self._look(self._alone, addresses, False))

    def _look(self, values: Addresses | Mask, addresses: Addresses, nothing: int) -> Addresses:
        known = (addresses >= 0) & (addresses < values.size)
        if not values.size:
            return np.full(addresses.shape, nothing)
        return np.where(known, values[np.where(known, addresses, 0)], nothing)

    def noted(self, node: Node) -> None:
        """Note a node of a builder, once there are lookups."""
        if not self and not isinstance(node, Lookup):
            return
        if node.start + node.size > self._ids.size:
            more = node.start + 2 * node.size
            self._ids = np.append(self._ids, np.full(more, -1))
            self._numbers_of = np.append(self._numbers_of, np.full(more, -1))
            self._alone = np.append(self._alone, np.zeros(more, dtype=bool))
        if isinstance(node, Lookup):
            self._alone[node.addresses] = True
            return
        variable = node.inputs[node.inputs >= 0]
        self._alone[node.addresses] = variable.size > 0 and self.are_alone(variable).all()

    def parts(self, operands: Addresses) -> tuple[Addresses, Addresses]:
        """Return the id of each of ``size`` elements, −1 for none, and what is taken of it.

        ``operands`` is (k, size); the latter has its shape, and holds numbers of functions, or
        addresses of constants.

        Raises
        ------
        SeveralIdsError
            An element has two.
        """
        is_id = self.are_ids(operands)
        ids = np.where(is_id, operands, self._look(self._ids, operands, -1))
        one = ids.max(axis=0)
        if ((ids != one) & (operands >= 0)).any():
            raise SeveralIdsError
        numbers = np.where(is_id, 0, self._look(self._numbers_of, operands, -1))
        return one, np.where(operands < 0, operands, numbers)

    def function(self, number: int) -> IdFunction:
        """Return a function by its number."""
        return self._functions[number]

    def number(self, key: Hashable, function: IdFunction) -> int:
        """Return the number of a function; those of one key are the same."""
        found = self._numbers.setdefault(key, len(self._functions))
        if found == len(self._functions):
            self._functions.append(function)
        return found

    def made(self, number: int, ids: Addresses) -> Addresses:
        """Addresses of a function of ids that there are already, −1 elsewhere."""
        known = self._made.get(number)
        return np.full(ids.shape, -1) if known is None else known[ids]

    def add(self, node: Lookup, number: int) -> None:
        """Note a node that was added for a function; those wider than 1 are copies."""
        self._by_start[node.start] = number
        if node.width > 1:
            return
        self._ids[node.addresses] = node.inputs
        self._numbers_of[node.addresses] = number
        known = self._made.setdefault(number, np.full(self.is_id.size, -1))
        known[node.inputs] = node.addresses

    def repeated(self, addresses: Addresses) -> tuple[int, Addresses, int] | None:
        """Take apart elements that repeat functions of ids: function, ids and how often each.

        None where they do not, or not all as often.
        """
        if addresses.size < 2 or not self.are(addresses).all():
            return None
        edges = np.flatnonzero(np.diff(addresses)) + 1
        lengths = np.diff(np.concatenate([[0], edges, [addresses.size]]))
        numbers = self._numbers_of[addresses]
        if lengths[0] == 1 or (lengths != lengths[0]).any() or (numbers != numbers[0]).any():
            return None
        width = int(lengths[0])
        return int(numbers[0]), self._ids[addresses[::width]], width

    def wide(self, key: Hashable) -> Addresses | None:
        """Addresses that were kept under a key."""
        return self._wide.get(key)

    def keep_wide(self, key: Hashable, addresses: Addresses) -> None:
        """Keep addresses under a key."""
        self._wide[key] = addresses

    def resolved(self, nodes: list[Node], live: set[int], bounds: Addresses) -> list[Node]:
        """Return nodes with their tables; ``live`` are the starts of those that are wanted.

        Raises
        ------
        UnboundedIdsError
            A wanted one reads an id that no embedding does.
        """
        tables: dict[tuple[int, int, int], Floats] = {}
        out: list[Node] = []
        for node in nodes:
            if isinstance(node, Lookup) and node.start in live:
                own = bounds[node.inputs]
                if not own.all():
                    raise UnboundedIdsError(node.module)
                key = self._by_start[node.start], int(own.max()), node.width
                if key not in tables:
                    tables[key] = self._table(*key)
                node = replace(node, table=tables[key])
            out.append(node)
        return out

    def _table(self, number: int, rows: int, width: int) -> Floats:
        values = self._functions[number](torch.arange(rows)).to(torch.float64).numpy()
        return np.repeat(values[:, None], width, axis=1)


def told_apart(nodes: Iterable[Node]) -> list[int]:
    """Return token ids for which a model makes different numbers, the rarest first.

    So the first is that of padding, where the model makes masks of padding.
    """
    counts: dict[int, int] = {}
    for node in nodes:
        if isinstance(node, Lookup) and node.table[:, 0].min() < node.table[:, 0].max():
            _, first, often = np.unique(node.table[:, 0], return_index=True, return_counts=True)
            for each, count in zip(first.tolist(), often.tolist(), strict=True):
                counts[each] = min(count, counts.get(each, count))
    return sorted(counts, key=lambda each: (counts[each], each))[:_MOST_TOLD]
