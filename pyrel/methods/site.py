# SPDX-License-Identifier: Apache-2.0
"""Where in a model a rule stands."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from pyrel.methods.terms import Domain

LINEAR_KINDS = ("dense", "convolution")
KINDS = (
    *LINEAR_KINDS,
    *("activation", "product", "sum", "max_pool", "softmax"),
    *("normalisation", "embedding", "copy", "stop"),
)


class Site:
    """A node of a model, as a method sees it when it chooses the node's rule.

    Attributes
    ----------
    kind : str
        "dense" (a linear layer, also inside recurrent ones), "convolution", "activation" (an
        elementwise function; also a factor), "product" (of a gate and a signal), "sum" (of
        activations, as an average pool is), "max_pool", "softmax" (with ``attention="attnlrp"``),
        "normalisation", "embedding", "copy" or "stop" (what is detached, or made of token ids
        alone).
    module : str
        Path of the module, such as "encoder.lstm"; "" for the model itself.
    modules : tuple of str
        That, and those of what was merged into a linear node: the layers of a sum of
        pre-activations and the module that adds them up; a batch normalisation.
    from_input, from_output : int
        How many linear nodes there are at least between this node and the input, or the output; 0
        for the first and the last ones. Linear nodes of the same weights, such as the steps of a
        recurrent layer, count as one: the nearest.
    function : str
        Of an activation, its name, such as "sigmoid"; "" elsewhere.
    gated : bool
        Of a linear node: it is a sum in which gates multiply pre-activations, as in a GRU.
    attention : bool
        Of a product, with ``attention="attnlrp"``: it is of weights and values, or of two values
        that the weights are computed from.
    norm : bool
        Of a sum: it is that of an L^q norm, (Σ x^q)^(1/q), of values which are not below zero.
    """

    def __init__(
        self,
        kind: str,
        module: str,
        from_input: int,
        from_output: int,
        domain: Callable[[], Domain],
        *,
        function: str = "",
        gated: bool = False,
        attention: bool = False,
        norm: bool = False,
        merged: tuple[str, ...] = (),
    ) -> None:
        self.kind, self.module = kind, module
        self.modules = tuple(dict.fromkeys((module, *merged)))
        self.from_input, self.from_output = from_input, from_output
        self.function, self.gated, self.attention = function, gated, attention
        self.norm = norm
        self._domain = domain

    @cached_property
    def domain(self) -> Domain:
        """What is known of the node's inputs."""
        return self._domain()

    @property
    def is_linear(self) -> bool:
        """Whether the kind is "dense" or "convolution"."""
        return self.kind in LINEAR_KINDS
