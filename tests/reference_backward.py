# SPDX-License-Identifier: Apache-2.0
"""What every method's way back shares: values that arrive at nodes, and their rounding."""

from __future__ import annotations

import numpy as np
from reference_forward import Forward, windowed
from reference_graph import (
    Array,
    Constant,
    Embedding,
    Gather,
    Input,
    Mask,
    MaxPool,
    Node,
    Relu,
    reachable,
)


class Backward:
    """Relevance (or gradient) that arrives at each node, and the variance of its rounding.

    The variances are those of independent roundings, handed down with the squares of the factors
    that the relevance itself is handed down with. Their square roots are bounds in the sense of
    `reference_forward.Forward`: four times what is expected.
    """

    def __init__(self, output: Node, run: Forward, seed: Array) -> None:
        self.run = run
        self.nodes = reachable(output)
        self.arriving = {node.serial: np.zeros_like(run.of(node)) for node in self.nodes}
        self.variance = {node.serial: np.zeros(run.of(node).shape) for node in self.nodes}
        self.arriving[output.serial] += seed
        self.absorbed = run.cast(np.zeros(len(seed)))

    def at(self, node: Node) -> tuple[Array, Array]:
        """What has arrived at a node, and its variance."""
        return self.arriving[node.serial], self.variance[node.serial]

    def give(self, node: Node, relevance: Array, variance: Array) -> None:
        """Add relevance to what has arrived at a node."""
        self.arriving[node.serial] += relevance
        self.variance[node.serial] += variance

    def scatter(self, node: Gather) -> None:
        """Give every source its features' relevance."""
        relevance, variance = self.at(node)
        width = sum(source.size for source in node.sources)
        whole, doubt = (
            np.zeros((width, len(relevance)), relevance.dtype),
            np.zeros((width, len(relevance))),
        )
        np.add.at(whole, node.index, relevance.T)
        np.add.at(doubt, node.index, variance.T)
        start = 0
        for source in node.sources:
            rows = slice(start, start + source.size)
            self.give(source, whole[rows].T, doubt[rows].T)
            start += source.size

    def give_windows(self, node: MaxPool, relevance: Array, variance: Array) -> None:
        """Add (n, window, outputs) to the features of each window."""
        size = node.parent.size
        whole, doubt = (
            np.zeros((size, len(relevance)), relevance.dtype),
            np.zeros((size, len(relevance))),
        )
        inside = node.windows >= 0
        np.add.at(whole, node.windows[inside], relevance[:, inside].T)
        np.add.at(doubt, node.windows[inside], variance[:, inside].T)
        self.give(node.parent, whole.T, doubt.T)

    def give_winners(self, node: MaxPool, *, below_relu: bool = True) -> None:
        """Give each output's relevance to the first largest value of its window.

        ReLUs may as well stand above the pool: where all are zero, what is below them decides, or
        for the deconvnet, whose switches are those of the forward pass, the first.
        """
        relevance, variance = self.at(node)
        moves = below_relu and isinstance(node.parent, Relu)
        below = node.parents[0].parents[0] if moves else node.parents[0]
        first = windowed(self.run.of(below), node, -np.inf).argmax(axis=1)[:, None]
        chosen = np.zeros((len(relevance), *node.windows.shape), bool)
        np.put_along_axis(chosen, first, True, axis=1)
        self.give_windows(node, chosen * relevance[:, None], chosen * variance[:, None])

    def at_input(self, method: str, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """The result at the input's elements, and its variance.

        Squares and multiples are taken of each dimension of an embedding, before their sum.
        """
        size = (shape[0], int(np.prod(shape[1:], dtype=int)))
        total, doubt = np.zeros(size), np.zeros(size)
        for node in self.nodes:
            if not isinstance(node, Input | Embedding):
                continue
            relevance, variance = finish(method, *self.at(node), self.run.of(node))
            if isinstance(node, Embedding):
                width = node.table.shape[1]
                relevance = relevance.reshape(*size, width).sum(axis=2)
                variance = variance.reshape(*size, width).sum(axis=2)
            total, doubt = total + relevance, doubt + variance
        return total.reshape(shape), doubt.reshape(shape)


def varies(node: Node) -> Mask:
    """Mark the features that are no constants."""
    if isinstance(node, Gather):
        return np.concatenate([varies(source) for source in node.sources])[node.index]
    return np.full(node.size, not isinstance(node, Constant))


def counts(node: Node) -> Mask:
    """Mark the features that are neither padding nor zero for another reason."""
    return ~((node.low == 0) & (node.high == 0))


def finish(method: str, relevance: Array, variance: Array, x: Array) -> tuple[Array, Array]:
    """What a method does with what arrives at an input element."""
    match method:
        case "sensitivity" | "guided_backprop" | "deconvnet":
            return relevance**2, (2 * relevance) ** 2 * variance + variance**2
        case "gradient_x_input":
            return relevance * x, x**2 * variance
    return relevance, variance
