# SPDX-License-Identifier: Apache-2.0
"""Arguments of operators: values in lists, tuples and dictionaries, one within the other.

torch's own functions for these know every kind of container, and would take most of the time of a
walk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any


def mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """Return the same structure, with ``function`` of each value in it."""
    if isinstance(value, list):
        return [mapped(function, v) for v in value]
    if isinstance(value, tuple):
        return tuple([mapped(function, v) for v in value])
    if isinstance(value, dict):
        return {k: mapped(function, v) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(*(mapped(function, v) for v in (value.start, value.stop, value.step)))
    return function(value)


def leaves(value: Any) -> Iterator[Any]:
    """Yield the values of a structure."""
    if isinstance(value, list | tuple):
        for v in value:
            yield from leaves(v)
    elif isinstance(value, dict):
        for v in value.values():
            yield from leaves(v)
    else:
        yield value
