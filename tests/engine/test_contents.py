# SPDX-License-Identifier: Apache-2.0
"""A program stores equal arrays once, and tells all others apart."""

from __future__ import annotations

import numpy as np

from pyrel.compiler.program.program import Program


def test_equal_matrices_are_stored_once() -> None:
    program, values = Program(1, 1, False), np.random.default_rng(0).random((300, 200))
    assert program.matrix(values) == program.matrix(values.copy()) == 0
    assert program.matrix(np.ascontiguousarray(values.T).T) == 0
    assert len(program.matrices) == 1


def test_arrays_that_differ_anywhere_are_told_apart() -> None:
    program, values = Program(1, 1, False), np.zeros((300, 200))
    others = [values, values.reshape(200, 300), -values]
    for place in (1, 7, values.size - 1):  # a hash of a sample does not see all of them
        others.append(values.copy())
        others[-1].flat[place] = 1.0
    assert [program.matrix(each) for each in others] == list(range(len(others)))
    assert [program.matrix(each) for each in others] == list(range(len(others)))
