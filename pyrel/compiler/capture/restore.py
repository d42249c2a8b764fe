# SPDX-License-Identifier: Apache-2.0
"""Restores values that a model changed: containers, attributes, tensors, names."""

from __future__ import annotations

import operator
import types
from typing import Any

import torch

MISSING: Any = object()  # stands for what has no value


def slot_value(member: types.MemberDescriptorType, value: Any) -> Any:
    """Return what a slot of an instance holds, or `MISSING`."""
    try:
        return member.__get__(value)
    except AttributeError:
        return MISSING


def cell_value(cell: types.CellType) -> Any:
    """Return what a variable of a closure holds, or `MISSING`."""
    try:
        return cell.cell_contents
    except ValueError:
        return MISSING


def is_special(name: str) -> bool:
    """Whether Python itself gives the name a meaning."""
    return name.startswith("__") and name.endswith("__")


def _same(now: Any, before: list[Any]) -> bool:
    return len(now) == len(before) and all(map(operator.is_, now, before))


def set_items(kind: Any, value: Any, keys: list[Any], values: list[Any]) -> None:
    """Put back the items of a dictionary, and their order."""
    if _same(list(kind.keys(value)), keys) and _same(list(kind.values(value)), values):
        return
    kind.clear(value)
    for key, held in zip(keys, values, strict=True):
        kind.__setitem__(value, key, held)


def set_contents(kind: Any, value: Any, contents: list[Any]) -> None:
    """Put back the contents of a list, a deque or a set."""
    if not _same(list(kind.__iter__(value)), contents):
        kind.clear(value)
        (kind.update if kind is set else kind.extend)(value, contents)


def set_array(array: Any, before: Any) -> None:
    """Put back what an array of NumPy holds."""
    if array.dtype.hasobject or array.tobytes() != before.tobytes():
        array[...] = before


def set_cache(cached: Any, misses: int) -> None:
    """Empty a cache that was filled meanwhile: nothing shows which of its results are fake."""
    if cached.cache_info().misses != misses:
        cached.cache_clear()


def set_class(kind: type, own: dict[str, Any]) -> None:
    """Put back the attributes of a class."""
    now = {name: value for name, value in vars(kind).items() if not is_special(name)}
    for name in now.keys() - own.keys():
        type.__delattr__(kind, name)
    for name, value in own.items():
        if now.get(name, MISSING) is not value:
            type.__setattr__(kind, name, value)


def set_slot(member: types.MemberDescriptorType, value: Any, held: Any) -> None:
    """Put back what a slot of an instance holds."""
    if slot_value(member, value) is not held:
        if held is MISSING:
            member.__delete__(value)
        else:
            member.__set__(value, held)


def set_cell(cell: types.CellType, held: Any) -> None:
    """Put back what a variable of a closure holds."""
    if cell_value(cell) is not held:
        if held is MISSING:
            del cell.cell_contents
        else:
            cell.cell_contents = held


def set_name(namespace: dict[str, Any], name: str, value: Any) -> None:
    """Put back a global variable."""
    now = namespace.get(name, MISSING)
    if now is value or isinstance(now, types.ModuleType):  # what was imported stays so
        return
    if value is MISSING:
        del namespace[name]
    else:
        namespace[name] = value


def drop_names(namespace: dict[str, Any], before: set[str]) -> None:
    """Delete global variables that were not there."""
    for name in namespace.keys() - before:
        if not is_special(name) and not isinstance(namespace[name], types.ModuleType):
            del namespace[name]


def set_gradient(tensor: torch.Tensor, needed: bool, gradient: torch.Tensor | None) -> None:
    """Put back the gradient of a parameter, and whether it needs one."""
    if tensor.requires_grad != needed:
        with torch.inference_mode(tensor.is_inference()):
            tensor.requires_grad_(needed)
    if tensor.grad is not gradient:
        tensor.grad = gradient


def set_values(tensor: torch.Tensor, before: torch.Tensor) -> None:
    """Put back what a tensor holds."""
    with torch.inference_mode(tensor.is_inference()), torch.no_grad():
        if tensor.shape != before.shape:
            tensor.data = before
        elif not _same_bits(tensor, before):
            tensor.data.copy_(before)


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    flat = [
        each.detach().resolve_conj().resolve_neg().contiguous().reshape(-1) for each in (one, other)
    ]
    sizes = [(each.numel(), each.storage_offset(), each.element_size()) for each in flat]
    # Eight bytes are compared as fast as one.
    odd = any(count * size % 8 or offset * size % 8 for count, offset, size in sizes)
    kind = torch.uint8 if odd else torch.int64
    return torch.equal(*(each.view(kind) for each in flat))
