# SPDX-License-Identifier: Apache-2.0
"""Dataclasses as JSON and back, where what comes back is checked against the annotations.

A field is a number, text, flag, member of an enumeration (by its name), None, tuple or dataclass of
these. Fields that have their default are left out, so a file that does not use what a newer pyrel
added is read by an older one; a field that the reader does not know is refused.
"""

from __future__ import annotations

import contextlib
import functools
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_Record = TypeVar("_Record", bound="DataclassInstance")
_KIND = "kind"  # names the class where an annotation allows several
_PLAIN = (bool, int, float, str, types.NoneType)
_INT64 = range(-(2**63), 2**63)


def encode(record: Any, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """Return the fields of a dataclass, such as JSON can hold.

    Parameters
    ----------
    record : dataclass instance
    leave_out : names
        Fields that are kept elsewhere.
    """
    return {
        f.name: _encode(getattr(record, f.name))
        for f in fields(record)
        if f.name not in leave_out and getattr(record, f.name) != f.default
    }


def _encode(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    if is_dataclass(value):
        return {_KIND: type(value).__name__} | encode(value)
    if type(value) not in _PLAIN:
        raise TypeError(f"a record cannot hold {value!r}")
    return value


def decode(
    cls: type[_Record], entries: Any, leave_out: Collection[str] = (), **rest: Any
) -> _Record:
    """Make a dataclass of what `encode` returned.

    Parameters
    ----------
    cls : dataclass
    entries : mapping
        As JSON gave it back.
    leave_out : names
        Fields that `entries` may not have.
    **rest
        Values of such fields.

    Raises
    ------
    ValueError
        If a field is missing, unknown or of another type than its annotation says.
    """
    if not isinstance(entries, dict):
        raise ValueError(f"{cls.__name__}: wanted a mapping, got {_shown(entries)}")
    known = {f.name: f for f in fields(cls) if f.name not in leave_out}
    if unknown := sorted(entries.keys() - known.keys()):
        raise ValueError(f"{cls.__name__} has {_shown(unknown[0])}, unknown to this pyrel")
    if missing := [n for n, f in known.items() if n not in entries and _needed(f)]:
        raise ValueError(f"{cls.__name__}: {missing[0]} is missing")
    wanted = _annotations(cls)
    values = {n: _decode(v, wanted[n], f"{cls.__name__}.{n}") for n, v in entries.items()}
    return cls(**values, **rest)


def _decode(value: Any, wanted: Any, where: str) -> Any:
    choices = typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)
    if isinstance(value, list) and typing.get_origin(wanted) is tuple:
        return tuple(_decode_items(value, typing.get_args(wanted), where))
    if isinstance(value, dict):
        named = {c.__name__: c for c in choices if isinstance(c, type) and is_dataclass(c)}
        kind = value.get(_KIND)
        if isinstance(kind, str) and kind in named:
            return decode(named[kind], {n: v for n, v in value.items() if n != _KIND})
        value = kind if named else value
    for choice in choices:
        if choice in _PLAIN and type(value) is choice and (choice is not int or value in _INT64):
            return value
        if isinstance(value, str) and isinstance(choice, type) and issubclass(choice, Enum):
            with contextlib.suppress(KeyError):
                return choice[value]
    raise ValueError(f"{where}: {_shown(value)} is unknown to this pyrel")


def _decode_items(values: list[Any], wanted: tuple[Any, ...], where: str) -> list[Any]:
    if len(wanted) == 2 and wanted[1] is Ellipsis:
        wanted = (wanted[0],) * len(values)
    if len(values) != len(wanted):
        raise ValueError(f"{where}: wanted {len(wanted)} entries, got {len(values)}")
    return [_decode(v, w, where) for v, w in zip(values, wanted, strict=True)]


@functools.cache
def _annotations(cls: type[Any]) -> Mapping[str, Any]:
    return typing.get_type_hints(cls)


def _needed(f: Field[Any]) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
