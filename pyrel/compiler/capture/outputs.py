# SPDX-License-Identifier: Apache-2.0
"""Chooses the tensor that is explained among what a model's forward returns."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch.utils import _pytree as pytree

from pyrel.errors import UnsupportedModelError
from pyrel.methods.options import single

Output: TypeAlias = str | int | Callable[[Any], torch.Tensor] | None

_MOST_LISTED = 20


class OutputError(ValueError):
    """What a model's forward returns has no such part; the message lists what there is."""


def checked_output(output: Any) -> Output:
    """Return ``output`` as it is used; refuse what is neither a key, an index nor a function."""
    output = single(output)
    if isinstance(output, bool) or not (
        output is None or isinstance(output, str | int) or callable(output)
    ):
        raise TypeError(
            "output: wanted a key, an index, or a function of what forward returns; got "
            f"{type(output).__name__}"
        )
    chosen: Output = output
    return chosen


def chosen(returned: Any, output: Output) -> torch.Tensor:
    """Choose the tensor to explain.

    Parameters
    ----------
    returned : Any
        What forward returned.
    output : str, int, callable or None
        As `pyrel.Explainer` takes it.

    Raises
    ------
    OutputError
        If there is no such part, or it is no tensor.
    UnsupportedModelError
        If nothing was chosen, and forward returned more than one tensor.
    """
    if output is None:
        return _the_only_one(returned)
    part = _applied(output, returned) if callable(output) else _picked(returned, output)
    if isinstance(part, torch.Tensor):
        return part
    what = "the function returned" if callable(output) else f"{output!r} is"
    raise OutputError(
        f"output: wanted one tensor, but {what} {_described(part)}. A function chooses from any "
        f"structure, as output=lambda out: out[0]; forward returns {_described(returned)}"
    )


@contextlib.contextmanager
def choosing(model: torch.nn.Module, output: Output) -> Iterator[None]:
    """Let calls of a model in this thread return the tensor to explain: a last hook chooses."""
    exporting = threading.get_ident()  # other threads may run the model meanwhile

    def choose(_module: torch.nn.Module, _given: Any, returned: Any) -> torch.Tensor | None:
        return chosen(returned, output) if threading.get_ident() == exporting else None

    handle = model.register_forward_hook(choose)
    try:
        yield
    finally:
        handle.remove()


def chosen_of_program(spec: Any, returned: list[Any], output: Output) -> Any:
    """Choose the node to explain among those that an exported program returns.

    Parameters
    ----------
    spec : TreeSpec or None
        The structure of what the program returns; None is one value.
    returned : list
        Its nodes, or constants, in the order of that structure.
    output : str, int, callable or None

    Raises
    ------
    OutputError, UnsupportedModelError
        As of `chosen`; also where a function computes something, which a program does not.
    """
    values = [node.meta["val"] if isinstance(node, torch.fx.Node) else node for node in returned]
    structure = values[0] if spec is None else pytree.tree_unflatten(values, spec)
    found = chosen(structure, output)
    for node, value in zip(returned, values, strict=True):
        if value is found:
            return node
    raise OutputError(
        "output: of an exported program a function can only choose one of the tensors that it "
        f"returns, and compute nothing; it returns {_described(structure)}"
    )


def _the_only_one(returned: Any) -> torch.Tensor:
    if isinstance(returned, torch.Tensor):
        return returned
    if not _parts(returned):
        reason = f"wanted one tensor of raw scores; the model returns {_described(returned)}"
    else:
        reason = (
            "the model returns several values, or a tuple or dictionary; one tensor is wanted. "
            f"It returns {_described(returned)}; output= chooses one of these, by a key, an index "
            "or a function of what is returned"
        )
    raise UnsupportedModelError(reason, operator="output")


def _applied(function: Callable[[Any], Any], returned: Any) -> Any:
    try:
        return function(returned)
    except (LookupError, AttributeError, TypeError) as error:
        raise OutputError(
            f"output: the function raises {type(error).__name__}: {error}; forward returns "
            f"{_described(returned)}"
        ) from error


def _picked(returned: Any, output: str | int) -> Any:
    if isinstance(returned, torch.Tensor):
        raise OutputError(
            f"output: got {output!r}, but forward returns one {_described(returned)}, which is "
            "what is explained; leave output out, or give a function of it"
        )
    parts, key = _parts(returned), output
    if isinstance(returned, tuple | list) and isinstance(output, int):
        parts = dict(enumerate(returned))
        key = output + len(parts) if output < 0 else output
    if key not in parts:
        raise OutputError(f"output: got {output!r}, but forward returns {_described(returned)}")
    return parts[key]


def _parts(returned: Any) -> dict[Any, Any]:
    """Return what a structure holds, by the key, name or index that chooses it."""
    if isinstance(returned, Mapping):
        return dict(returned)
    if isinstance(returned, tuple) and hasattr(returned, "_fields"):  # a named tuple
        return dict(zip(returned._fields, returned, strict=True))
    if isinstance(returned, tuple | list):
        return dict(enumerate(returned))
    if dataclasses.is_dataclass(returned) and not isinstance(returned, type):
        return {each.name: getattr(returned, each.name) for each in dataclasses.fields(returned)}
    return {}


def _described(value: Any) -> str:
    """Say what a value is, and list the parts of a structure."""
    if isinstance(value, torch.Tensor):
        return f"tensor with {value.dim()} dimension{'' if value.dim() == 1 else 's'}"
    kind, parts = type(value).__name__, _parts(value)
    if not parts:
        return "None" if value is None else f"a {kind}"
    listed = [f"{key!r} ({_short(part)})" for key, part in list(parts.items())[:_MOST_LISTED]]
    more = "" if len(parts) <= _MOST_LISTED else f" and {len(parts) - _MOST_LISTED} more"
    return f"a {kind} of {', '.join(listed)}{more}"


def _short(part: Any) -> str:
    inner = _parts(part)
    return f"a {type(part).__name__} of {len(inner)}" if inner else _described(part)
