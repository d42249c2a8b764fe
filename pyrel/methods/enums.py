# SPDX-License-Identifier: Apache-2.0
"""Choices that a method makes once, for the whole model."""

from __future__ import annotations

from enum import Enum


class Start(Enum):
    """Relevance of the explained output; numbered as in the engine."""

    one = 0
    output = 1
    positive_output = 2


class AtRelu(Enum):
    """What a ReLU does to relevance.

    ``pass_on``: nothing; ``mask``: keep it where the unit is active, as gradients do; ``guided``:
    keep it where the unit is active and the relevance positive; ``rectify``: keep it where the
    relevance is positive, whatever the unit does.
    """

    pass_on = "pass_on"
    mask = "mask"
    guided = "guided"
    rectify = "rectify"


class AtInput(Enum):
    """What is done to the sum that arrives at an input element.

    ``keep``: nothing; ``square``: square it; ``multiply``: multiply it by the input.
    """

    keep = "keep"
    square = "square"
    multiply = "multiply"
