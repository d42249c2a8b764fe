# SPDX-License-Identifier: Apache-2.0
"""Dataclasses as JSON and back, where what comes back is checked against the annotations.

A field is a number, text, flag, member of an enumeration (by its name), None, tuple or dataclass of
these. Fields that have their default are left out, so a file that does not use what a newer pyrel
added is read by an older one; a field that the reader does not know is refused.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
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
    wanted, needed = _fields(cls)
    if unknown := [name for name in entries if name not in wanted or name in leave_out]:
        raise ValueError(f"{cls.__name__} has {_shown(min(unknown))}, unknown to this pyrel")
    if missing := [n for n in needed if n not in entries and n not in leave_out]:
        raise ValueError(f"{cls.__name__}: {missing[0]} is missing")
    values = {n: _decode(v, wanted[n], cls, n) for n, v in entries.items()}
    return cls(**values, **rest)


def _decode(value: Any, wanted: _Wanted, cls: type[Any], name: str) -> Any:
    if type(value) in wanted.plain and (type(value) is not int or value in _INT64):
        return value
    if isinstance(value, str) and value in wanted.members:
        return wanted.members[value]
    if isinstance(value, list) and wanted.items is not None:
        return tuple(_decode_items(value, wanted.items, cls, name))
    if isinstance(value, dict) and wanted.records:
        kind = value.get(_KIND)
        if isinstance(kind, str) and kind in wanted.records:
            return decode(wanted.records[kind], {n: v for n, v in value.items() if n != _KIND})
        value = kind
    raise ValueError(f"{cls.__name__}.{name}: {_shown(value)} is unknown to this pyrel")


def _decode_items(
    values: list[Any], items: tuple[Any, ...], cls: type[Any], name: str
) -> list[Any]:
    if len(items) == 2 and items[1] is Ellipsis:
        items = (items[0],) * len(values)
    if len(values) != len(items):
        raise ValueError(f"{cls.__name__}.{name}: wanted {len(items)} entries, got {len(values)}")
    return [_decode(v, _wanted(w), cls, name) for v, w in zip(values, items, strict=True)]


@dataclass(frozen=True)
class _Wanted:
    """What an annotation allows: items of tuples, records by name, plain types, enum members."""

    items: tuple[Any, ...] | None
    records: Mapping[str, type[Any]]
    plain: frozenset[type[Any]]
    members: Mapping[str, Enum]


@functools.cache
def _wanted(annotation: Any) -> _Wanted:
    union = isinstance(annotation, types.UnionType)
    choices = typing.get_args(annotation) if union else (annotation,)
    classes = [c for c in choices if isinstance(c, type)]
    return _Wanted(
        typing.get_args(annotation) if typing.get_origin(annotation) is tuple else None,
        {c.__name__: c for c in classes if is_dataclass(c)},
        frozenset(c for c in classes if c in _PLAIN),
        {n: m for c in reversed(classes) if issubclass(c, Enum) for n, m in c.__members__.items()},
    )


@functools.cache
def _fields(cls: type[Any]) -> tuple[Mapping[str, _Wanted], tuple[str, ...]]:
    """Return what each field may hold, and the names of those without a default."""
    hints = typing.get_type_hints(cls)
    wanted = {f.name: _wanted(hints[f.name]) for f in fields(cls)}
    return wanted, tuple(f.name for f in fields(cls) if _needed(f))


def _needed(f: Field[Any]) -> bool:
    return f.default is MISSING and f.default_factory is MISSING


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
