# SPDX-License-Identifier: Apache-2.0
"""Tells torch to keep what operators give, for the next like call, only where a model has loops.

torch.export runs a model on tensors without values. For each operator torch keeps what it gave, by
its operands. Keeping it takes about as long as most operators do: without it an export of layers
takes a fifth to a third less. A loop repeats its operators, though.
"""

from __future__ import annotations

import collections
import types
from typing import Any

import torch

_TIMES = 3  # that a place is reached, from which on it is in a loop that is worth it


class KeptInLoops:
    """While this is entered, what operators give is kept from the third turn of a loop on.

    ``tensors`` are those that the model is run on.
    """

    def __init__(self, tensors: list[Any]) -> None:
        self._mode: Any = torch._guards.detect_fake_mode(tensors)
        self._reached: collections.Counter[int] = collections.Counter()

    def __enter__(self) -> None:
        """Keep nothing."""
        if self._mode is not None:
            self._before = self._mode.cache_enabled
            self._mode.cache_enabled = False

    def __exit__(self, *error: object) -> None:
        """Do as before."""
        if self._mode is not None:
            self._mode.cache_enabled = self._before

    def reach(self, frame: types.FrameType | None, outermost: types.FrameType) -> None:
        """Note that a place in the code was reached, by the stack up to the ``outermost`` frame."""
        if self._mode is None or self._mode.cache_enabled or not self._before:
            return
        place: list[int] = []
        while frame is not None and frame is not outermost:
            place += id(frame.f_code), frame.f_lasti
            frame = frame.f_back
        number = hash(tuple(place))
        self._reached[number] += 1
        self._mode.cache_enabled = self._reached[number] >= _TIMES
