# SPDX-License-Identifier: Apache-2.0
"""What instructions choose from, with the numbers that the engine knows the choices by.

A test compares names and numbers with those of the compiled engine, ``pyrel._core.enums``.
"""

from __future__ import annotations

from enum import Enum


class Space(Enum):
    """Where an operand lives."""

    input = 0
    arena = 1
    relevance = 2


class Scale(Enum):
    """What an epilogue multiplies by: a vector, an operand, or an operand less a vector."""

    none = 0
    vector = 1
    operand = 2
    operand_minus_vector = 3


class Post(Enum):
    """What an epilogue does last to a value v, with an operand d of its own."""

    none = 0
    relu = 1
    divide = 2
    mask = 3
    guided = 4
    square = 5
    multiply = 6
    divide_stabilised = 7
    divide_operand = 8


class Share(Enum):
    """Which part of a source is absorbed; see `pyrel.compiler.program.instructions.Absorb`."""

    weighted = 0
    stabiliser = 1
    undivided = 2
