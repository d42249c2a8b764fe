# SPDX-License-Identifier: Apache-2.0
"""Names that options take. The library has the last word; a test compares the two."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import typer

from pyrel import methods
from pyrel.benchmark import contestants

CELLS = ("Shallow", "Deep", "DeepV2", "ConvDeep", "ConvDeepPlus", "RLSTM", "LeNet", "VGG")
POOLINGS = ("max", "sum")
DATASETS = ("mnist-mini", "mnist", "fashion-mnist")
PROBLEMS = ("majority", "sequence")
EXPERIMENTS = ("sequence", "majority", "improve", "two-digit", "taylor", "signal")
OPTIMIZERS = ("adam", "sgd")
SCHEDULES = ("constant", "one-cycle", "cosine", "step")
METHODS = tuple(methods.names())
CONTESTANTS = tuple(c.name for c in contestants.CONTESTANTS if c.name != contestants.PYREL)
BENCHMARKED = (*contestants.METHODS, *contestants.LRP)
BENCHMARKED_CELLS = contestants.CELLS


def one_of(
    names: Sequence[str], elsewhere: Callable[[str], str] = lambda _: ""
) -> Callable[[str | None], str | None]:
    """Return a callback that takes one of these names, whatever its case, or None.

    ``elsewhere`` says of a name that is none of them where it is; nothing by default.
    """
    known = {name.lower(): name for name in names}

    def check(value: str | None) -> str | None:
        if value is None:
            return None
        if value.lower() not in known:
            why = elsewhere(value.lower())
            instead = f"these: {why}" if why else ", ".join(names)
            raise typer.BadParameter(f"{value!r} is not one of {instead}")
        return known[value.lower()]

    return check


def some_of(
    names: Sequence[str], elsewhere: Callable[[str], str] = lambda _: ""
) -> Callable[[str], str]:
    """Return a callback that takes names divided by commas; ``elsewhere`` as of `one_of`."""
    check = one_of(names, elsewhere)

    def check_all(value: str) -> str:
        chosen = [check(name.strip()) for name in value.split(",")]
        return ",".join(dict.fromkeys(name for name in chosen if name))

    return check_all


def whole_numbers(value: str | None) -> str | None:
    """Take whole numbers divided by commas, such as 256,128,32."""
    if value is None:
        return None
    try:
        numbers = [int(number) for number in value.split(",")]
    except ValueError:
        raise typer.BadParameter(
            f"{value!r} is no list of whole numbers such as 256,128,32"
        ) from None
    return ",".join(map(str, numbers))


def one_or_all(value: str, names: Sequence[str]) -> list[str]:
    """Return the names of an option that `some_of` has read, all of them for 'all'."""
    given = value.split(",")
    return list(names) if "all" in given else given
