# SPDX-License-Identifier: Apache-2.0
"""Inlines the blocks of an exported graph that run under ``no_grad`` or ``autocast``.

torch.export makes graphs of their own of what runs under ``no_grad`` and ``autocast``. Operators
of the former carry the setting as a mark. Autocast rounds what goes into some operators, so that
they are refused; the others compute the same within as without.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from pyrel.compiler.capture.gradient_marks import is_marked, set_under_no_grad
from pyrel.compiler.capture.opaque_layers import RECURRENT
from pyrel.compiler.capture.operators.nested import leaves
from pyrel.compiler.capture.places import path_of
from pyrel.errors import UnsupportedModelError

_GRADIENTS = torch.ops.higher_order.wrap_with_set_grad_enabled
_AUTOCAST = torch.ops.higher_order.wrap_with_autocast
_ROUNDED = frozenset({torch.bfloat16, torch.float16})


def is_block(node: Node) -> bool:
    """Whether a node calls a block."""
    return node.target in (_GRADIENTS, _AUTOCAST)


def inline_blocks(module: torch.fx.GraphModule) -> None:
    """Put the operators of blocks in the place of the calls, as torch.export found them.

    Raises
    ------
    UnsupportedModelError
        If autocast rounds what an operator computes.
    """
    for node in list(module.graph.nodes):
        if is_block(node):
            _inline(module, node)


def _inline(module: torch.fx.GraphModule, node: Node) -> None:
    settings: Any = node.args[:1] if node.target is _GRADIENTS else node.args[:4]
    block, *operands = node.args[len(settings) :]
    inner = getattr(module, str(block.target))  # type: ignore[union-attr]
    if node.target is _AUTOCAST:
        _refuse_rounding(inner, *settings[:3])
    inline_blocks(inner)
    given = [n for n in inner.graph.nodes if n.op == "placeholder"]
    known = dict(zip(given, operands, strict=True))
    with module.graph.inserting_before(node):
        for each in inner.graph.nodes:
            if each.op not in {"placeholder", "output"}:
                known[each] = module.graph.node_copy(each, known.__getitem__)
                if node.target is _GRADIENTS and not is_marked(each):  # the innermost one holds
                    set_under_no_grad(known[each], not settings[0])
    returned = next(n for n in inner.graph.nodes if n.op == "output").args[0]
    for user in list(node.users):  # they pick one of the values
        _replace(user, known[returned[user.args[1]]])
    module.graph.erase_node(node)
    if not block.users:  # type: ignore[union-attr]
        module.graph.erase_node(block)  # type: ignore[arg-type]


def _refuse_rounding(inner: torch.fx.GraphModule, device: str, dtype: Any, enabled: bool) -> None:
    """Refuse operators that autocast rounds, which shows in the types of results."""
    if not enabled:
        return
    for node in inner.graph.nodes:
        if node.target is _GRADIENTS:
            _refuse_rounding(getattr(inner, node.args[1].target), device, dtype, enabled)
        elif node.op == "call_function" and not is_block(node) and _is_rounded(node, device):
            raise UnsupportedModelError(
                f"torch.autocast rounds it to {dtype}, which no method describes; explain the model"
                " without: autocast(..., enabled=False)",
                operator=f"aten.{_name(node)}",
                module=path_of(node),
            )


def _replace(node: Node, value: Node) -> None:
    """Let what reads a node read another one; an output of the program keeps its name."""
    name = node.name
    if any(user.op == "output" for user in node.users):
        with node.graph.inserting_before(node):
            alias = node.graph.call_function(torch.ops.aten.alias.default, (value,))
        alias.meta, value = dict(node.meta), alias
        set_under_no_grad(alias, False)  # it is no operator of the model's
        node.replace_all_uses_with(alias)
        node.graph.erase_node(node)
        alias.name = name
    else:
        node.replace_all_uses_with(value)
        node.graph.erase_node(node)


def _name(node: Node) -> str:
    schema: Any = getattr(node.target, "_schema", None)
    return "" if schema is None else str(schema.name).partition("::")[2]


def _is_rounded(node: Node, device: str) -> bool:
    values = [node.meta.get("val"), *(n.meta.get("val") for n in node.all_input_nodes)]
    tensors = [v for v in leaves(values) if isinstance(v, torch.Tensor)]
    if all(tensor.device.type != device for tensor in tensors):
        return False
    # Of an opaque layer torch.export does not know that autocast would round it.
    opaque = getattr(node.target, "namespace", "") == "pyrel"
    return (opaque and _name(node) in RECURRENT) or any(
        tensor.dtype in _ROUNDED for tensor in tensors
    )
