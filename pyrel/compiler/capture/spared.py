# SPDX-License-Identifier: Apache-2.0
"""Spares torch.export work whose result is known or that nobody reads: a sixth of an export.

It writes Python code for each module of operators that it makes, six of them, though none is run;
and solves the same inequalities, that a size is two or more, for each export.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from sympy.solvers import inequalities  # type: ignore[import-untyped]
from torch.fx import _lazy_graph_module

_MOST_KEPT = 64
_reduce = inequalities.reduce_inequalities


@functools.lru_cache(_MOST_KEPT)
def _kept(relations: frozenset[Any], symbols: Any) -> Any:
    return _reduce(relations, symbols)


def _reduced(relations: Any, symbols: Any = ()) -> Any:
    """Do what ``sympy.solvers.inequalities.reduce_inequalities`` does, once for equal operands."""
    try:
        known = frozenset(relations), symbols
        hash(known)
    except TypeError:
        return _reduce(relations, symbols)
    return _kept(*known)


@contextlib.contextmanager
def spared() -> Iterator[None]:
    """Export with less work. The caller holds `pyrel.compiler.capture.forks.exporting`."""
    inequalities.reduce_inequalities = _reduced
    try:
        with _lazy_graph_module._use_lazy_graph_module(True):
            yield
    finally:
        inequalities.reduce_inequalities = _reduce
