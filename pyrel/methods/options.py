# SPDX-License-Identifier: Apache-2.0
"""Options as users give them: numbers, flags and words, as Python, NumPy or torch have them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def single(value: Any) -> Any:
    """Return what an array or tensor of one element holds; anything else as it is."""
    torch: Any = sys.modules.get(
        "torch"
    )  # who has a tensor has it loaded; help does not wait for it
    if torch is not None and isinstance(value, torch.Tensor):
        plain = value.layout == torch.strided and not (value.is_meta or value.is_nested)
        return value.detach().cpu().item() if plain and value.numel() == 1 else value
    if isinstance(value, np.ndarray) and not isinstance(value, np.ma.MaskedArray):
        return value.item() if value.size == 1 else value
    return value.item() if isinstance(value, np.generic) else value


def number(name: str, value: Any, wanted: str = "a number") -> float:
    """Return a number as Python's float; a flag is none.

    Raises
    ------
    TypeError
        If it is no real number, nor an array or tensor of one.
    """
    plain = single(value)
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        raise TypeError(f"{name}: wanted {wanted}, got {_shown(value)}")
    return float(plain)


def whole(name: str, value: Any, least: int, most: int) -> int:
    """Return a whole number as Python's int.

    Raises
    ------
    TypeError
        If it is no whole number, nor an array or tensor of one.
    ValueError
        If it is below ``least`` or above ``most``.
    """
    plain = single(value)
    if isinstance(plain, bool) or not isinstance(plain, int):
        raise TypeError(f"{name}: wanted a whole number, got {_shown(value)}")
    if not least <= plain <= most:
        raise ValueError(f"{name}: wanted {least:,} to {most:,}, got {plain:,}")
    return int(plain)


def array(name: str, value: Any) -> npt.NDArray[Any]:
    """Return numbers as an array that nobody else writes: of int64, or else of float32.

    Raises
    ------
    TypeError
        If they are of a type that is no number.
    ValueError
        If they are ragged, NaN or infinite.
    """
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() else value).numpy()
    try:
        given = np.asarray(value)
    except ValueError:
        raise ValueError(f"{name}: wanted a number or an array, got {_shown(value)}") from None
    if given.dtype.kind not in "iuf":
        raise TypeError(f"{name}: wanted a number or an array of numbers, got {_shown(value)}")
    with np.errstate(over="ignore"):
        made = np.array(given, np.float32 if given.dtype.kind == "f" else np.int64)
    if not np.isfinite(made).all():
        raise ValueError(f"{name}: wanted finite float32 numbers, got {_shown(value)}")
    made.flags.writeable = False
    return made


def by_input(name: str, value: Any) -> Any:
    """Return an array as `array` does; of a dictionary by names of inputs, one for each.

    Raises
    ------
    TypeError, ValueError
        As `array` does, or if a key is no name.
    """
    if not isinstance(value, Mapping):
        return array(name, value)
    if not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name}: wanted names of inputs as keys, got {_shown(list(value))}")
    return {key: array(f"{name}: {key}", each) for key, each in value.items()}


def listed(value: Any) -> Any:
    """Return what `by_input` returned as lists, such as JSON can hold."""
    if isinstance(value, Mapping):
        return {key: each.tolist() for key, each in value.items()}
    return value.tolist()


def flag(name: str, value: Any) -> bool:
    """Return a flag as Python's bool; 0 and 1 are flags too.

    Raises
    ------
    TypeError
        If it is neither, nor an array or tensor of one.
    """
    plain = single(value)
    if not isinstance(plain, bool) and not (isinstance(plain, int) and plain in (0, 1)):
        raise TypeError(f"{name}: wanted True or False, got {_shown(value)}")
    return bool(plain)


def word(name: str, value: Any, *allowed: str) -> str:
    """Return a word that is one of a few, as Python's str.

    Raises
    ------
    ValueError
        If it is another, or no text.
    """
    plain = single(value)
    if not isinstance(plain, str) or plain not in allowed:
        wanted = " or ".join(f'"{each}"' for each in allowed)
        raise ValueError(f"{name}: wanted {wanted}, got {_shown(value)}")
    return str.__str__(plain)  # of a member of an enumeration, its text


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{type(value).__name__} {text[:60]}…"
