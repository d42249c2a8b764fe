# SPDX-License-Identifier: Apache-2.0
"""The elementwise functions that a graph and a program name."""

from __future__ import annotations

from enum import Enum


class Function(Enum):
    """Elementwise functions of v, some with a parameter p; numbered as in the engine.

    ``leaky_relu`` is p · v below 0, ``elu`` p · (exp(v) − 1); ``gelu_tanh`` is torch's
    approximation of ``gelu``; ``power`` is (1 + max(0, v))^p, and ``pow`` is v^p, which for v < 0
    is NaN unless p is a whole number. ``at_least`` and ``above`` are the larger of v and p,
    ``at_most`` and ``below`` the smaller: the derivatives of ``at_least`` and ``at_most`` are 1
    at p, those of the others 0. The derivative of ``sqrt`` at 0 is infinite, but 0 if p > 0, as
    that of a norm. ``step`` is 1 above 0, else 0. ``sin`` and ``cos`` are NaN beyond ±8192.
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
    exp = 10
    log = 11
    log1p = 12
    sqrt = 13
    sin = 14
    cos = 15
    erf = 16
    absolute = 17
    square = 18
    pow = 19
    at_least = 20
    above = 21
    at_most = 22
    below = 23
    step = 24
