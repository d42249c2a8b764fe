# SPDX-License-Identifier: Apache-2.0
"""What an explainer returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a method says of a batch. Arrays are of the input's type: NumPy or torch.

    Attributes
    ----------
    relevance : float32, shape of the input
        How much each input element contributed; of token ids, how much each token did. Zero beyond
        the end of a sequence.
    output : float32, shape (n, classes)
        Raw outputs of the model, before any softmax.
    target : int64, shape (n,)
        The explained class.
    absorbed : float32, shape (n,)
        Relevance kept by biases, constants and stabilisers. Relevance and absorbed add up to what
        was put in.
    conservation : float32, shape (n,)
        Σ relevance − relevance put in, which what was absorbed and rounding make differ from zero;
        NaN for methods that do not propagate relevance.
    """

    relevance: Any
    output: Any
    target: Any
    absorbed: Any
    conservation: Any
