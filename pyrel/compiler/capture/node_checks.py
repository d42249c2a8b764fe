# SPDX-License-Identifier: Apache-2.0
"""Checks of what one operator computes, and why one cannot be interpreted."""

from __future__ import annotations

from typing import Any

import torch

from pyrel.compiler.capture import operators
from pyrel.compiler.capture.gradient_marks import function_of
from pyrel.compiler.capture.id_numbers import Kind
from pyrel.compiler.capture.operators.nested import leaves
from pyrel.compiler.capture.places import path_of
from pyrel.compiler.capture.traced import Traced, UnwrittenError
from pyrel.compiler.capture.tracer import Tracer
from pyrel.errors import UnsupportedModelError

_WIDE = {torch.int32, torch.int64}  # of token ids, and of numbers of them
_WHOLE = {*_WIDE, torch.bool}


def name_of(node: torch.fx.Node) -> str:
    """Name of a node's operator, such as "aten.add"."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return str(getattr(node.target, "__name__", node.target))
    return f"aten.{schema.name.split('::')[1]}"


def unsupported(
    node: torch.fx.Node, name: str, reason: str = operators.NO_RULE
) -> UnsupportedModelError:
    """Say why a node of an exported program has no rule."""
    supported = operators.supported()
    if function := function_of(node):
        reason += (
            f". It is in the torch.autograd.Function {function}, whose forward is explained as "
            "it computes, whatever its backward does"
        )
    return UnsupportedModelError(reason, operator=name, module=path_of(node), supported=supported)


def unwritten(error: UnwrittenError) -> UnsupportedModelError:
    """Say where an empty tensor was made that is read before it is written."""
    reason = (
        "an entry is read that was never written: what an empty tensor holds is undefined. "
        "Start from zeros, or write every entry first"
    )
    return UnsupportedModelError(reason, operator=error.operator, module=error.module)


def is_partly_constant(tracer: Tracer, value: Traced) -> bool:
    """Whether constants are all that was written into an empty tensor so far."""
    return tracer.empty.are_in(value) and not bool((value.ids >= 0).any())


def check_dtypes(tracer: Tracer, node: torch.fx.Node, name: str, result: Any) -> None:
    """Refuse a value that is rounded on the way: relevance would be of another function."""
    exact = {torch.float32, torch.float64}
    if tracer.dtype.is_floating_point:
        exact.add(tracer.dtype)
    if result is None:  # a check
        return
    for value, meta in zip(leaves(result), leaves(node.meta["val"]), strict=True):
        if not isinstance(value, Traced) or is_partly_constant(tracer, value):
            continue
        if tracer.holds_ids(value):
            wide = meta.dtype in _WIDE
            reason = None if wide else f"token ids become numbers of type {meta.dtype}"
        elif _counts(tracer, node, value, meta.dtype) or _compares(tracer, value, meta.dtype):
            reason = None
        else:
            reason = None if meta.dtype in exact else f"the value is rounded to {meta.dtype}"
        if reason is not None:
            raise unsupported(node, f"aten.{name}", reason)


def _compares(tracer: Tracer, value: Traced, dtype: torch.dtype) -> bool:
    """Whether a value is a mask that compares values of the input."""
    return dtype == torch.bool and tracer.masks.are(value)


def _counts(tracer: Tracer, node: torch.fx.Node, value: Traced, dtype: torch.dtype) -> bool:
    """Whether a value is made of token ids alone, by torch itself or of whole numbers."""
    if not tracer.builder.lookups:
        return False
    if tracer.numbers.is_of_ids(value):
        return True
    kind = tracer.numbers.kind(value)
    if dtype == torch.bool:
        return kind == Kind.mask
    read = (n.meta["val"] for n in node.all_input_nodes)
    whole = all(isinstance(v, torch.Tensor) and v.dtype in _WHOLE for v in read)
    whole |= kind != Kind.other
    return dtype in _WIDE and whole and tracer.numbers.is_of_ids_alone(value)
