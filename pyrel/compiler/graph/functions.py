# SPDX-License-Identifier: Apache-2.0
"""The elementwise functions that a graph and a program name."""

from __future__ import annotations

from enum import Enum


class Function(Enum):
    """Elementwise functions of v, some with a parameter p; numbered as in the engine.

    ``leaky_relu`` is p · v below 0, ``elu`` p · (exp(v) − 1); ``gelu_tanh`` is torch's
    approximation of ``gelu``; ``power`` is (1 + max(0, v))^p.
    """

    sigmoid = 0
    tanh = 1
    softplus = 2
    leaky_relu = 3
    elu = 4
    gelu = 5
    gelu_tanh = 6
    silu = 7
    reciprocal = 8
    power = 9
