# SPDX-License-Identifier: Apache-2.0
"""What a method chooses from."""

from __future__ import annotations

from enum import Enum


class Start(Enum):
    """Relevance that the target starts with; numbered as in the engine."""

    one = 0
    output = 1
    positive_output = 2
